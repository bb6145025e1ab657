"""Where the units of consume queues lie on the disk.

    <folder>/<topic>/<queue id>/<byte offset of the first unit, 20 digits>

Each file holds 300,000 units of 20 bytes (RocketMQ's number) and grows as it is written; nothing is
allocated ahead, as a broker may have thousands of queues and most of them are small.  Files are
written only by a job beside the event loop and read through mappings, of which the least recently
used go first.
"""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from typing import TYPE_CHECKING

from broker.store.growing_files import GrowingFiles, Piece
from broker.store.runs import UNIT_SIZE
from dledger.errors import CorruptStoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dledger.entry import Buffer
    from dledger.store.disk import Disk, MappedRegion

UNITS_PER_FILE = 300_000
OPEN_FILES_MAX = 256
_NAME_SIZE_MAX = 200  # bytes; file systems allow 255

_POSITION = struct.Struct(">q")  # what a unit begins with

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")

QueueKey = tuple[str, int]  # topic, queue id


@functools.lru_cache(maxsize=1024)
def folder_name(topic: str) -> str:
    """Return the name of the folder of *topic*: the topic itself wherever that is safe."""
    name = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", topic)
    if len(name) <= _NAME_SIZE_MAX:
        return name
    return f"{name[: _NAME_SIZE_MAX - 33]}~{hashlib.sha256(topic.encode()).hexdigest()[:32]}"


