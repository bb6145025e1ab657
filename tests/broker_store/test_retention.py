"""Where queues of topics should begin that keep less than the log: by age, by size, and both."""

from __future__ import annotations

import random

import pytest

from broker.store import retention
from broker.store.append_state import AppendState
from broker.store.derived import DerivedState
from broker.store.retention import TopicBounds, TopicRetention
from broker.store.segment_times import LOOKED_AT_MAX, SegmentTimes
from dledger.entry import EntryKind
from dledger.errors import CorruptStoreError
from dledger.store.retention import NEWEST_UNKNOWN
from tests.broker_store.derived_node import CountingMachine
from tests.broker_store.growing_disk import GrowingDisk
from tests.broker_store.helpers import (
    FixedClock,
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    new_group,
)

SEGMENT = 1 << 16
NOW = 10_000_000
RECORD = 91 + len("orders") + 10  # bytes of a record with a body of ten


class SearchableLog(MemoryLog):
    def __init__(self):
        super().__init__(segment_size=SEGMENT)
        self.verified = []
        self.damaged = False

    def find_index_at_position(self, position):
        return next(entry.index for entry in self._entries if entry.end > position)

    def verify(self, first_index, last_index):
        self.verified.append(first_index)
        if self.damaged:
            raise CorruptStoreError("damage")


class World:
    def __init__(self):
        self.log = SearchableLog()
        self.state = AppendState(NothingDispatched(), self.log)
        self.derived = DerivedState.open(
            GrowingDisk(),
            "/derived",
            self.log,
            commit_index=0,
            segment_size=SEGMENT,
            metadata=CountingMachine(),
            units_per_file=50,
        )
        self.planner = TopicRetention(self.log, self.derived.queues)
        self.turns = 0  # others had while the last plan was made
        self.meanwhile = lambda: None

    def put(self, *, age_ms=0, count=1, queue_id=0):
        group = new_group(self.state, FixedClock(NOW - age_ms))
        group.add_chunk(make_chunk([b"x" * 10] * count, queue_id=queue_id))
        append_group(self.log, group)
        self.derived.dispatch_up_to(self.log.end_index)

    def trim(self, offsets):
        for queue_id, offset in offsets.items():
            self.log.append(f"trim orders {queue_id} {offset}".encode(), channel=1)
        self.derived.dispatch_up_to(self.log.end_index)

    def plan(self, *, ms=0, size=0, queues=4):
        bounds = TopicBounds(
            topic="orders", queue_count=queues, retention_ms=ms, retention_bytes=size
        )
        steps = self.planner.plan(bounds, NOW)
        self.turns = 0
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            self.turns += 1
            self.meanwhile()


@pytest.fixture
def world():
    return World()


def test_messages_older_than_the_bound_go_and_no_younger_one(world):
    for age in (5000, 3000, 2001, 2000, 1999, 10):
        world.put(age_ms=age)
        world.put(age_ms=age, queue_id=1)

    assert world.plan(ms=2000) == {0: 3, 1: 3}
    assert world.plan(ms=10_000) == {}
    world.trim({0: 3, 1: 3})
    assert world.plan(ms=2000) == {}
    assert world.plan(ms=1) == {0: 6, 1: 6}


def test_the_entry_that_decides_is_checked_first(world):
    """One bit of a store time, turned on the leader, would take messages on every node."""
    world.put(age_ms=5000, count=3)
    world.put(age_ms=10)
    assert world.plan(ms=2000) == {0: 3}
    assert world.log.verified == [1]

    world.log.damaged = True
    with pytest.raises(CorruptStoreError):
        world.plan(ms=2000)


def test_the_oldest_of_all_queues_go_until_the_topic_is_within_its_size(world):
    for number in range(30):
        world.put(queue_id=number % 3)

    assert world.plan(size=30 * RECORD) == {}
    assert world.plan(size=29 * RECORD) == {0: 1}
    assert world.plan(size=25 * RECORD) == {0: 2, 1: 2, 2: 1}
    assert world.plan(size=24 * RECORD + 1) == {0: 2, 1: 2, 2: 2}
    assert world.plan(size=1) == {0: 10, 1: 10, 2: 10}


def test_a_queue_whose_messages_are_all_older_goes_first(world):
    world.put(queue_id=1, count=40)
    world.put(queue_id=0, count=40)

    assert world.plan(size=50 * RECORD) == {1: 30}
    assert world.plan(size=30 * RECORD) == {1: 40, 0: 10}


def test_both_bounds_count(world):
    world.put(age_ms=5000, count=10)
    world.put(age_ms=10, count=10)

    assert world.plan(ms=2000, size=15 * RECORD) == {0: 10}
    assert world.plan(ms=2000, size=4 * RECORD) == {0: 16}


def test_an_empty_topic_and_one_without_queues_have_nothing_to_trim(world):
    assert world.plan(ms=1, size=1) == {}
    world.put(age_ms=5000)
    world.trim({0: 1})
    assert world.plan(ms=1, size=1) == {}


@pytest.fixture
def ten_reads_of_ten(monkeypatch):
    monkeypatch.setattr(retention, "_BLOCK_UNITS", 10)
    monkeypatch.setattr(retention, "READS_AT_ONCE", 10)


@pytest.fixture
def many(ten_reads_of_ten):
    return World()


def test_a_long_queue_is_counted_in_several_turns(many):
    many.put(count=250)

    assert many.plan(size=250 * RECORD) == {}
    assert many.turns == 2
    assert many.plan(size=250 * RECORD) == {}
    assert many.turns == 0, "it is counted once"


