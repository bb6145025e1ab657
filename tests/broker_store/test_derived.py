"""Dispatch, states, restarts and rebuilds: the same log, the same bytes."""

from __future__ import annotations

import logging
import random
import shutil
import zlib
from pathlib import Path

import msgpack
import pytest

from broker.message.codec import decode_record
from broker.store.append_state import AppendState
from broker.store.derived import DELETION_STATES_SIZE_MAX, DerivedState
from broker.store.dispatch import DISPATCH_SIZE_MAX
from broker.store.entry_batch import read_entries
from broker.store.runs import RunReader
from broker.store.state_file import CorruptStateError, decode_state
from dledger.entry import EntryKind
from dledger.errors import CorruptStoreError, PoisonEntryError
from dledger.store.disk import OsDisk
from tests.broker_store.helpers import (
    FixedClock,
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    new_group,
)

SEGMENT = 1 << 15


class CountingMachine:
    """Metadata that counts commands; see `broker.store.dispatch.MetadataMachine`."""

    def __init__(self):
        self.count = 0
        self.deleted = []
        self.trimmed = []

    def apply_entry(self, body):
        if body == b"poison":
            raise PoisonEntryError("metadata command 'poison' is unknown")
        if bytes(body).startswith(b"delete "):
            self.deleted.append(bytes(body)[7:].decode())
        if bytes(body).startswith(b"trim "):
            _, topic, queue_id, offset = bytes(body).decode().split()
            self.trimmed.append((topic, int(queue_id), int(offset)))
        self.count += 1
        return [self.count]

    def take_deleted_topics(self):
        deleted, self.deleted = self.deleted, []
        return deleted

    def take_trimmed_queues(self):
        trimmed, self.trimmed = self.trimmed, []
        return trimmed

    def snapshot(self):
        return {"count": self.count}

    def restore(self, snapshot):
        self.count = snapshot["count"] if snapshot else 0


class Node:
    """One node's derived state over a log it shares with the others."""

    def __init__(self, folder, log):
        self.folder = folder
        self.log = log
        self.derived = None

    def start(self, commit_index=None):
        if self.derived is not None:
            self.derived.close()
        self.machine = CountingMachine()
        self.derived = DerivedState.open(
            OsDisk(),
            str(self.folder),
            self.log,
            commit_index=self.log.end_index if commit_index is None else commit_index,
            segment_size=SEGMENT,
            metadata=self.machine,
            units_per_file=50,
        )
        return self.derived

    def catch_up(self, to=None):
        to = self.log.end_index if to is None else to
        while self.derived.dispatched_index < to:
            self.derived.dispatch_up_to(to)

    def run_jobs(self, *, with_state=False):
        for job in self.derived.begin_jobs(with_state=with_state):
            job.run()
            job.finish()

    def everything(self):
        """The state's bytes, every unit that can be read, and the files of the key index."""
        self.run_jobs(with_state=True)
        queues = {}
        for topic, queue_id, end in self.derived.queues.snapshot():
            queue = self.derived.queues.get(topic, queue_id)
            units = b""
            if queue.min_offset < end:
                units = bytes(queue.units_from(queue.min_offset, unit_count_max=end))
            queues[topic, queue_id] = (queue.min_offset, end, units)
        paths = [Path(path) for path in self.derived.key_index.paths]
        index = {path.name: path.read_bytes() for path in paths}
        return self.derived.read_state(self.derived.dispatched_index), queues, index

    def files(self):
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


def some_properties(chance, count):
    """Return properties for *count* messages: with and without ids and keys, in every layout."""
    kind = chance.choice(["none", "id", "key", "tag first", "mixed"])
    result = []
    for number in range(count):
        unique = {"UNIQ_KEY": f"{chance.randrange(1 << 64):032X}"}
        one = {"KEYS": f"k{chance.randrange(50)}"}
        if kind == "mixed":
            several = {"KEYS": f"k{number % 7}  k\u00e4se k{chance.randrange(50)}", "TAGS": "a"}
            result.append(chance.choice([{}, unique, one, several, {**several, **unique}]))
        else:
            result.append(
                {
                    "none": {},
                    "id": unique,
                    "key": {**unique, **one},
                    "tag first": {**unique, "colour": "red", **one, "TAGS": "b"},
                }[kind]
            )
    return result


