"""Sockets that are read out of the event loop's own poll, over real ones."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import sys
import time

import pytest
import trio

from dledger.remoting import readiness, tcp_stream
from dledger.remoting.alarm import Alarm
from dledger.remoting.errors import ConnectionClosedError, ConnectionLostError
from dledger.remoting.tcp import TcpNetwork
from dledger.remoting.tcp_stream import receive_each
from tests.fakes.ended_loop import what_ended


@contextlib.asynccontextmanager
async def connected():
    """Return both ends of a connection over loopback."""
    listener = await TcpNetwork().listen("127.0.0.1", 0)
    caller = await TcpNetwork().connect("127.0.0.1", listener.port)
    callee = await listener.accept()
    try:
        yield caller, callee
    finally:
        for each in (caller, callee, listener):
            each.close()


@pytest.fixture(params=["out of the poll", "by tasks"])
def way(request, monkeypatch):
    """Both ways promise the same."""
    if request.param == "by tasks":
        monkeypatch.setattr(tcp_stream, "hot_sockets", lambda: None)
    return request.param


async def test_this_trio_can_be_read_out_of_its_poll():
    """Another version may not have what is replaced: all goes by tasks then, and more slowly."""
    sockets = readiness.hot_sockets()

    assert (sockets is not None) == (sys.platform == "linux")
    assert readiness.hot_sockets() is sockets


def test_a_guest_of_another_event_loop_reads_by_tasks():
    """trio polls in a thread then, where nothing of the loop's may be called."""
    calls = queue.SimpleQueue()
    outcomes = []

    async def talk():
        async with connected() as (caller, callee):
            assert not caller.send_now([b"hello"])
            found = []
            await receive_each(callee, lambda data: found.append(bytes(data)) is None)
            return readiness.hot_sockets(), found

    trio.lowlevel.start_guest_run(
        talk, run_sync_soon_threadsafe=calls.put, done_callback=outcomes.append
    )
    while not outcomes:
        calls.get(timeout=60)()

    assert outcomes[0].unwrap() == (None, [b"hello"])


async def test_everything_comes_in_order_and_the_end_last(way):
    async with connected() as (caller, callee):
        found = []
        sent = b"".join(b"%07d" % number for number in range(100_000))

        async def send():
            rest = [sent]
            while rest := caller.send_now(rest):
                await caller.wait_writable()
            caller.end_sending()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await receive_each(callee, lambda data: bool(found.append(data)))

    assert b"".join(found) == sent
    assert found[-1] == b""
    assert b"" not in found[:-1]


async def test_what_comes_behind_the_last_one_wanted_is_kept(way):
    async with connected() as (caller, callee):
        found = []

        def take(data):
            found.append(data)
            return True

        for word in (b"one", b"two"):
            caller.send_now([word])
            await receive_each(callee, take)
            assert found[-1] == word
        caller.send_now([b"three"])
        assert await callee.receive_some() == b"three"


async def test_what_the_taker_raises_comes_out(way):
    async with connected() as (caller, callee):

        def take(data):
            raise LookupError(data.decode())

        caller.send_now([b"words"])
        with pytest.raises(LookupError, match="words"):
            await receive_each(callee, take)
        caller.send_now([b"more"])
        assert await callee.receive_some() == b"more"


@pytest.mark.parametrize("is_own", [True, False])
async def test_a_connection_that_ends_meanwhile(way, is_own):
    async with connected() as (caller, callee), trio.open_nursery() as nursery:

        async def wait():
            with pytest.raises(ConnectionClosedError if is_own else ConnectionLostError):
                await receive_each(callee, lambda _: False)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        if is_own:
            callee.close()
        else:
            caller.abort()


async def test_a_taker_may_close_its_own_connection(way):
    async with connected() as (caller, callee):

        def take(data):
            callee.close()
            return True

        caller.send_now([b"x"])
        with contextlib.suppress(ConnectionClosedError):
            await receive_each(callee, take)
        with pytest.raises(ConnectionClosedError):
            await receive_each(callee, take)


