"""A server that stops reading answers what it has read, and nothing else."""

import trio

from dledger.remoting.command import Command, response
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame
from dledger.remoting.server import RemotingServer
from dledger.remoting.tcp import TcpNetwork
from dledger.remoting.turns import PASS_COUNT_MAX
from tests.fakes.network import MemoryNetwork


class Slow:
    """Answers each request only when told to."""

    def __init__(self):
        self.waiting = []

    def on_opened(self, session):
        pass

    def on_closed(self, session):
        pass

    def on_commands(self, session, commands, *, ends_pass=True):
        self.waiting += [(session, command) for command in commands]

    def answer_all(self):
        for session, command in self.waiting:
            session.reply(response(command, 0))
            session.flush()
        self.waiting.clear()


def frames(numbers):
    return b"".join(
        bytes(part) for n in numbers for part in encode_frame(Command(code=1, opaque=n))
    )


async def opaques(stream):
    connection = Connection()
    found = []
    while data := await stream.receive_some():
        connection.receive_data(data)
        found += [command.opaque for command in connection.commands()]
    return found


async def test_what_was_read_is_answered_and_later_requests_are_not_read(autojump_clock, nursery):
    network, handler = MemoryNetwork(), Slow()
    server = RemotingServer(network, host="", port=0, handler=handler)
    port = await nursery.start(server.serve)
    stream = await network.connect("here", port)
    stream.send_now([frames(range(3))])
    await trio.sleep(0.1)

    server.stop_reading()
    await trio.sleep(0.1)
    stream.send_now([frames(range(3, 6))])
    await trio.sleep(0.1)

    assert len(handler.waiting) == 3
    handler.answer_all()
    with trio.move_on_after(1):
        connection = Connection()
        found = []
        while len(found) < 3:
            connection.receive_data(await stream.receive_some())
            found += [command.opaque for command in connection.commands()]
    assert found == [0, 1, 2]
    assert not server.sessions[0].closed
    await server.close(grace_seconds=0.1)
    assert not server.sessions or server.sessions[0].closed


async def test_many_requests_of_one_receive_are_all_handled_first(autojump_clock, nursery):
    network, handler = MemoryNetwork(capacity=1 << 20), Slow()
    server = RemotingServer(network, host="", port=0, handler=handler)
    port = await nursery.start(server.serve)
    stream = await network.connect("here", port)
    count = 4 * PASS_COUNT_MAX
    stream.send_now([frames(range(count))])
    while not handler.waiting:
        await trio.lowlevel.checkpoint()
    assert len(handler.waiting) < count
    assert server.is_busy

    server.stop_reading()
    await trio.sleep(0.1)

    assert len(handler.waiting) == count
    assert not server.is_busy
    handler.answer_all()
    await server.close(grace_seconds=0.1)
    assert await opaques(stream) == list(range(count))


async def test_nobody_gets_in_any_more(autojump_clock, nursery):
    network = MemoryNetwork()
    server = RemotingServer(network, host="", port=0, handler=Slow())
    port = await nursery.start(server.serve)

    server.stop_reading()

    assert port not in network._listeners
    await server.close()


async def test_a_client_that_keeps_sending_loses_no_answer_to_the_close(autojump_clock, nursery):
    """A socket closed while its other end sends is reset, and takes answers on the way with it."""
    network, handler = MemoryNetwork(latency_seconds=0.010), Slow()
    server = RemotingServer(network, host="", port=0, handler=handler)
    port = await nursery.start(server.serve)
    stream = await network.connect("here", port)
    stream.send_now([frames(range(3))])
    await trio.sleep(0.1)
    found = []

    async def keep_sending():
        number = 100
        while not stream.closed:
            stream.send_now([frames([number])])
            number += 1
            await trio.sleep(0.003)

    async def read_to_the_end():
        found.extend(await opaques(stream))
        stream.close()

    nursery.start_soon(keep_sending)
    nursery.start_soon(read_to_the_end)
    server.stop_reading()
    handler.answer_all()
    began = trio.current_time()

    await server.close(grace_seconds=1)

    assert found[:3] == [0, 1, 2]
    assert trio.current_time() - began < 0.1, "it closes when the client has"


async def test_real_sockets_end_in_order(nursery):
    handler = Slow()
    server = RemotingServer(TcpNetwork(), host="127.0.0.1", port=0, handler=handler)
    port = await nursery.start(server.serve)
    stream = await TcpNetwork().connect("127.0.0.1", port)
    stream.send_now([frames(range(3))])
    while len(handler.waiting) < 3:  # noqa: ASYNC110 - real sockets
        await trio.sleep(0.001)
    server.stop_reading()
    stream.send_now([frames(range(3, 1000))])
    handler.answer_all()
    found = []

    async def read_to_the_end():
        found.extend(await opaques(stream))
        stream.close()

    nursery.start_soon(read_to_the_end)
    await server.close(grace_seconds=10)

    assert found == [0, 1, 2]