def fill(log, seed=1, *, entries=60, clock=None, state=None, deletes=False, trims=False):
    """Append entries of all kinds; about 600 messages in 5 queues over several segments.

    With *deletes* now and then a topic is deleted, and made again by the next message; with *trims*
    queues are trimmed.
    """
    chance = random.Random(seed)
    of_properties = random.Random(seed + 1)
    state = state or AppendState(NothingDispatched(), log)
    clock = clock or FixedClock()
    sequences = {}
    for _ in range(entries):
        kind = chance.random()
        clock.ms += chance.randrange(1000)
        if deletes and chance.random() < 0.2:
            log.append(b"delete " + chance.choice([b"a", b"b", b"%RETRY%g"]), channel=1)
        elif trims and chance.random() < 0.25:
            topic, queue_id = chance.choice([("a", 0), ("a", 1), ("b", 0), ("%RETRY%g", 0)])
            end = state.next_queue_offset(topic, queue_id)
            offset = chance.choice([end, end + 9, chance.randrange(end + 1), max(0, end - 7)])
            log.append(f"trim {topic} {queue_id} {offset}".encode(), channel=1)
        elif kind < 0.1:
            log.append(b"", kind=EntryKind.NOOP)
        elif kind < 0.25:
            log.append(b"command", channel=1)
        else:
            group = new_group(state, clock)
            for _ in range(chance.randint(1, 4)):
                topic, queue_id = chance.choice([("a", 0), ("a", 1), ("b", 0), ("%RETRY%g", 0)])
                producer_id = chance.choice([0, 1, 2])
                count = chance.choice([1, 3, 33])
                bodies = [chance.randbytes(chance.randrange(60)) for _ in range(count)]
                key = producer_id, topic, queue_id
                group.add_chunk(
                    make_chunk(
                        bodies,
                        topic=topic,
                        queue_id=queue_id,
                        properties=some_properties(of_properties, count),
                    ),
                    producer_id=producer_id,
                    first_sequence=sequences.get(key, 0),
                )
                if producer_id:
                    sequences[key] = sequences.get(key, 0) + count
            append_group(log, group)
    return state


@pytest.fixture
def log():
    log = MemoryLog(segment_size=SEGMENT)
    fill(log)
    assert log.end.position > 5 * SEGMENT
    return log


@pytest.fixture
def node(tmp_path, log):
    node = Node(tmp_path / "derived", log)
    node.start()
    yield node
    node.derived.close()


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


def test_arrivals_are_told_once_for_each_queue_and_batch(node):
    arrivals = []
    node.derived.on_arrival = arrivals.append

    node.derived.dispatch_up_to(node.log.end_index, size_max=1 << 30)

    (ends,) = arrivals
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


def test_a_deleted_folder_comes_back_byte_for_byte(node):
    node.catch_up()
    expected = node.everything()
    node.derived.close()
    before = node.files()
    shutil.rmtree(node.folder)

    node.start()
    node.catch_up()

    assert node.everything() == expected
    assert node.files() == before


def test_a_restart_goes_on_from_the_newest_state(node, log):
    node.catch_up(40)
    node.run_jobs(with_state=True)
    node.catch_up(50)

    derived = node.start()

    assert derived.dispatched_index == 40
    node.catch_up()
    assert len(derived.producers) == 8


def test_a_state_beyond_the_commit_index_is_left_aside(node):
    for index in (37, 38):
        node.catch_up(index)
        node.run_jobs(with_state=True)

    assert node.start(commit_index=37).dispatched_index == 37


def test_only_two_periodic_states_are_kept(node):
    for index in range(31, 37):
        node.catch_up(index)
        node.run_jobs(with_state=True)

    states = sorted(int(name[6:]) for name in node.files() if name.startswith("state"))
    boundaries = node.derived.boundary_indexes
    periodic = [index for index in states if index not in boundaries]
    assert periodic[-2:] == [n for n in range(31, 37) if n not in boundaries][-2:]
    # The third goes with the job after the one that made it superfluous.
    assert len(periodic) <= 3


