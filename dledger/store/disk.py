"""The disk, as the store sees it: the only file that touches ``os`` and ``mmap``.

Everything the store does to the world goes through `Disk`, so that a simulator can lose, tear and
refuse what it likes.  What `Disk` promises is what POSIX file systems keep:

- written bytes are durable once `MappedRegion.sync` or `DiskFile.sync` of their file returned;
- a name made, changed or removed is durable once `Disk.sync_folder` of its folder returned;
- a sector (512 bytes, aligned) is written whole or not at all;
- after a failed sync nothing may be assumed about the file: it is never tried again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
from typing import TYPE_CHECKING, Protocol

from dledger import machine
from dledger.errors import FolderInUseError, LedgerFullError, StorageFailedError
from dledger.store import tree_sync
from dledger.store.disk_usage import DiskUsage

try:
    import fcntl
except ImportError:  # Windows, where no node runs; `dledger log` reads what was brought there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dledger.entry import Buffer

TEMPORARY_SUFFIX = ".tmp"

_PARTS_MAX = 512  # buffers of one pwritev; Linux allows 1024 (IOV_MAX)
_ZEROS = bytes(4 * 1024 * 1024)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FDATASYNC_SEES_MAP = sys.platform == "linux"
_HAS_PWRITEV = hasattr(os, "pwritev")
_CAN_ADVISE = hasattr(mmap, "MADV_RANDOM")
_HAS_FDATASYNC = hasattr(os, "fdatasync")  # not macOS
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync skips the drive's cache


class MappedRegion(Protocol):
    """One file of fixed size, mapped for reading, written through the map or beside it."""

    path: str  # for messages; the owner changes it after a rename
    size: int  # bytes

    def write(self, offset: int, parts: Sequence[Buffer], *, through_map: bool) -> None:
        """Write *parts* one after another at *offset*; they must end within the region.

        Raises:
            StorageFailedError: the write failed, perhaps in part.
        """
        ...

    def view(self, offset: int, size: int) -> memoryview:
        """Return a read-only view; it stays readable after `close` and shows later writes."""
        ...

    def read_ahead(self, is_wanted: bool, start: int = 0) -> None:
        """Say whether a read behind *start* may bring in more than it asks for, as it may at first.

        What is not written yet must not be brought in: the system would fill it with zeros, for
        megabytes, while the reader waits.
        """
        ...

    def sync(self, *, beside: bool = False) -> None:
        """Make what was written before the call durable; blocking, any thread.

        On a region closed meanwhile it does nothing: its bytes are no longer part of the log.

        Args:
            beside: whether another sync of the region may be under way that has to hear of every
                failure itself; this one then takes none from it, nor that one from this.

        Raises:
            StorageFailedError: the sync failed; never to be tried again.
        """
        ...

    def begin_sync(self) -> int | None:
        """Return a descriptor; an fdatasync of it does what `sync` does. None: call `sync`.

        It stays open, whatever `close` does, until `end_sync` has been called.
        """
        ...

    def end_sync(self, error: OSError | None) -> None:
        """Hear how the sync went that began with `begin_sync`.

        Raises:
            StorageFailedError: for *error*.
        """
        ...

    def settled(self) -> None:
        """Hear that its bytes are durable and final: no write comes, and no sync from beside."""
        ...

    def close(self) -> bool:
        """Let go of the file; whether no view of it is alive, so that the file may be reused."""
        ...


class DiskFile(Protocol):
    """One file, read and written in place."""

    path: str

    def read_all(self) -> bytes:
        """Return the whole content."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Return *size* bytes at *offset*; fewer at the end of the file, none beyond it."""
        ...

    def write_at(self, offset: int, data: bytes) -> None:
        """Overwrite *data* at *offset*; atomic when it lies within one sector."""
        ...

    def sync(self) -> None:
        """Make what was written durable; blocking."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class FileTree(Protocol):
    """A folder with all that is below it, made durable together."""

    def sync(self) -> None:
        """Make durable what was written below, names as well, since the tree was opened; blocking.

        Raises:
            StorageFailedError: some of it could not be written; never to be tried again.
        """
        ...

    def close(self) -> None:
        """Let go of the folder."""
        ...


class FolderLock(Protocol):
    """A data folder held by this process."""

    def release(self) -> None:
        """Let another process have the folder."""
        ...


class Disk(Protocol):
    """Files and folders by path. Every call but `free_bytes` and `exists` may block.

    Any failure raises `StorageFailedError` with the path and the system's words for it, unless a
    method names another error.
    """

    def create_file(self, path: str) -> None:
        """Make an empty file *path* in a folder, made as well; nothing is durable yet.

        It is after `sync_folder` of that folder and of those above it that were not there.

        Raises:
            LedgerFullError: no room for its name.
        """
        ...

    def make_folder(self, path: str) -> None:
        """Create folder *path* and those above it, durably; one that is there is left alone."""
        ...

    def list_folder(self, path: str) -> list[str]:
        """Return the names in folder *path*, sorted."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder *path*."""
        ...

    def file_size(self, path: str) -> int:
        """Return the size of file *path* in bytes."""
        ...

    def allocate(self, path: str, size: int, *, zero_size: int) -> MappedRegion:
        """Create *path* with *size* zero bytes, all of them reserved on the disk, and open it.

        The name appears, durably, only when the file is whole. The first *zero_size* bytes are
        really written: a sync of bytes over them needs no change of the file's extents, and takes
        0.13 ms instead of 0.34 ms at 64 KiB (ext4, virtual disk).

        Raises:
            LedgerFullError: no room; nothing is left behind.
        """
        ...

    def open_region(self, path: str, *, writable: bool) -> MappedRegion:
        """Map the file *path* in its present size."""
        ...

    def open_file(self, path: str, *, through_map: bool = False) -> DiskFile:
        """Open the small file *path* for reading and writing in place.

        With *through_map* a write is a store to memory and no system call; a process that is killed
        in the middle of one may leave it torn.
        """
        ...

    def find_file(self, path: str) -> DiskFile | None:
        """As `open_file`; None where there is none."""
        ...

    def read_file(self, path: str) -> bytes:
        """Return the content of *path*."""
        ...

    def write_file_atomic(self, path: str, data: bytes) -> None:
        """Put a file with *data* at *path*, durably: after a crash it is the old one or the new.

        Raises:
            LedgerFullError: no room; the old file stands.
        """
        ...

    def rename(self, source: str, target: str) -> None:
        """Give *source* the name *target*, replacing what has it; durable after `sync_folder`."""
        ...

    def unlink(self, path: str) -> None:
        """Remove the file *path*, if it is there; durable after `sync_folder`."""
        ...

    def sync_folder(self, path: str) -> None:
        """Make the names in folder *path* durable; blocking."""
        ...

    def open_tree(self, path: str) -> FileTree | None:
        """Return folder *path* as something to be synced with all below; None: file by file only.

        What was written before this call need not be among it.
        """
        ...

    def free_bytes(self, path: str) -> int:
        """Return the bytes left to us on the file system of *path*."""
        ...

    def disk_usage(self, path: str) -> DiskUsage:
        """Return how full the file system of *path* is; may block, where it is far away."""
        ...

    def lock_folder(self, path: str) -> FolderLock:
        """Hold folder *path* against other processes, until released or this process ends.

        Raises:
            FolderInUseError: another process holds it.
        """
        ...

    def boot_id(self) -> str:
        """Name the run of the machine whose page cache we see; empty when there is no way to know.

        Two equal names that are not empty: everything written in between is still there.
        """
        ...


