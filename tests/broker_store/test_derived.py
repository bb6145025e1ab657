"""Dispatch of a log: the same entries, the same bytes, however a node came to them."""

from __future__ import annotations

import random

import pytest

from broker.message.codec import decode_record
from broker.store.append_state import AppendState
from broker.store.derived import DerivedState
from broker.store.entry_batch import read_entries
from broker.store.runs import RunReader
from dledger.errors import CorruptStoreError, PoisonEntryError
from dledger.store.os_disk import OsDisk
from tests.broker_store.derived_node import SEGMENT, CountingMachine, Node, fill, some_properties
from tests.broker_store.helpers import (
    FixedClock,
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    new_group,
)


def test_every_unit_leads_to_its_record(node, log):
    node.catch_up()

    total = 0
    for (topic, queue_id), (begin, end, units) in node.everything()[1].items():
        assert (begin, len(units)) == (0, 20 * end)
        for offset in range(end):
            position = int.from_bytes(units[20 * offset : 20 * offset + 8], "big")
            size = int.from_bytes(units[20 * offset + 8 : 20 * offset + 12], "big")
            message = decode_record(log.bytes_at(position, size))
            assert (message.topic, message.queue_id) == (topic, queue_id)
            assert (message.queue_offset, message.position) == (offset, position)
            total += 1
    assert total > 400


def test_dispatch_never_passes_the_committed_index(node):
    assert node.derived.dispatch_up_to(7) == 7
    assert node.derived.dispatch_up_to(5) == 7
    assert node.derived.dispatched_index == 7


def test_dispatch_stops_at_its_budget_and_goes_on(node, log):
    steps = 0
    while node.derived.dispatched_index < log.end_index:
        before = node.derived.dispatched_index
        assert node.derived.dispatch_up_to(log.end_index, size_max=1) == before + 1
        steps += 1

    assert steps == log.end_index


def test_dispatch_waits_for_the_files_when_too_much_is_in_memory(node, log, monkeypatch):
    monkeypatch.setattr("broker.store.derived.UNFLUSHED_SIZE_MAX", 200)
    monkeypatch.setattr("broker.store.derived.FLUSH_SIZE", 200)
    rounds = 0
    while node.derived.dispatched_index < log.end_index:
        before = node.derived.dispatched_index
        node.derived.dispatch_up_to(log.end_index)
        assert node.derived.dispatched_index > before
        assert node.derived.needs_flush or node.derived.dispatched_index == log.end_index
        node.run_jobs()
        rounds += 1

    assert rounds > 5


def test_dispatch_waits_for_files_that_are_slower_than_the_log(node, log, monkeypatch):
    """What a job holds that has not run counts: a state at each segment's end held 300 MB more."""
    monkeypatch.setattr("broker.store.derived.UNFLUSHED_SIZE_MAX", 200)
    monkeypatch.setattr("broker.store.derived.FLUSH_SIZE", 40)
    handed_out = []
    for _ in range(1000):
        node.derived.dispatch_up_to(log.end_index)
        handed_out += node.derived.begin_jobs()
    stopped_at = node.derived.dispatched_index
    assert stopped_at < log.end_index

    for job in handed_out:
        job.run()
        job.finish()
    node.derived.dispatch_up_to(log.end_index)

    assert node.derived.dispatched_index > stopped_at


def test_arrivals_are_told_once_for_each_batch(node):
    arrivals = []
    node.derived.on_arrival = arrivals.append

    node.derived.dispatch_up_to(node.log.end_index, size_max=1 << 30)

    (queues,) = arrivals
    ends = {queue.key: queue.max_offset for queue in queues}
    assert sorted((*key, end) for key, end in ends.items()) == list(node.derived.queues.snapshot())


def test_the_results_of_commands_are_told_by_index(node, log):
    applied = []
    node.derived.on_applied = lambda index, results: applied.append((index, results))

    node.catch_up()

    commands = [e.index for e in log.entries(1, log.end_index) if e.channel == 1]
    assert applied == [(index, [n]) for n, index in enumerate(commands, 1)]


