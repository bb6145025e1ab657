"""Sending without waiting: what the kernel does not take is kept, bounded, and sent in order."""

from __future__ import annotations

import gc
import struct
import tracemalloc
import weakref

import pytest
import trio
import trio.testing

from dledger.remoting.connection import Connection
from dledger.remoting.errors import ConnectionLostError, RemoteProtocolError
from dledger.remoting.outbox import Outbox, OutboxBudget
from dledger.remoting.tcp import TcpNetwork
from tests.fakes.network import MemoryNetwork


@pytest.fixture
async def pair():
    network = MemoryNetwork(capacity=1000)
    listener = await network.listen("127.0.0.1", 1)
    stream = await network.connect("127.0.0.1", 1)
    return stream, await listener.accept()


async def receive_all(stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some()
    return data


async def test_nothing_is_sent_before_a_flush(pair, autojump_clock):
    stream, _ = pair
    outbox = Outbox(stream, 10_000)
    outbox.write([b"abc", b"de"])
    assert (outbox.pending_size, stream.send_count) == (5, 0)
    outbox.flush()
    assert (outbox.pending_size, stream.send_count) == (0, 1)


async def test_many_writes_go_out_in_one_send(pair, autojump_clock):
    stream, peer = pair
    outbox = Outbox(stream, 10_000)
    for n in range(100):
        outbox.write([b"%03d" % n])
    outbox.flush()
    assert stream.send_count == 1
    assert await receive_all(peer, 300) == b"".join(b"%03d" % n for n in range(100))


@pytest.mark.parametrize("is_one_call", [False, True])
async def test_what_the_kernel_does_not_take_follows_in_order(
    pair, nursery, autojump_clock, is_one_call
):
    stream, peer = pair
    budget = OutboxBudget(1_000_000)
    outbox = Outbox(stream, 1_000_000, budget=budget)
    nursery.start_soon(outbox.run)
    data = bytes(n % 251 for n in range(50_000))
    for start in range(0, len(data), 700):
        piece = [data[start : start + 700]]
        if is_one_call:
            outbox.send(piece)
        else:
            outbox.write(piece)
            outbox.flush()
    assert outbox.pending_size == budget.pending_size == 49_000
    assert await receive_all(peer, 50_000) == data
    assert outbox.pending_size == 0


async def test_small_and_large_buffers_keep_their_order(pair, nursery, autojump_clock):
    stream, peer = pair
    outbox = Outbox(stream, 1_000_000)
    nursery.start_soon(outbox.run)
    buffers = [bytes([n]) * (20_000 if n % 4 == 0 else n) for n in range(1, 30)]
    outbox.write(buffers)
    outbox.flush()
    wanted = b"".join(buffers)
    assert await receive_all(peer, len(wanted)) == wanted


async def test_what_is_sent_at_once_is_bounded_too(pair, autojump_clock):
    stream, _ = pair
    budget = OutboxBudget(1_000_000)
    outbox = Outbox(stream, 5000, budget=budget)
    outbox.send([bytes(900)])
    assert (outbox.pending_size, outbox.closed) == (0, False)

    outbox.send([bytes(6000)])

    assert outbox.overflowed
    assert outbox.closed
    assert budget.pending_size == 0


async def test_what_was_written_before_leaves_before_what_is_sent(pair, autojump_clock):
    stream, peer = pair
    outbox = Outbox(stream, 5000)
    outbox.write([b"abc"])
    outbox.send([b"de"])
    assert stream.send_count == 1
    assert await receive_all(peer, 5) == b"abcde"


async def test_a_large_view_is_handed_on_uncopied(autojump_clock):
    taken = []

    class Stream:
        def send_now(self, buffers):
            taken.extend(buffers)
            return []

    outbox = Outbox(Stream(), 1_000_000)
    view = memoryview(bytes(20_000))
    outbox.write([b"h"] * 10)
    outbox.write([view])
    outbox.flush()
    assert taken[0] == b"h" * 10
    assert taken[1] is view


async def test_flush_soon_sends_once_for_all_who_ran(pair, nursery, autojump_clock):
    stream, peer = pair
    outbox = Outbox(stream, 10_000)
    nursery.start_soon(outbox.run)
    await trio.testing.wait_all_tasks_blocked()

    async def write(n: int) -> None:
        outbox.write([bytes([n])])
        outbox.flush_soon()

    async with trio.open_nursery() as writers:
        for n in range(50):
            writers.start_soon(write, n)
    assert len(await receive_all(peer, 50)) == 50
    assert stream.send_count == 1


async def test_wait_below_waits_for_the_reader(pair, nursery, autojump_clock):
    stream, peer = pair
    outbox = Outbox(stream, 10_000)
    nursery.start_soon(outbox.run)
    outbox.write([bytes(5_000)])
    outbox.flush()
    with trio.move_on_after(1) as waiting:
        await outbox.wait_below(2_000)
    assert waiting.cancelled_caught
    nursery.start_soon(receive_all, peer, 5_000)
    with trio.fail_after(1):
        await outbox.wait_below(2_000)
    assert outbox.pending_size <= 2_000


async def test_a_reader_too_slow_for_the_limit_loses_its_connection(pair, autojump_clock):
    stream, peer = pair
    outbox = Outbox(stream, 3_000)
    outbox.write([bytes(3_000)])
    outbox.flush()
    outbox.write([bytes(1_000)])
    assert not outbox.overflowed  # 1000 of the 4000 have gone
    outbox.write([b"x"])
    assert outbox.overflowed
    assert outbox.closed
    assert "3001 bytes unread" in str(outbox.error)
    with pytest.raises(ConnectionLostError):
        await peer.receive_some()


async def test_a_burst_over_the_limit_passes_when_the_kernel_takes_it(pair, autojump_clock):
    stream, _ = pair
    outbox = Outbox(stream, 500)
    outbox.write([bytes(900)])
    assert not outbox.overflowed
    assert outbox.pending_size == 0


async def test_a_broken_connection_ends_flush_and_waiters_without_raising(
    pair, nursery, autojump_clock
):
    stream, peer = pair
    outbox = Outbox(stream, 10_000)
    nursery.start_soon(outbox.run)
    outbox.write([bytes(5_000)])
    outbox.flush()
    nursery.start_soon(outbox.wait_below, 0)
    await trio.testing.wait_all_tasks_blocked()
    peer.abort()
    await trio.testing.wait_all_tasks_blocked()
    assert outbox.closed
    assert "reset" in str(outbox.error)
    outbox.write([b"thrown away"])
    outbox.flush()
    assert outbox.pending_size == 0


async def test_closing_drops_what_is_unsent_and_wakes_everybody(pair, autojump_clock):
    stream, _ = pair
    outbox = Outbox(stream, 10_000)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            outbox.write([bytes(5_000)])
            outbox.flush()
            nursery.start_soon(outbox.wait_below, 0)
            await trio.testing.wait_all_tasks_blocked()
            outbox.close()
            outbox.close()
    assert outbox.pending_size == 0
    assert outbox.error is None
    assert not outbox.overflowed


async def test_a_full_kernel_is_not_asked_again_before_it_has_room(autojump_clock):
    attempts = []

    class Full:
        def send_now(self, buffers):
            attempts.append(len(buffers))
            return [memoryview(buffer) for buffer in buffers]

    outbox = Outbox(Full(), 1_000_000)
    for _ in range(10):
        outbox.write([b"x"])
        outbox.flush()
    assert attempts == [1]
    assert outbox.pending_size == 10


# -- a limit for many ---------------------------------------------------------------------------


async def test_of_too_much_that_is_unread_the_largest_part_goes(network, autojump_clock):
    """Each within its own limit, ten thousand clients that do not read are given a terabyte."""
    listener = await network.listen("127.0.0.1", 10911)
    budget = OutboxBudget(1_000_000)
    outboxes, others = [], []
    for _ in range(4):
        others.append(await network.connect("127.0.0.1", 10911))
        outboxes.append(Outbox(await listener.accept(), 10_000_000, budget=budget))
    room = network.capacity
    for outbox, size in zip(outboxes, (200_000, 500_000, 290_000), strict=False):
        outbox.write([bytes(room + size)])
        outbox.flush()
    assert budget.pending_size == 990_000

    outboxes[3].write([bytes(room + 300_000)])

    assert [outbox.closed for outbox in outboxes] == [False, True, False, False]
    assert outboxes[1].overflowed
    assert "over the limit of 1000000 which all connections share" in str(outboxes[1].error)
    assert budget.pending_size == 790_000
    for outbox in outboxes:
        outbox.close()
    assert budget.pending_size == 0
    assert not budget.outboxes


async def test_what_is_taken_makes_room_for_others(network, autojump_clock, nursery):
    listener = await network.listen("127.0.0.1", 10911)
    budget = OutboxBudget(1_000_000)
    reader = await network.connect("127.0.0.1", 10911)
    outbox = Outbox(await listener.accept(), 10_000_000, budget=budget)
    nursery.start_soon(outbox.run)
    for _ in range(10):
        outbox.write([bytes(900_000)])
        outbox.flush()
        left = 900_000
        while left:
            left -= len(await reader.receive_some())
        assert budget.pending_size == 0
    outbox.close()


# -- what is given up is let go of ----------------------------------------------------------------


class Watched(bytearray):
    """Bytes that can be watched as they go."""


@pytest.fixture
def no_collector():
    """What lies in a ring stays: a node's collector looks at the old ones every few minutes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_what_a_broken_connection_had_to_send_is_let_go_of(nursery, no_collector):
    """The error kept the traceback, that the buffers, and they the outbox: 64 MiB a connection."""
    network = TcpNetwork()
    listener = await network.listen("127.0.0.1", 0)
    peer = await network.connect("127.0.0.1", listener.port)
    outbox = Outbox(await listener.accept(), 1 << 30)
    nursery.start_soon(outbox.run)
    content = Watched(32 << 20)
    watched = weakref.ref(content)
    outbox.write([content])
    outbox.flush()
    del content
    peer.abort()

    with trio.fail_after(60):
        while not outbox.closed:
            outbox.write([b"more"])
            outbox.flush()
            await trio.sleep(0.01)
    await trio.sleep(0.01)

    assert "broke" in str(outbox.error)
    assert watched() is None
    listener.close()


def test_a_frame_that_was_refused_is_let_go_of(no_collector):
    """The error kept the traceback, and that the frame, of up to 16 MiB a connection."""
    connection = Connection()
    header = b"no header"
    size = 4 << 20
    frame = struct.pack(">II", 4 + len(header) + size, len(header)) + header + bytes(size)
    tracemalloc.start()
    try:
        for at in range(0, len(frame), 1 << 18):
            connection.receive_data(frame[at : at + (1 << 18)])
            try:
                connection.commands()
            except RemoteProtocolError:
                break
        del connection
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 1 << 20
