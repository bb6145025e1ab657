"""Index of an entry -> where it lies.

Units of 32 bytes, big-endian, as DLedger lays them out (``DLedgerIndexEntry``):

    magic     int32    the entry's kind
    position  int64    of the entry's header in the log
    size      int32    of header and body
    index     int64
    term      int64

The unit of entry *i* is at byte ``i * 32`` of the sequence of files.  Derived state: delete the
folder while the node is down and the next start builds the same units from the log.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dledger.entry import EntryRef
from dledger.errors import CorruptStoreError, LedgerError
from dledger.store.mapped_file_queue import MappedFileQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dledger.entry import LogPoint
    from dledger.store.disk import Disk
    from dledger.store.mapped_file import MappedFile

UNIT_SIZE = 32

_UNIT = struct.Struct(">iqiqq")
_PLACE = struct.Struct(">qi")  # position and size, behind the magic


class EntryNotFoundError(LedgerError, LookupError):
    """The log does not hold that entry: it was dropped already, or is not there yet."""


class EntryIndex:
    """The index files of one log."""

    def __init__(self, files: MappedFileQueue) -> None:
        self.files = files

    @classmethod
    def open(cls, disk: Disk, folder: str, *, file_units: int, begin_index: int) -> EntryIndex:
        """Take up the files from the one that holds *begin_index*; blocking."""
        file_size = file_units * UNIT_SIZE
        start = begin_index * UNIT_SIZE // file_size * file_size
        try:
            files = MappedFileQueue.open(disk, folder, file_size, start=start, zeroes=False)
        except CorruptStoreError:
            for name in disk.list_folder(folder):  # derived: built again
                disk.unlink(f"{folder}/{name}")
            files = MappedFileQueue.open(disk, folder, file_size, start=start, zeroes=False)
        return cls(files)

    def reaches(self, base: LogPoint, point: LogPoint) -> bool:
        """Whether the units from *base* to *point* are there, as far as a glance can tell."""
        if not self.files.holds((base.index + 1) * UNIT_SIZE):
            return False
        if point.index == base.index:
            return True
        if not self.files.holds(point.index * UNIT_SIZE):
            return False
        try:
            last, first = self.read(point.index), self.read(base.index + 1)
        except CorruptStoreError:
            return False
        return (last.term, last.end) == (point.term, point.position) and (
            first.position >= base.position
        )

    def reset(self, begin_index: int) -> None:
        """Begin anew, the first unit being that of *begin_index*; blocking.

        Raises:
            LedgerFullError: no room for the file.
        """
        self.files.reset(begin_index * UNIT_SIZE)

    # -- write ------------------------------------------------------------------------------------

    def has_room(self, index: int) -> bool:
        """Whether units up to that of *index* fit without allocating."""
        end, room = (index + 1) * UNIT_SIZE, self.files.last.end
        return end <= room or end <= room + self.files.spare_count * self.files.file_size

    def needs_prepare(self, end_index: int) -> bool:
        """Whether the next file should be prepared now: no spare, and half of the last is used."""
        room = self.files.last.end - end_index * UNIT_SIZE
        return self.files.spare_count == 0 and room <= self.files.file_size // 2

    def prepare_spare(self) -> None:
        """Prepare the next file; blocking, any thread. See `MappedFileQueue.prepare_spare`."""
        self.files.prepare_spare()

    def reserve(self, index: int) -> None:
        """Add files until the unit of *index* has a place.

        Raises:
            LedgerFullError: no room for another file.
        """
        while self.files.last.end <= index * UNIT_SIZE:
            self.files.roll()

    def write(self, refs: Sequence[EntryRef]) -> None:
        """Write the units of *refs*, whose places are reserved."""
        offset = refs[0].index * UNIT_SIZE
        file = self.files.find(offset)
        room = (file.end - offset) // UNIT_SIZE
        units = [
            _UNIT.pack(ref.kind, ref.position, ref.size, ref.index, ref.term)
            for ref in (refs if len(refs) <= room else refs[:room])
        ]
        file.write(offset, units, through_map=True)
        if len(refs) > room:
            self.write(refs[room:])

    def files_ending_within(self, begin_index: int, end_index: int) -> list[MappedFile]:
        """Return the files whose last unit is of an entry from *begin_index* to *end_index*."""
        return self.files.files_ending_within(begin_index * UNIT_SIZE, (end_index + 1) * UNIT_SIZE)

    def take_before(self, index: int) -> list[MappedFile]:
        """Take the files that only hold units below *index* out; the caller retires them."""
        return self.files.take_before(index * UNIT_SIZE)

    # -- read -------------------------------------------------------------------------------------

    def path_of(self, index: int) -> str:
        """Return the path of the file that holds the unit of entry *index*."""
        return self.files.path_of(index * UNIT_SIZE)

    def read(self, index: int) -> EntryRef:
        """Return the unit of entry *index*, which the log holds.

        Raises:
            CorruptStoreError: the unit is not that of *index*.
        """
        file = self.files.find(index * UNIT_SIZE)
        kind, position, size, found, term = _UNIT.unpack_from(
            file.bytes, index * UNIT_SIZE - file.position
        )
        if found != index:
            raise CorruptStoreError(
                f"{file.path}: the unit of entry {index} is damaged; stop the node, delete the "
                f"folder {self.files.folder} and start: it is built again from the log"
            )
        return EntryRef(index, term, position, size, kind)

    def last_within(self, first_index: int, last_index: int, *, end_max: int) -> EntryRef:
        """Return the last entry of the range that ends at or before position *end_max*.

        The first entry must do so.
        """
        # The range sought is mostly short, and its far end a long way off: look near by first.
        step = 1
        while first_index + step < last_index and self._end_of(first_index + step) <= end_max:
            step *= 2
        last_index = min(last_index, first_index + step)
        behind = _search(
            first_index + step // 2 + 1, last_index + 1, lambda i: self._end_of(i) > end_max
        )
        return self.read(behind - 1)

    def first_of_term(self, term: int, first_index: int, last_index: int) -> int:
        """Return the first index of the range with *term* or a later one, else one behind it."""
        return _search(first_index, last_index + 1, lambda i: self.read(i).term >= term)

    def first_ending_after(self, position: int, first_index: int, last_index: int) -> int:
        """Return the first index of the range whose entry ends behind *position*."""
        return _search(first_index, last_index + 1, lambda i: self._end_of(i) > position)

    def _end_of(self, index: int) -> int:
        file = self.files.find(index * UNIT_SIZE)
        position, size = _PLACE.unpack_from(file.bytes, index * UNIT_SIZE - file.position + 4)
        end: int = position + size
        return end


def _search(low: int, high: int, is_behind: Callable[[int], bool]) -> int:
    """Return the lowest number from *low* on that *is_behind*; *high* if none below it is."""
    while low < high:
        middle = (low + high) // 2
        if is_behind(middle):
            high = middle
        else:
            low = middle + 1
    return low
