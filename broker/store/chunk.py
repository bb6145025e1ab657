"""Checking the records a client sent, before any of their bytes goes into the log.

A *chunk* is records of one topic and queue, back to back, and the column of their sizes.  The log
holds them as they came but for the stamped fields, so whatever is wrong with them must be found
here: later every replica would stop at them.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from broker.errors import CorruptRecordError, InvalidMessageError
from broker.message import codec
from broker.message.limits import (
    DEFAULT_LIMITS,
    TOPIC_SIZE_MAX,
    MessageLimits,
    check_body_size,
    check_properties_size,
)
from broker.store import compiled
from broker.store.columns import COLUMN_MIN, BoolArray, IntArray, gather_heads, tails_match
from dledger.checksum import crc32

if TYPE_CHECKING:
    from broker.message.codec import Buffer

# What a client may set: compressed, multi-tags, kind of compression. Host flags would move fields;
# transactions are no part of this version.
SYSTEM_FLAGS_ALLOWED = codec.FLAG_COMPRESSED | codec.FLAG_MULTI_TAGS | codec.FLAG_COMPRESSION_MASK

# total_size magic body_crc queue_id ... system_flag ... body_size
_CHECKED = struct.Struct(">iIIi20xi44xi")
_U16 = struct.Struct(">H")
assert _CHECKED.size == codec.BODY_OFFSET


_COPIED_BELOW = 2048  # bytes of a body; cutting a view costs as much as copying so many


class Scattered(Protocol):
    """Records that lie between other bytes of what was received, and are kept once that way."""

    def __len__(self) -> int:
        """Return their bytes."""
        ...

    def tobytes(self) -> bytes:
        """Return them back to back, copied: for the moment that they are laid out."""
        ...


class Chunk(msgspec.Struct, eq=False, gc=False):
    """Records proved sound: of *topic* and *queue_id*, whole, unstamped.

    A struct, since one is made for every message that comes alone.
    """

    topic: str
    queue_id: int
    body: memoryview | Scattered
    sizes: tuple[int, ...] | IntArray  # bytes of each record
    record_count: int


def check_chunk(
    body: Buffer,
    sizes: Buffer,
    *,
    topic: str,
    queue_id: int,
    limits: MessageLimits = DEFAULT_LIMITS,
) -> Chunk:
    """Return the chunk in *body* once every record of it is proved to be what it should.

    Args:
        body: the records as received; not copied.
        sizes: uint32 big-endian for each record.
        topic: the one all records must name.
        queue_id: the one all records must name.
        limits: largest body and properties, in bytes.

    Raises:
        CorruptRecordError: names the first record and field that is wrong.
        InvalidMessageError: a body or its properties are larger than *limits*.
    """
    if not sizes or len(sizes) % 4:
        raise CorruptRecordError(
            f"the column has {len(sizes)} bytes; it has 4 for each record, and at least one",
            record=0,
            field="sizes",
        )
    view = memoryview(body)
    count = len(sizes) // 4
    expected = _expected_topic(topic)
    # What the compiled loop will not vouch for is looked at again, to say what is wrong.
    is_proved = compiled.loops is not None and compiled.loops.is_sound_chunk(
        body, sizes, *expected, queue_id, limits.body_size_max, limits.properties_size_max
    )
    if count < COLUMN_MIN:
        column = struct.unpack(f">{count}I", sizes)
        if not is_proved:
            _check_few(view, column, expected, queue_id, limits)
        return Chunk(topic, queue_id, view, column, count)
    array = np.frombuffer(sizes, ">u4").astype(np.int64)
    if not is_proved:
        ends = np.cumsum(array)
        if int(ends[-1]) != len(view):
            raise _not_filling(len(view), int(ends[-1]), count)
        _check_columns(view, ends - array, array, expected, queue_id, limits)
    return Chunk(topic, queue_id, view, array, count)


@lru_cache(maxsize=1024)
def _expected_topic(topic: str) -> tuple[int, bytes]:
    """Return the magic records of *topic* must have, and their topic field with its length."""
    encoded = topic.encode()
    if len(encoded) <= TOPIC_SIZE_MAX:
        return codec.MAGIC_V1, bytes((len(encoded),)) + encoded
    return codec.MAGIC_V2, _U16.pack(len(encoded)) + encoded


def _check_few(
    body: memoryview,
    sizes: tuple[int, ...],
    expected: tuple[int, bytes],
    queue_id: int,
    limits: MessageLimits,
) -> None:
    at = 0
    for number, size in enumerate(sizes):
        _check_record(body, at, size, number, expected, queue_id, limits)
        at += size
    if at != len(body):
        raise _not_filling(len(body), at, len(sizes))


def _check_record(
    body: memoryview,
    at: int,
    size: int,
    number: int,
    expected: tuple[int, bytes],
    queue_id: int,
    limits: MessageLimits,
) -> None:
    """Check one record by itself; the fields in the order of `_check_columns`."""
    magic, topic_field = expected
    room = len(body) - at
    if not codec.RECORD_SIZE_MIN <= size <= room:
        raise _wrong(number, "sizes", size, f"{codec.RECORD_SIZE_MIN} to the {room} bytes left")
    total, found_magic, crc, found_queue, system_flag, body_size = _CHECKED.unpack_from(body, at)
    if total != size:
        raise _wrong(number, "total_size", total, f"{size}, as the column says")
    if found_magic != magic:
        raise _wrong(number, "magic", f"{found_magic:#x}", f"{magic:#x}")
    if found_queue != queue_id:
        raise _wrong(number, "queue_id", found_queue, queue_id)
    if system_flag & ~SYSTEM_FLAGS_ALLOWED:
        raise _wrong_flag(number, system_flag)
    body_size_most = size - codec.BODY_OFFSET - len(topic_field) - 2
    if not 0 <= body_size <= body_size_most:
        raise _wrong(number, "body_size", body_size, f"0 to {body_size_most}")
    if body_size > limits.body_size_max:
        raise _too_large(number, check_body_size, body_size, limits)
    topic_at = at + codec.BODY_OFFSET + body_size
    properties_at = topic_at + len(topic_field) + 2
    if body[topic_at : properties_at - 2] != topic_field:
        raise _wrong(number, "topic", bytes(body[topic_at : properties_at - 2]), topic_field)
    (properties_size,) = _U16.unpack_from(body, properties_at - 2)
    left = at + size - properties_at
    if properties_size != left:
        raise _wrong(number, "properties_size", properties_size, left)
    if left > limits.properties_size_max:
        raise _too_large(number, check_properties_size, left, limits)
    if crc32(body[at + codec.BODY_OFFSET : topic_at]) & codec.CRC_MASK != crc:
        raise _wrong(number, "body_crc", f"{crc:#x}", "the checksum of the body")


def check_records(
    buffer: Buffer,
    starts: IntArray,
    sizes: IntArray,
    *,
    topic: str,
    queue_ids: IntArray,
    limits: MessageLimits = DEFAULT_LIMITS,
) -> None:
    """Check records that lie anywhere in *buffer*, each of a queue of its own; as `check_chunk`.

    Args:
        buffer: holds them; none may end behind it.
        starts: where each begins.
        sizes: bytes of each.
        topic: the one all must name.
        queue_ids: the one each must name.
        limits: largest body and properties, in bytes.

    Raises:
        CorruptRecordError, InvalidMessageError: as `check_chunk`.
    """
    _check_columns(memoryview(buffer), starts, sizes, _expected_topic(topic), queue_ids, limits)


def _check_columns(
    body: memoryview,
    starts: IntArray,
    sizes: IntArray,
    expected: tuple[int, bytes],
    queue_id: int | IntArray,
    limits: MessageLimits,
) -> None:
    """Check all records at once; only the first that fails is looked at by itself, to name why.

    (Looking at each from the start took 0.4 s for 16 MiB with one bad record at the end.)
    """
    magic, topic_field = expected
    if int(sizes.min()) < codec.RECORD_SIZE_MIN:
        number = int((sizes < codec.RECORD_SIZE_MIN).argmax())
        raise _wrong(number, "sizes", int(sizes[number]), f"at least {codec.RECORD_SIZE_MIN}")
    heads = gather_heads(body, starts)
    body_sizes = heads["body_size"].astype(np.int64)
    properties_sizes = sizes - (codec.BODY_OFFSET + len(topic_field) + 2) - body_sizes
    sound: BoolArray = (
        (heads["total_size"] == sizes)
        & (heads["magic"] == magic)
        & (heads["queue_id"] == queue_id)
        & ((heads["system_flag"] & ~SYSTEM_FLAGS_ALLOWED) == 0)
        & (body_sizes >= 0)
        & (body_sizes <= limits.body_size_max)
        & (properties_sizes >= 0)
        & (properties_sizes <= limits.properties_size_max)
    )
    if sound.all():
        tails = starts + codec.BODY_OFFSET + body_sizes
        sound = tails_match(body, tails, topic_field, properties_sizes)
        if sound.all():
            sound = _crcs_match(body, starts + codec.BODY_OFFSET, tails, heads["body_crc"])
            if sound.all():
                return
    number = int(sound.argmin())
    wanted = queue_id if isinstance(queue_id, int) else int(queue_id[number])
    _check_record(body, int(starts[number]), int(sizes[number]), number, expected, wanted, limits)
    raise AssertionError("the columns refuse what the record by itself does not")


def _crcs_match(body: memoryview, begins: IntArray, ends: IntArray, claimed: IntArray) -> BoolArray:
    size, stride = int(ends[0] - begins[0]), int(begins[1] - begins[0]) if len(begins) > 1 else 0
    if size and stride and (ends - begins == size).all() and (np.diff(begins) == stride).all():
        # Of one size and distance: numpy cuts them in two thirds of the time.
        if size < _COPIED_BELOW:
            table = np.ndarray((len(begins),), f"V{size}", body, int(begins[0]), (stride,))
            crcs = list(map(crc32, table.tolist()))
        else:
            rows = np.ndarray((len(begins), size), np.uint8, body, int(begins[0]), (stride, 1))
            crcs = list(map(crc32, rows))
    else:
        crcs = [
            crc32(body[begin:end])
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
        ]
    result: BoolArray = (np.array(crcs, np.uint32) & codec.CRC_MASK) == claimed
    return result


def _wrong(record: int, field: str, found: object, expected: object) -> CorruptRecordError:
    return CorruptRecordError(f"{found} where {expected} belongs", record=record, field=field)


def _wrong_flag(record: int, system_flag: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"{system_flag:#x} has bits a client may not set; allowed are {SYSTEM_FLAGS_ALLOWED:#x} "
        "(compression, several tags); hosts are IPv4 and left to the broker",
        record=record,
        field="system_flag",
    )


def _not_filling(body_size: int, sizes_sum: int, count: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"they sum up to {sizes_sum} bytes, the body has {body_size}",
        record=count - 1,
        field="sizes",
    )


def _too_large(record: int, check: object, size: int, limits: MessageLimits) -> InvalidMessageError:
    assert callable(check)
    try:
        check(size, limits)
    except InvalidMessageError as error:
        return InvalidMessageError(f"record {record}: {error}")
    raise AssertionError("the limit was not broken")