def test_a_damaged_state_is_passed_over_for_an_older_one(node, caplog):
    node.catch_up()
    expected = node.everything()
    newest = node.folder / f"state-{node.derived.dispatched_index:020d}"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)

    with caplog.at_level(logging.WARNING):
        derived = node.start()

    assert derived.dispatched_index == derived.boundary_indexes[-1]
    assert "checksum" in caplog.text
    assert str(newest) in caplog.text
    node.catch_up()
    assert node.everything() == expected


@pytest.mark.parametrize("damage", ["unlink", "truncate", "zero", "last unit", "first"])
def test_queue_files_that_hold_less_than_the_state_are_built_again(node, damage):
    node.catch_up()
    expected = node.everything()
    paths = sorted((node.folder / "consumequeue" / "a" / "0").iterdir())
    assert len(paths) > 2
    path = paths[0] if damage == "first" else paths[-1]
    node.derived.close()
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "last unit":
        path.write_bytes(content[:-20] + content[-40:-20])
    elif damage == "zero":
        path.write_bytes(bytes(len(content)))
    else:
        path.unlink()

    derived = node.start()

    assert derived.dispatched_index < node.log.end_index
    node.catch_up()
    assert node.everything() == expected


def test_a_state_of_another_log_is_not_taken(node, tmp_path, caplog):
    node.catch_up(20)
    node.run_jobs(with_state=True)
    other = MemoryLog(segment_size=SEGMENT)
    fill(other, seed=2)
    node.log = other

    with caplog.at_level(logging.WARNING):
        derived = node.start()

    assert derived.dispatched_index == 0
    assert "another log" in caplog.text
    node.catch_up()
    fresh = Node(tmp_path / "fresh", other)
    fresh.start()
    fresh.catch_up()
    assert node.everything() == fresh.everything()
    fresh.derived.close()


def drop_first_segments(node, count=4):
    node.catch_up()
    node.run_jobs(with_state=True)
    node.log.drop_before(count * SEGMENT)
    assert node.log.base.index in node.derived.boundary_indexes
    jobs = []
    jobs.append(node.derived.begin_drop(jobs.append))
    for job in jobs:  # the first adds another
        job.run()
        job.finish()


def test_retention_takes_units_and_states_along(node):
    node.catch_up()
    ends = list(node.derived.queues.snapshot())
    drop_first_segments(node)

    assert node.derived.boundary_indexes[0] == node.log.base.index
    assert list(node.derived.queues.snapshot()) == ends
    for topic, queue_id, end in ends:
        queue = node.derived.queues.get(topic, queue_id)
        assert 0 < queue.min_offset < end
        assert queue.position_at(queue.min_offset) >= node.log.base.position
    first = min(path.name for path in (node.folder / "consumequeue" / "a" / "0").iterdir())
    assert first > "0" * 20


def test_a_restart_after_retention_finds_the_same(node):
    drop_first_segments(node)
    expected = node.everything()

    derived = node.start()

    assert derived.dispatched_index == node.log.end_index
    assert node.everything() == expected


def test_a_rebuild_after_retention_finds_the_same(node):
    drop_first_segments(node)
    expected = node.everything()
    node.derived.close()
    shutil.rmtree(node.folder / "consumequeue")

    derived = node.start()

    assert derived.dispatched_index == node.log.base.index
    node.catch_up()
    assert node.everything() == expected
    # And a second start finds what the first one built.
    node.start()
    assert node.derived.dispatched_index == node.log.end_index
    assert node.everything() == expected


def test_a_queue_whose_messages_are_all_gone_keeps_counting(tmp_path):
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    group = new_group(state)
    group.add_chunk(make_chunk([b"x"] * 50, topic="gone"))
    append_group(log, group)
    while log.end.position < 5 * SEGMENT:
        group = new_group(state)
        group.add_chunk(make_chunk([b"y"] * 20, topic="busy"))
        append_group(log, group)
    node = Node(tmp_path / "derived", log)
    node.start()
    drop_first_segments(node)
    assert node.derived.queues.get("gone", 0).min_offset == 50

    for _ in range(2):
        node.start()
        queue = node.derived.queues.get("gone", 0)
        assert (queue.min_offset, queue.max_offset) == (50, 50)
        assert node.derived.dispatched_index == log.end_index
    node.derived.close()
    shutil.rmtree(node.folder / "consumequeue")
    for dispatched_index in (log.base.index, log.end_index):
        node.start()
        assert node.derived.dispatched_index == dispatched_index
        node.catch_up()
        node.run_jobs(with_state=True)
        queue = node.derived.queues.get("gone", 0)
        assert (queue.min_offset, queue.max_offset) == (50, 50)
    node.derived.close()


