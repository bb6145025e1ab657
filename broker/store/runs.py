"""Reading the records of an entry in runs: consecutive records of one topic and queue.

A run is what dispatch works on.  Its consume-queue units are made here, by column where there are
enough records, without an object for each record.  What does not parse raises, and what parses is
proved to be what the leader stamped: places, and queue offsets without a gap inside the run.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from broker.errors import CorruptRecordError
from broker.message import codec
from broker.message.batch import MARK_MAGIC, MARK_SIZE, ProducerMark, decode_mark
from broker.message.properties import find_property
from broker.store.columns import (
    COLUMN_MIN,
    UNIT,
    gather,
    gather_heads,
    tails_match,
    uniform_places,
)
from broker.store.hashing import string_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.store.columns import IntArray

UNIT_SIZE = 20
_UNIT = struct.Struct(">qiq")
_LEAD = struct.Struct(">iI")
_HEAD = struct.Struct(">iI4xi4xqqi16xq20xi")
_U16 = struct.Struct(">H")
_TAGS = b"TAGS"
_TAGS_NAME = b"TAGS\x01"
_TAGS_CACHED_MAX = 4096

assert _HEAD.size == codec.BODY_OFFSET
assert UNIT.itemsize == _UNIT.size == UNIT_SIZE


class RecordRun(NamedTuple):
    """Consecutive records of one topic and queue, as they lie in the log."""

    topic: str
    queue_id: int
    record_count: int
    first_queue_offset: int
    first_position: int  # of the first record in the log, in bytes
    store_timestamp_ms: int  # of the first record
    units: bytes  # of the consume queue, 20 bytes for each record
    mark: ProducerMark | None  # which messages of which producer they are
    size: int  # bytes of all records
    # Where the properties of each record begin and end in the entry's body.
    properties_begins: Sequence[int] | IntArray
    properties_ends: Sequence[int] | IntArray


class RunReader:
    """Reads entry bodies; keeps the hashes of tags it has seen, as there are few."""

    def __init__(self) -> None:
        self._tags_codes: dict[bytes, int] = {}

    def runs(self, body: memoryview, body_position: int) -> Iterator[RecordRun]:
        """Yield the runs of an entry's *body* that lies at *body_position* of the log.

        Raises:
            CorruptRecordError: the body is not what a leader of this version writes.
        """
        at = 0
        number = 0
        end = len(body)
        while at < end:
            _, magic = _lead(body, at, number)
            mark = None
            if magic == MARK_MAGIC:
                mark = decode_mark(body, at)
                at += MARK_SIZE
                starts, at = _marked(body, at, mark.record_count, number)
            else:
                starts, at = _unmarked(body, at, number)
            yield self._run(body, body_position, starts, at, mark, number)
            number += len(starts)

    def _run(
        self,
        body: memoryview,
        body_position: int,
        starts: list[int] | IntArray,
        end: int,
        mark: ProducerMark | None,
        number: int,
    ) -> RecordRun:
        first = int(starts[0])
        head = _HEAD.unpack_from(body, first)
        size, magic, queue_id, queue_offset, _, _, store_timestamp, body_size = head
        topic_field, topic = _topic(body, first, size, magic, body_size, number)
        if mark is not None and mark.queue_id != queue_id:
            raise _wrong(number, "queue_id", f"{queue_id} behind a mark of {mark.queue_id}")
        begins: Sequence[int] | IntArray
        ends: Sequence[int] | IntArray
        if len(starts) < COLUMN_MIN:
            units, begins, ends = self._units_each(
                body, body_position, starts, end, head, topic_field, number
            )
        else:
            array = np.asarray(starts, np.int64)
            units, begins, ends = self._units_columns(
                body, body_position, array, end, head, topic_field, number
            )
        return RecordRun(
            topic,
            queue_id,
            len(starts),
            queue_offset,
            body_position + first,
            store_timestamp,
            units,
            mark,
            end - first,
            begins,
            ends,
        )

    def _units_each(
        self,
        body: memoryview,
        body_position: int,
        starts: Sequence[int] | IntArray,
        end: int,
        first: tuple[int, ...],
        topic_field: bytes,
        number: int,
    ) -> tuple[bytes, list[int], list[int]]:
        _, magic, queue_id, first_queue_offset, *_ = first
        units: list[bytes] = []
        begins: list[int] = []
        ends: list[int] = []
        for nth, at in enumerate(starts):
            size, found_magic, found_queue, queue_offset, position, flags, _, body_size = (
                _HEAD.unpack_from(body, at)
            )
            topic_at = at + codec.BODY_OFFSET + body_size
            properties_at = topic_at + len(topic_field) + 2
            if (
                found_magic != magic
                or found_queue != queue_id
                or flags & _FLAGS_REFUSED
                or body_size < 0
                or properties_at > at + size
                or at + size > end
                or body[topic_at : properties_at - 2] != topic_field
                or _U16.unpack_from(body, properties_at - 2)[0] != at + size - properties_at
            ):
                raise _wrong(number + nth, "head", "it does not parse, or not like its neighbours")
            if queue_offset != first_queue_offset + nth:
                raise _wrong(
                    number + nth,
                    "queue_offset",
                    f"{queue_offset} where {first_queue_offset + nth} belongs",
                )
            if position != body_position + at:
                raise _wrong(
                    number + nth, "position", f"{position} at position {body_position + at}"
                )
            code = self._tags_code(bytes(body[properties_at : at + size]))
            units.append(_UNIT.pack(position, size, code))
            begins.append(properties_at)
            ends.append(at + size)
        return b"".join(units), begins, ends

    def _units_columns(
        self,
        body: memoryview,
        body_position: int,
        starts: IntArray,
        end: int,
        first: tuple[int, ...],
        topic_field: bytes,
        number: int,
    ) -> tuple[bytes, IntArray, IntArray]:
        _, magic, queue_id, first_queue_offset, *_ = first
        count = len(starts)
        ends = np.append(starts[1:], end)
        sizes = ends - starts
        heads = gather_heads(body, starts)
        body_sizes = heads["body_size"].astype(np.int64)
        topics = starts + codec.BODY_OFFSET + body_sizes
        properties_sizes = ends - topics - (len(topic_field) + 2)
        sound = (
            (heads["total_size"] == sizes)
            & (heads["magic"] == magic)
            & (heads["queue_id"] == queue_id)
            & (heads["system_flag"] & _FLAGS_REFUSED == 0)
            & (body_sizes >= 0)
            & (properties_sizes >= 0)
            & (heads["queue_offset"] == first_queue_offset + np.arange(count))
            & (heads["position"] == starts + body_position)
        )
        if sound.all():
            sound = tails_match(body, topics, topic_field, properties_sizes)
        if not sound.all():
            # Only to say what is wrong with which one.
            self._units_each(body, body_position, starts, end, first, topic_field, number)
            raise _wrong(number + int(sound.argmin()), "total_size", "it ends inside the next one")
        units = np.empty(count, UNIT)
        units["position"] = heads["position"]
        units["size"] = sizes
        begins = ends - properties_sizes
        units["tags_code"] = self._tags_codes_of(body, begins, ends)
        return units.tobytes(), begins, ends

    def _tags_codes_of(
        self, body: memoryview, properties: IntArray, ends: IntArray
    ) -> list[int] | int:
        # Nothing but properties is copied: bodies are most of a run.
        sizes = ends - properties
        size = int(sizes[0])
        if (sizes == size).all():
            if not size:
                return 0
            packed = gather(body, properties, size).tobytes()
        else:
            begins_and_ends = zip(properties.tolist(), ends.tolist(), strict=True)
            packed = b"".join([body[begin:end] for begin, end in begins_and_ends])
        if packed.find(_TAGS_NAME) < 0:
            return 0
        ends = np.cumsum(sizes)
        places = zip((ends - sizes).tolist(), ends.tolist(), strict=True)
        tags_code = self._tags_code
        return [tags_code(packed[begin:end]) for begin, end in places]

    def _tags_code(self, properties: bytes) -> int:
        tag = find_property(properties, _TAGS)
        if tag is None:
            return 0
        code = self._tags_codes.get(tag)
        if code is None:
            if len(self._tags_codes) >= _TAGS_CACHED_MAX:
                self._tags_codes.clear()
            code = self._tags_codes[tag] = string_hash(tag.decode("utf-8", "replace"))
        return code


# IPv6 hosts would move the fields behind them; transactions have no place in a consume queue.
_FLAGS_REFUSED = codec.FLAG_BORN_HOST_V6 | codec.FLAG_STORE_HOST_V6 | codec.FLAG_TRANSACTION_MASK


def _lead(body: memoryview, at: int, number: int) -> tuple[int, int]:
    """Return size and magic of the record or mark at *at*."""
    if len(body) - at < MARK_SIZE:
        raise _wrong(number, "total_size", f"only {len(body) - at} bytes are left")
    size, magic = _LEAD.unpack_from(body, at)
    return size, magic


def _marked(body: memoryview, at: int, count: int, number: int) -> tuple[list[int] | IntArray, int]:
    """Return the places of *count* records from *at* on, and where the last one ends."""
    if count > (len(body) - at) // codec.RECORD_SIZE_MIN:
        raise _wrong(number, "record_count", f"{count} records do not fit the entry")
    if count >= COLUMN_MIN:
        size, _ = _record_lead(body, at, number)
        places = uniform_places(body, at, count, size=size, lead=bytes(body[at : at + 8]))
        if places is not None:
            return places, at + count * size
    starts: list[int] = []
    for nth in range(count):
        size, _ = _record_lead(body, at, number + nth)
        starts.append(at)
        at += size
    return starts, at


def _unmarked(body: memoryview, at: int, number: int) -> tuple[list[int], int]:
    """Return the places of records from *at* on that name one topic and queue, and their end."""
    starts: list[int] = []
    first: tuple[bytes, int] | None = None
    end = len(body)
    while at < end:
        if _lead(body, at, number + len(starts))[1] == MARK_MAGIC:
            break
        size, magic = _record_lead(body, at, number + len(starts))
        _, _, queue_id, _, _, _, _, body_size = _HEAD.unpack_from(body, at)
        topic_field, _ = _topic(body, at, size, magic, body_size, number + len(starts))
        if first is None:
            first = topic_field, queue_id
        elif first != (topic_field, queue_id):
            break
        starts.append(at)
        at += size
    return starts, at


def _record_lead(body: memoryview, at: int, number: int) -> tuple[int, int]:
    size, magic = _lead(body, at, number)
    if magic != codec.MAGIC_V1 and magic != codec.MAGIC_V2:
        raise _wrong(number, "magic", f"{magic:#x} is no record's of this version")
    if not codec.RECORD_SIZE_MIN <= size <= len(body) - at:
        raise _wrong(number, "total_size", f"{size} where {len(body) - at} bytes are left")
    return size, magic


def _topic(
    body: memoryview, at: int, size: int, magic: int, body_size: int, number: int
) -> tuple[bytes, str]:
    """Return the topic of a record: the field with its length, and the name."""
    field_at = at + codec.BODY_OFFSET + body_size
    end = at + size
    head_size = 1 if magic == codec.MAGIC_V1 else 2
    if body_size < 0 or field_at + head_size + 2 > end:
        raise _wrong(number, "body_size", f"{body_size} does not fit {size} bytes")
    topic_size = body[field_at] if head_size == 1 else _U16.unpack_from(body, field_at)[0]
    field_end = field_at + head_size + topic_size
    if field_end + 2 > end:
        raise _wrong(number, "topic_size", f"{topic_size} does not fit the record")
    field = bytes(body[field_at:field_end])
    try:
        return field, field[head_size:].decode()
    except UnicodeDecodeError as error:
        raise _wrong(number, "topic", f"no UTF-8: {error.reason}") from error


def _wrong(number: int, field: str, message: str) -> CorruptRecordError:
    return CorruptRecordError(message, record=number, field=field)
