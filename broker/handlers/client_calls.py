"""What this node asks of the clients that are connected to it, and what they answer.

RocketMQ's consumers answer three questions: how they are (307), what became of a message that they
are given to consume at once (309), and how far they are (221).  Their answers are told apart by
opaque, as a broker's are; a client that says nothing is given up after a time.

A client that is not connected here may be at another member: its heartbeats come by every address
that it knows, and it may not know all of them yet.  Then the other members are asked, one by one.

Source: RocketMQ ``Broker2Client.callClient``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.handlers.forward import FORWARDED
from dledger.errors import LedgerBusyError
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.handlers.connections import Connections
    from broker.protocol.request_code import ClientRequestCode
    from dledger.clock import Clock
    from dledger.remoting.network import Network
    from dledger.remoting.server import Session

    # Called once: with the client's answer, or None when it has said nothing in time.
    Heard = Callable[[Command | None], None]

CONNECT_SECONDS = 1.0  # longest time for a connection to another member
CALLS_MAX = 1024  # questions that wait for their answer; each holds little but its asker


class _Relay(NamedTuple):
    """A question that other members are asked."""

    command: Command
    heard: Heard
    not_here: int
    seconds: float


class _Call:
    __slots__ = ("deadline", "heard", "session")

    def __init__(self, session: Session, deadline: float, heard: Heard) -> None:
        self.session = session
        self.deadline = deadline
        self.heard = heard


class ClientCalls:
    """The questions to clients that are under way."""

    def __init__(
        self,
        connections: Connections,
        clock: Clock,
        *,
        network: Network,
        node_id: str,
        others: Mapping[str, tuple[str, int]],
    ) -> None:
        """Make it with nothing asked.

        Args:
            connections: who is connected here.
            clock: measures how long a client takes.
            network: for connections to other members.
            node_id: this node's.
            others: where the other members are asked, (host, port) by node id.
        """
        self._connections = connections
        self._clock = clock
        self._network = network
        self._node_id = node_id
        self._others = dict(others)
        self._relays: list[_Relay] = []  # not begun yet
        self._relay_count = 0
        self._calls: dict[int, _Call] = {}  # by opaque
        self._asked = trio.Event()

    def __len__(self) -> int:
        """Return how many questions wait for their answers."""
        return len(self._calls) + self._relay_count

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
        self._check_room()
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

    def ask_others(self, command: Command, heard: Heard, *, not_here: int, seconds: float) -> None:
        """Ask the other members what this node was asked, one by one.

        Args:
            command: what was asked.
            heard: called with the first answer that has another code than *not_here*; None: there
                is none.
            not_here: code of those who know no more than this node.
            seconds: longest time for each.

        Raises:
            LedgerBusyError: too many questions are under way; nothing was asked.
        """
        self._check_room()
        self._relay_count += 1
        self._relays.append(_Relay(command, heard, not_here, seconds))
        self._asked.set()

    def _check_room(self) -> None:
        if len(self) >= CALLS_MAX:
            raise LedgerBusyError(
                f"{CALLS_MAX} questions to clients are under way on this node; ask again later"
            )

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
        """Ask other members, and give up what is not answered in time, until cancelled."""
        async with trio.open_nursery() as nursery:
            await self._run(nursery)

    async def _run(self, nursery: trio.Nursery) -> None:
        while True:
            self._asked = trio.Event()
            relays, self._relays = self._relays, []
            for relay in relays:
                nursery.start_soon(self._relay, relay)
            if not self._calls:
                await self._asked.wait()
                continue
            earliest = min(call.deadline for call in self._calls.values())
            with trio.move_on_after(max(earliest - self._clock.now(), 0) + 0.001):
                await self._asked.wait()  # what was asked just now may be over sooner
            self._give_up(lambda call: call.deadline <= self._clock.now())

    async def _relay(self, relay: _Relay) -> None:
        command, found = relay.command, None
        for host, port in self._others.values():
            request = Command(
                command.code,
                language=command.language,
                version=command.version,
                ext_fields={**command.ext_fields, FORWARDED: self._node_id},
                body=command.body,
            )
            with (
                contextlib.suppress(RemotingError),
                trio.move_on_after(relay.seconds + CONNECT_SECONDS),
            ):
                async with open_remoting_client(self._network, host, port) as client:
                    answer = await client.request(request, timeout_seconds=relay.seconds)
                if answer.code != relay.not_here:
                    found = answer
                    break
        self._relay_count -= 1
        relay.heard(found)

    def _give_up(self, is_over: Callable[[_Call], bool]) -> None:
        for opaque in [opaque for opaque, call in self._calls.items() if is_over(call)]:
            self._calls.pop(opaque).heard(None)