class OsRegion:
    """A `MappedRegion` of the operating system."""

    def __init__(self, path: str, fd: int, size: int, *, writable: bool) -> None:
        self.path = path
        self.size = size
        self._fd = fd
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(fd, size, access=access)
        self._lock = threading.Lock()
        self._syncs_running = 0
        self._is_closed = False
        self._is_mapped_dirty = False
        self._fd_beside = -1  # while it may be written to and synced from beside

    def write(self, offset: int, parts: Sequence[Buffer], *, through_map: bool) -> None:
        """See `MappedRegion.write`."""
        assert not self._is_closed
        assert offset >= 0
        if self._fd_beside < 0:
            # Before anything can fail: an open file hears of what fails after it was opened. Linux
            # tells each one once.
            with _failing(self.path, "open"):
                self._fd_beside = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        if through_map:
            self._is_mapped_dirty = True
            for part in parts:
                end = offset + len(part)
                assert end <= self.size
                self._map[offset:end] = part
                offset = end
            return
        assert offset + sum(map(len, parts)) <= self.size
        with _failing(self.path, "write"):
            for start in range(0, len(parts), _PARTS_MAX):
                offset = self._write_some(offset, parts[start : start + _PARTS_MAX])

    def view(self, offset: int, size: int) -> memoryview:
        """See `MappedRegion.view`."""
        assert 0 <= offset <= offset + size <= self.size
        return memoryview(self._map)[offset : offset + size].toreadonly()

    def read_ahead(self, is_wanted: bool, start: int = 0) -> None:
        """See `MappedRegion.read_ahead`."""
        if _CAN_ADVISE and not self._is_closed:
            start -= start % mmap.PAGESIZE
            advice = mmap.MADV_NORMAL if is_wanted else mmap.MADV_RANDOM
            with contextlib.suppress(OSError):  # a hint: where a sandbox forbids it, it is none
                self._map.madvise(advice, start, self.size - start)

    def sync(self, *, beside: bool = False) -> None:
        """See `MappedRegion.sync`."""
        with self._lock:
            if self._is_closed:
                return
            self._syncs_running += 1
            # Where nothing was written since it was opened, no other sync is under way; and one
            # that is settled is not synced from beside.
            fd = self._fd_beside if beside and self._fd_beside >= 0 else self._fd
        try:
            with _failing(self.path, "sync"):
                # Linux writes pages dirtied through the map on fdatasync as well, and msync in
                # CPython keeps the interpreter lock: the event loop would stand still meanwhile.
                if self._is_mapped_dirty and not _FDATASYNC_SEES_MAP:
                    self._map.flush()
                _sync_data(fd)
        finally:
            self._sync_ended()

    def begin_sync(self) -> int | None:
        """See `MappedRegion.begin_sync`."""
        with self._lock:
            if self._is_closed or not _FDATASYNC_SEES_MAP:
                return None
            self._syncs_running += 1
        return self._fd

    def end_sync(self, error: OSError | None) -> None:
        """See `MappedRegion.end_sync`."""
        self._sync_ended()
        if error is not None:
            with _failing(self.path, "sync"):
                raise error

    def settled(self) -> None:
        """See `MappedRegion.settled`. A node keeps thousands of such files open."""
        with self._lock:
            self._close_beside()

    def _sync_ended(self) -> None:
        with self._lock:
            self._syncs_running -= 1
            self._close_when_idle()

    def close(self) -> bool:
        """See `MappedRegion.close`."""
        with self._lock:
            if self._is_closed:
                return False
            self._is_closed = True
            is_syncing = self._syncs_running > 0
            self._close_when_idle()
        try:
            self._map.close()
        except BufferError:
            return False  # the last view unmaps it
        return not is_syncing

    def _close_when_idle(self) -> None:
        # A sync that runs still needs the descriptor: then it closes it.
        if self._is_closed and self._syncs_running == 0:
            os.close(self._fd)
            self._close_beside()

    def _close_beside(self) -> None:
        fd, self._fd_beside = self._fd_beside, -1
        if fd >= 0:
            os.close(fd)

    def _write_some(self, offset: int, parts: Sequence[Buffer]) -> int:
        """Write up to 512 *parts* and return the offset behind them."""
        size = sum(map(len, parts))
        written = _write_parts(self._fd, parts, offset)
        if written == size:
            return offset + size
        rest = memoryview(b"".join(parts))[written:]  # a signal or a quota cut the write short
        offset += written
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written
        return offset


