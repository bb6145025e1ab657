"""Asking again before sleeping, with a clock, a poll and other processes that are made up."""

from __future__ import annotations

import sys
from math import inf

import pytest
import trio
import trio.testing

from dledger.remoting import readiness
from dledger.remoting.busy_wait import (
    CALM_SECONDS,
    CROWDED_SECONDS,
    IN_VAIN_MAX,
    REST_SECONDS,
    SHORT_WAITS_FIRST,
    BusyWait,
)
from dledger.remoting.tcp_stream import receive_each
from tests.remoting.test_readiness import connected

US = 1e-6
SPIN = 100 * US
HEARTBEAT = 0.075
FOUND = [(7, 1)]


class World:
    """Time, sockets on which something comes at a time, and others that want the processor."""

    def __init__(self, seconds=SPIN):
        self.time = 1000.0
        self.comes_at = inf
        self.turn_seconds = 0.0  # of the others, each time they are given way to
        self.slept = []
        self.asked = 0
        self.gave_way = 0
        self.wait = BusyWait(seconds, now=self.now, give_way=self.give_way)

    def now(self):
        self.time += 0.1 * US
        return self.time

    def give_way(self):
        self.gave_way += 1
        self.time += 1 * US + self.turn_seconds

    def poll(self, wait, count):
        assert count == 3
        assert wait >= 0
        if wait:
            self.slept.append(wait)
        else:
            self.asked += 1
        self.time += 1 * US
        if self.comes_at <= self.time + wait:
            self.time = max(self.time, self.comes_at)
            self.comes_at = inf
            return FOUND
        self.time += wait
        return []

    def wait_for(self, after, wait=1.0):
        """Wait once for what comes *after* so many seconds; return what was done meanwhile."""
        self.slept, self.asked, self.gave_way = [], 0, 0
        self.comes_at = self.time + after
        return self.wait.poll(self.poll, wait, 3)

    def begin(self):
        """Have it begin, by as many short waits as that takes."""
        for _ in range(SHORT_WAITS_FIRST):
            assert self.wait_for(50 * US) == FOUND
            assert self.slept
        self.wait_for(50 * US)
        assert not self.slept, "it has not begun"


def test_it_begins_after_some_short_waits_and_then_finds_without_sleeping():
    world = World()
    world.begin()

    assert world.wait_for(50 * US) == FOUND

    assert not world.slept
    assert 10 < world.asked <= 50
    assert world.gave_way == world.asked - 1
    assert world.wait.spent_seconds == pytest.approx(100 * US, rel=0.1)


def test_what_comes_later_is_slept_for_and_the_rest_of_the_time_only():
    world = World()
    world.begin()

    assert world.wait_for(3000 * US, wait=0.01) == FOUND

    assert len(world.slept) == 1
    assert world.slept[0] == pytest.approx(0.01 - SPIN, abs=5 * US)
    assert world.asked > 10


def test_it_ends_when_it_was_in_vain_some_times_in_a_row():
    world = World()
    world.begin()

    for _ in range(IN_VAIN_MAX):
        world.wait_for(300 * US)
        assert world.asked > 1
    world.wait_for(300 * US)
    assert world.asked == 0

    world.begin()
    for _ in range(3 * IN_VAIN_MAX):  # one find in between, and it goes on
        world.wait_for(300 * US)
        world.wait_for(300 * US)
        assert world.asked > 1
        world.wait_for(50 * US)
        assert not world.slept


def test_waits_that_are_not_short_never_have_it_begin():
    world = World()

    for _ in range(10 * SHORT_WAITS_FIRST):
        world.wait_for(SPIN + 50 * US)

    assert world.wait.spent_seconds == 0


@pytest.mark.parametrize("answers", [1, 2, 6])
def test_heartbeats_alone_never_have_it_begin(answers):
    """Each brings some answers within a moment; in between other things are due."""
    world = World()

    for _ in range(1000):
        for _ in range(answers):
            assert world.wait_for(30 * US) == FOUND
            assert not world.asked
        assert world.wait_for(inf, wait=HEARTBEAT - 2 * CALM_SECONDS) == []
        assert not world.asked
        for _ in range(4):
            assert world.wait_for(inf, wait=CALM_SECONDS / 2) == []
            assert not world.asked

    assert world.wait.spent_seconds == 0


def test_a_calm_ends_it():
    world = World()
    world.begin()

    assert world.wait_for(inf, wait=2 * CALM_SECONDS) == []
    world.wait_for(50 * US)

    assert not world.asked


def test_a_wait_that_is_shorter_ends_in_time_and_was_not_in_vain():
    world = World()
    world.begin()

    for _ in range(3 * IN_VAIN_MAX):
        begun = world.time
        assert world.wait_for(inf, wait=20 * US) == []
        assert not world.slept
        assert world.asked > 1
        assert 20 * US <= world.time - begun < 25 * US


def test_no_wait_is_one_question_and_nothing_else():
    world = World()
    world.begin()

    assert world.wait_for(inf, wait=0.0) == []
    assert world.wait_for(0.0, wait=0.0) == FOUND

    assert (world.asked, world.gave_way, world.slept) == (1, 0, [])


def test_it_rests_when_others_take_long_turns_and_then_goes_on():
    world = World()
    world.begin()
    world.turn_seconds = 2 * CROWDED_SECONDS

    assert world.wait_for(50 * US) == FOUND, "what came in their turn is found behind it"
    assert (world.gave_way, world.slept) == (1, [])
    begun = world.time
    while world.time < begun + REST_SECONDS - 200 * US:
        assert world.wait_for(50 * US) == FOUND
        assert not world.asked
    world.turn_seconds = 0.0
    world.time = begun + REST_SECONDS
    world.wait_for(50 * US)

    assert not world.slept


def test_it_sleeps_when_others_take_long_turns_and_nothing_has_come():
    world = World()
    world.begin()
    world.turn_seconds = 2 * CROWDED_SECONDS

    assert world.wait_for(5000 * US, wait=0.01) == FOUND

    assert len(world.slept) == 1
    assert world.slept[0] == pytest.approx(0.01 - world.turn_seconds, abs=10 * US)


class Counted(BusyWait):
    """Counts how often something was found by way of it."""

    found = 0

    def poll(self, poll, wait, count):
        found = super().poll(poll, wait, count)
        self.found += bool(found)
        return found


async def test_an_event_loop_waits_so_when_it_is_told_to(monkeypatch):
    monkeypatch.setattr(readiness, "BusyWait", Counted)
    is_told = readiness.wait_busily(0.01)
    assert is_told == (sys.platform == "linux")
    assert (readiness.busy_wait_seconds() == 0) == is_told

    async with connected() as (caller, callee), trio.open_nursery() as nursery:
        count = 0

        def answer(data):
            assert not caller.send_now([data])
            return False

        def take(data):
            nonlocal count
            count += 1
            assert not callee.send_now([data])
            return count > 3 * SHORT_WAITS_FIRST

        nursery.start_soon(receive_each, caller, answer)
        assert not caller.send_now([b"x"])
        await receive_each(callee, take)
        nursery.cancel_scope.cancel()

    if is_told:
        assert readiness.hot_sockets().busy_wait.found >= count


async def test_an_event_loop_that_is_not_told_never_does():
    readiness.hot_sockets()

    assert readiness.busy_wait_seconds() is None


def test_virtual_time_is_never_waited_for_busily():
    async def tell():
        return readiness.wait_busily(0.01), readiness.busy_wait_seconds()

    clock = trio.testing.MockClock(autojump_threshold=0)

    assert trio.run(tell, clock=clock) == (False, None)