# -- trimmed queues -------------------------------------------------------------------------------


@pytest.fixture
def trimmed(tmp_path):
    """A node with 230 messages of topic "a" in files of 50 units."""
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    put(log, state, [b"old"] * 230)
    node = Node(tmp_path / "derived", log)
    node.append_state = state
    node.start()
    node.catch_up()
    node.run_jobs(with_state=True)
    yield node
    node.derived.close()


def trim(node, offset):
    node.log.append(f"trim a 0 {offset}".encode(), channel=1)
    node.catch_up()


def begins_of_files(node):
    return [int(name[-20:]) // 20 for name in sorted(files_of(node))]


def test_a_trimmed_queue_begins_later_and_never_again_earlier(trimmed):
    trim(trimmed, 120)
    assert queue_of(trimmed) == (120, 230)
    trim(trimmed, 60)
    assert queue_of(trimmed) == (120, 230)
    trim(trimmed, 999)
    assert queue_of(trimmed) == (230, 230)

    put(trimmed.log, trimmed.append_state, [b"new"] * 3)
    trimmed.catch_up()
    assert queue_of(trimmed) == (230, 233)


def test_a_queue_that_never_had_a_message_is_not_made_by_a_trim(trimmed):
    trimmed.log.append(b"trim nowhere 0 5", channel=1)
    trimmed.catch_up()

    assert trimmed.derived.queues.get("nowhere", 0) is None
    assert list(trimmed.derived.queues.floors()) == []


def test_files_wholly_below_go_when_two_states_know_of_it(trimmed):
    """A start may take the state before the last one, and needs what that one counts on."""
    trim(trimmed, 120)
    trimmed.run_jobs(with_state=True)
    assert begins_of_files(trimmed) == [0, 50, 100, 150, 200]
    put(trimmed.log, trimmed.append_state, [b"new"])
    trimmed.catch_up()
    trimmed.run_jobs(with_state=True)

    assert begins_of_files(trimmed) == [100, 150, 200]
    assert queue_of(trimmed) == (120, 231)


def test_a_start_from_the_state_before_the_last_finds_what_it_needs(trimmed, caplog):
    trim(trimmed, 120)
    trimmed.run_jobs(with_state=True)
    known = trimmed.log.end_index
    put(trimmed.log, trimmed.append_state, [b"new"])
    trimmed.catch_up()
    trimmed.run_jobs(with_state=True)

    derived = trimmed.start(commit_index=known)

    assert derived.dispatched_index == known
    assert queue_of(trimmed) == (120, 230)
    assert "hold less" not in caplog.text


def test_views_handed_out_before_a_trim_stay_as_they_were(trimmed):
    units = trimmed.derived.queues.get("a", 0).units_from(0, unit_count_max=50)
    before = bytes(units)
    trim(trimmed, 220)
    for _ in range(2):
        trimmed.run_jobs(with_state=True)
        put(trimmed.log, trimmed.append_state, [b"new"] * 60)
        trimmed.catch_up()
    trimmed.run_jobs(with_state=True)

    assert begins_of_files(trimmed)[0] == 200
    assert bytes(units) == before


def test_files_that_a_crash_left_below_a_floor_go_after_the_next_start(trimmed):
    trim(trimmed, 120)
    trimmed.run_jobs(with_state=True)
    trimmed.start()
    assert queue_of(trimmed) == (120, 230)
    put(trimmed.log, trimmed.append_state, [b"new"])
    trimmed.catch_up()

    trimmed.run_jobs(with_state=True)

    assert begins_of_files(trimmed) == [100, 150, 200]


def test_a_node_that_begins_with_a_peer_s_state_has_its_floors(trimmed, tmp_path):
    trim(trimmed, 120)
    put(trimmed.log, trimmed.append_state, [b"new"] * 20)
    trimmed.catch_up()
    data, *_ = trimmed.everything()
    trimmed.log.base = decode_state(data).point
    trimmed.log._entries.clear()
    put(trimmed.log, trimmed.append_state, [b"newer"] * 5)
    late = Node(tmp_path / "late", trimmed.log)
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / f"state-{trimmed.log.base.index:020d}").write_bytes(data)
    late.start()
    trimmed.catch_up()
    late.catch_up()

    assert list(late.derived.queues.floors()) == [("a", 0, 120)]
    assert late.everything()[0] == trimmed.everything()[0], "one state on all nodes"
    late.derived.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_log_with_trims_is_derived_to_the_same_bytes(tmp_path, seed):
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=seed, entries=80, trims=True, deletes=seed % 2 == 1)
    whole, stepwise = (Node(tmp_path / name, log) for name in ("whole", "stepwise"))
    whole.start()
    whole.catch_up()
    stepwise.start()
    for index in range(1, log.end_index + 1):
        stepwise.catch_up(index)
        stepwise.run_jobs(with_state=index % 3 == 0)
        if index % 10 == 0:
            stepwise.start(commit_index=index)
            stepwise.catch_up(index)

    assert stepwise.everything() == whole.everything()
    assert list(whole.derived.queues.floors())
    for node in (whole, stepwise):
        node.derived.close()


