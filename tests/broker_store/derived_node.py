"""One node's derived state over a log in memory, and entries of all kinds to fill that with."""

from __future__ import annotations

import random
from pathlib import Path

from broker.store.append_state import AppendState
from broker.store.derived import DerivedState
from dledger.entry import EntryKind
from dledger.errors import PoisonEntryError
from dledger.store.os_disk import OsDisk
from tests.broker_store.helpers import (
    FixedClock,
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


def put(log, state, bodies, *, topic="a", queue_id=0):
    group = new_group(state)
    group.add_chunk(make_chunk(bodies, topic=topic, queue_id=queue_id))
    append_group(log, group)


def queue_of(node, topic="a"):
    queue = node.derived.queues.get(topic, 0)
    return queue.min_offset, queue.max_offset


def files_of(node, topic="a"):
    return [name for name in node.files() if name.startswith(f"consumequeue/{topic}/")]
