"""Files of one size in the order of their positions: a long run of bytes.

New files come from *spares*: files of the right size under neutral names, allocated ahead by a
worker or left over from the files retired.  A retired file becomes a spare only when no view of it
is alive, since bytes under a reader never change; otherwise it is unlinked and the last reader
frees it.  A spare is not cleaned: whoever reads the files must know old bytes from new.

    00000000000000000000, 00000000001073741824, ...    20 digits: position of the first byte
    spare-7                                            waits for its turn
    *.tmp                                              an allocation that a crash cut short
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import re
import threading
from collections import deque
from typing import TYPE_CHECKING

from dledger.entry import HEADER_SIZE
from dledger.errors import CorruptStoreError, StorageFailedError
from dledger.store.disk import NO_ROOM, TEMPORARY_SUFFIX
from dledger.store.mapped_file import MappedFile
from dledger.store.slot_file import REMEDY
from dledger.store.zeros import ZERO_PIECE, ZEROS, ZEROS_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.store.disk import Disk

SPARES_MAX = 2

# A new log file can be taken as soon as so much of it is zeroed, some 10 ms, or less where files
# are small.  The rest follows by and by until it is taken: appends need not wait for all of it.
_ZERO_SIZE_NOW = 4 * 1024 * 1024
_ZERO_SHARE = 64  # parts of a file at least, the first and each one that follows
_PAGE = 4096

# The disk is as sound as it was: there is no room on it, or no descriptor or memory to be had.
_SCARCE = (*NO_ROOM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_REWRITE_SIZE = 1024 * 1024  # bytes at a time

_POSITION = re.compile(r"\d{20}\Z")
_SPARE = re.compile(r"spare-(\d+)\Z")
_log = logging.getLogger(__name__)


class MappedFileQueue:
    """The files of one folder. Not empty, except between `open` and `reset`.

    Attributes:
        last: the file that is being filled; not there as long as there are none.
    """

    last: MappedFile

    def __init__(self, disk: Disk, folder: str, file_size: int, *, zeroes: bool) -> None:
        self.folder = folder
        self.file_size = file_size
        self._zero_size_now, self._zero_piece = _zero_sizes(file_size) if zeroes else (0, 0)
        self._disk = disk
        self._files: list[MappedFile] = []
        self._spares: deque[MappedFile] = deque()
        self._bare: tuple[MappedFile, int] | None = None  # a spare, and up to where it has zeros
        self._leftovers: list[MappedFile] = []
        self._is_folder_dirty = False
        self._allocating = threading.Lock()
        self._zeroing = threading.Lock()  # a spare; held for a piece
        self._is_closed = False  # nothing is written any more: another process may have the files
        self._spare_numbers = itertools.count()

    @classmethod
    def open(
        cls, disk: Disk, folder: str, file_size: int, *, start: int, zeroes: bool
    ) -> MappedFileQueue:
        """Take up the files of *folder* from the one that begins at *start*; blocking.

        Files that do not follow one another from there are left over from a crash; they stay until
        `retire_leftovers`.

        Args:
            disk: where the folder is.
            folder: created where it is missing.
            file_size: of each file, in bytes.
            start: position of the first file wanted.
            zeroes: whether new files are written with zeros first, so that each sync of bytes over
                them is faster; not worth it for files that are seldom synced.

        Raises:
            CorruptStoreError: a file has the wrong size; they are only ever created whole.
        """
        disk.make_folder(folder)
        queue = cls(disk, folder, file_size, zeroes=zeroes)
        try:
            queue._take_up_folder(start)
        except BaseException:
            queue.close()
            raise
        return queue

    def _take_up_folder(self, start: int) -> None:
        disk, folder = self._disk, self.folder
        spare_number = 0
        for name in disk.list_folder(folder):
            path = f"{folder}/{name}"
            if _POSITION.match(name):
                self._take_up(path, int(name), start)
            elif match := _SPARE.match(name):
                spare_number = max(spare_number, int(match[1]) + 1)
                self._take_up_spare(path)
            elif name.endswith(TEMPORARY_SUFFIX):
                disk.unlink(path)
            else:
                _log.warning("%s: not a file of ours; left alone", path)
        self._spare_numbers = itertools.count(spare_number)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def first(self) -> MappedFile:
        """The file with the lowest positions."""
        return self._files[0]

    @property
    def spare_count(self) -> int:
        """How many times `roll` finds a file ready."""
        return len(self._spares)

    @property
    def zeroed_size(self) -> int:
        """Bytes of the next file that have zeros; all of them when there is nothing left to do."""
        bare = self._bare
        return self.file_size if bare is None else bare[1]

    # -- find and read ----------------------------------------------------------------------------

    def holds(self, position: int) -> bool:
        """Whether one of the files covers *position*."""
        files = self._files
        return bool(files) and files[0].position <= position < files[-1].end

    def find(self, position: int) -> MappedFile:
        """Return the file that covers *position*; there must be one."""
        if self._files and (last := self.last).position <= position < last.end:
            return last  # mostly: what is asked for is new
        assert self.holds(position), f"{self.folder} has no file for position {position}"
        return self._files[(position - self._files[0].position) // self.file_size]

    def view(self, position: int, size: int) -> memoryview:
        """Return *size* bytes at *position*, which lie in one file; read-only, not copied."""
        return self.find(position).view(position, size)

    def path_of(self, position: int) -> str:
        """Return the path of the file that covers *position*, whether it is there or not."""
        return f"{self.folder}/{position - position % self.file_size:020d}"

    # -- grow -------------------------------------------------------------------------------------

    def roll(self) -> MappedFile:
        """Add a file behind the last one and return it; blocking only when no spare is ready.

        Raises:
            LedgerFullError: nothing changed: no spare is ready and there is no room for one.
        """
        full = self.last
        added = self._add(full.end)
        full.filled()
        return added

    def prepare_spare(self, *, wanted: int = 1, is_for_copies: bool = False) -> None:
        """Make a spare if there are not as many as wanted; blocking, any thread.

        It may have but few zeros as yet: see `zero_more`.

        Args:
            wanted: spares.
            is_for_copies: all of it will be filled in large pieces that nobody waits for.  Zeros
                are for small ones, and would be written in vain.

        Raises:
            LedgerFullError: the disk has no room for one.
        """
        zero_size = 0 if is_for_copies else self._zero_size_now
        with self._allocating:
            if len(self._spares) >= wanted:
                return
            spare = self._allocate(zero_size)
            with self._zeroing:
                is_closed = self._is_closed
                if not is_closed:
                    self._spares.append(spare)
                    if 0 < zero_size < self.file_size and self._bare is None:
                        self._bare = spare, zero_size
        if is_closed:
            spare.close()

    def zero_more(self) -> None:
        """Write zeros to another piece of the spare that lacks them; blocking, any thread.

        They are given up where the disk has no room for them, or the system no descriptor.

        Raises:
            StorageFailedError: a write or a sync failed; stop the process.
        """
        with contextlib.ExitStack() as opened:
            with self._zeroing:
                if self._bare is None:
                    return
                spare, start = self._bare
                end = min(start + self._zero_piece, self.file_size)
                try:
                    # A descriptor of its own: a failure of the disk is told to each of them once,
                    # and a sync here may be told of one that concerns what the log has written.
                    region = self._disk.open_region(spare.path, writable=True)
                    opened.callback(region.close)
                    self._bare = (spare, end) if end < self.file_size else None
                    for offset in range(start, end, ZEROS_SIZE):
                        region.write(offset, [ZEROS[: end - offset]], through_map=False)
                except StorageFailedError as error:
                    self._bare = None
                    if not _is_scarcity(error):
                        raise
                    # What was allocated may not be kept for us (copy on write): the disk is no
                    # worse for it, only slower.
                    _log.info("%s: not written with zeros to its end: %s", spare.path, error)
                    return
            region.sync()  # by the piece: a sync of the log never waits for all of it

    # -- shrink -----------------------------------------------------------------------------------

    def take_before(self, position: int) -> list[MappedFile]:
        """Take the files that end at or before *position* out of the queue, never the last."""
        count = 0
        while count < len(self._files) - 1 and self._files[count].end <= position:
            count += 1
        taken, self._files = self._files[:count], self._files[count:]
        return taken

    def retire(self, files: Iterable[MappedFile]) -> None:
        """Recycle or unlink *files*, which are no longer in the queue; any thread, may block."""
        for file in files:
            if file.close() and len(self._spares) < SPARES_MAX:
                path = self._spare_path()
                self._disk.rename(file.path, path)
                self._spares.append(MappedFile(self._disk, path, position=0, size=self.file_size))
            else:
                self._disk.unlink(file.path)
            self._is_folder_dirty = True

    def retire_behind(self, position: int) -> None:
        """Retire the files behind the one that covers *position*."""
        count = (position - self.first.position) // self.file_size + 1
        behind, self._files = self._files[count:], self._files[:count]
        self.last = self._files[-1]
        self.retire(behind)

    def retire_leftovers(self) -> None:
        """Retire what `open` found outside the run of files."""
        leftovers, self._leftovers = self._leftovers, []
        self.retire(leftovers)

    def reset(self, position: int, *, zeroes_all: bool = False) -> None:
        """Begin anew with one file, that which covers *position*; blocking.

        Args:
            position: where to begin.
            zeroes_all: whether that file, made for it, gets all its zeros first. It takes seconds.

        Raises:
            LedgerFullError: nothing changed: there is no room for the file.
        """
        self.prepare_spare()
        while zeroes_all and self._bare is not None:
            self.zero_more()  # to its end: nobody can tell how fast it will be filled
        files, self._files = self._files, []
        self.retire(files)
        self.retire_leftovers()
        self._add(position - position % self.file_size)

    def blank_header_at(self, position: int) -> bool:
        """Put zeros where an entry at *position* would begin; whether there was anything else."""
        file = self.find(position)
        size = min(HEADER_SIZE, file.end - position)
        if not any(file.view(position, size)):
            return False
        file.write(position, [bytes(size)], through_map=False)
        return True

    # -- sync -------------------------------------------------------------------------------------

    def take_dirty(self) -> list[MappedFile]:
        """Return the files written to since the last call, with all that was to be written."""
        dirty = [file for file in self._files if file.is_dirty]
        for file in dirty:
            file.write_out()
            file.is_dirty = False
        return dirty

    def take_folder_dirty(self) -> bool:
        """Whether names in the folder changed since the last call."""
        was_dirty, self._is_folder_dirty = self._is_folder_dirty, False
        return was_dirty

    def files_from(self, position: int) -> list[MappedFile]:
        """Return the files that hold *position* or more."""
        return [file for file in self._files if file.end > position]

    def files_ending_within(self, start: int, end: int) -> list[MappedFile]:
        """Return the files whose last byte lies from *start* up to before *end*."""
        return [file for file in self._files if start < file.end <= end]

    def rewrite(self, start: int, end: int) -> None:
        """Write the bytes from *start* to *end* once more as they are; blocking.

        After a sync that failed, Linux keeps pages in its cache and calls them clean, so that no
        later sync writes them: only what is written again is.

        Raises:
            StorageFailedError: a write failed; stop the process.
        """
        for file in self.files_from(start):
            if file is not self.last:
                file.filled()
            position = max(start, file.position)
            while position < min(end, file.end):
                size = min(end, file.end, position + _REWRITE_SIZE) - position
                file.write(position, [bytes(file.view(position, size))], through_map=False)
                position += size

    def sync_from(self, position: int) -> None:
        """Make the files that hold *position* or more durable, and all names; blocking."""
        for file in self.files_from(position):
            file.write_out()
            file.is_dirty = False
            file.sync()
        self._is_folder_dirty = False
        self._disk.sync_folder(self.folder)

    def close(self) -> None:
        """Close every file; views that are still held stay readable.

        Whoever prepares a spare in another thread writes nothing more to it from here on.
        """
        with self._zeroing:
            self._is_closed = True
            spares, self._spares = self._spares, deque()
            self._bare = None
        for file in [*self._files, *self._leftovers, *spares]:
            file.close()

    # -- inside -----------------------------------------------------------------------------------

    def _add(self, position: int) -> MappedFile:
        file = self._take_spare()
        if file is None:
            with self._allocating:  # a worker may be at it: then wait for its file
                file = self._take_spare()
                if file is None:
                    file = self._allocate(self._zero_size_now)
        file.move(f"{self.folder}/{position:020d}", position=position)
        self._append(file)
        self._is_folder_dirty = True
        return file

    def _take_spare(self) -> MappedFile | None:
        with self._zeroing:  # from here on no zeros are written to it
            if not self._spares:
                return None
            spare = self._spares.popleft()
            if self._bare is not None and self._bare[0] is spare:
                self._bare = None
            return spare

    def _append(self, file: MappedFile) -> None:
        self._files.append(file)
        self.last = file

    def _allocate(self, zero_size: int) -> MappedFile:
        path = self._spare_path()
        region = self._disk.allocate(path, self.file_size, zero_size=zero_size)
        return MappedFile(self._disk, path, position=0, size=self.file_size, region=region)

    def _spare_path(self) -> str:
        return f"{self.folder}/spare-{next(self._spare_numbers)}"

    def _take_up(self, path: str, position: int, start: int) -> None:
        size = self._disk.file_size(path)
        if size != self.file_size or position % self.file_size:
            raise CorruptStoreError(
                f"{path}: {size} bytes, but files here have {self.file_size} bytes and begin at a "
                f"multiple of that; {REMEDY}"
            )
        file = MappedFile(self._disk, path, position=position, size=size)
        if position == (self.last.end if self._files else start):
            self._append(file)
        else:
            self._leftovers.append(file)

    def _take_up_spare(self, path: str) -> None:
        if self._disk.file_size(path) == self.file_size and len(self._spares) < SPARES_MAX:
            spare = MappedFile(self._disk, path, position=0, size=self.file_size)
            self._spares.append(spare)
            if self._zero_piece and self._bare is None:
                self._bare = spare, 0  # how far it was zeroed, nobody knows
        else:
            self._disk.unlink(path)


def _zero_sizes(file_size: int) -> tuple[int, int]:
    """Return how many bytes of a file are zeroed at once, and by how many it goes on."""
    part = max(file_size // _ZERO_SHARE // _PAGE * _PAGE, min(_PAGE, file_size))
    return min(part, _ZERO_SIZE_NOW), min(part, ZERO_PIECE)


def _is_scarcity(error: StorageFailedError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _SCARCE