class OsFile:
    """A `DiskFile` of the operating system."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def read_all(self) -> bytes:
        """See `DiskFile.read_all`."""
        with _failing(self.path, "read"):
            return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `DiskFile.read_at`."""
        with _failing(self.path, "read"):
            return os.pread(self._fd, size, offset)

    def write_at(self, offset: int, data: bytes) -> None:
        """See `DiskFile.write_at`."""
        with _failing(self.path, "write"):
            written = os.pwrite(self._fd, data, offset)
        if written != len(data):
            raise StorageFailedError(
                f"{self.path}: wrote {written} of {len(data)} bytes; check the disk, then restart"
            )

    def sync(self) -> None:
        """See `DiskFile.sync`."""
        with _failing(self.path, "sync"):
            _sync_data(self._fd)

    def close(self) -> None:
        """See `DiskFile.close`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OsMappedFile(OsFile):
    """One that is written to through a mapping; its size does not change."""

    def __init__(self, path: str, fd: int) -> None:
        super().__init__(path, fd)
        self._map: mmap.mmap | None = None

    def write_at(self, offset: int, data: bytes) -> None:
        """See `DiskFile.write_at`."""
        if self._map is None:
            with _failing(self.path, "map"):
                self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        self._map[offset : offset + len(data)] = data

    def close(self) -> None:
        """See `DiskFile.close`."""
        if self._map is not None:
            self._map.close()
            self._map = None
        super().close()


class OsTree:
    """A `FileTree` of the operating system."""

    def __init__(self, path: str, tree: tree_sync.OpenTree) -> None:
        self._path = path
        self._tree = tree

    def sync(self) -> None:
        """See `FileTree.sync`."""
        with _failing(self._path, "sync all below"):
            self._tree.sync()

    def close(self) -> None:
        """See `FileTree.close`."""
        self._tree.close()


class OsFolderLock:
    """An flock on the file ``lock`` of a folder; the system drops it when the process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """See `FolderLock.release`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OsDisk:
    """The operating system's files."""

    def create_file(self, path: str) -> None:
        """See `Disk.create_file`."""
        with _failing(path, "create"):
            try:
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    os.mkdir(os.path.dirname(path))  # mostly this one is all that is missing
                try:
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                except FileNotFoundError:
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                os.close(fd)
            except OSError as error:
                if error.errno in _FULL:
                    raise self._full(path, 0, error) from error
                raise

    def make_folder(self, path: str) -> None:
        """See `Disk.make_folder`."""
        path = os.path.abspath(path)
        with _failing(path, "create folder"):
            missing: list[str] = []
            while not os.path.isdir(path):
                missing.append(path)
                path = os.path.dirname(path)
            for folder in reversed(missing):
                os.makedirs(folder, exist_ok=True)
                self.sync_folder(os.path.dirname(folder))

    def list_folder(self, path: str) -> list[str]:
        """See `Disk.list_folder`."""
        with _failing(path, "list"):
            return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        """See `Disk.exists`."""
        return os.path.exists(path)

    def file_size(self, path: str) -> int:
        """See `Disk.file_size`."""
        with _failing(path, "stat"):
            return os.stat(path).st_size

    def allocate(self, path: str, size: int, *, zero_size: int) -> MappedRegion:
        """See `Disk.allocate`."""
        temporary = path + TEMPORARY_SUFFIX
        with _failing(path, "allocate"):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                _reserve(fd, size, zero_size=zero_size)
                _sync_all(fd)
                os.rename(temporary, path)
                self.sync_folder(os.path.dirname(path))
                return OsRegion(path, fd, size, writable=True)
            except OSError as error:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                if error.errno in _FULL:
                    raise self._full(path, size, error) from error
                raise

    def open_region(self, path: str, *, writable: bool) -> MappedRegion:
        """See `Disk.open_region`."""
        with _failing(path, "open"):
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                return OsRegion(path, fd, os.fstat(fd).st_size, writable=writable)
            except BaseException:
                os.close(fd)
                raise

    def open_file(self, path: str, *, through_map: bool = False) -> DiskFile:
        """See `Disk.open_file`."""
        with _failing(path, "open"):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        return OsMappedFile(path, fd) if through_map else OsFile(path, fd)

    def find_file(self, path: str) -> DiskFile | None:
        """See `Disk.find_file`."""
        with _failing(path, "open"):
            try:
                return OsFile(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            except FileNotFoundError:
                return None

    def read_file(self, path: str) -> bytes:
        """See `Disk.read_file`."""
        with _failing(path, "read"), open(path, "rb") as file:
            return file.read()

    def write_file_atomic(self, path: str, data: bytes) -> None:
        """See `Disk.write_file_atomic`."""
        temporary = path + TEMPORARY_SUFFIX
        with _failing(path, "write"):
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    _sync_all(file.fileno())
                os.rename(temporary, path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                if error.errno in _FULL:
                    raise self._full(path, len(data), error) from error
                raise
        self.sync_folder(os.path.dirname(path))

    def rename(self, source: str, target: str) -> None:
        """See `Disk.rename`."""
        with _failing(source, f"rename to {target}"):
            os.rename(source, target)

    def unlink(self, path: str) -> None:
        """See `Disk.unlink`."""
        with _failing(path, "unlink"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def sync_folder(self, path: str) -> None:
        """See `Disk.sync_folder`."""
        with _failing(path, "sync folder"):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _sync_all(fd)
            finally:
                os.close(fd)

    def open_tree(self, path: str) -> FileTree | None:
        """See `Disk.open_tree`."""
        with _failing(path, "open"):
            tree = tree_sync.open_tree(path)
        return None if tree is None else OsTree(path, tree)

    def free_bytes(self, path: str) -> int:
        """See `Disk.free_bytes`."""
        with _failing(path, "statvfs"):
            found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def disk_usage(self, path: str) -> DiskUsage:
        """See `Disk.disk_usage`."""
        with _failing(path, "statvfs"):
            found = os.statvfs(path)
        return DiskUsage(
            used=(found.f_blocks - found.f_bfree) * found.f_frsize,
            available=found.f_bavail * found.f_frsize,
        )

    def lock_folder(self, path: str) -> FolderLock:
        """See `Disk.lock_folder`."""
        if fcntl is None:
            raise StorageFailedError(f"{path}: lock: {sys.platform} has no file locks; use Linux")
        with _failing(path, "lock"):
            fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageFailedError(f"{path}: lock: {error.strerror}") from error
            raise FolderInUseError(
                f"{path}: another process uses this data folder; stop it, or give this node a "
                "folder of its own"
            ) from error
        return OsFolderLock(fd)

    def boot_id(self) -> str:
        """See `Disk.boot_id`."""
        return machine.boot_id()

    def _full(self, path: str, size: int, error: OSError) -> LedgerFullError:
        free = self.free_bytes(os.path.dirname(path))
        return LedgerFullError(
            f"{path}: no room for {size} bytes, {free} are free ({error.strerror}); free some "
            "disk space, or set log_size_max so that old segments are dropped"
        )


def _reserve(fd: int, size: int, *, zero_size: int) -> None:
    """Give the new file *fd* *size* zero bytes that are certain to find room when written."""
    # A sparse file would kill the process (SIGBUS) when the disk is full and the map is stored to.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        zero_size = size
    for offset in range(0, zero_size, len(_ZEROS)):
        os.pwrite(fd, _ZEROS[: zero_size - offset], offset)
        _sync_data(fd)  # by the piece: a sync of the log never waits for all of it


def _write_parts(fd: int, parts: Sequence[Buffer], offset: int) -> int:
    """Write *parts* at *offset* as far as the system takes them; return how many bytes it took."""
    if _HAS_PWRITEV:
        return os.pwritev(fd, parts, offset)
    return os.pwrite(fd, b"".join(parts), offset)  # macOS before 11


def _sync_data(fd: int) -> None:
    """Make the bytes of a file durable, and its size where that has changed."""
    if _FULL_SYNC is None and _HAS_FDATASYNC:
        os.fdatasync(fd)
    else:
        _sync_all(fd)


def _sync_all(fd: int) -> None:
    """Make a file or folder durable: past the drive's cache where the system stops before it."""
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(fd, _FULL_SYNC)
        except OSError as error:
            # Network file systems and some folders do not know it, and then fsync is all there is.
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
        else:
            return
    os.fsync(fd)


@contextlib.contextmanager
def _failing(path: str, verb: str) -> Iterator[None]:
    """Turn the system's error into ours, with the path and what was tried."""
    try:
        yield
    except OSError as error:
        raise StorageFailedError(
            f"{path}: {verb}: {error.strerror or error}; check the disk, then restart the node"
        ) from error
