"""Groups: from chunks of many requests to the stamped body of one entry."""

from __future__ import annotations

import random

import numpy as np
import pytest

from broker.message.batch import ProducerMark, decode_mark, own_producer_id
from broker.message.codec import decode_records
from broker.store.append_state import AppendState
from broker.store.producers import Run, SequenceState
from broker.store.runs import RunReader
from broker.store.stamp import stamp_columns, stamp_each
from tests.broker_store.helpers import (
    STORE_HOST,
    FixedClock,
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    make_record,
    new_group,
)


@pytest.fixture
def log():
    return MemoryLog()


@pytest.fixture
def state(log):
    return AppendState(NothingDispatched(), log)


pytestmark = pytest.mark.usefixtures("both_ways")


def test_a_lone_message_is_stamped_with_its_place(log, state):
    log.append(b"x" * 1000, channel=1)
    group = new_group(state, FixedClock(1_234))
    group.add_chunk(make_chunk([b"hello"], queue_id=3))

    entry = append_group(log, group)

    (message,) = decode_records(entry.body)
    assert (message.queue_id, message.queue_offset) == (3, 0)
    assert message.position == entry.body_position == 48 + 1000 + 48
    assert message.store_timestamp_ms == 1_234
    assert str(message.store_host) == "127.0.0.1:10911"
    assert message.born_timestamp_ms == 1_600_000_000_000
    assert group.receipts == [(3, 0, entry.body_position)]


def test_queue_offsets_are_dense_over_groups(log, state):
    for first in (0, 3, 6):
        group = new_group(state)
        for n in range(3):
            group.add_chunk(make_chunk([b"%d" % n]))
        entry = append_group(log, group)

        assert [m.queue_offset for m in decode_records(entry.body)] == [first, first + 1, first + 2]


def test_each_queue_counts_for_itself(log, state):
    group = new_group(state)
    for topic, queue_id in [("a", 0), ("b", 0), ("a", 1), ("a", 0), ("b", 0)]:
        group.add_chunk(make_chunk([b"x"], topic=topic, queue_id=queue_id))

    append_group(log, group)

    assert [receipt.queue_offset for receipt in group.receipts] == [0, 0, 0, 1, 1]


def test_consecutive_chunks_of_a_producer_share_one_mark(log, state):
    group = new_group(state)
    group.add_chunk(make_chunk([b"0", b"1"]), producer_id=7, first_sequence=0)
    group.add_chunk(make_chunk([b"other"], queue_id=1), producer_id=7, first_sequence=0)
    group.add_chunk(make_chunk([b"2"]), producer_id=7, first_sequence=2)
    size = group.body_size

    entry = append_group(log, group)

    assert len(entry.body) == size
    assert decode_mark(entry.body) == ProducerMark(7, 0, 3, 0)
    first, second = RunReader().runs(entry.body, entry.body_position)
    assert first.mark == ProducerMark(7, 0, 3, 0)
    assert second.mark == ProducerMark(7, 0, 1, 1)
    assert (first.record_count, second.record_count) == (3, 1)
    assert [receipt.queue_offset for receipt in group.receipts] == [0, 0, 2]


def test_receipts_name_the_place_of_each_chunk(log, state):
    chance = random.Random(1)
    group = new_group(state)
    for number in range(200):
        bodies = [b"%d/%d" % (number, n) for n in range(chance.choice([1, 1, 2, 40]))]
        queue_id = chance.randrange(3)
        group.add_chunk(make_chunk(bodies, queue_id=queue_id))

    entry = append_group(log, group)

    for number, receipt in enumerate(group.receipts):
        at = receipt.position - entry.body_position
        message = decode_records(entry.body[at:])[0]
        assert message.body == b"%d/0" % number
        assert message.position == receipt.position
        assert message.queue_offset == receipt.queue_offset
        assert message.queue_id == receipt.queue_id


@pytest.mark.parametrize("seed", range(20))
def test_stamping_by_column_equals_stamping_one_by_one(seed):
    chance = random.Random(seed)
    records = [make_record(chance.randbytes(chance.randrange(80))) for _ in range(60)]
    sizes = [len(record) for record in records]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    queue_offsets = [chance.randrange(1 << 60) for _ in sizes]
    one, other = bytearray().join(records), bytearray().join(records)
    stamps = {"body_position": 1 << 40, "timestamp_ms": 1 << 41, "store_host": STORE_HOST}

    stamp_each(one, zip(starts, queue_offsets, strict=True), **stamps)
    stamp_columns(other, np.array(starts), np.array(queue_offsets), **stamps)

    assert one == other
    assert decode_records(one)[5].queue_offset == queue_offsets[5]


def test_a_group_knows_its_limit(log, state):
    group = new_group(state)

    assert group.is_empty
    assert group.has_room((1 << 22) - 40)
    assert not group.has_room((1 << 22) - 39)
    group.add_chunk(make_chunk([b"x"]))
    assert not group.has_room((1 << 22) - 40)
    assert not group.is_empty
    assert (group.chunk_count, group.record_count) == (1, 1)


