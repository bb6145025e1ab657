"""One file of the key index, as RocketMQ lays it out, and how entries are chained in it.

    header     40 bytes
        begin_timestamp   int64   store time of the first entry's record, milliseconds since 1970
        end_timestamp     int64   the latest store time
        begin_position    int64   of the first entry's record in the log
        end_position      int64   of the last one's
        slots_used        int32
        count             int32   entries, and one more: number 0 is not used
    slots      int32 each: number of the latest entry whose hash leads there; 0 for none
    entries    20 bytes each
        hash              int32   of topic and key, see `broker.store.index_keys`
        position          int64   of the record
        seconds           int32   from begin_timestamp to the record's store time
        previous          int32   number of the entry before it in the same slot; 0 for none

Entries are only ever added.  Slots and header follow from them, so what a crash leaves of those
does not matter: a start works them out again.

Source: RocketMQ ``IndexFile``, ``IndexHeader``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from broker.store.growing_files import Piece

if TYPE_CHECKING:
    from broker.store.columns import IntArray
    from broker.store.hashing import HashArray

HEADER_SIZE = 40
SLOT_SIZE = 4
ENTRY_SIZE = 20
SECONDS_MAX = (1 << 31) - 1

ENTRY = np.dtype([("hash", ">i4"), ("position", ">i8"), ("seconds", ">i4"), ("previous", ">i4")])
_HEADER = struct.Struct(">qqqqii")
_SLOT = np.dtype(">i4")
_PAGE_SLOTS = 1024  # slots written together: 4 KiB

SlotArray = np.ndarray[Any, np.dtype[np.int32]]
EntryArray = np.ndarray[Any, Any]  # of ENTRY

assert _HEADER.size == HEADER_SIZE
assert ENTRY.itemsize == ENTRY_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexShape:
    """How many slots and entries the files of one index have."""

    slot_count: int
    entry_count: int  # most entries of one file

    @property
    def entries_at(self) -> int:
        """Where entry 0 would lie in a file, in bytes."""
        return HEADER_SIZE + SLOT_SIZE * self.slot_count

    def entry_at(self, number: int) -> int:
        """Return where entry *number* lies in a file, in bytes."""
        return self.entries_at + ENTRY_SIZE * number


class IndexHeader(NamedTuple):
    """The header of a file."""

    begin_timestamp: int
    end_timestamp: int
    begin_position: int
    end_position: int
    slots_used: int
    next_number: int  # "count" of the layout

    @property
    def entry_count(self) -> int:
        """Entries the file has."""
        return self.next_number - 1

    def encode(self) -> bytes:
        """Return the bytes of this header."""
        return _HEADER.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> IndexHeader | None:
        """Return the header *data* holds; None when they are too few."""
        return cls(*_HEADER.unpack(data)) if len(data) == HEADER_SIZE else None


class GrowingIndexFile:
    """The file that entries are added to; what is not written yet lies in memory."""

    def __init__(self, path: str, shape: IndexShape, *, name_ms: int) -> None:
        self.path = path
        self.name_ms = name_ms
        self._shape = shape
        self._slots: SlotArray = np.zeros(shape.slot_count, np.int32)
        self._slots_used = 0
        self._dirty = np.zeros(-(-shape.slot_count // _PAGE_SLOTS), np.bool_)
        self._is_header_dirty = False
        self._count = 0
        self._begin_timestamp = self._end_timestamp = 0
        self._begin_position = self._end_position = 0
        self._tail = bytearray()  # entries from number _written + 1 on
        self._captured = 0  # entries a job writes or wrote
        self._written = 0  # entries the file holds

    @property
    def header(self) -> IndexHeader:
        """The header as it is now."""
        return IndexHeader(
            self._begin_timestamp,
            self._end_timestamp,
            self._begin_position,
            self._end_position,
            self._slots_used,
            self._count + 1,
        )

    @property
    def count(self) -> int:
        """Entries so far."""
        return self._count

    @property
    def is_written(self) -> bool:
        """Whether the file holds all entries."""
        return self._written == self._count

    @property
    def room(self) -> int:
        """Entries that still fit."""
        return self._shape.entry_count - self._count

    def add(self, hashes: HashArray, positions: IntArray, times_ms: IntArray) -> None:
        """Add entries, in order; not more than there is `room` for."""
        count = len(hashes)
        assert 0 < count <= self.room
        if self._count == 0:
            self._begin_timestamp = self._end_timestamp = int(times_ms[0])
            self._begin_position = int(positions[0])
        entries = np.empty(count, ENTRY)
        entries["hash"] = hashes
        entries["position"] = positions
        entries["seconds"] = np.clip((times_ms - self._begin_timestamp) // 1000, 0, SECONDS_MAX)
        entries["previous"] = self._link(hashes)
        self._tail += entries.tobytes()
        self._end_timestamp = max(self._end_timestamp, int(times_ms.max()))
        self._end_position = int(positions[-1])
        self._is_header_dirty = True

    def load(self, entries: EntryArray, header: IndexHeader, disk_slots: bytes) -> bool:
        """Take up what the file holds; whether it hangs together.

        Args:
            entries: the first ones of the file, all that count.
            header: what is to be in the header, but for the slots used; its first fields are
                taken from the file.
            disk_slots: the slots the file has, right or not.
        """
        assert self._count == 0
        previous = self._link(entries["hash"].astype(np.uint32))
        positions = entries["position"]
        if (
            not np.array_equal(previous, entries["previous"])
            or (positions[1:] < positions[:-1]).any()
            or int(entries["hash"].min()) < 0
            or int(entries["seconds"].min()) < 0
            or int(positions[0]) != header.begin_position
        ):
            return False
        self._begin_timestamp, self._end_timestamp = header.begin_timestamp, header.end_timestamp
        self._begin_position, self._end_position = header.begin_position, int(positions[-1])
        self._captured = self._written = self._count
        found = np.frombuffer(disk_slots, _SLOT)
        wrong = np.flatnonzero(found != self._slots) // _PAGE_SLOTS
        self._dirty[:] = False
        self._dirty[wrong] = True
        self._is_header_dirty = True
        return True

    def matches_in_memory(self, wanted_hash: int) -> tuple[EntryArray, int]:
        """Return the entries of that hash no file holds yet, and where to go on in the file.

        Returns:
            Entries, oldest first; and the number of the latest entry in the file that shares
            their slot, 0 for none.
        """
        slot = wanted_hash % self._shape.slot_count
        tail = np.frombuffer(bytes(self._tail), ENTRY)
        in_slot = tail[tail["hash"] % self._shape.slot_count == slot]
        number = int(in_slot["previous"][0]) if len(in_slot) else int(self._slots[slot])
        return in_slot[in_slot["hash"] == wanted_hash], number

    def content(self, written_entries: bytes) -> bytes:
        """Return the bytes the file has when all is written.

        Args:
            written_entries: those that the file holds already, from number 1 on.
        """
        assert len(written_entries) == ENTRY_SIZE * self._written
        slots = self._slots.astype(_SLOT).tobytes()
        return b"".join(
            (self.header.encode(), slots, bytes(ENTRY_SIZE), written_entries, self._tail)
        )

    @property
    def written_count(self) -> int:
        """Entries the file holds."""
        return self._written

    def begin_flush(self) -> list[Piece]:
        """Return what is to be written so that the file is as it is here; the order is kept."""
        pieces: list[Piece] = []
        shape = self._shape
        if self._captured < self._count:
            begin = (self._captured - self._written) * ENTRY_SIZE
            data = bytes(memoryview(self._tail)[begin:])
            pieces.append(Piece(self.path, shape.entry_at(self._captured + 1), data))
            self._captured = self._count
        for first, last in _stretches(np.flatnonzero(self._dirty)):
            begin, end = first * _PAGE_SLOTS, min((last + 1) * _PAGE_SLOTS, shape.slot_count)
            data = self._slots[begin:end].astype(_SLOT).tobytes()
            pieces.append(Piece(self.path, HEADER_SIZE + begin * SLOT_SIZE, data))
        self._dirty[:] = False
        if self._is_header_dirty:
            pieces.append(Piece(self.path, 0, self.header.encode()))
            self._is_header_dirty = False
        return pieces

    def finish_flush(self, written_count: int) -> None:
        """Take note that the file holds the first *written_count* entries."""
        assert self._written <= written_count <= self._captured
        del self._tail[: (written_count - self._written) * ENTRY_SIZE]
        self._written = written_count

    def _link(self, hashes: HashArray) -> SlotArray:
        """Put the next entries into their slots; return which entry comes before each."""
        count = len(hashes)
        slots = (hashes % np.uint32(self._shape.slot_count)).astype(np.int64)
        numbers = np.arange(self._count + 1, self._count + 1 + count, dtype=np.int32)
        order = np.argsort(slots, kind="stable")
        sorted_slots = slots[order]
        sorted_numbers = numbers[order]
        sorted_previous = self._slots[sorted_slots]
        is_same = sorted_slots[1:] == sorted_slots[:-1]
        is_first = np.concatenate(([True], ~is_same))
        is_last = np.concatenate((~is_same, [True]))
        self._slots_used += int((sorted_previous[is_first] == 0).sum())
        sorted_previous[1:][is_same] = sorted_numbers[:-1][is_same]
        self._slots[sorted_slots[is_last]] = sorted_numbers[is_last]
        self._dirty[sorted_slots[is_last] // _PAGE_SLOTS] = True
        previous: SlotArray = np.empty(count, np.int32)
        previous[order] = sorted_previous
        self._count += count
        return previous


def _stretches(numbers: IntArray) -> list[tuple[int, int]]:
    """Return the first and last of each row of consecutive *numbers*, which ascend."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) > 1)
    firsts = [int(numbers[0]), *numbers[breaks + 1].tolist()]
    lasts = [*numbers[breaks].tolist(), int(numbers[-1])]
    return list(zip(firsts, lasts, strict=True))