async def test_who_is_cancelled_takes_nothing_more(way):
    async with connected() as (caller, callee):
        found = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_each, callee, found.append)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        caller.send_now([b"later"])

        assert await callee.receive_some() == b"later"
        assert found == []


async def test_writing_does_not_stop_the_reading(way):
    """Both wait for one descriptor, and each says by itself what for."""
    async with connected() as (caller, callee), trio.open_nursery() as nursery:
        found = []
        nursery.start_soon(receive_each, callee, lambda data: bool(found.append(data)))
        rest = [bytes(64 << 20)]
        rest = callee.send_now(rest)
        assert rest
        nursery.start_soon(callee.wait_writable)
        await trio.testing.wait_all_tasks_blocked()

        caller.send_now([b"x"])
        while not found:
            await trio.lowlevel.checkpoint()

        assert found == [b"x"]
        nursery.cancel_scope.cancel()


async def test_what_waits_for_the_reads_comes_once_behind_all_of_them():
    told = []

    def end():
        told.append("end")

    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(connected()) for _ in range(5)]
        async with trio.open_nursery() as nursery:

            def take(data):
                told.append("read")
                readiness.after_reads(end)
                return False

            for _, callee in pairs:
                nursery.start_soon(receive_each, callee, take)
            await trio.testing.wait_all_tasks_blocked()
            for caller, _ in pairs:
                caller.send_now([b"x"])
            while told.count("read") < len(pairs):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    if readiness.is_supported:
        assert told == ["read"] * len(pairs) + ["end"]
    else:
        assert told == ["read", "end"] * len(pairs)
    readiness.after_reads(end)
    assert told[-2:] == ["end", "end"]  # nothing is being read: at once


def test_what_goes_wrong_behind_the_reads_ends_the_event_loop():

    def fail():
        raise LookupError("it broke")

    def take(data):
        readiness.after_reads(fail)
        return False

    async def main():
        async with connected() as (caller, callee):
            caller.send_now([b"x"])
            await receive_each(callee, take)

    assert str(what_ended(main)) == "it broke"


on_linux = pytest.mark.skipif(not readiness.is_supported, reason="nothing goes out of the poll")


class FullEpoll:
    """One whose user has no watches left, or whose kernel no memory."""

    def __init__(self, stock):
        self.stock = stock

    def register(self, fd, events):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name):
        return getattr(self.stock, name)


@on_linux
async def test_a_socket_that_the_kernel_does_not_watch_ends_its_connection_only(monkeypatch):
    sockets = readiness.hot_sockets()
    async with connected() as (_, callee), connected() as (other_caller, other_callee):
        with monkeypatch.context() as patched:
            patched.setattr(sockets, "epoll", FullEpoll(sockets.epoll))
            with pytest.raises(ConnectionLostError, match=os.strerror(errno.ENOSPC)):
                await receive_each(callee, lambda _: True)
        callee.close()

        other_caller.send_now([b"x"])
        await receive_each(other_callee, lambda data: data == b"x")


@on_linux
@pytest.mark.parametrize("is_made", [False, True])
async def test_without_a_poll_of_its_own_everything_goes_by_tasks(monkeypatch, is_made):
    """No descriptor is left: the next caller may find one."""
    stock = readiness.select.epoll
    closed = []

    class Full(FullEpoll):
        def close(self):
            closed.append(self)
            self.stock.close()

    def make():
        if not is_made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return Full(stock())

    async with connected() as (caller, callee):
        caller.send_now([b"x"])
        with monkeypatch.context() as patched:
            patched.setattr(readiness.select, "epoll", make)
            assert readiness.hot_sockets() is None
            await receive_each(callee, lambda data: data == b"x")
        assert readiness.hot_sockets() is not None
    assert bool(closed) == is_made


