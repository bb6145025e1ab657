"""Where the runs of an entry lie: a walk from mark to mark and record to record.

Sizes are believed only as far as they fit the entry, so that what reads the records afterwards
finds each of them inside of it.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from broker.errors import CorruptRecordError
from broker.message import codec
from broker.message.batch import MARK_MAGIC, MARK_SIZE, ProducerMark, decode_mark
from broker.store.columns import COLUMN_MIN, uniform_places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.store.columns import IntArray

_LEAD = struct.Struct(">iI")
HEAD = struct.Struct(">iI4xi4xqqi16xq20xi")
_U16 = struct.Struct(">H")

assert HEAD.size == codec.BODY_OFFSET


class LaidRun(NamedTuple):
    """Where the records of a run lie in the body of their entry."""

    mark: ProducerMark | None
    starts: list[int] | IntArray
    end: int
    number: int  # of the first record in the entry


def layout_of(body: memoryview) -> Iterator[LaidRun]:
    """Walk over the runs of an entry."""
    at = number = 0
    end = len(body)
    while at < end:
        _, magic = _lead(body, at, number)
        mark = None
        starts: list[int] | IntArray
        if magic == MARK_MAGIC:
            mark = decode_mark(body, at)
            at += MARK_SIZE
            starts, at = _marked(body, at, mark.record_count, number)
        else:
            starts, at = _unmarked(body, at, number)
        yield LaidRun(mark, starts, at, number)
        number += len(starts)


def places_of(layout: list[LaidRun]) -> tuple[IntArray, IntArray]:
    """Return begin and end of each record of an entry."""
    begins: list[IntArray] = []
    ends: list[IntArray] = []
    few: list[int] = []  # places of runs that are no arrays, begins and ends in turn
    for run in layout:
        starts = run.starts
        if isinstance(starts, list):
            for begin, end in pairwise([*starts, run.end]):
                few += (begin, end)
            continue
        if few:
            _add_places(few, begins, ends)
        begins.append(starts)
        ends.append(np.append(starts[1:], run.end))
    if few:
        _add_places(few, begins, ends)
    if len(begins) == 1:
        return begins[0], ends[0]
    return np.concatenate(begins), np.concatenate(ends)


def _add_places(few: list[int], begins: list[IntArray], ends: list[IntArray]) -> None:
    places = np.array(few, np.int64)
    few.clear()
    begins.append(places[0::2])
    ends.append(places[1::2])


def _lead(body: memoryview, at: int, number: int) -> tuple[int, int]:
    """Return size and magic of the record or mark at *at*."""
    if len(body) - at < MARK_SIZE:
        raise corrupt(number, "total_size", f"only {len(body) - at} bytes are left")
    size, magic = _LEAD.unpack_from(body, at)
    return size, magic


def _marked(body: memoryview, at: int, count: int, number: int) -> tuple[list[int] | IntArray, int]:
    """Return the places of *count* records from *at* on, and where the last one ends."""
    if count > (len(body) - at) // codec.RECORD_SIZE_MIN:
        raise corrupt(number, "record_count", f"{count} records do not fit the entry")
    if count >= COLUMN_MIN:
        size, _ = _record_lead(body, at, number)
        places = uniform_places(body, at, count, size=size)
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
        _, _, queue_id, _, _, _, _, body_size = HEAD.unpack_from(body, at)
        topic_field, _ = topic_of(body, at, size, magic, body_size, number + len(starts))
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
        raise corrupt(number, "magic", f"{magic:#x} is no record's of this version")
    if not codec.RECORD_SIZE_MIN <= size <= len(body) - at:
        raise corrupt(number, "total_size", f"{size} where {len(body) - at} bytes are left")
    return size, magic


def topic_of(
    body: memoryview, at: int, size: int, magic: int, body_size: int, number: int
) -> tuple[bytes, str]:
    """Return the topic of a record: the field with its length, and the name."""
    field_at = at + codec.BODY_OFFSET + body_size
    end = at + size
    head_size = 1 if magic == codec.MAGIC_V1 else 2
    if body_size < 0 or field_at + head_size + 2 > end:
        raise corrupt(number, "body_size", f"{body_size} does not fit {size} bytes")
    topic_size = body[field_at] if head_size == 1 else _U16.unpack_from(body, field_at)[0]
    field_end = field_at + head_size + topic_size
    if field_end + 2 > end:
        raise corrupt(number, "topic_size", f"{topic_size} does not fit the record")
    field = bytes(body[field_at:field_end])
    try:
        return field, field[head_size:].decode()
    except UnicodeDecodeError as error:
        raise corrupt(number, "topic", f"no UTF-8: {error.reason}") from error


def corrupt(number: int, field: str, message: str) -> CorruptRecordError:
    """Return the error that says what is wrong with record *number* of the entry."""
    return CorruptRecordError(message, record=number, field=field)