# -- deleted topics -------------------------------------------------------------------------------


def put(log, state, bodies, *, topic="a", queue_id=0):
    group = new_group(state)
    group.add_chunk(make_chunk(bodies, topic=topic, queue_id=queue_id))
    append_group(log, group)


@pytest.fixture
def deleted(tmp_path):
    """A node with 120 messages of topic "a", deleted again, and 5 of topic "b"."""
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    put(log, state, [b"old"] * 120)
    put(log, state, [b"other"] * 5, topic="b")
    node = Node(tmp_path / "derived", log)
    node.append_state = state
    node.start()
    node.catch_up()
    node.run_jobs(with_state=True)
    assert "consumequeue/a/0/" + "0" * 20 in node.files()
    log.append(b"delete a", channel=1)
    yield node
    node.derived.close()


def queue_of(node, topic="a"):
    queue = node.derived.queues.get(topic, 0)
    return queue.min_offset, queue.max_offset


def files_of(node, topic="a"):
    return [name for name in node.files() if name.startswith(f"consumequeue/{topic}/")]


def test_a_deleted_topic_leaves_its_ends_and_no_file(deleted):
    heard = []
    deleted.derived.on_deleted = heard.append

    deleted.catch_up()
    assert queue_of(deleted) == (120, 120)
    assert heard == ["a"]
    assert deleted.derived.needs_flush
    deleted.run_jobs()
    # A start may yet begin before the deletion: the log's checkpoint comes from time to time only.
    assert files_of(deleted)
    for _ in range(2):
        deleted.run_jobs(with_state=True)  # nothing has changed, and time goes by

    assert files_of(deleted) == []
    assert len(files_of(deleted, "b")) == 1
    assert queue_of(deleted, "b") == (0, 5)


def test_a_topic_created_again_goes_on_at_its_old_end(deleted):
    put(deleted.log, deleted.append_state, [b"new"] * 3)

    deleted.catch_up()
    found = deleted.everything()

    assert queue_of(deleted) == (120, 123)
    assert [name[-20:] for name in files_of(deleted)] == [f"{100 * 20:020d}"]
    for _ in range(2):
        deleted.start()
        assert deleted.derived.dispatched_index == deleted.log.end_index
        assert queue_of(deleted) == (120, 123)
        assert deleted.everything() == found


def test_a_start_from_before_a_deletion_builds_nothing_anew(deleted):
    """The files were gone at once: a crash in the next seconds cost a walk through all the log."""
    before = deleted.log.end_index - 1
    deleted.catch_up()
    deleted.run_jobs(with_state=True)

    derived = deleted.start(commit_index=before)

    assert derived.dispatched_index == before
    assert queue_of(deleted) == (0, 120)
    deleted.catch_up()
    assert queue_of(deleted) == (120, 120)


