"""Chunks a client may send, and chunks it may not: by column and one by one alike."""

from __future__ import annotations

import random
import struct

import pytest

from broker.errors import BrokerError, CorruptRecordError, InvalidMessageError
from broker.message.batch import encode_sizes
from broker.message.limits import MessageLimits
from broker.store import chunk as chunk_module
from broker.store.chunk import check_chunk
from tests.broker_store.helpers import make_chunk, make_record

pytestmark = pytest.mark.usefixtures("both_ways")

FEW, MANY = 3, 100


def build(count: int) -> tuple[bytearray, list[int]]:
    records = [make_record(b"body %d" % n, properties={"TAGS": f"t{n}"}) for n in range(count)]
    return bytearray(b"".join(records)), [len(record) for record in records]


def check(body, sizes, **changes):
    arguments = {"topic": "orders", "queue_id": 0, **changes}
    return check_chunk(bytes(body), encode_sizes(sizes), **arguments)


@pytest.mark.parametrize("count", [1, FEW, 31, 32, MANY])
def test_a_sound_chunk_is_taken_as_it_is(count):
    body, sizes = build(count)

    chunk = check(body, sizes)

    assert chunk.body == body
    assert list(chunk.sizes) == sizes
    assert (chunk.record_count, chunk.topic, chunk.queue_id) == (count, "orders", 0)


@pytest.mark.parametrize("size", [2047, 2048, 5000])
def test_the_crc_of_every_body_is_checked_whatever_its_size(size):
    """Bodies of one size are cut by column, large ones without a copy."""
    records = [make_record(bytes((n,)) * size) for n in range(MANY)]
    body, sizes = bytearray(b"".join(records)), [len(record) for record in records]
    assert check(body, sizes).record_count == MANY

    body[7 * sizes[0] + 88 + size - 1] ^= 1

    with pytest.raises(CorruptRecordError) as caught:
        check(body, sizes)
    assert (caught.value.record, caught.value.field) == (7, "body_crc")


def test_a_chunk_is_not_copied():
    body = bytes(build(FEW)[0])

    assert (
        check_chunk(body, encode_sizes(build(FEW)[1]), topic="orders", queue_id=0).body.obj is body
    )


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        (0, struct.pack(">i", 90), "total_size"),
        (4, struct.pack(">I", 0xDAA320AB), "magic"),
        (4, struct.pack(">I", 0xCBD43194), "magic"),
        (8, struct.pack(">I", 1), "body_crc"),
        (12, struct.pack(">i", 1), "queue_id"),
        (36, struct.pack(">i", 0x10), "system_flag"),
        (36, struct.pack(">i", 0x20), "system_flag"),
        (36, struct.pack(">i", 0x4), "system_flag"),
        (84, struct.pack(">i", -1), "body_size"),
        (84, struct.pack(">i", 1 << 30), "body_size"),
        (84, struct.pack(">i", 5), "topic"),
        (88, b"B", "body_crc"),
        (94, b"\x07", "topic"),
        (95, b"O", "topic"),
        (101, b"\xff\xff", "properties_size"),
        (101, b"\x00\x00", "properties_size"),
    ],
)
def test_the_first_wrong_field_is_named(count, at, value, field):
    body, sizes = build(count)
    offset = sum(sizes[:2]) + at
    body[offset : offset + len(value)] = value

    with pytest.raises(CorruptRecordError) as caught:
        check(body, sizes)

    assert (caught.value.record, caught.value.field) == (2, field)


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize(
    "change",
    [
        lambda sizes: [*sizes[:-1], sizes[-1] + 1],
        lambda sizes: [*sizes[:-1], sizes[-1] - 1],
        lambda sizes: [sizes[0] + 1, sizes[1] - 1, *sizes[2:]],
        lambda sizes: sizes[:-1],
        lambda sizes: [*sizes, 100],
        lambda sizes: [0, *sizes],
        lambda sizes: [90, *sizes],
        lambda sizes: [(1 << 32) - 1, *sizes],
    ],
)
def test_sizes_that_do_not_fit_the_records_are_refused(count, change):
    body, sizes = build(count)

    with pytest.raises(CorruptRecordError):
        check(body, change(sizes))


@pytest.mark.parametrize("column", [b"", b"\0", b"\0\0\0\0\0"])
def test_a_column_that_is_none_is_refused(column):
    with pytest.raises(CorruptRecordError, match="sizes"):
        check_chunk(b"", column, topic="orders", queue_id=0)


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize(("topic", "queue_id"), [("order", 0), ("ordersX", 0), ("orders", 1)])
def test_records_of_another_queue_are_refused(count, topic, queue_id):
    body, sizes = build(count)

    with pytest.raises(CorruptRecordError):
        check(body, sizes, topic=topic, queue_id=queue_id)


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        (MessageLimits(body_size_max=5), "record 0: the message body has 6 bytes; at most 5"),
        (MessageLimits(properties_size_max=6), "record 0: the message properties have 7 bytes"),
    ],
)
def test_records_over_a_limit_are_refused_with_the_limit(count, limits, complaint):
    body, sizes = build(count)

    with pytest.raises(InvalidMessageError, match=complaint):
        check(body, sizes, limits=limits)


def test_long_topics_have_records_of_version_2():
    topic = "%RETRY%" + "g" * 200

    assert make_chunk([b"x"] * FEW, topic=topic).record_count == FEW
    assert make_chunk([b"x"] * MANY, topic=topic).record_count == MANY


def test_among_many_only_the_bad_record_is_looked_at_by_itself(monkeypatch):
    body, sizes = build(MANY)
    body[-20] ^= 0xFF  # in the last body
    looked_at = []
    original = chunk_module._check_record

    def counting(*arguments):
        looked_at.append(arguments[3])
        original(*arguments)

    monkeypatch.setattr(chunk_module, "_check_record", counting)
    with pytest.raises(CorruptRecordError) as caught:
        check(body, sizes)

    assert looked_at == [caught.value.record] == [MANY - 1]


@pytest.mark.parametrize("seed", range(300))
def test_garbled_chunks_are_refused_or_harmless_and_never_crash(seed):
    """By column and one by one agree on every one of them."""
    chance = random.Random(seed)
    body, sizes = build(40)
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.3:
            sizes[chance.randrange(len(sizes))] += chance.choice([-1, 1, 50, -50])
        else:
            body[chance.randrange(len(body))] = chance.randrange(256)

    outcomes = []
    for limits in (MessageLimits(), MessageLimits(body_size_max=4 << 20)):
        try:
            check(body, sizes, limits=limits)
            outcomes.append("sound")
        except BrokerError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if outcomes[0] == "sound":
        # Only what the broker does not look at or stamps itself was hit: the records still parse.
        at = 0
        for size in sizes:
            record = bytes(body[at : at + size])
            check_chunk(record, encode_sizes([size]), topic="orders", queue_id=0)
            at += size
