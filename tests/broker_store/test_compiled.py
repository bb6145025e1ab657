"""The compiled loops, beside the Python that does the same; and which of the two is chosen.

What the two ways must agree on is told by the tests of chunks, groups and runs, which go both ways.
Here inputs are made up that neither was thought of with.
"""

from __future__ import annotations

import importlib
import random
import struct
import zlib
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import CorruptRecordError, InvalidMessageError
from broker.message import codec
from broker.message.batch import (
    MARK_MAGIC,
    MARK_SIZE,
    ProducerMark,
    encode_mark,
    encode_sizes,
    pack_mark,
)
from broker.message.codec import encode_record
from broker.store import compiled
from broker.store.append_state import AppendState
from broker.store.chunk import check_records
from broker.store.runs import Lane, RunReader
from dledger.entry import HEADER_SIZE, EntryKind, encode_header
from jepsen_like.fuzz.records import entry_body
from jepsen_like.fuzz.ways import both_ways, read_chunk, read_entries, read_runs
from tests.broker_store.helpers import (
    MemoryLog,
    NothingDispatched,
    make_chunk,
    make_record,
    new_group,
)
from tests.fuzz.strategies import near

needs_loops = pytest.mark.skipif(
    compiled.loops is None, reason=f"the loops run {compiled.told}: nothing to compare with"
)
REFUSED = (CorruptRecordError, InvalidMessageError)
FIELDS = (0, 4, 8, 12, 20, 24, 28, 32, 36, 84)  # of a record with a meaning, 4 bytes of each


def outcome(attempt):
    try:
        return both_ways(attempt)
    except REFUSED as error:
        return str(error)


def odd_numbers(chance: random.Random, size: int) -> int:
    near_size = size + chance.randint(-100, 100)
    ends = (1 << 30, (1 << 31) - 1, -(1 << 31))
    return chance.choice([0, 1, 90, 91, near_size, -1, -88, -90, *ends])


# -- which is chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "yes"])
def test_the_environment_asks_for_python(monkeypatch, value):
    monkeypatch.setenv("DLEDGER_PURE_PYTHON", value)

    loops, told = compiled._choose()

    assert loops is None
    assert "DLEDGER_PURE_PYTHON" in told


@needs_loops
@pytest.mark.parametrize("value", ["", "0", None])
def test_without_a_word_it_is_what_was_compiled(monkeypatch, value):
    monkeypatch.delenv("DLEDGER_PURE_PYTHON", raising=False)
    if value is not None:
        monkeypatch.setenv("DLEDGER_PURE_PYTHON", value)

    loops, told = compiled._choose()

    assert loops is not None
    assert told == "compiled"


