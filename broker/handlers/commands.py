"""Requests that change the replicated state: proposed, and answered with what came of it.

A command is answered only when this node has applied it: whoever asks here next, sees it, and what
it came to is known (a topic that somebody else deleted a moment before, say).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from broker.errors import BrokerError
from broker.handlers.registry import answer, error_response
from broker.handlers.until_dispatched import UntilDispatched
from dledger.errors import LedgerError, NotLeaderError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.forward import Forwarder
    from broker.store.append_queue import AppendQueue, MetadataCommand
    from broker.store.derived import DerivedState
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session


class _Waiting:
    """A request whose command is committed and not applied here yet."""

    __slots__ = ("command", "finish", "index", "number", "session")

    def __init__(
        self, session: Session, command: Command, number: int, finish: Callable[[Any], Command]
    ) -> None:
        self.session = session
        self.command = command
        self.number = number
        self.finish = finish
        self.index = 0


class Commands:
    """Proposes commands on the serving leader and answers who asked for them."""

    def __init__(self, *, queue: AppendQueue, derived: DerivedState, forwarder: Forwarder) -> None:
        """Make one with nothing proposed.

        Args:
            queue: where commands go.
            derived: tells how far entries are applied.
            forwarder: takes what this node, no leader any more, has not written.
        """
        self._queue = queue
        self._derived = derived
        self._forwarder = forwarder
        self._proposed = 0  # neither answered nor failed
        self.waiting: UntilDispatched[_Waiting] = UntilDispatched()
        self._results: dict[int, list[Any]] = {}  # by index, of entries applied meanwhile

    def propose(
        self,
        session: Session,
        command: Command,
        wanted: MetadataCommand,
        finish: Callable[[Any], Command],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Propose *wanted*, for which *command* asks.

        Args:
            session: who asks.
            command: the request.
            wanted: the change.
            finish: makes the answer of what the command came to; its errors become the answer.
            failed: called when nothing came of it, or nobody knows.

        Raises:
            NotLeaderError, LedgerBusyError, LedgerError, InvalidMessageError: as
                `AppendQueue.put_command`; nothing was proposed.
        """

        def done(index: int, error: LedgerError | None) -> None:
            if error is None:
                waiting.index = index
                if index <= self._derived.dispatched_index:
                    self._answer(waiting)
                else:
                    self.waiting.append((index, waiting))
                return
            self._finished()
            failed()
            if isinstance(error, NotLeaderError):
                self._forwarder.hold_again(session, command)
                return
            if (
                isinstance(error, OutcomeUnknownError)
                and not session.closed
                and self._forwarder.ask_next(session, command)
            ):
                return
            answer(session, command, error_response(command, error))
            if not session.closed:
                session.flush_soon()

        waiting = _Waiting(session, command, 0, finish)
        waiting.number = self._queue.put_command(wanted, done)
        self._proposed += 1

    def announce(self, wanted: MetadataCommand) -> None:
        """Propose what nobody waits for; no harm is done where it cannot be written."""
        with contextlib.suppress(LedgerError):
            self._queue.put_command(wanted, lambda _index, _error: None)

    def seal(self) -> None:
        """Let what is proposed go; for whoever proposes outside a pass over requests."""
        self._queue.seal()

    def applied(self, index: int, results: list[Any]) -> None:
        """Hear what the commands of an entry came to."""
        if self._proposed:
            self._results[index] = results

    def dispatched(self) -> None:
        """Answer the requests whose entry has been applied."""
        if not self.waiting:
            return
        for item in self.waiting.take(self._derived.dispatched_index):
            self._answer(item)

    def _answer(self, item: _Waiting) -> None:
        # No result: the state was taken over whole from a leader, and the entry is part of it.
        results = self._results.get(item.index)
        self._finished()
        try:
            reply = item.finish(None if results is None else results[item.number])
        except BrokerError as error:
            reply = error_response(item.command, error)
        answer(item.session, item.command, reply)
        if not item.session.closed:
            item.session.flush_soon()

    def _finished(self) -> None:
        self._proposed -= 1
        if not self._proposed:
            self._results.clear()
