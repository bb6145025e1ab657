"""The table of producers, against a model that remembers everything."""

from __future__ import annotations

import random
import tracemalloc

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.message.batch import ProducerMark
from broker.store.producers import (
    IDLE_MAX_MS,
    PRODUCERS_MAX,
    RUNS_MAX,
    Producer,
    ProducerTable,
    Run,
    SequenceState,
)
from broker.store.runs import Lane, RecordRun, RunReader

KEY = (1, "orders", 0)


def record(table, first, count, *, key=KEY, offset=None, index=1, timestamp_ms=1000):
    offset = first if offset is None else offset
    table.record(
        key, Run(first, count, offset, 100 * first), index=index, timestamp_ms=timestamp_ms
    )


def test_the_rules_of_a_sequence():
    table = ProducerTable()
    assert table.check(KEY, 0, 5).state is SequenceState.NEW
    assert table.check(KEY, 1, 5).state is SequenceState.UNKNOWN
    record(table, 0, 5, offset=70, index=9)

    assert table.check(KEY, 5, 1).state is SequenceState.NEW
    assert table.check(KEY, 6, 1).state is SequenceState.GAP
    assert table.check(KEY, 4, 2).state is SequenceState.GAP
    assert table.check(KEY, 0, 6).state is SequenceState.GAP
    assert table.check(KEY, 0, 5) == (SequenceState.DUPLICATE, 70, 9)
    assert table.check(KEY, 4, 1) == (SequenceState.DUPLICATE, 74, 9)
    assert table.check((2, "orders", 0), 1, 1).state is SequenceState.UNKNOWN
    assert table.check((1, "orders", 1), 0, 1).state is SequenceState.NEW


def test_runs_that_continue_in_both_are_one_run():
    table = ProducerTable()
    for n in range(200):
        record(table, n, 1)

    assert table.get(KEY).runs == [Run(0, 200, 0, 0)]


def test_a_run_so_old_that_its_place_is_forgotten_is_still_a_duplicate():
    table = ProducerTable()
    for n in range(RUNS_MAX + 1):
        record(table, n, 1, offset=2 * n)

    assert len(table.get(KEY).runs) == RUNS_MAX
    assert table.check(KEY, 0, 1) == (SequenceState.DUPLICATE, -1, 1)
    assert table.check(KEY, 1, 1) == (SequenceState.DUPLICATE, 2, 1)


