"""What this node asks of the clients that are connected to it, and what they answer.

RocketMQ's consumers answer three questions: how they are (307), what became of a message that they
are given to consume at once (309), and how far they are (221).  Their answers are told apart by
opaque, as a broker's are; a client that says nothing is given up after a time.

Source: RocketMQ ``Broker2Client.callClient``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dledger.errors import LedgerBusyError
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.handlers.connections import Connections
    from broker.protocol.request_code import ClientRequestCode
    from dledger.clock import Clock
    from dledger.remoting.server import Session

    # Called once: with the client's answer, or None when it has said nothing in time.
    Heard = Callable[[Command | None], None]

CALLS_MAX = 1024  # questions that wait for their answer; each holds little but its asker


class _Call:
    __slots__ = ("deadline", "heard", "session")

    def __init__(self, session: Session, deadline: float, heard: Heard) -> None:
        self.session = session
        self.deadline = deadline
        self.heard = heard


class ClientCalls:
    """The questions to clients that are under way."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock
        self._calls: dict[int, _Call] = {}  # by opaque
        self._asked = trio.Event()

    def __len__(self) -> int:
        """Return how many questions wait for their answers."""
        return len(self._calls)

    def ask(
        self,
        session: Session,
        code: ClientRequestCode,
        ext_fields: Mapping[str, str],
        heard: Heard,
        *,
        body: bytes = b"",
        seconds: float,
    ) -> None:
        """Ask a client something.

        Args:
            session: a connection by which its heartbeats come.
            code: of the question.
            ext_fields: of the question.
            heard: called with the answer.
            body: of the question.
            seconds: longest time to wait.

        Raises:
            LedgerBusyError: too many questions are under way; nothing was asked.
        """
        if len(self._calls) >= CALLS_MAX:
            raise LedgerBusyError(
                f"{CALLS_MAX} questions to clients are under way on this node; ask again later"
            )
        client = self._connections.client_of(session)
        assert client is not None, "only clients that have sent a heartbeat are asked"
        opaque = self._connections.next_opaque()
        self._calls[opaque] = _Call(session, self._clock.now() + seconds, heard)
        session.reply(
            Command(
                int(code),
                0,
                opaque,
                ext_fields=dict(ext_fields),
                body=body,
                serialization=client.serialization,
            )
        )
        session.flush_soon()
        self._asked.set()

    def answered(self, session: Session, command: Command) -> None:
        """Take in a response that came from a client; one that nobody waits for is dropped."""
        call = self._calls.get(command.opaque)
        if call is None or call.session is not session:
            return
        del self._calls[command.opaque]
        call.heard(command)

    def drop_session(self, session: Session) -> None:
        """Give up what was asked by a connection that has ended."""
        self._give_up(lambda call: call.session is session)

    async def run(self) -> None:
        """Give up what is not answered in time, until cancelled."""
        while True:
            self._asked = trio.Event()
            if not self._calls:
                await self._asked.wait()
                continue
            earliest = min(call.deadline for call in self._calls.values())
            with trio.move_on_after(max(earliest - self._clock.now(), 0) + 0.001):
                await self._asked.wait()  # what was asked just now may be over sooner
            self._give_up(lambda call: call.deadline <= self._clock.now())

    def _give_up(self, is_over: Callable[[_Call], bool]) -> None:
        for opaque in [opaque for opaque, call in self._calls.items() if is_over(call)]:
            self._calls.pop(opaque).heard(None)
