"""What of one connection, and of all, may be under way before a connection is read no further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dledger.remoting.command import Command, response
from dledger.remoting.frame import encode_frame
from dledger.remoting.server import Flow, RemotingServer
from tests.remoting.conftest import receive_commands

if TYPE_CHECKING:
    from dledger.remoting.server import Session

SIZE = 1000  # bytes of a request's body


class Charging:
    """Charges for every request and answers it when told to, with an answer of any size."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Session, Command]] = []
        self.answer_size = 0

    def on_opened(self, session: Session) -> None:
        pass

    def on_closed(self, session: Session) -> None:
        pass

    def on_commands(
        self, session: Session, commands: list[Command], *, ends_pass: bool = True
    ) -> None:
        for command in commands:
            session.charge(command.body_size)
            self.waiting.append((session, command))

    def answer(self, count: int) -> None:
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        for session, command in taken:
            session.release(command.body_size)
            session.reply(response(command, 0, body=b"a" * self.answer_size))
            session.flush()


class Served:
    def __init__(self, network: Any, handler: Charging, server: RemotingServer) -> None:
        self.network, self.handler, self.server = network, handler, server
        self._opaque = 0

    async def connect(self) -> Any:
        return await self.network.connect("127.0.0.1", 10911)

    async def send(self, stream: Any, count: int, *, size: int = SIZE) -> None:
        """Send requests one after another, each read by itself."""
        for _ in range(count):
            self._opaque += 1
            command = Command(10, opaque=self._opaque, body=b"b" * size)
            rest = stream.send_now(encode_frame(command))
            assert not rest
            await wait_all_tasks_blocked()


@pytest.fixture
async def serve(network, nursery):
    """Return what makes a server that may have so many bytes under way."""

    async def make(*, connection: int, total: int) -> Served:
        handler = Charging()
        server = RemotingServer(
            network,
            host="127.0.0.1",
            port=10911,
            handler=handler,
            flow=Flow(connection_size_max=connection, size_max=total),
        )
        await nursery.start(server.serve)
        return Served(network, handler, server)

    return make


async def test_a_connection_at_its_limit_is_read_on_and_beyond_it_is_not(autojump_clock, serve):
    served = await serve(connection=5 * SIZE, total=1 << 30)
    stream = await served.connect()

    await served.send(stream, 5)
    assert len(served.handler.waiting) == 5, "at the limit"
    await served.send(stream, 1)
    assert len(served.handler.waiting) == 6, "read before it was known how much it is"
    await served.send(stream, 3)
    assert len(served.handler.waiting) == 6, "beyond it nothing more is read"


async def test_it_is_read_again_when_half_is_answered(autojump_clock, serve):
    served = await serve(connection=4 * SIZE, total=1 << 30)
    stream = await served.connect()
    await served.send(stream, 8)
    assert len(served.handler.waiting) == 5

    served.handler.answer(2)
    await wait_all_tasks_blocked()
    assert len(served.handler.waiting) == 3, "more than half is still under way"
    served.handler.answer(1)
    await wait_all_tasks_blocked()
    assert len(served.handler.waiting) > 2
    while served.handler.waiting:
        served.handler.answer(1)
        await wait_all_tasks_blocked()
    assert len(await receive_commands(stream, 8)) == 8
    assert served.server.flow.inflight_size == 0


async def test_another_connection_does_not_notice(autojump_clock, serve):
    served = await serve(connection=2 * SIZE, total=1 << 30)
    greedy, modest = await served.connect(), await served.connect()
    await served.send(greedy, 20)
    before = len(served.handler.waiting)
    await served.send(modest, 1)
    assert len(served.handler.waiting) == before + 1


async def test_when_all_together_have_too_much_who_has_nothing_under_way_is_still_read(
    autojump_clock, serve
):
    served = await serve(connection=1 << 30, total=10 * SIZE)
    streams = [await served.connect() for _ in range(3)]
    for stream in streams[:2]:
        await served.send(stream, 20)
    held = len(served.handler.waiting)
    assert 10 < held <= 10 + 3
    await served.send(streams[2], 5)
    assert len(served.handler.waiting) == held + 1, "one, and then it has something under way"


async def test_answers_that_nobody_reads_count_too(autojump_clock, network, serve):
    network.capacity = 10_000
    served = await serve(connection=1 << 30, total=50_000)
    served.handler.answer_size = 100_000
    deaf, other = await served.connect(), await served.connect()
    await served.send(deaf, 1)
    served.handler.answer(1)
    assert served.server.unread_size > 50_000
    await served.send(deaf, 6)
    assert not served.handler.waiting, "served no further until it has read its answers"
    await served.send(other, 1)
    assert len(served.handler.waiting) == 1
    found = await receive_commands(deaf, 1)
    assert len(found[0].body) == 100_000
    await wait_all_tasks_blocked()
    await trio.sleep(0.1)
    served.handler.answer_size = 0
    while served.handler.waiting:
        served.handler.answer(1)
        await wait_all_tasks_blocked()
    assert len(await receive_commands(deaf, 6)) == 6


async def test_a_connection_that_waits_for_room_can_be_closed(autojump_clock, serve):
    served = await serve(connection=SIZE, total=1 << 30)
    stream = await served.connect()
    await served.send(stream, 5)
    (session,) = served.server.sessions
    session.close("test")
    await wait_all_tasks_blocked()
    assert served.server.sessions == []
    served.handler.answer(5)
    assert served.server.flow.inflight_size == 0
