"""A disk in memory with a page cache that a power loss empties.

What is written is in the cache at once, and durable after a sync; names are durable after
`sync_folder`.  `power_loss` decides for each unsynced sector of 512 bytes, and for the unsynced
names of each folder in the order of their making, whether they reached the platter.

A test may also let the process die in the middle: `crash_after_bytes` cuts a write short,
`crash_at_step` stops before the n-th thing done to the disk.
"""

from __future__ import annotations

import contextlib
import posixpath
from typing import TYPE_CHECKING

from broker.testing.memory_names import MemoryNames
from broker.testing.memory_region import MemoryRegion
from dledger.errors import FolderInUseError, LedgerFullError, StorageFailedError
from dledger.store.disk_usage import DiskUsage

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dledger.entry import Buffer

SECTOR = 512


class SimulatedCrash(BaseException):
    """The process is dead; nobody may catch this but the test."""


class _Inode:
    """The bytes of one file: as the processes see them, and as the platter holds them."""

    def __init__(self, size: int = 0) -> None:
        self.cache = bytearray(size)
        self.durable = bytearray(size)

    def survive(self, chance: random.Random) -> _Inode:
        after = _Inode()
        after.durable = bytearray(self.durable)
        keep = chance.choice((0.0, 0.3, 0.7, 1.0))  # a quiet disk, a busy one, all, nothing
        if self.cache != self.durable:
            after.durable += bytes(max(0, len(self.cache) - len(after.durable)))
            for start in range(0, len(self.cache), SECTOR):
                sector = self.cache[start : start + SECTOR]
                if sector != self.durable[start : start + SECTOR] and chance.random() < keep:
                    after.durable[start : start + len(sector)] = sector
        after.cache = bytearray(after.durable)
        return after


class FakeRegion(MemoryRegion):
    """See `dledger.store.disk.MappedRegion`."""

    def __init__(self, disk: FakeDisk, path: str, inode: _Inode) -> None:
        super().__init__(path, len(inode.cache))
        self._disk = disk
        self._inode = inode

    def write(self, offset: int, parts: Sequence[Buffer], *, through_map: bool) -> None:
        assert not self._is_closed
        data = b"".join(parts)
        assert 0 <= offset <= offset + len(data) <= self.size
        self._disk.step(f"write {self.path}")
        self._disk.fail(self.path, "write")
        allowed = self._disk.spend(len(data))
        self._inode.cache[offset : offset + allowed] = data[:allowed]
        if allowed < len(data):
            raise SimulatedCrash
        self._disk.written_count += 1

    def view(self, offset: int, size: int) -> memoryview:
        assert 0 <= offset <= offset + size <= self.size
        return memoryview(self._inode.cache)[offset : offset + size].toreadonly()

    def sync(self, *, beside: bool = False) -> None:
        if self._is_closed:
            return
        self._disk.sync_inode(self.path, self._inode)

    def _content(self) -> bytearray:
        return self._inode.cache


class FakeFile:
    """See `dledger.store.disk.DiskFile`."""

    def __init__(self, disk: FakeDisk, path: str, inode: _Inode) -> None:
        self.path = path
        self._disk = disk
        self._inode = inode

    def read_all(self) -> bytes:
        return bytes(self._inode.cache)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self._inode.cache[offset : offset + size])

    def write_at(self, offset: int, data: Buffer) -> None:
        self._disk.step(f"write {self.path}")
        self._disk.fail(self.path, "write")
        # Within a sector: whole or not at all.
        assert offset // SECTOR == (offset + len(data) - 1) // SECTOR
        assert offset + len(data) <= len(self._inode.cache)
        if self._disk.spend(len(data)) < len(data):
            raise SimulatedCrash
        self._inode.cache[offset : offset + len(data)] = data

    def sync(self) -> None:
        self._disk.sync_inode(self.path, self._inode)

    def close(self) -> None:
        pass