class QueueFiles:
    """The files of all consume queues below one folder."""

    def __init__(
        self,
        disk: Disk,
        folder: str,
        *,
        units_per_file: int = UNITS_PER_FILE,
        open_files_max: int = OPEN_FILES_MAX,
    ) -> None:
        assert units_per_file >= 1
        assert open_files_max >= 1
        self._disk = disk
        self._folder = folder
        self._units_per_file = units_per_file
        self._open_files_max = open_files_max
        self._regions: dict[str, MappedRegion] = {}  # least recently used first
        self._growing = GrowingFiles(disk, folder)

    @property
    def open_file_count(self) -> int:
        """Files mapped at present."""
        return len(self._regions)

    def file_begin(self, queue_offset: int) -> int:
        """Return the first queue offset of the file that holds *queue_offset*."""
        return queue_offset - queue_offset % self._units_per_file

    def file_end(self, queue_offset: int) -> int:
        """Return the first queue offset behind the file that holds *queue_offset*."""
        return self.file_begin(queue_offset) + self._units_per_file

    def path(self, key: QueueKey, queue_offset: int) -> str:
        """Return the path of the file that holds *queue_offset*."""
        return f"{self._queue_folder(key)}/{self.file_begin(queue_offset) * UNIT_SIZE:020d}"

    def read(self, key: QueueKey, queue_offset: int, *, unit_count: int) -> memoryview:
        """Return up to *unit_count* units from *queue_offset* on, none from the next file.

        They must have been written.  Nothing is copied.
        """
        path = self.path(key, queue_offset)
        begin = self.file_begin(queue_offset)
        end = min(queue_offset + unit_count, begin + self._units_per_file)
        region = self._region(path, (end - begin) * UNIT_SIZE)
        return region.view((queue_offset - begin) * UNIT_SIZE, (end - queue_offset) * UNIT_SIZE)

    def find_position(
        self, key: QueueKey, low: int, high: int, position: int, high_position: int
    ) -> tuple[int, int]:
        """Return the first unit of a record at *position* of the log or behind; blocking.

        Beside the event loop: the mappings that it uses are left alone.

        Args:
            key: of the queue.
            low: the first unit it may be.
            high: the unit it is when it is none before; all before it have been written.
            position: of the log, in bytes.
            high_position: of the record of the unit at *high*.

        Returns:
            Its queue offset, and the position of its record.
        """
        path, file, found = "", None, high_position
        try:
            while low < high:  # positions grow along the queue
                middle = (low + high) // 2
                wanted = self.path(key, middle)
                if file is None or wanted != path:
                    if file is not None:
                        file.close()
                        file = None
                    path, file = wanted, self._disk.open_file(wanted)
                data = file.read_at((middle - self.file_begin(middle)) * UNIT_SIZE, _POSITION.size)
                if len(data) < _POSITION.size:
                    raise CorruptStoreError(f"{path}: ends before the unit of offset {middle}")
                (at_middle,) = _POSITION.unpack(data)
                if at_middle < position:
                    low = middle + 1
                else:
                    high, found = middle, at_middle
        finally:
            if file is not None:
                file.close()
        return low, found

    def pieces(self, key: QueueKey, queue_offset: int, units: Buffer) -> Iterator[Piece]:
        """Yield what is to be written so that *units*, none copied, are those from there on."""
        at = 0
        while at < len(units):
            before = queue_offset % self._units_per_file  # units in the same file
            size = min(len(units) - at, (self._units_per_file - before) * UNIT_SIZE)
            part = units if size == len(units) else memoryview(units)[at : at + size]
            yield Piece(self.path(key, queue_offset), before * UNIT_SIZE, part)
            at += size
            queue_offset += size // UNIT_SIZE

    def write(self, pieces: Iterable[Piece], *, size: int) -> None:
        """Write *pieces*; blocking. Takes and raises what `GrowingFiles.write` does."""
        self._growing.write(pieces, size=size)

    def sync(self) -> None:
        """Make everything written durable; blocking."""
        self._growing.sync()

    def let_go(self) -> None:
        """Let go of everything; nothing is written any more."""
        self.close()
        self._growing.close()

    def file_begins(self, key: QueueKey) -> list[int]:
        """Return the first queue offset of each file of a queue, ascending; blocking."""
        folder = self._queue_folder(key)
        if not self._disk.exists(folder):
            return []
        names = self._disk.list_folder(folder)
        return [int(name) // UNIT_SIZE for name in names if len(name) == 20 and name.isdecimal()]

    def written_end(self, key: QueueKey, file_begin: int) -> int:
        """Return the queue offset behind the last unit in a file; blocking."""
        size = self._disk.file_size(self.path(key, file_begin))
        return file_begin + size // UNIT_SIZE

    def paths_before(self, key: QueueKey, queue_offset: int) -> list[str]:
        """Return the files of a queue that hold nothing from *queue_offset* on; blocking."""
        return [
            self.path(key, begin)
            for begin in self.file_begins(key)
            if begin + self._units_per_file <= queue_offset
        ]

    def unlink(self, paths: Iterable[str]) -> None:
        """Remove files; blocking. Views of them stay readable."""
        self._growing.unlink(paths)

    def unlink_queues(self, keys: Iterable[QueueKey]) -> list[str]:
        """Remove every file of some queues; blocking. Return their paths, for `forget`."""
        paths = [self.path(key, begin) for key in keys for begin in self.file_begins(key)]
        self.unlink(paths)
        return paths

    def unlink_all(self) -> None:
        """Remove every file of every queue; blocking, and nobody else may use them meanwhile."""
        self.close()
        self._growing.forget_unsynced()
        if not self._disk.exists(self._folder):
            return
        for topic in self._disk.list_folder(self._folder):
            for queue in self._disk.list_folder(f"{self._folder}/{topic}"):
                folder = f"{self._folder}/{topic}/{queue}"
                for name in self._disk.list_folder(folder):
                    self._disk.unlink(f"{folder}/{name}")

    def forget(self, path: str) -> None:
        """Let go of the mapping of *path*, if there is one."""
        region = self._regions.pop(path, None)
        if region is not None:
            region.close()

    def close(self) -> None:
        """Let go of all mappings."""
        for path in list(self._regions):
            self.forget(path)

    def _queue_folder(self, key: QueueKey) -> str:
        topic, queue_id = key
        return f"{self._folder}/{folder_name(topic)}/{queue_id}"

    def _region(self, path: str, size: int) -> MappedRegion:
        region = self._regions.pop(path, None)
        if region is not None and region.size < size:
            region.close()  # mapped when the file was shorter
            region = None
        if region is None:
            region = self._disk.open_region(path, writable=False)
        self._regions[path] = region
        if len(self._regions) > self._open_files_max:
            self.forget(next(iter(self._regions)))
        return region
