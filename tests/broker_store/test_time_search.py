"""Offsets by time: at both ends, with equal times, between files, behind retention."""

from __future__ import annotations

import pytest

from broker.store.append_state import AppendState
from broker.store.derived import DerivedState
from broker.store.time_search import Boundary, offset_by_time
from dledger.errors import CorruptStoreError
from dledger.store.os_disk import OsDisk
from tests.broker_store.derived_node import CountingMachine
from tests.broker_store.helpers import (
    FixedClock,
    MemoryLog,
    NothingDispatched,
    append_group,
    damage_units,
    make_chunk,
    new_group,
)

SEGMENT = 4096


class World:
    """A queue whose messages are stored at times a test names; three units to a file."""

    def __init__(self, folder, times=()):
        self.log = MemoryLog(segment_size=SEGMENT)
        self.state = AppendState(NothingDispatched(), self.log)
        self.times = []
        self.derived = DerivedState.open(
            OsDisk(),
            str(folder),
            self.log,
            commit_index=0,
            segment_size=SEGMENT,
            metadata=CountingMachine(),
            units_per_file=3,
        )
        for time in times:
            self.put(time)
        self.dispatch()

    def put(self, time, body=b"x", queue_id=0):
        group = new_group(self.state, FixedClock(time))
        group.add_chunk(make_chunk([body], queue_id=queue_id))
        append_group(self.log, group)
        if queue_id == 0:
            self.times.append(time)

    def dispatch(self):
        while self.derived.dispatched_index < self.log.end_index:
            self.derived.dispatch_up_to(self.log.end_index)
        for job in self.derived.begin_jobs(with_state=True):
            job.run()
            job.finish()

    @property
    def queue(self):
        return self.derived.queues.get("orders", 0)

    def find(self, time, boundary=Boundary.LOWER):
        return offset_by_time(self.log, self.queue, time, boundary)

    def lower(self, time):
        """What is right, counted one by one."""
        least = self.queue.min_offset
        return next((n for n in range(least, len(self.times)) if self.times[n] >= time),
                    len(self.times))  # fmt: skip

    def upper(self, time):
        least = self.queue.min_offset
        found = [n for n in range(least, len(self.times)) if self.times[n] <= time]
        return found[-1] if found else least


@pytest.fixture
def make_world(tmp_path):
    made = []

    def make(times=()):
        made.append(World(tmp_path / str(len(made)), times))
        return made[-1]

    yield make
    for world in made:
        world.derived.close()


@pytest.mark.parametrize(
    "times",
    [
        [10],
        [10, 20],
        [10, 20, 30, 40, 50, 60, 70],
        [10, 10, 10, 10, 10, 10, 10],
        [10, 20, 20, 20, 20, 20, 30],  # equal times over the end of two files
        [10, 10, 20, 30, 30, 30, 30],
    ],
)
def test_every_time_around_those_of_a_queue(make_world, times):
    world = make_world(times)

    for time in range(5, 80):
        assert world.find(time) == world.lower(time), time
        assert world.find(time, Boundary.UPPER) == world.upper(time), time


def test_messages_that_no_file_holds_yet_are_found_too(make_world):
    world = make_world([10, 20, 30, 40])
    world.put(50)
    world.derived.dispatch_up_to(world.log.end_index)

    assert [world.find(time) for time in (40, 41, 50, 51)] == [3, 4, 4, 5]


def test_where_retention_took_the_oldest_part_the_answer_is_what_is_kept(make_world):
    world = make_world()
    for number in range(40):
        world.put(1000 + 10 * number, body=b"x" * 500)
    world.dispatch()
    world.log.drop_before(2 * SEGMENT)
    jobs = []
    jobs.append(world.derived.begin_drop(jobs.append))
    for job in jobs:  # the first adds another
        job.run()
        job.finish()
    least = world.queue.min_offset
    assert 3 < least < 40

    for time in range(995, 1410):
        assert world.find(time) == world.lower(time) >= least
        assert world.find(time, Boundary.UPPER) == world.upper(time) >= least
    assert world.find(0) == world.find(0, Boundary.UPPER) == least


def test_a_queue_that_retention_emptied_answers_with_its_end(make_world):
    world = make_world([10, 20])
    for _ in range(60):
        world.put(30, body=b"x" * 300, queue_id=1)
    world.dispatch()
    world.log.drop_before(2 * SEGMENT)
    jobs = []
    jobs.append(world.derived.begin_drop(jobs.append))
    for job in jobs:  # the first adds another
        job.run()
        job.finish()

    assert world.queue.min_offset == world.queue.max_offset == 2
    assert [world.find(time, end) for time in (5, 10, 30) for end in Boundary] == [2] * 6


def test_a_clock_that_fell_gives_a_place_where_the_queue_crosses_the_time(make_world):
    """The second leader's clock is behind: either crossing is right, anything else is not."""
    world = make_world([10, 20, 30, 15, 25, 35])

    found = world.find(22)

    assert world.times[found] >= 22
    assert found == 0 or world.times[found - 1] < 22


def test_a_damaged_unit_is_said_to_be_one(make_world):
    world = make_world([10, 20])
    damage_units(world.derived.queues.get("orders", 0), 0, b"\x7f" * 8)

    with pytest.raises(CorruptStoreError, match="derived/consumequeue"):
        world.find(5)