def test_units_that_no_job_had_been_given_go_too(tmp_path):
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    put(log, state, [b"old"] * 7)
    log.append(b"delete a", channel=1)
    log.append(b"delete a", channel=1)  # once more: nothing came since
    put(log, state, [b"new"])
    node = Node(tmp_path / "derived", log)
    node.start()
    node.catch_up()

    assert queue_of(node) == (7, 8)
    assert node.derived.queues.unflushed_size == 20
    node.run_jobs()
    node.derived.close()


def test_states_for_deletions_count_in_a_go_and_wait_for_the_jobs(tmp_path):
    """Sixty deletions, each with a message behind it, took 2 s of the event loop and 70 MB."""
    log = MemoryLog(segment_size=1 << 20)  # no boundary comes in between
    state = AppendState(NothingDispatched(), log)
    for _ in range(60):
        put(log, state, [b"x"])
        log.append(b"delete a", channel=1)
    node = Node(tmp_path / "derived", log)
    derived = node.start()
    state_size = 2 * 1024 * 1024
    assert state_size > DISPATCH_SIZE_MAX
    node.machine.snapshot = lambda: {"count": 1, "pad": "x" * state_size}

    waits = 0
    while derived.dispatched_index < log.end_index:
        before, waiting = derived.dispatched_index, len(derived._jobs)
        derived.dispatch_up_to(log.end_index)
        assert len(derived._jobs) <= waiting + 1  # one state is a go
        assert len(derived._jobs) * state_size <= DELETION_STATES_SIZE_MAX
        if derived.dispatched_index == before:
            assert next(log.entries(before, before)).channel == 1  # no message behind it yet
            assert derived.needs_flush
            node.run_jobs()
            waits += 1

    assert waits > 10
    node.run_jobs()
    assert queue_of(node) == (60, 60)
    derived.close()


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_node_that_ended_before_the_files_were_gone_removes_them(deleted, is_made_again):
    if is_made_again:
        put(deleted.log, deleted.append_state, [b"new"] * 3)
    deleted.catch_up()
    jobs = deleted.derived.begin_jobs()
    jobs[0].run()  # the state that knows, and then the end
    assert files_of(deleted)

    derived = deleted.start()

    assert derived.dispatched_index >= 3
    assert files_of(deleted) == []
    deleted.catch_up()
    assert queue_of(deleted) == ((120, 123) if is_made_again else (120, 120))


@pytest.mark.parametrize("deletes_at_once", [False, True])
def test_a_log_with_deletions_is_derived_to_the_same_bytes(tmp_path, deletes_at_once):
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=5, entries=80, deletes=True)
    whole, stepwise = (Node(tmp_path / name, log) for name in ("whole", "stepwise"))
    whole.start()
    whole.catch_up()
    expected = whole.everything()
    stepwise.start()
    for index in range(1, log.end_index + 1):
        stepwise.catch_up(index)
        if deletes_at_once or index % 7 == 0:
            stepwise.run_jobs(with_state=index % 5 == 0)
        if index % 11 == 0:
            stepwise.start(commit_index=index)

    assert stepwise.everything() == expected
    assert list(stepwise.derived.queues.floors())
    names = [name for name in whole.files() if name.startswith("consumequeue")]
    assert {name: stepwise.files().get(name) for name in names} == {
        name: whole.files()[name] for name in names
    }
    whole.derived.close()
    stepwise.derived.close()


def test_a_peer_gets_the_ends_of_deleted_topics_with_the_state(deleted, tmp_path):
    log = deleted.log
    while log.end.position < 5 * SEGMENT:
        put(log, deleted.append_state, [b"y"] * 20, topic="b")
    deleted.catch_up()
    deleted.run_jobs(with_state=True)
    drop_first_segments(deleted)
    peer = Node(tmp_path / "peer", log)
    peer.folder.mkdir()
    base = log.base.index
    (peer.folder / f"state-{base:020d}").write_bytes(deleted.derived.read_state(base))

    peer.start()
    peer.catch_up()

    assert queue_of(peer) == (120, 120)
    assert peer.everything() == deleted.everything()
    peer.start()
    assert peer.derived.dispatched_index == log.end_index
    peer.derived.close()


