"""Small entries of records, read together: most of what one alone costs is not in its bytes.

The walk goes from header to header and ends before the first entry that wants to be looked at by
itself: of another channel or kind, cut off, with many properties, or odd in any way.  What is wrong
with it is then said where entries are taken in one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from broker.errors import CorruptRecordError
from broker.message.batch import ProducerMark
from broker.store import compiled
from broker.store.log_view import CHANNEL_RECORDS
from broker.store.runs import RecordRun
from dledger.entry import HEADER_SIZE, EntryKind, LogPoint, decode_header

if TYPE_CHECKING:
    from broker.store.runs import RunReader

# Bytes of properties in more than one entry: each two may be a key, and take a microsecond.
PROPERTIES_SIZE_MAX = 4096


class EntryBatch(NamedTuple):
    """Entries of records that were read together, back to back in the log."""

    runs: list[RecordRun]  # their properties lie in the bytes that were read
    indexes: list[int]  # of the entry of each run
    end: LogPoint  # the point behind the last entry


def read_entries(
    reader: RunReader, raw: memoryview, position: int, *, index: int, last_index: int
) -> EntryBatch | None:
    """Read as many entries as can be read together.

    Args:
        reader: keeps what it has seen of topics and tags.
        raw: of the log, the first entry at its begin.
        position: of that entry.
        index: of that entry.
        last_index: of the last that is committed.

    Returns:
        None when there is none at all.
    """
    if compiled.loops is not None:
        found = compiled.loops.read_entries(
            raw, position, index, last_index, PROPERTIES_SIZE_MAX, RecordRun, ProducerMark,
            reader.lanes, reader.make_lane, reader.tags_code,
        )  # fmt: skip
    else:
        found = _read_each(reader, raw, position, index, last_index)
    if found is None:
        return None
    runs, indexes, end = found
    return EntryBatch(runs, indexes, LogPoint(*end)) if end[0] >= index else None


def _read_each(
    reader: RunReader, raw: memoryview, position: int, index: int, last_index: int
) -> tuple[list[RecordRun], list[int], tuple[int, int, int, int]]:
    runs: list[RecordRun] = []
    indexes: list[int] = []
    at = term = chain_crc = properties_size = 0
    while index <= last_index and len(raw) - at >= HEADER_SIZE:
        header = decode_header(raw, at)
        if (
            header.kind != EntryKind.NORMAL
            or not HEADER_SIZE <= header.size <= len(raw) - at
            or header.index != index
            or header.position != position + at
            or header.channel != CHANNEL_RECORDS
            or header.body_size != header.size - HEADER_SIZE
        ):
            break
        body_at, end = at + HEADER_SIZE, at + header.size
        try:
            found = list(reader.runs(raw[body_at:end], position + body_at))
        except CorruptRecordError:
            break
        properties_size += sum(
            int(sum(run.properties_ends)) - int(sum(run.properties_begins)) for run in found
        )
        if at and properties_size > PROPERTIES_SIZE_MAX:
            break
        runs += [_moved(run, body_at) for run in found]
        indexes += [index] * len(found)
        term, chain_crc = header.term, header.chain_crc
        at = end
        index += 1
    return runs, indexes, (index - 1, term, position + at, chain_crc)


def _moved(run: RecordRun, distance: int) -> RecordRun:
    """Return *run* with its properties further behind by *distance* bytes."""
    begins, ends = run.properties_begins, run.properties_ends
    if isinstance(begins, np.ndarray) and isinstance(ends, np.ndarray):
        begins, ends = begins + distance, ends + distance
    else:
        begins, ends = [at + distance for at in begins], [at + distance for at in ends]
    return run._replace(properties_begins=begins, properties_ends=ends)