def test_what_was_not_built_is_done_in_python_and_said(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.delenv(compiled.PURE_PYTHON, raising=False)

    loops, told = compiled._choose()

    assert loops is None
    assert "C compiler" in told


@needs_loops
def test_what_was_built_from_another_version_is_not_used(monkeypatch):
    """An editable install whose source has changed: runs would have other fields."""
    monkeypatch.setattr(compiled, "LAYOUT", compiled.LAYOUT + 1)

    loops, told = compiled._choose()

    assert loops is None
    assert "another version" in told


# -- chunks ---------------------------------------------------------------------------------------


@needs_loops
@pytest.mark.parametrize("size", [*range(50), 100, 383, 384, 385, 1024, 4095, 4096, 70_001])
def test_the_checksum_is_zlib_s(size):
    body = random.Random(size).randbytes(size)
    record = bytearray(make_record(body))
    assert struct.unpack_from(">I", record, 8)[0] == zlib.crc32(body) & 0x7FFFFFFF
    column = encode_sizes([len(record)])
    topic = codec.MAGIC_V1, b"\x06orders"
    limits = 4 << 20, 32_767

    assert compiled.loops.is_sound_chunk(record, column, *topic, 0, *limits)
    for bit in random.Random(size).sample(range(8 * size), min(8 * size, 40)):
        record[88 + bit // 8] ^= 1 << bit % 8
        assert not compiled.loops.is_sound_chunk(record, column, *topic, 0, *limits)
        record[88 + bit // 8] ^= 1 << bit % 8


def a_chunk(count: int, topic: bytes = b"t") -> tuple[bytes, bytes]:
    records = [
        encode_record(topic=topic, queue_id=0, body=b"x" * (n % 7), properties=b"k\x01v" * (n % 2))
        for n in range(count)
    ]
    return b"".join(records), encode_sizes([len(record) for record in records])


@needs_loops
@pytest.mark.parametrize("count", [1, 3, 40])
def test_both_ways_refuse_the_same_chunks(count):
    body, sizes = a_chunk(count)

    @settings(derandomize=True, max_examples=150, database=None)
    @given(near([body]), near([sizes]) | st.just(sizes))
    def run(body, sizes):
        outcome(lambda: read_chunk(body, sizes))

    run()


@needs_loops
@pytest.mark.parametrize("seed", range(60))
def test_both_ways_refuse_the_same_numbers_in_a_chunk(seed):
    """Sizes that overflow, bodies shorter than they say, and what is below zero."""
    chance = random.Random(seed)
    for _ in range(10):
        whole, sizes = a_chunk(chance.choice([1, 2, 33]))
        body = bytearray(whole)
        lengths = struct.unpack(f">{len(sizes) // 4}I", sizes)
        places = list(zip(accumulate(lengths, initial=0), lengths, strict=False))
        for _ in range(chance.randint(1, 2)):
            column = bytearray(sizes)
            number = chance.randrange(len(column) // 4)
            at, size = places[number]
            odd = odd_numbers(chance, size) & 0xFFFFFFFF
            if chance.random() < 0.3:
                struct.pack_into(">I", column, 4 * number, odd)
            if chance.random() < 0.8:
                struct.pack_into(">I", body, at + chance.choice(FIELDS), odd)
            sizes = bytes(column)
        cut = chance.choice([0, 0, 1, 50])

        outcome(lambda: read_chunk(bytes(body[: len(body) - cut]), sizes))  # noqa: B023


@needs_loops
@pytest.mark.parametrize("queue_id", [-1, 1, 1 << 31, -(1 << 31) - 1, 1 << 64, -(1 << 70)])
def test_a_queue_that_no_record_can_name_is_refused_alike(queue_id):
    body, sizes = a_chunk(2)

    assert "queue_id" in outcome(lambda: read_chunk(body, sizes, queue_id=queue_id))


@needs_loops
@pytest.mark.parametrize("topic", ["", "u", "tt", "t" * 127, "t" * 128, "t" * 300])
@pytest.mark.parametrize("is_named", [True, False])
def test_topics_of_any_length_are_compared_alike(topic, is_named):
    name = topic.encode() if is_named and 0 < len(topic) < 256 else b"t"
    body, sizes = a_chunk(3, name)

    found = outcome(lambda: read_chunk(body, sizes, topic=topic))
    assert isinstance(found, tuple) == (name == topic.encode())


@pytest.mark.parametrize("seed", range(60))
def test_records_of_many_queues_are_refused_as_each_by_itself(seed):
    chance = random.Random(seed)
    count = chance.choice([1, 2, 40])
    records = [
        make_record(b"body", topic="t", queue_id=n % 3, properties={"a": "b" * n})
        for n in range(count)
    ]
    between = [chance.randbytes(chance.randrange(5)) for _ in records]
    data = bytearray(b"".join(gap + record for gap, record in zip(between, records, strict=True)))
    sizes = np.array([len(record) for record in records])
    starts = np.cumsum(sizes + [len(gap) for gap in between]) - sizes
    queue_ids = np.arange(count) % 3
    if seed:
        number = chance.randrange(count)
        odd = odd_numbers(chance, int(sizes[number]))
        at = int(starts[number]) + chance.choice([*FIELDS, 88, 92])
        struct.pack_into(">I", data, at, odd & 0xFFFFFFFF)
        if chance.random() < 0.2:
            queue_ids[number] = 1 << 40

    found = outcome(
        lambda: check_records(bytes(data), starts, sizes, topic="t", queue_ids=queue_ids)
    )

    one_by_one = [
        outcome(
            lambda start=start, size=size, queue_id=queue_id: read_chunk(
                bytes(data[start : start + size]),
                size.to_bytes(4, "big"),
                topic="t",
                queue_id=queue_id,
            )
        )
        for start, size, queue_id in zip(
            starts.tolist(), sizes.tolist(), queue_ids.tolist(), strict=True
        )
    ]
    assert (found is None) == all(isinstance(each, tuple) for each in one_by_one)
    assert found is None or seed


# -- stamping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_write_the_same_entry(seed, monkeypatch):
    def body_of(loops):
        monkeypatch.setattr(compiled, "loops", loops)
        chance = random.Random(seed)
        group = new_group(AppendState(NothingDispatched(), MemoryLog()))
        for _ in range(chance.randint(1, 9)):
            bodies = [b"x" * chance.randrange(30)] * chance.choice([1, 2, 40])
            group.add_chunk(make_chunk(bodies, queue_id=chance.randrange(3)))
        (body,) = group.encode(chance.choice([0, 1 << 40]))
        return body

    loops = compiled.loops
    assert body_of(loops) == body_of(None)


@needs_loops
@pytest.mark.parametrize(
    "run", [(0, 0, 3), (-1, 0, 1), (1 << 62, 0, 1), (5, 0, 1), (93, 0, 2), (-(1 << 63), 0, 1)]
)
def test_nothing_is_stamped_outside_of_the_body(run):
    body = bytearray(a_chunk(2)[0])
    assert struct.unpack_from(">i", body, 0) == (92,)

    with pytest.raises(ValueError, match="outside"):
        compiled.loops.stamp_runs(body, [run], 0, 0, bytes(8))


# -- runs -----------------------------------------------------------------------------------------


def entry_seeds() -> list[bytes]:
    shapes = ((1, False), (1, True), (3, True), (33, True), (33, False))
    seeds = [entry_body(count, with_mark=with_mark) for count, with_mark in shapes]
    at = HEADER_SIZE
    mixed = []
    for number, topic in enumerate((b"t", b"u", b"\xff", b"t" * 200, b"t")):
        for properties in (b"", b"TAGS\x01tag\x02", b"a\x01TAGS\x02TAGS\x01\xc3\xbc", b"TAGS\x01"):
            mark = encode_mark(ProducerMark((1 << 64) - 1, 1 << 63, 1, number))
            record = encode_record(
                topic=topic, queue_id=number, body=b"b", properties=properties, position=at + 40
            )
            mixed.append(mark + record)
            at += len(mixed[-1])
    return [*seeds, *(b"".join(mixed[:count]) for count in (1, 8, 12, 20))]


@needs_loops
def test_both_ways_read_the_same_runs():
    @settings(derandomize=True, max_examples=600, database=None)
    @given(near(entry_seeds()))
    def run(body):
        outcome(lambda: read_runs(body, HEADER_SIZE))

    run()


@needs_loops
@pytest.mark.parametrize("seed", range(60))
def test_both_ways_refuse_the_same_numbers_in_an_entry(seed):
    """And what Python reads without a word is never left to it."""
    chance = random.Random(seed)
    for whole in entry_seeds():
        body = bytearray(whole)
        at = chance.choice([0, 40, 92, 132]) + chance.choice([*FIELDS, 16, 56])
        if at + 4 <= len(body):
            struct.pack_into(">I", body, at, odd_numbers(chance, 100) & 0xFFFFFFFF)
        position = chance.choice([HEADER_SIZE] * 4 + [0, (1 << 63) - 1, (1 << 63) - 100])

        found = outcome(lambda: read_runs(bytes(body), position))  # noqa: B023
        reader = RunReader()
        left = compiled.loops.read_runs(
            body, position, tuple, tuple, reader.lanes, reader.make_lane, lambda _: 0
        )
        assert isinstance(found, str) == (left is None)


def log_seeds() -> list[bytes]:
    """Return whole entries back to back, the first at position 7 with index 3."""
    seeds = []
    for bodies in (entry_seeds(), [b"", *entry_seeds()[:3] * 4], [b"x"]):
        raw = b""
        for number, body in enumerate(bodies):
            header, _ = encode_header(
                kind=EntryKind.NORMAL,
                index=3 + number,
                term=5,
                position=7 + len(raw),
                channel=0,
                previous_chain_crc=9,
                body_crc=1,
                body_size=len(body),
            )
            at = 7 + len(raw) + HEADER_SIZE
            # Their records name the place they would have in an entry at the log's begin.
            body = bytearray(body)
            stamp_positions(body, at)
            raw += header + body
        seeds.append(raw)
    return seeds


def stamp_positions(body: bytearray, position: int) -> None:
    at = 0
    while at + 40 < len(body):
        size, magic = struct.unpack_from(">iI", body, at)
        if magic != MARK_MAGIC:
            struct.pack_into(">q", body, at + 28, position + at)
        at += size


@needs_loops
def test_both_ways_read_the_same_entries_together():
    read = []

    @settings(derandomize=True, max_examples=600, database=None)
    @given(near(log_seeds()))
    def run(raw):
        found = outcome(lambda: read_entries(raw, 7, index=3, last_index=12))
        read.append(0 if found is None else found.end.index - 2)

    run()
    assert max(read) == 10
    assert {0, 1, 2, 5} <= set(read)


@needs_loops
@pytest.mark.parametrize("topic", [b"t", b"u" * 200])
def test_a_topic_is_one_object_however_often_it_is_read(topic):
    """What looks it up need not reckon its hash again, and compares it with `is`."""
    reader = RunReader()
    first, again, beside = (
        next(reader.runs(memoryview(encode_record(topic=topic, queue_id=queue_id, body=b"")), 0))
        for queue_id in (0, 0, 1)
    )

    assert first.topic is again.topic is beside.topic
    assert first.topic == topic.decode()


@needs_loops
def test_a_lane_is_one_object_for_a_producer_and_a_queue(monkeypatch):
    """Tables leave there what they know of both: another's would be a mix-up."""

    def read(topic: bytes, queue_id: int, producer_id: int) -> Lane:
        body = encode_record(topic=topic, queue_id=queue_id, body=b"", position=MARK_SIZE)
        if producer_id:
            body = pack_mark(producer_id, 0, 1, queue_id) + body
        (run,) = reader.runs(memoryview(body), 0 if producer_id else MARK_SIZE)
        assert run.lane.topic == topic.decode()
        return run.lane

    reader = RunReader()
    named = [
        (topic, queue_id, producer_id)
        for topic in (b"t", b"tt", b"u" * 200)
        for queue_id in (0, 1, 1 << 30)
        for producer_id in (0, 1, 256, 1 << 63)
    ]
    lanes = [read(*name) for name in named]
    assert len(set(map(id, lanes))) == len(named)
    assert all(read(*name) is lane for name, lane in zip(named, lanes, strict=True))

    monkeypatch.setattr("broker.store.runs.LANES_MAX", len(named))
    read(b"one more", 0, 0)
    assert len(reader.lanes) == 1
