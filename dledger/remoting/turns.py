"""That one connection does not hold up the others: turns for its requests, a bound for its frames.

Many requests of one receive are served some at a time, with everybody else in between; and of
requests that only begin to arrive all connections together keep no more than a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from dledger.remoting.command import Command
    from dledger.remoting.outbox import Outbox
    from dledger.remoting.session import Session, SessionHandler

# Requests of one connection handled before anybody else has a turn: as many as take about ten
# milliseconds.  A receive may bring 8,000, and who asked for a status as often kept a leader from
# its heartbeats for seconds.
PASS_COUNT_MIN: Final = 16
PASS_COUNT_FIRST: Final = 128
PASS_COUNT_MAX: Final = 512
_PASS_SECONDS: Final = 0.010


class Turns:
    """Serves many requests of one connection, and lets others in between."""

    def __init__(
        self, handler: SessionHandler, session: Session, outbox: Outbox, pending_size_max: int
    ) -> None:
        self.count_max = PASS_COUNT_FIRST
        self.count = 0  # handled by themselves since others had a turn
        self.is_busy = False  # with requests that were read and not handled yet
        self.has_open_pass = False  # something was handled, and the handler not told of the end
        self._handler = handler
        self._session = session
        self._outbox = outbox
        self._pending_size_max = pending_size_max

    async def serve(self, commands: list[Command]) -> None:
        """Hand *commands* to the handler, as many at a time as the last ones were quick."""
        self.is_busy = True
        try:
            if self.count:
                await trio.lowlevel.checkpoint()
            await self._serve(commands)
        finally:
            self.is_busy = False
        self.count = 0

    async def _serve(self, commands: list[Command]) -> None:
        outbox = self._outbox
        at = 0
        while at < len(commands) and not outbox.closed:
            begun = trio.current_time()
            self._handler.on_commands(self._session, commands[at : at + self.count_max])
            at += self.count_max
            outbox.flush()
            if trio.current_time() - begun > _PASS_SECONDS:
                self.count_max = max(self.count_max // 2, PASS_COUNT_MIN)
            else:
                self.count_max = min(self.count_max * 2, PASS_COUNT_MAX)
            if outbox.pending_size > self._pending_size_max:
                await outbox.wait_below(self._pending_size_max // 2)
            else:
                await trio.lowlevel.checkpoint()
            await self._session.wait_for_room()


class Partials:
    """How much is kept of frames that have begun to arrive, the first begun first."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._sizes: dict[Session, int] = {}
        self.total = 0

    def note(self, session: Session, size: int, *, is_new: bool) -> None:
        """Take note that *session* keeps *size* bytes, of another frame than before if *is_new*."""
        if is_new or not size:
            self.total -= self._sizes.pop(session, 0)
        if size:
            self.total += size - self._sizes.get(session, 0)
            self._sizes[session] = size

    def take_excess(self) -> Session | None:
        """Return who is to be closed, and forget it; None while all is within the limit."""
        if self.total <= self._size_max:
            return None
        oldest = next(iter(self._sizes))
        self.total -= self._sizes.pop(oldest)
        return oldest