def test_all_nodes_write_the_same_bytes_however_they_got_there(tmp_path, log):
    whole, stepwise, restarted = (Node(tmp_path / name, log) for name in "abc")
    whole.start()
    whole.catch_up()
    chance = random.Random(4)
    for node in (stepwise, restarted):
        node.start()
        while node.derived.dispatched_index < log.end_index:
            node.derived.dispatch_up_to(log.end_index, size_max=chance.choice([1, 5000]))
            if chance.random() < 0.4:
                node.run_jobs(with_state=chance.random() < 0.5)
            if node is restarted and chance.random() < 0.3:
                node.start()

    expected = whole.everything()
    assert stepwise.everything() == expected
    assert restarted.everything() == expected
    boundaries = whole.derived.boundary_indexes
    assert len(boundaries) == log.end.position // SEGMENT
    for node in (stepwise, restarted):
        assert node.derived.boundary_indexes == boundaries
        for index in boundaries:
            assert node.derived.read_state(index) == whole.derived.read_state(index)
        node.derived.close()
    queue_files = {n: d for n, d in whole.files().items() if n.startswith("consumequeue")}
    for node in (stepwise, restarted):
        assert {n: d for n, d in node.files().items() if n in queue_files} == queue_files
    whole.derived.close()


@pytest.mark.parametrize("later_producer", [77, 0])
def test_producers_expire_at_the_first_entry_of_a_segment_on_every_node(tmp_path, later_producer):
    log = MemoryLog(segment_size=SEGMENT)
    clock = FixedClock()
    state = AppendState(NothingDispatched(), log)
    fill(log, entries=3, clock=clock, state=state)
    clock.ms += 8 * 24 * 3600 * 1000
    group = new_group(state, clock)
    group.add_chunk(make_chunk([b"later"]), producer_id=later_producer)
    append_group(log, group)
    node = Node(tmp_path / "derived", log)
    node.start()
    node.catch_up()
    assert len(node.derived.producers) > 1
    while log.end.position < SEGMENT:
        log.append(b"command", channel=1)
    node.catch_up()

    left = [producer_id for producer_id, _, _ in node.derived.producers]
    assert left == ([77] if later_producer else [])
    node.derived.close()


@pytest.mark.parametrize(
    ("body", "channel", "complaint"),
    [
        (b"garbage", 0, "only 7 bytes are left"),
        (bytes(100), 0, "no record's of this version"),
        (b"poison", 1, "'poison' is unknown"),
        (b"x", 5, "channel 5 is unknown"),
    ],
)
def test_an_entry_that_cannot_be_taken_in_is_named(node, log, body, channel, complaint):
    node.catch_up()
    entry = log.append(body, channel=channel)

    with pytest.raises(PoisonEntryError, match=complaint) as caught:
        node.catch_up()

    assert f"entry {entry.index} at position {entry.position}" in str(caught.value)
    assert node.derived.dispatched_index == entry.index - 1


def test_queue_offsets_that_do_not_continue_the_queue_are_poison(node, log):
    node.catch_up()
    group = new_group(AppendState(NothingDispatched(), MemoryLog()))
    group.add_chunk(make_chunk([b"x"], topic="a"))
    (body,) = group.encode(log.position_for(group.body_size))
    log.append(body)

    with pytest.raises(PoisonEntryError, match="has offset 0 in queue 0 of topic a, where"):
        node.catch_up()


@pytest.mark.parametrize("seed", range(4))
def test_entries_taken_in_together_leave_what_each_alone_does(
    tmp_path, seed, both_ways, monkeypatch
):
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=seed, entries=40, trims=seed % 2 == 1, deletes=seed > 1)
    fill_with_small(log, seed)
    together, alone = (Node(tmp_path / name, log) for name in ("together", "alone"))
    taken = []

    def reading(*given, **more):
        taken.append(read_entries(*given, **more))
        return taken[-1]

    monkeypatch.setattr("broker.store.dispatch.read_entries", reading)
    together.start(commit_index=0)
    together.catch_up()
    monkeypatch.setattr("broker.store.dispatch.read_entries", lambda *_, **__: None)
    alone.start(commit_index=0)
    alone.catch_up()

    lengths = [len(set(batch.indexes)) for batch in taken if batch is not None]
    assert max(lengths) > 10
    assert alone.everything() == together.everything()
    for node in (together, alone):
        node.derived.close()