class FakeTree:
    """See `dledger.store.disk.FileTree`."""

    def __init__(self, disk: FakeDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    def sync(self) -> None:
        self._disk.sync_below(self._path)

    def close(self) -> None:
        pass


class FakeLock:
    """See `dledger.store.disk.FolderLock`."""

    def __init__(self, disk: FakeDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locked.discard(self._path)


class FakeDisk:
    """See `dledger.store.disk.Disk`."""

    def __init__(self, *, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.usage = DiskUsage(used=10, available=90)  # what is told of it
        self.sync_count = 0
        self.written_count = 0
        self.step_count = 0
        self.last_step = ""
        self.crash_at_step: int | None = None
        self.crash_after_bytes: int | None = None
        self.failing: dict[str, str] = {}  # part of a path -> "write" or "sync"
        self.locked: set[str] = set()
        self.has_trees = True
        self._boot = 1
        self._names: MemoryNames[_Inode] = MemoryNames()

    # -- what happens to it -----------------------------------------------------------------------

    def process_crash(self) -> None:
        """Let go of what the dead process held; its page cache stays."""
        self.locked.clear()
        self.crash_at_step = self.crash_after_bytes = None

    def power_loss(self, chance: random.Random) -> None:
        """Keep what is durable and, of the rest, what *chance* says had been written already."""
        self.process_crash()
        self._boot += 1
        self._names.lose_power(chance, lambda inode: inode.survive(chance))

    def step(self, what: str) -> None:
        """Count one thing done to the disk, or die before it."""
        if self.crash_at_step is not None and self.step_count >= self.crash_at_step:
            raise SimulatedCrash
        self.step_count += 1
        self.last_step = what

    def spend(self, size: int) -> int:
        """Return how many of *size* bytes are written before the process dies."""
        if self.crash_after_bytes is None:
            return size
        allowed = min(size, self.crash_after_bytes)
        self.crash_after_bytes -= allowed
        return allowed

    def fail(self, path: str, verb: str) -> None:
        for part, failing in self.failing.items():
            if part in path and failing == verb:
                raise StorageFailedError(f"{path}: {verb}: Input/output error")

    def sync_inode(self, path: str, inode: _Inode) -> None:
        self.step(f"sync {path}")
        self.fail(path, "sync")
        inode.durable[:] = inode.cache
        self.sync_count += 1

    def sync_below(self, path: str) -> None:
        """Sync all files and names below folder *path* as one step; a crash leaves none or all."""
        self.step(f"sync all below {path}/")
        for name, inode in self._names.files.items():
            if name.startswith(path + "/"):
                self.fail(name, "sync")
                inode.durable[:] = inode.cache
        self.sync_count += 1
        self._settle_names(lambda folder: folder == path or folder.startswith(path + "/"))

    def files(self) -> dict[str, bytes]:
        """Return every file's content, as processes see it."""
        return {path: bytes(inode.cache) for path, inode in sorted(self._names.files.items())}

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Damage a file behind the program's back; durable at once."""
        inode = self._names.files[path]
        inode.cache[offset : offset + len(data)] = data
        inode.durable[offset : offset + len(data)] = data

    def truncate(self, path: str, size: int) -> None:
        """Cut a file behind the program's back; durable at once."""
        replaced = _Inode()
        replaced.cache = self._names.files[path].cache[:size]
        replaced.durable = bytearray(replaced.cache)
        self._names.files[path] = self._names.durable[path] = replaced

    # -- what the program asks of it --------------------------------------------------------------

    def create_file(self, path: str) -> None:
        self.make_folder(posixpath.dirname(path))
        self.step(f"create {path}")
        self._names.change({path: _Inode(0)})

    def make_folder(self, path: str) -> None:
        self._names.make_folder(path)

    def list_folder(self, path: str) -> list[str]:
        return self._names.list_folder(path)

    def exists(self, path: str) -> bool:
        return self._names.exists(path)

    def file_size(self, path: str) -> int:
        return len(self._names.find(path, "stat").cache)

    def allocate(self, path: str, size: int, *, zero_size: int) -> FakeRegion:
        assert 0 <= zero_size <= size
        if size > self.free_bytes(path):
            raise LedgerFullError(
                f"{path}: no room for {size} bytes, {self.free_bytes(path)} are free"
            )
        self.step(f"allocate {path}")
        inode = _Inode(size)
        self._names.change({path + ".tmp": inode})
        self.rename(path + ".tmp", path)
        self.sync_folder(posixpath.dirname(path))
        return FakeRegion(self, path, inode)

    def open_region(self, path: str, *, writable: bool) -> FakeRegion:
        return FakeRegion(self, path, self._names.find(path, "open"))

    def open_file(self, path: str, *, through_map: bool = False) -> FakeFile:
        return FakeFile(self, path, self._names.find(path, "open"))

    def write_file(self, path: str, parts: Iterable[tuple[int, Buffer]]) -> bool:
        if path not in self._names.files:
            return False
        file = self.open_file(path)
        for offset, data in parts:
            file.write_at(offset, data)
        return True

    def read_file(self, path: str) -> bytes:
        return bytes(self._names.find(path, "read").cache)

    def write_file_atomic(self, path: str, data: bytes) -> None:
        if len(data) > self.free_bytes(path):
            raise LedgerFullError(f"{path}: no room for {len(data)} bytes")
        self.step(f"write {path}")
        inode = _Inode(0)
        allowed = self.spend(len(data))
        inode.cache[:] = data[:allowed]
        self._names.change({path + ".tmp": inode})
        if allowed < len(data):
            raise SimulatedCrash
        self.sync_inode(path, inode)
        self.rename(path + ".tmp", path)
        self.sync_folder(posixpath.dirname(path))

    def rename(self, source: str, target: str) -> None:
        self.step(f"rename {source} {target}")
        self._names.change({target: self._names.find(source, "rename"), source: None})

    def unlink(self, path: str) -> None:
        self.step(f"unlink {path}")
        if path in self._names.files:
            self._names.change({path: None})

    def sync_folder(self, path: str) -> None:
        self.step(f"sync {path}/")
        self.fail(path, "sync")
        self._settle_names(lambda folder: folder == path)

    def open_tree(self, path: str) -> FakeTree | None:
        return FakeTree(self, path) if self.has_trees else None

    def free_bytes(self, path: str) -> int:
        used = {id(inode): len(inode.cache) for inode in self._names.files.values()}
        return self.capacity - sum(used.values())

    def disk_usage(self, path: str) -> DiskUsage:
        return self.usage

    def lock_folder(self, path: str) -> FakeLock:
        if path in self.locked:
            raise FolderInUseError(f"{path}: another process uses this data folder")
        self.locked.add(path)
        return FakeLock(self, path)

    def boot_id(self) -> str:
        return f"boot {self._boot}"

    def _settle_names(self, is_settled: Callable[[str], bool]) -> None:
        self._names.make_durable(self._names.unsynced(is_settled))


class GrowingFile(FakeFile):
    """May be written at and beyond its end; a crash may cut any write short."""

    def write_at(self, offset: int, data: Buffer) -> None:
        self._disk.step(f"write {self.path}")
        self._disk.fail(self.path, "write")
        allowed = self._disk.spend(len(data))
        cache = self._inode.cache
        cache.extend(bytes(max(0, offset + allowed - len(cache))))
        cache[offset : offset + allowed] = data[:allowed]
        if allowed < len(data):
            raise SimulatedCrash


class GrowingRegion(FakeRegion):
    """Views that do not keep the file from growing; what they show never changes."""

    def view(self, offset: int, size: int) -> memoryview:
        assert 0 <= offset <= offset + size <= self.size
        return memoryview(bytes(self._inode.cache[offset : offset + size]))


class GrowingDisk(FakeDisk):
    """As `FakeDisk`, for files that grow: a consume queue's do, the ledger's do not."""

    def open_file(self, path: str, *, through_map: bool = False) -> GrowingFile:
        return GrowingFile(self, path, self._names.find(path, "open"))

    def open_region(self, path: str, *, writable: bool) -> GrowingRegion:
        return GrowingRegion(self, path, self._names.find(path, "open"))


class NodeDisk(GrowingDisk):
    """Files that grow below ``derived``, and the ledger's, which do not, everywhere else.

    The ledger keeps views of its files for as long as they are open, and has to see what is
    written later.
    """

    def open_region(self, path: str, *, writable: bool) -> FakeRegion:  # type: ignore[override]
        if "/derived/" in path:
            return super().open_region(path, writable=writable)
        return FakeDisk.open_region(self, path, writable=writable)

    def open_file(  # type: ignore[override]
        self, path: str, *, through_map: bool = False
    ) -> FakeFile:
        if "/derived/" in path:
            return super().open_file(path)
        return FakeDisk.open_file(self, path)


@contextlib.contextmanager
def dying() -> Iterator[None]:
    """Swallow the death of the process inside."""
    with contextlib.suppress(SimulatedCrash):
        yield
