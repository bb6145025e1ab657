"""Many messages in one buffer: our client's batches, producer marks, and RocketMQ's own batch body.

A client batch is records back to back, as the log will hold them, with the broker's fields blank,
and beside it a column of their sizes (uint32 each), so that the broker need not walk the bytes.

A producer mark may stand before records of one producer, topic and queue inside an entry.  By it
duplicates are recognised.  It is 40 bytes, big-endian:

    size            int32    0   40
    magic           int32    4   "DPM1"
    producer_id     uint64   8
    first_sequence  uint64  16   of the first record after the mark
    record_count    int32   24   so many records follow that belong to the mark
    queue_id        int32   28
    reserved        8 bytes 32   zero

Producer ids above `PRODUCER_ID_MAX` are the broker's own, which numbers what it writes by where it
took it from: numbers only grow, and some are left out.

RocketMQ's batch body (request 320) holds per message:

    total_size int32, magic int32 0, body_crc int32 0, flag int32, body_size int32, body,
    properties_size int16, properties          Source: ``MessageDecoder.encodeMessage``
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from broker.errors import CorruptRecordError
from broker.message.limits import BATCH_COUNT_MAX, PROPERTIES_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.message.codec import Buffer

MARK_SIZE = 40
MARK_MAGIC = 0x44504D31  # "DPM1"
PRODUCER_ID_MAX = (1 << 64) - 257  # of clients
_MARK = struct.Struct(">iIQQii8x")
_BATCH_HEAD = struct.Struct(">iiiii")
_U16 = struct.Struct(">H")

assert _MARK.size == MARK_SIZE


class ProducerMark(NamedTuple):
    """The records that follow are messages *first_sequence* onwards of one producer."""

    producer_id: int
    first_sequence: int
    record_count: int
    queue_id: int


def own_producer_id(number: int) -> int:
    """Return the id by which the broker itself is known where it writes messages anew.

    Args:
        number: 0 to 255: what it is that writes them.
    """
    assert 0 <= number <= 255
    return PRODUCER_ID_MAX + 1 + number


def encode_mark(mark: ProducerMark) -> bytes:
    """Return the 40 bytes of *mark*."""
    return pack_mark(*mark)


def pack_mark(producer_id: int, first_sequence: int, record_count: int, queue_id: int) -> bytes:
    """Return the 40 bytes of a mark that says so."""
    assert record_count >= 1
    return _MARK.pack(MARK_SIZE, MARK_MAGIC, producer_id, first_sequence, record_count, queue_id)


def decode_mark(buffer: Buffer, offset: int = 0) -> ProducerMark:
    """Return the mark at *offset*.

    Raises:
        CorruptRecordError: no whole producer mark lies there.
    """
    if len(buffer) - offset < MARK_SIZE:
        raise CorruptRecordError(
            f"{len(buffer) - offset} bytes are left, a mark has 40", record=0, field="size"
        )
    size, magic, *fields = _MARK.unpack_from(buffer, offset)
    if size != MARK_SIZE or magic != MARK_MAGIC:
        raise CorruptRecordError(
            f"size {size} and magic {magic:#x} are no producer mark's", record=0, field="magic"
        )
    mark = ProducerMark(*fields)
    if mark.record_count < 1:
        raise CorruptRecordError(f"{mark.record_count} records", record=0, field="record_count")
    return mark


def encode_sizes(sizes: Sequence[int]) -> bytes:
    """Return the column of record sizes that goes with a batch."""
    return struct.pack(f">{len(sizes)}I", *sizes)


def decode_sizes(column: Buffer) -> tuple[int, ...]:
    """Return the record sizes of a column.

    Raises:
        CorruptRecordError: the column is empty or no whole number of uint32.
    """
    if not column or len(column) % 4:
        raise CorruptRecordError(
            f"the column has {len(column)} bytes; a batch has 4 for each of its records",
            record=0,
            field="sizes",
        )
    return struct.unpack(f">{len(column) // 4}I", column)


class BatchMessage(NamedTuple):
    """One message of RocketMQ's batch body. *properties* are encoded."""

    flag: int
    body: bytes
    properties: bytes


def encode_batch_body(messages: Iterable[BatchMessage]) -> bytes:
    """Return the body of RocketMQ's batch request."""
    parts: list[bytes] = []
    for flag, body, properties in messages:
        total = _BATCH_HEAD.size + len(body) + 2 + len(properties)
        parts += (
            _BATCH_HEAD.pack(total, 0, 0, flag, len(body)),
            body,
            _U16.pack(len(properties)),
            properties,
        )
    return b"".join(parts)


def decode_batch_body(buffer: Buffer) -> list[BatchMessage]:
    """Return the messages of RocketMQ's batch request.

    Raises:
        CorruptRecordError: the body is not whole messages back to back, or holds none, or more
            than `BATCH_COUNT_MAX`.
    """
    messages: list[BatchMessage] = []
    offset = 0
    end = len(buffer)
    while offset < end:
        number = len(messages)
        if number >= BATCH_COUNT_MAX:
            raise CorruptRecordError(
                f"more than {BATCH_COUNT_MAX} messages in one batch; send fewer at a time",
                record=number,
                field="total_size",
            )
        if end - offset < _BATCH_HEAD.size + 2:
            raise CorruptRecordError(
                f"{end - offset} bytes are left, a message has 22",
                record=number,
                field="total_size",
            )
        total, _, _, flag, body_size = _BATCH_HEAD.unpack_from(buffer, offset)
        if not _BATCH_HEAD.size + 2 <= total <= end - offset:
            raise CorruptRecordError(
                f"{total} does not fit the {end - offset} bytes left",
                record=number,
                field="total_size",
            )
        body_at = offset + _BATCH_HEAD.size
        properties_at = body_at + body_size + 2
        if body_size < 0 or properties_at > offset + total:
            raise CorruptRecordError(
                f"{body_size} does not fit a message of {total} bytes",
                record=number,
                field="body_size",
            )
        (properties_size,) = _U16.unpack_from(buffer, properties_at - 2)
        if properties_at + properties_size != offset + total or (
            properties_size > PROPERTIES_SIZE_MAX
        ):
            raise CorruptRecordError(
                f"{properties_size} where {offset + total - properties_at} bytes are left",
                record=number,
                field="properties_size",
            )
        messages.append(
            BatchMessage(
                flag,
                bytes(buffer[body_at : body_at + body_size]),
                bytes(buffer[properties_at : offset + total]),
            )
        )
        offset += total
    if not messages:
        raise CorruptRecordError("the body holds no message", record=0, field="total_size")
    return messages
