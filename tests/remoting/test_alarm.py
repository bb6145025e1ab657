"""Plain functions that are called at a time, out of the event loop's poll and by a task."""

from __future__ import annotations

import time
from math import inf

import pytest
import trio

from dledger.remoting import alarm as module
from dledger.remoting.alarm import Alarm
from dledger.remoting.tcp_stream import receive_each
from tests.remoting.test_readiness import connected


@pytest.fixture(params=["out of the poll", "by a task"])
def way(request, monkeypatch):
    """Both ways promise the same."""
    if request.param == "by a task":
        monkeypatch.setattr(module, "timed_sockets", lambda: None)
    return request.param


class Bell:
    """Counts how often it was rung, and lets a test wait for the next time."""

    def __init__(self):
        self.rung_at = []
        self.was_rung = trio.Event()
        self.alarm = Alarm(self)

    def __call__(self):
        self.rung_at.append(trio.current_time())
        self.was_rung.set()

    async def next(self):
        await self.was_rung.wait()
        self.was_rung = trio.Event()
        return self.rung_at[-1]


async def test_it_rings_at_each_time_that_was_set_and_not_before(way):
    bell = Bell()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.alarm.run)
        for _ in range(3):
            due = trio.current_time() + 0.01
            bell.alarm.set(due)
            assert await bell.next() >= due
            assert bell.alarm.due == inf
        nursery.cancel_scope.cancel()
    assert len(bell.rung_at) == 3


async def test_what_was_set_before_it_ran_counts(way):
    bell = Bell()
    bell.alarm.set(due := trio.current_time() + 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.alarm.run)
        assert await bell.next() >= due
        nursery.cancel_scope.cancel()


async def test_the_time_set_last_counts(way):
    bell, other = Bell(), Bell()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.alarm.run)
        nursery.start_soon(other.alarm.run)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        bell.alarm.set(begun + 1000)
        bell.alarm.set(begun + 0.01)
        await bell.next()
        bell.alarm.set(begun + 0.01)
        bell.alarm.set(inf)
        other.alarm.set(begun + 0.05)
        await other.next()
        assert len(bell.rung_at) == 1
        nursery.cancel_scope.cancel()


async def test_at_once_means_after_the_turn_of_others(way):
    """A function that has itself called at once each time holds nobody up."""
    rung = 0

    def ring():
        nonlocal rung
        rung += 1
        alarm.set(-inf)

    alarm = Alarm(ring)
    alarm.set(-inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert 10 < rung < 200
        nursery.cancel_scope.cancel()


async def test_what_it_raises_ends_it(way):
    def fail():
        raise LookupError("it broke")

    alarm = Alarm(fail)
    alarm.set(-inf)
    with pytest.raises(LookupError, match="it broke"):
        await alarm.run()


async def test_who_is_cancelled_rings_no_more(way):
    bell, other = Bell(), Bell()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as inner:
            inner.start_soon(bell.alarm.run)
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        bell.alarm.set(-inf)
        other.alarm.set(-inf)
        nursery.start_soon(other.alarm.run)
        await other.next()
        assert bell.rung_at == []
        nursery.cancel_scope.cancel()


async def test_what_had_arrived_when_the_time_came_is_received_before(way):
    """After a pause of the whole process a heartbeat lies unread, and its time-out has passed."""
    told = []
    async with connected() as (caller, callee), trio.open_nursery() as nursery:
        bell = Bell()
        alarm = Alarm(lambda: (told.append("rung"), bell()))
        nursery.start_soon(alarm.run)
        nursery.start_soon(receive_each, callee, lambda _: bool(told.append("received")))
        await trio.testing.wait_all_tasks_blocked()
        alarm.set(trio.current_time() + 0.01)
        caller.send_now([b"x"])
        time.sleep(0.05)  # noqa: ASYNC251 - the process is paused, and both are due
        await bell.next()
        nursery.cancel_scope.cancel()
    assert told == ["received", "rung"]


async def test_virtual_time_goes_on_to_it(autojump_clock):
    bell = Bell()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.alarm.run)
        await trio.testing.wait_all_tasks_blocked()
        due = trio.current_time() + 1000
        bell.alarm.set(due)
        assert await bell.next() == due
        nursery.cancel_scope.cancel()