async def test_virtual_time_stands_still_while_something_is_read(autojump_clock):
    """trio takes a poll that tells of nothing for one that has timed out."""
    autojump_clock.autojump_threshold = 0.2  # real seconds: loopback is not always at once
    begun = trio.current_time()
    async with connected() as (caller, callee), trio.open_nursery() as nursery:
        count = 0
        played = trio.Event()

        def play(stream):
            def take(data):
                nonlocal count
                count += 1
                stream.send_now([data])
                if count == 100:
                    played.set()
                return False

            return take

        nursery.start_soon(trio.sleep, 1000)
        nursery.start_soon(receive_each, callee, play(callee))
        nursery.start_soon(receive_each, caller, play(caller))
        caller.send_now([b"x"])
        await played.wait()
        nursery.cancel_scope.cancel()

    assert trio.current_time() == begun


@on_linux
async def test_however_many_are_readable_all_are_read_in_two_turns_of_the_loop(way):
    """After a pause of the process the heartbeats of peers lie among the requests of clients.

    `LedgerServer` gives its time-outs that many turns before it judges them.
    """
    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(connected()) for _ in range(200)]
        async with trio.open_nursery() as nursery:
            found = []
            for _, callee in pairs:
                nursery.start_soon(receive_each, callee, lambda data: bool(found.append(data)))
            await trio.testing.wait_all_tasks_blocked()
            for caller, _ in pairs:
                caller.send_now([b"x"])
            time.sleep(0.05)  # noqa: ASYNC251 - the process is paused, and all has arrived
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            assert len(found) == len(pairs)
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def playing():
    """Have two connections answer each other without end; yields how often they have."""
    async with connected() as (caller, callee), trio.open_nursery() as nursery:
        played = []

        def play(stream):
            def take(data):
                played.append(data)
                stream.send_now([data])
                return False

            return take

        for stream in (caller, callee):
            nursery.start_soon(receive_each, stream, play(stream))
        await trio.testing.wait_all_tasks_blocked()
        caller.send_now([b"x"])
        yield played
        nursery.cancel_scope.cancel()


class Turns(trio.abc.Instrument):
    count = 0

    def before_io_wait(self, timeout):
        self.count += 1


@on_linux
async def test_what_wakes_no_task_takes_no_turn_of_the_loop():
    turns = Turns()
    async with connected() as (caller, callee), trio.open_nursery() as nursery:
        told = trio.Event()
        found = []

        def take(data):
            found.append(data)
            if len(found) == 100:
                told.set()
            else:
                caller.send_now([b"x"])
            return False

        nursery.start_soon(receive_each, callee, take)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(turns)
        caller.send_now([b"x"])
        await told.wait()
        trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()

    assert turns.count <= 3


@on_linux
async def test_time_goes_on_while_sockets_are_read_without_end():
    async with playing() as played:
        with trio.move_on_after(0.02) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert played


@on_linux
async def test_a_deadline_that_a_taker_brings_forward_is_kept():
    async with connected() as (caller, callee), trio.open_nursery() as nursery:
        scope = trio.CancelScope(deadline=trio.current_time() + 3600)

        def take(_):
            scope.deadline = trio.current_time() + 0.001
            return False

        nursery.start_soon(receive_each, callee, take)
        await trio.testing.wait_all_tasks_blocked()
        caller.send_now([b"x"])
        with scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


@on_linux
async def test_other_threads_have_their_turn_while_sockets_are_read_without_end():
    async with playing():
        assert await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(lambda: "told"))


@on_linux
async def test_no_task_has_a_turn_for_what_is_due():
    rung, steps = [], []
    alarm = Alarm(lambda: rung.append("rung"))

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task):
            steps.append(task)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        await trio.testing.wait_all_tasks_blocked()
        instrument = Steps()
        trio.lowlevel.add_instrument(instrument)
        alarm.set(trio.current_time() + 0.001)
        await trio.sleep(0.05)
        trio.lowlevel.remove_instrument(instrument)
        assert rung == ["rung"]
        assert set(steps) == {trio.lowlevel.current_task()}
        nursery.cancel_scope.cancel()