def test_all_queues_of_a_topic_share_the_turns_they_are_counted_in(many):
    for queue_id in range(40):
        many.put(count=10, queue_id=queue_id)

    assert many.plan(size=400 * RECORD, queues=40) == {}
    assert many.turns == 4


def test_what_is_left_of_a_turn_is_carried_on_to_the_next_topic(many):
    many.put(count=60)
    many.put(count=60, queue_id=1)
    assert many.plan(size=1000 * RECORD, queues=1) == {}
    assert many.turns == 0
    many.put(count=60, queue_id=2)
    assert many.plan(size=1000 * RECORD) == {}
    assert many.turns == 1


def test_each_queue_that_is_searched_by_time_has_its_turn(many):
    for queue_id in range(4):
        many.put(age_ms=5000, count=3, queue_id=queue_id)

    assert many.plan(ms=9000) == {}
    assert many.turns == 4
    assert many.plan(ms=9000) == {}
    assert many.turns == 0, "how old the oldest are is known"
    assert many.plan(ms=2000) == {0: 3, 1: 3, 2: 3, 3: 3}
    assert many.turns == 4


def test_messages_that_go_by_ones_are_gone_through_in_several_turns(many):
    for number in range(100):
        many.put(queue_id=number % 2)

    assert many.plan(size=50 * RECORD) == {0: 25, 1: 25}
    assert many.turns >= 5


def test_a_queue_that_begins_later_once_it_is_counted_is_counted_again(many):
    many.put(count=100)
    many.put(count=100, queue_id=1)
    many.meanwhile = lambda: many.turns == 1 and many.trim({0: 20, 1: 20})

    assert many.plan(size=165 * RECORD) == {}, "160 are left"


@pytest.mark.parametrize("turn", range(1, 7))
def test_what_is_trimmed_between_two_turns_is_not_taken_twice(many, turn):
    """The log may begin later while a long topic is counted, or gone through."""
    for number in range(200):
        many.put(queue_id=number % 2)
    many.meanwhile = lambda: many.turns == turn and many.trim({0: 20, 1: 20})

    planned = many.plan(size=150 * RECORD)

    assert many.turns >= turn
    queues = [many.derived.queues.get("orders", queue_id) for queue_id in (0, 1)]
    kept = sum(
        queue.max_offset - max(queue.min_offset, planned.get(queue_id, 0))
        for queue_id, queue in enumerate(queues)
    )
    assert 150 <= kept <= 160


@pytest.mark.parametrize("seed", range(10))
def test_what_is_kept_count_of_is_what_there_is(world, seed, monkeypatch):
    """However queues grow and begin later, by trims or with the log."""
    monkeypatch.setattr(retention, "_BLOCK_UNITS", 7)
    chance = random.Random(seed)
    for _ in range(60):
        world.put(count=chance.choice([1, 3, 20]), queue_id=chance.randrange(2))
        if chance.random() < 0.3:
            queue = world.derived.queues.get("orders", 0)
            if queue is not None:
                world.trim({0: chance.randint(queue.min_offset, queue.max_offset)})
        bound = chance.randint(1, 150)
        planned = world.plan(size=bound * RECORD)
        kept = 0
        oldest_kept, youngest_gone = [], []
        for queue_id in (0, 1):
            queue = world.derived.queues.get("orders", queue_id)
            if queue is None:
                continue
            begin = planned.get(queue_id, queue.min_offset)
            kept += queue.max_offset - begin
            if begin < queue.max_offset:
                oldest_kept.append(queue.position_at(begin))
            if begin > queue.min_offset:
                youngest_gone.append(queue.position_at(begin - 1))
        assert kept <= bound
        if planned:
            assert kept == bound, "and no more than needed"
            assert max(youngest_gone) < min(oldest_kept)
        if chance.random() < 0.5:
            world.trim(planned)


def test_counts_of_topics_that_are_gone_are_dropped(world):
    world.put(count=5)
    world.plan(size=RECORD)
    assert world.planner._counts

    world.planner.forget({})

    assert not world.planner._counts


# -- the age of segments --------------------------------------------------------------------------


def test_the_newest_record_of_some_entries_tells_their_age(world):
    world.put(age_ms=500)
    world.put(age_ms=400)
    world.log.append(b"command", channel=1)
    world.log.append(b"", kind=EntryKind.NOOP)
    world.put(age_ms=300)
    times = SegmentTimes(world.log)

    assert times.newest_ms(0, 4) == NOW - 400
    assert times.newest_ms(1, 5) == NOW - 300
    assert times.newest_ms(2, 4) is None
    assert times.oldest_ms() == NOW - 500


def test_an_age_is_not_taken_from_a_damaged_entry(world):
    world.put(age_ms=500)
    world.log.damaged = True

    with pytest.raises(CorruptStoreError):
        SegmentTimes(world.log).newest_ms(0, 1)


def test_entries_without_records_are_looked_through_a_few_at_a_time(world):
    world.put(age_ms=500)
    for _ in range(LOOKED_AT_MAX + 5):
        world.log.append(b"", kind=EntryKind.NOOP)
    times = SegmentTimes(world.log)
    end = world.log.end_index

    assert times.newest_ms(0, end) == NEWEST_UNKNOWN
    assert times.newest_ms(0, end) == NOW - 500
    assert times.newest_ms(0, end) == NOW - 500
    assert SegmentTimes(world.log).newest_ms(1, end) == NEWEST_UNKNOWN


def test_an_oldest_record_behind_many_commands_is_found_in_time(world):
    for _ in range(LOOKED_AT_MAX + 5):
        world.log.append(b"command", channel=1)
    world.put(age_ms=5)
    times = SegmentTimes(world.log)

    assert times.oldest_ms() is None
    assert times.oldest_ms() == NOW - 5
