"""Runs: what dispatch reads from an entry, and what it refuses."""

from __future__ import annotations

import random
import struct

import pytest

from broker.errors import CorruptRecordError
from broker.message.batch import ProducerMark, encode_mark
from broker.message.codec import decode_record
from broker.message.tags import tags_code
from broker.store import compiled
from broker.store.append_state import AppendState
from broker.store.runs import RunReader
from tests.broker_store.helpers import (
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    new_group,
)

pytestmark = pytest.mark.usefixtures("both_ways")


def random_entry(seed: int):
    """An entry of marked and unmarked runs, uniform and not; and the messages in it."""
    chance = random.Random(seed)
    log = MemoryLog()
    group = new_group(AppendState(NothingDispatched(), log))
    sequences: dict[tuple[int, int], int] = {}
    for _ in range(chance.randint(1, 12)):
        count = chance.choice([1, 2, 31, 32, 33, 100])
        uniform = chance.random() < 0.5
        bodies = [bytes(10 if uniform else chance.randrange(200)) for _ in range(count)]
        producer_id = chance.choice([0, 0, 5, 6])
        queue_id = chance.randrange(2)
        first = sequences.get((producer_id, queue_id), 0)
        sequences[producer_id, queue_id] = first + count
        properties = chance.choice([None, {"a": "TAGS"}, {"TAGS": "tagA"}, {"TAGS": "ü"}])
        group.add_chunk(
            make_chunk(bodies, queue_id=queue_id, properties=properties),
            producer_id=producer_id,
            first_sequence=first,
        )
    return append_group(log, group)


@pytest.mark.parametrize("seed", range(60))
def test_units_are_what_decoding_every_record_gives(seed):
    entry = random_entry(seed)

    count = 0
    end = entry.body_position
    for run in RunReader().runs(entry.body, entry.body_position):
        if run.mark is not None:
            assert run.mark.record_count == run.record_count
            end += 40
        assert run.first_position == end
        assert len(run.units) == 20 * run.record_count
        for nth, (position, size, code) in enumerate(struct.iter_unpack(">qiq", run.units)):
            message = decode_record(entry.body, position - entry.body_position)
            assert position == end
            assert (message.size, message.queue_id) == (size, run.queue_id)
            assert message.queue_offset == run.first_queue_offset + nth
            assert code == tags_code(message.tag)
            end += size
            count += 1
    assert end == entry.end
    assert count >= 1


@pytest.mark.parametrize("seed", range(400))
def test_a_garbled_entry_is_refused_or_still_consistent(seed):
    chance = random.Random(seed)
    entry = random_entry(seed % 20)
    body = bytearray(entry.body)
    for _ in range(chance.randint(1, 3)):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        del body[chance.randrange(len(body)) :]

    end = entry.body_position
    try:
        for run in RunReader().runs(memoryview(body), entry.body_position):
            end += 40 if run.mark is not None else 0
            for position, size, _ in struct.iter_unpack(">qiq", run.units):
                assert position == end
                end += size
    except CorruptRecordError:
        return
    assert end == entry.body_position + len(body)


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        (20, struct.pack(">q", 9999), "queue_offset"),
        (28, struct.pack(">q", 9999), "position"),
        (12, struct.pack(">i", 7), "head"),
        (36, struct.pack(">i", 0x10), "head"),
        (4, struct.pack(">I", 0xDAA320AB), "head"),
        (0, struct.pack(">i", 50), "total_size"),
        (95, b"X", "head"),
    ],
)
def test_what_is_wrong_with_a_marked_record_is_named(count, at, value, field):
    log = MemoryLog()
    group = new_group(AppendState(NothingDispatched(), log))
    chunk = make_chunk([b"body %d" % (n % 10) for n in range(count)])
    group.add_chunk(chunk, producer_id=1)
    entry = append_group(log, group)
    body = bytearray(entry.body)
    offset = 40 + 2 * int(chunk.sizes[0]) + at
    body[offset : offset + len(value)] = value

    with pytest.raises(CorruptRecordError) as caught:
        list(RunReader().runs(memoryview(body), entry.body_position))

    assert (caught.value.field, caught.value.record) == (field, 2)


def test_a_mark_that_promises_more_than_there_is_is_refused():
    log = MemoryLog()
    group = new_group(AppendState(NothingDispatched(), log))
    group.add_chunk(make_chunk([b"x", b"y"]), producer_id=1)
    entry = append_group(log, group)
    for promised in (3, 1 << 30):
        body = bytearray(entry.body)
        body[:40] = encode_mark(ProducerMark(1, 0, promised, 0))

        with pytest.raises(CorruptRecordError):
            list(RunReader().runs(memoryview(body), entry.body_position))


def test_a_mark_of_another_queue_is_refused():
    log = MemoryLog()
    group = new_group(AppendState(NothingDispatched(), log))
    group.add_chunk(make_chunk([b"x", b"y"]), producer_id=1)
    entry = append_group(log, group)
    body = bytearray(entry.body)
    body[:40] = encode_mark(ProducerMark(1, 0, 2, 5))

    with pytest.raises(CorruptRecordError, match="mark of 5"):
        list(RunReader().runs(memoryview(body), entry.body_position))


@pytest.mark.parametrize("seed", range(200))
def test_a_record_by_itself_is_read_as_one_of_many_is(seed, monkeypatch):
    """The short way for a run of one says the same, and leaves what is wrong to the long one."""
    chance = random.Random(seed)
    entry = random_entry(seed % 40)
    body = bytearray(entry.body)
    if seed % 2:
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    monkeypatch.setattr(compiled, "loops", None)
    monkeypatch.setattr("broker.store.runs._RECORDS_A_RUN_MIN", 1 << 30)

    def read() -> object:
        try:
            found = list(RunReader().runs(memoryview(body), entry.body_position))
        except CorruptRecordError as error:
            return str(error)
        return [
            run._replace(
                properties_begins=list(run.properties_begins),
                properties_ends=list(run.properties_ends),
            )
            for run in found
        ]

    short = read()
    monkeypatch.setattr(RunReader, "_run_of_one", lambda *_: None)
    assert read() == short