def fill_with_small(log, seed):
    """Append entries of one message or a few, as they are when little is under way."""
    chance = random.Random(seed)
    state = AppendState(NothingDispatched(), log)
    sequences = [0, 0]
    for _ in range(60):
        group = new_group(state)
        for queue_id in range(chance.choice([1, 1, 1, 2])):
            count = chance.choice([1, 1, 1, 4, 40])
            chunk = make_chunk(
                [chance.randbytes(9)] * count,
                topic="small",
                queue_id=queue_id,
                properties=some_properties(chance, count),
            )
            group.add_chunk(chunk, producer_id=9, first_sequence=sequences[queue_id])
            sequences[queue_id] += count
        append_group(log, group)


def test_only_what_is_committed_is_taken_in_together(node, log, both_ways):
    node.catch_up()
    fill_with_small(log, 1)
    first = node.derived.dispatched_index + 1

    for index in (first + 1, first + 2, first + 20):
        node.catch_up(index)
        assert node.derived.dispatched_index == index


def test_the_entry_among_others_that_cannot_be_taken_in_is_named(node, log, both_ways):
    node.catch_up()
    fill_with_small(log, 1)
    group = new_group(AppendState(NothingDispatched(), MemoryLog()))
    group.add_chunk(make_chunk([b"x"], topic="small", queue_id=1))
    (body,) = group.encode(log.position_for(group.body_size))
    wrong = log.append(body)
    log.append(bytes(body))

    with pytest.raises(PoisonEntryError, match=f"entry {wrong.index}: .* has offset 0 in queue 1"):
        node.catch_up()


def test_a_damaged_entry_among_others_is_told_from_poison(node, log, both_ways, monkeypatch):
    fill_with_small(log, 1)
    node.catch_up(log.end_index - 20)
    first = log.end_index - 19
    looked_at = []

    def verify(first_index, last_index):
        looked_at.append((first_index, last_index))
        raise CorruptStoreError("damage")

    def put_runs(runs, _):
        next(runs), next(runs), next(runs)
        raise PoisonEntryError("offsets")

    monkeypatch.setattr(log, "verify", verify)
    monkeypatch.setattr(node.derived.queues, "put_runs", put_runs)

    with pytest.raises(CorruptStoreError):
        node.catch_up()
    indexes = [
        entry.index
        for entry in log.entries(first, log.end_index)
        for _ in RunReader().runs(entry.body, entry.body_position)
    ]
    assert looked_at == [(indexes[2], indexes[2])]


def test_dispatchers_hear_of_every_run(tmp_path, log):
    heard = []

    class Hearing:
        def dispatch_runs(self, runs, body):
            heard.extend((run.topic, run.queue_id, run.record_count) for run in runs)

    derived = DerivedState.open(
        OsDisk(),
        str(tmp_path / "derived"),
        log,
        commit_index=0,
        segment_size=SEGMENT,
        metadata=CountingMachine(),
        dispatchers=[Hearing()],
    )
    derived.dispatch_up_to(log.end_index)

    assert sum(count for *_, count in heard) == sum(end for _, _, end in derived.queues.snapshot())
    derived.close()


def test_a_new_leader_counts_on_from_dispatch_and_the_tail(node, log):
    node.catch_up(40)
    state = AppendState(node.derived, log)
    node.catch_up()

    for topic, queue_id, end in node.derived.queues.snapshot():
        assert state.next_queue_offset(topic, queue_id) == end
    for key in node.derived.producers:
        known = node.derived.producers.get(key)
        assert state.reserve(*key, known.last_sequence, 1) == known.check(known.last_sequence, 1)


def test_a_new_leader_still_knows_the_places_dispatch_knew(node, log):
    node.catch_up()
    state = AppendState(node.derived, log)
    producer = node.derived.producers.get((1, "a", 0))
    places = [(run.first_sequence, run.first_queue_offset) for run in producer.runs]
    group = new_group(state)
    group.add_chunk(
        make_chunk([b"more"], topic="a"),
        producer_id=1,
        first_sequence=producer.last_sequence + 1,
    )
    append_group(log, group)

    for sequence, queue_offset in places:
        assert state.reserve(1, "a", 0, sequence, 1).queue_offset == queue_offset
    # What dispatch knows is not changed by what was only appended.
    assert [(run.first_sequence, run.first_queue_offset) for run in producer.runs] == places
