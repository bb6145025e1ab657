"""One node of `fake_group`: its connections, its clock; how it dies, freezes, is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.protocol.bodies import Ack, encode_acks
from dledger.remoting.command import FLAG_GROUPED, FLAG_RESPONSE, Command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import ConnectionLostError, RemoteProtocolError
from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    from tests.client.fake_group import FakeGroup
    from tests.fakes.network import MemoryStream


FIRST_PORT = 9876


class FakeClock:
    """Wall time that follows trio's virtual time."""

    def now(self) -> float:
        return trio.current_time()

    def __init__(self) -> None:
        self.step_ms = 0  # added by somebody who sets the clock

    def wall_ms(self) -> int:
        return 1_760_000_000_000 + self.step_ms + int(trio.current_time() * 1000)

    def local_hour(self) -> int:
        return self.wall_ms() // 3_600_000 % 24


class FakeNode:
    def __init__(self, group: FakeGroup, number: int) -> None:
        self.group = group
        self.number = number
        self.node_id = f"n{number + 1}"
        self.port = FIRST_PORT + number
        self.address = f"127.0.0.1:{self.port}"
        self.is_frozen = False
        self.frozen_input: list[tuple[MemoryStream, list[Command]]] = []
        self.knows_leader = True  # False: says that nobody leads
        self.believed_term = 0
        self._believes: FakeNode | None = None
        self.streams: set[MemoryStream] = set()
        self.requests: list[Command] = []
        self.lag = 0  # messages at the end of each queue it does not have yet
        self._scope = trio.CancelScope()
        self._listener = None

    async def start(self) -> None:
        self._scope = trio.CancelScope()
        await self.group.nursery.start(self._serve)

    @property
    def believes(self) -> FakeNode | None:
        """A stale view of who leads, in the term before the one it was set in."""
        return self._believes

    @believes.setter
    def believes(self, node: FakeNode | None) -> None:
        self._believes, self.believed_term = node, self.group.term - 1

    def kill(self) -> None:
        self._scope.cancel()
        if self._listener is not None:
            self._listener.close()
        for stream in list(self.streams):
            stream.abort()
        self.streams.clear()

    def break_connections(self) -> None:
        for stream in list(self.streams):
            stream.abort()

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        held, self.frozen_input = self.frozen_input, []
        for stream, commands in held:
            self._pass(stream, commands)

    async def _serve(self, *, task_status) -> None:
        self._listener = await self.group.network.listen("127.0.0.1", self.port)
        task_status.started()
        with self._scope:
            async with trio.open_nursery() as nursery:
                while True:
                    stream = await self._listener.accept()
                    self.streams.add(stream)
                    nursery.start_soon(self._converse, stream)

    async def _converse(self, stream: MemoryStream) -> None:
        connection = Connection()
        try:
            while data := await stream.receive_some():
                connection.receive_data(data)
                commands = []
                while found := connection.commands():
                    commands += found
                if self.is_frozen:
                    self.frozen_input.append((stream, commands))
                else:
                    self._pass(stream, commands)
        except (ConnectionLostError, RemoteProtocolError):
            pass
        finally:
            self.streams.discard(stream)
            stream.close()

    def _pass(self, stream: MemoryStream, commands: list[Command]) -> None:
        acks: list[Ack] = []
        answers: list[Command] = []
        for command in commands:
            self.requests.append(command)
            if command.is_response:
                continue  # of a client that was asked something
            answer = self.group.answer(self, stream, command)
            if isinstance(answer, Ack):
                acks.append(answer)
            elif answer is not None:
                answers.append(answer)
        self.send(stream, answers)
        if acks:
            grouped = Command(0, FLAG_RESPONSE | FLAG_GROUPED, body=encode_acks(acks))
            if self.group.ack_delay:
                self.group.nursery.start_soon(self._send_late, stream, grouped)
            else:
                self.send(stream, [grouped])

    async def _send_late(self, stream: MemoryStream, grouped: Command) -> None:
        await trio.sleep(self.group.ack_delay)
        self.send(stream, [grouped])

    def send(self, stream: MemoryStream, answers: list[Command]) -> None:
        try:
            for answer in answers:
                rest = stream.send_now(encode_frame(answer))
                assert not rest, "give the network more capacity"
        except ConnectionLostError:
            pass
