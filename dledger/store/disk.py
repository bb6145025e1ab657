"""The disk, as the store sees it: everything that the store does to the world goes through `Disk`.

So a simulator can lose, tear and refuse what it likes.  What `Disk` promises is what POSIX file
systems keep:

- written bytes are durable once `MappedRegion.sync` or `DiskFile.sync` of their file returned;
- a name made, changed or removed is durable once `Disk.sync_folder` of its folder returned;
- a sector (512 bytes, aligned) is written whole or not at all;
- after a failed sync nothing may be assumed about the file: it is never tried again.

`dledger.store.os_disk` is the operating system's.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dledger.entry import Buffer
    from dledger.store.disk_usage import DiskUsage

TEMPORARY_SUFFIX = ".tmp"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # what a disk without room, or a quota, answers


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

    def leave_cache(self) -> None:
        """Hear that its bytes are durable, and that nobody is likely to read them soon; blocking.

        They need not stay in memory.  Does nothing on a region closed meanwhile.
        """
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

    def write_file(self, path: str, parts: Iterable[tuple[int, Buffer]]) -> bool:
        """Write *parts*, offset and bytes each, to the file *path*; False where there is none.

        As `open_file` and `write_at` do, in half the time: thousands are written one after another.
        """
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