def test_a_log_that_begins_late_without_a_state_is_refused_with_the_remedy(node):
    drop_first_segments(node)
    node.derived.close()
    shutil.rmtree(node.folder)

    with pytest.raises(CorruptStoreError, match="filled from its peers") as caught:
        node.start()

    assert str(node.folder) in str(caught.value)


def test_a_peer_behind_retention_goes_on_from_the_state_it_gets(node, tmp_path):
    drop_first_segments(node)
    log = node.log
    behind = MemoryLog(segment_size=SEGMENT)
    fill(behind, entries=5)
    peer = Node(tmp_path / "peer", behind)
    peer.start()
    peer.catch_up()
    peer.run_jobs(with_state=True)

    data = node.derived.read_state(log.base.index)
    point = peer.derived.save_state_of_peer(data)
    assert (point.index, point.chain_crc) == (log.base.index, log.base.chain_crc)
    behind.__dict__.update(log.__dict__)  # the ledger's part: the log now begins at that point
    peer.derived.reopen(log.base.index)

    assert peer.derived.dispatched_index == log.base.index
    peer.catch_up()
    assert peer.everything() == node.everything()
    peer.derived.close()


def test_building_anew_leaves_nothing_of_what_was(node):
    node.catch_up()
    expected = node.everything()
    for path in node.folder.glob("state-*"):
        path.unlink()
    stray = node.folder / "consumequeue" / "stray" / "0" / ("0" * 20)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(bytes(20))

    node.derived.reopen(node.log.end_index)

    assert node.derived.dispatched_index == node.machine.count == 0
    assert len(node.derived.producers) == len(node.derived.queues) == 0
    assert not stray.exists()
    node.catch_up()
    assert node.everything() == expected


def test_what_a_peer_sends_is_checked(node):
    with pytest.raises(CorruptStateError, match="the state that the leader sent: "):
        node.derived.save_state_of_peer(b"DLS1 and so on")


@pytest.mark.parametrize(
    "content",
    [
        [[1, 1, 1, -1], [], [0, []], {}],
        [[1, "1", 1, 1], [], [0, []], {}],
        [[1, 1, 1, 1], [[b"t", 0, 1]], [0, []], {}],
        [[1, 1, 1, 1], [["t", -1, 1]], [0, []], {}],
        [[1, 1, 1, 1], [["t", 0, 0]], [0, []], {}],
        [[1, 1, 1, 1], [["t", 0, "1"]], [0, []], {}],
        b"\x94\x81\x90\x01\x90\x90\x80",
    ],
    ids=["crc", "term", "topic", "queue", "offset", "text", "a list as a key"],
)
def test_a_sound_state_with_what_nobody_writes_is_refused(content):
    """The last of these raised from within msgpack, the others from wherever they were used."""
    payload = content if isinstance(content, bytes) else msgpack.packb(content)
    data = b"DLS1" + zlib.crc32(payload).to_bytes(4, "big") + payload

    with pytest.raises(CorruptStateError):
        decode_state(data)


def test_a_damaged_state_is_not_sent_to_a_peer(node):
    """It would have stopped every member that it was sent to, and nobody said whose fault it is."""
    drop_first_segments(node)
    index = node.log.base.index
    assert node.derived.read_state(index)
    path = node.folder / f"state-{index:020d}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptStoreError, match=f"state-{index:020d}: .* filled from its peers"):
        node.derived.read_state(index)


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


def test_states_are_read_only_when_whole(node):
    node.catch_up()
    data, *_ = node.everything()
    assert decode_state(data).point.index == node.derived.dispatched_index

    for cut in (0, 5, 8, len(data) - 1):
        with pytest.raises(CorruptStateError):
            decode_state(data[:cut])
    for at in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        with pytest.raises(CorruptStateError):
            decode_state(flipped)


def test_a_state_with_a_right_checksum_and_wrong_content_is_refused():
    import zlib

    for payload in (b"", msgpack.packb(5), msgpack.packb([1, 2, 3, 4]), msgpack.packb([[1]] * 4)):
        with pytest.raises(CorruptStateError):
            decode_state(b"DLS1" + zlib.crc32(payload).to_bytes(4, "big") + payload)