def test_a_sequence_already_there_is_not_taken_again(log, state):
    group = new_group(state)
    group.add_chunk(make_chunk([b"0", b"1"]), producer_id=7)
    entry = append_group(log, group)
    again = new_group(state)

    verdict = again.add_chunk(make_chunk([b"1"]), producer_id=7, first_sequence=1)

    assert verdict == (SequenceState.DUPLICATE, 1, entry.index)
    assert again.is_empty


def test_a_sequence_handed_in_and_not_appended_is_pending(log, state):
    group = new_group(state)
    chunk = make_chunk([b"0", b"1"])

    assert group.add_chunk(chunk, producer_id=7).state is SequenceState.NEW
    assert group.add_chunk(chunk, producer_id=7).state is SequenceState.PENDING
    next_one = group.add_chunk(make_chunk([b"2", b"3"]), producer_id=7, first_sequence=2)
    assert next_one.state is SequenceState.NEW
    again = group.add_chunk(make_chunk([b"3"]), producer_id=7, first_sequence=3)
    assert again.state is SequenceState.PENDING
    too_far = group.add_chunk(make_chunk([b"5"]), producer_id=7, first_sequence=5)
    assert too_far.state is SequenceState.GAP
    append_group(log, group)
    late = new_group(state)
    assert late.add_chunk(chunk, producer_id=7).state is SequenceState.DUPLICATE


def test_what_the_next_group_holds_stays_pending_when_the_one_before_is_appended(log, state):
    """Otherwise a message sent again in that moment would be stored twice."""
    first, second = new_group(state), new_group(state)
    first.add_chunk(make_chunk([b"0", b"1"]), producer_id=7, first_sequence=0)
    second.add_chunk(make_chunk([b"2", b"3"]), producer_id=7, first_sequence=2)
    append_group(log, first)

    assert state.reserve(7, "orders", 0, 2, 2).state is SequenceState.PENDING
    assert state.reserve(7, "orders", 0, 0, 2).state is SequenceState.DUPLICATE
    append_group(log, second)
    assert state.reserve(7, "orders", 0, 2, 2) == (SequenceState.DUPLICATE, 2, 2)


def test_an_unknown_producer_may_only_begin_at_0(log, state):
    group = new_group(state)

    verdict = group.add_chunk(make_chunk([b"x"]), producer_id=9, first_sequence=5)

    assert verdict.state is SequenceState.UNKNOWN


def test_a_new_leader_recounts_what_is_not_dispatched(log, state):
    for number in range(5):
        group = new_group(state)
        group.add_chunk(make_chunk([b"a"] * 50), producer_id=7, first_sequence=50 * number)
        group.add_chunk(make_chunk([b"b"], queue_id=1))
        append_group(log, group)
        log.append(b"", kind=2)

    recounted = AppendState(NothingDispatched(), log)

    assert recounted.next_queue_offset("orders", 0) == 250
    assert recounted.next_queue_offset("orders", 1) == 5
    assert recounted.next_queue_offset("orders", 2) == 0
    assert recounted.reserve(7, "orders", 0, 100, 50) == (SequenceState.DUPLICATE, 100, 9)
    assert recounted.reserve(7, "orders", 0, 250, 1).state is SequenceState.NEW


def test_what_the_broker_itself_wrote_is_known_before_it_is_dispatched(log, state):
    """Else a leader whose append fails, and that begins anew, delivers what has waited twice."""
    own = own_producer_id(3)
    for last, queue_id in ((4, 0), (30, 1), (21, 0)):
        group = new_group(state)
        chunk = make_chunk([b"a"], queue_id=queue_id)
        group.add_chunk(chunk, producer_id=own, first_sequence=last)
        append_group(log, group)
    dispatched = NothingDispatched()
    run = Run(first_sequence=7, record_count=1, first_queue_offset=0, position=0)
    dispatched.producers.record((own, "orders", 5), run, index=1, timestamp_ms=1)

    recounted = AppendState(dispatched, log)

    assert state.last_sequence_of(own) == recounted.last_sequence_of(own) == 30
    log.truncate_from(1)
    assert AppendState(dispatched, log).last_sequence_of(own) == 7
    assert recounted.last_sequence_of(own_producer_id(4)) == -1


def test_what_is_cut_off_the_log_is_not_known_to_the_next_leader(log, state):
    for number in range(2):
        group = new_group(state)
        group.add_chunk(make_chunk([b"a"]), producer_id=7, first_sequence=number)
        append_group(log, group)
    log.truncate_from(2)

    recounted = AppendState(NothingDispatched(), log)

    assert recounted.next_queue_offset("orders", 0) == 1
    assert recounted.reserve(7, "orders", 0, 1, 1).state is SequenceState.NEW


def test_producers_dispatch_has_caught_up_with_are_forgotten_here(log, monkeypatch):
    monkeypatch.setattr("broker.store.append_state._OVERLAY_PRUNED_AT", 10)
    dispatched = NothingDispatched()
    state = AppendState(dispatched, log)
    for producer_id in range(1, 40):
        group = new_group(state)
        group.add_chunk(make_chunk([b"a"]), producer_id=producer_id)
        dispatched.dispatched_index = append_group(log, group).index - 1

    assert len(state._producers) < 15