def test_the_runs_of_a_queue_that_many_write_to_take_little_memory():
    """Each message is a run there: four producers and 8,000 queues held up to 400 MB of them."""
    table = ProducerTable()
    record(table, 0, 1, offset=0)
    tracemalloc.start()
    try:
        for number in range(1, 10 * RUNS_MAX):
            record(table, number, 1, offset=4 * number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(table.get(KEY).runs) == RUNS_MAX
    assert held < 50 * RUNS_MAX


def test_rows_of_the_busy_are_not_kept_packed():
    """Of 64 runs each is up to a kilobyte, and would be packed anew for the next state."""
    table = ProducerTable()
    for number in range(RUNS_MAX):
        record(table, number, 1, offset=4 * number)
        table.snapshot()
        assert not table.get(KEY).packed

    first = table.snapshot()  # idle since the one before
    assert table.get(KEY).packed in first
    assert len(table.get(KEY).packed) > RUNS_MAX
    assert table.snapshot() == first
    record(table, RUNS_MAX, 1, offset=4 * RUNS_MAX)
    changed = table.snapshot()
    restored = ProducerTable()
    restored.restore(msgpack.unpackb(changed))
    assert restored.snapshot() == changed != first


def test_any_sequence_of_64_bits_can_be_remembered():
    table = ProducerTable()
    highest = (1 << 64) - 2
    for number, offset in ((highest, 5), (highest + 1, 9), (0, 20)):
        table.record(KEY, Run(number, 1, offset, 7), index=1, timestamp_ms=1000)

    assert [run.first_sequence for run in table.get(KEY).runs] == [highest, highest + 1, 0]
    assert table.get(KEY).check(highest + 1, 1) == (SequenceState.GAP, -1, 0)


def test_the_longest_idle_goes_when_there_are_too_many():
    table = ProducerTable(producers_max=3)
    for producer_id in (1, 2, 3):
        record(table, 0, 1, key=(producer_id, "t", 0))
    record(table, 1, 1, key=(1, "t", 0))
    record(table, 0, 1, key=(4, "t", 0))

    assert [producer_id for producer_id, _, _ in table] == [3, 1, 4]


@pytest.mark.parametrize("seed", range(40))
def test_who_is_the_longest_idle_is_the_same_however_seldom_it_is_asked_for(seed):
    """Producers only note their turn; and a lane may hold one that is forgotten since."""
    chance = random.Random(seed)
    table = ProducerTable(producers_max=5, idle_max_ms=100)
    lanes = {number: Lane("t") for number in range(1, 9)}
    model: dict[int, tuple[int, int]] = {}  # the last time and sequence, the longest idle first
    now = seen = 0
    for offset in range(300):
        number, step = chance.randrange(1, 9), chance.random()
        now += chance.choice([0, 1, 30])
        if step < 0.9:
            mark = ProducerMark(number, offset, 1, 0)
            lane = chance.choice([None, lanes[number]])
            run = RecordRun("t", 0, 1, offset, 0, now, b"", mark, 1, 1, (), (), lane)
            table.record_runs([run], indexes=[offset])
            model.pop(number, None)
            seen = now
            model[number] = now, offset
            if len(model) > 5:
                del model[next(iter(model))]
        elif step < 0.93:
            table.expire()
            model = {key: value for key, value in model.items() if value[0] >= seen - 100}
        elif step < 0.95:
            table.restore(msgpack.unpackb(table.snapshot()))
        elif step < 0.97:
            assert [key[0] for key in table] == list(model)
        for known, (_, sequence) in model.items():
            assert table.get((known, "t", 0)).last_sequence == sequence
        assert len(table) == len(model)
    rows = msgpack.unpackb(table.snapshot())[1]
    assert [(row[0], row[4], row[3]) for row in rows] == [(n, *seen) for n, seen in model.items()]


def test_lanes_are_kept_of_as_many_producers_as_are_remembered():
    """Or each of their messages in turn finds all lanes forgotten, and makes its own anew."""
    reader = RunReader()
    for number in range(PRODUCERS_MAX):
        reader.make_lane(number.to_bytes(8, "little") + bytes(4) + b"t")
    assert len(reader.lanes) == PRODUCERS_MAX


def test_idle_producers_expire_by_the_time_in_the_log():
    table = ProducerTable()
    record(table, 0, 1, key=(1, "t", 0), timestamp_ms=1000)
    record(table, 0, 1, key=(2, "t", 0), timestamp_ms=5000)
    table.observe_time(1000 + IDLE_MAX_MS)
    assert table.expire() == 0

    table.observe_time(1001 + IDLE_MAX_MS)

    assert table.expire() == 1
    assert [producer_id for producer_id, _, _ in table] == [2]


def test_a_clock_that_fell_back_makes_nobody_older():
    table = ProducerTable()
    record(table, 0, 1, key=(1, "t", 0), timestamp_ms=2 * IDLE_MAX_MS)
    record(table, 0, 1, key=(2, "t", 0), timestamp_ms=5)

    assert table.expire() == 0


def test_a_producer_stored_by_a_clock_that_fell_back_counts_as_seen_now():
    table = ProducerTable()
    table.observe_time(2 * IDLE_MAX_MS)
    record(table, 0, 1, timestamp_ms=5)
    table.observe_time(2 * IDLE_MAX_MS + 1)

    assert table.expire() == 0


class SequencesMachine(RuleBasedStateMachine):
    """A producer sends, sends again and skips; the model keeps the offset of every message."""

    def __init__(self):
        super().__init__()
        self.table = ProducerTable()
        self.places: dict[int, list[int]] = {}
        self.next_offset = 0
        self.index = 0

    @rule(
        key=st.integers(1, 3),
        first=st.integers(0, 12),
        count=st.integers(1, 4),
        foreign=st.integers(0, 2),
    )
    def send(self, key, first, count, foreign):
        self.next_offset += foreign  # others wrote to the queue meanwhile
        self.index += 1
        known = self.places.get(key)
        verdict = self.table.check((key, "t", 0), first, count)
        if known is None:
            expected = SequenceState.NEW if first == 0 else SequenceState.UNKNOWN
        elif first == len(known):
            expected = SequenceState.NEW
        elif first + count <= len(known):
            expected = SequenceState.DUPLICATE
        else:
            expected = SequenceState.GAP
        assert verdict.state is expected
        if expected is SequenceState.DUPLICATE:
            assert verdict.queue_offset == known[first]
        if expected is SequenceState.NEW:
            offsets = list(range(self.next_offset, self.next_offset + count))
            self.places.setdefault(key, []).extend(offsets)
            run = Run(first, count, self.next_offset, 0)
            self.table.record((key, "t", 0), run, index=self.index, timestamp_ms=self.index)
            self.next_offset += count

    @rule()
    def restart(self):
        restored = ProducerTable()
        restored.restore(msgpack.unpackb(self.table.snapshot()))
        assert restored.snapshot() == self.table.snapshot()
        self.table = restored

    @invariant()
    def as_many_as_sent(self):
        assert len(self.table) == len(self.places)


SequencesMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestSequences = SequencesMachine.TestCase


def test_a_copy_is_changed_by_itself():
    """The leader lays what it appends over what dispatch knows, which must not hear of it."""
    first = Producer()
    for n in range(3):
        first.record(n, 1, 10 * n, 100 * n, index=n + 1, seen_ms=0)
    known = first.runs

    second = first.copy()
    second.record(3, 1, 30, 300, index=4, seen_ms=0)

    assert first.runs == known == [Run(n, 1, 10 * n, 100 * n) for n in range(3)]
    assert second.runs == [*known, Run(3, 1, 30, 300)]
