"""The operating system's disk: files and folders by path, room, names, and who holds a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from dledger import machine
from dledger.errors import FolderInUseError, LedgerFullError, StorageFailedError
from dledger.store import os_calls, tree_sync
from dledger.store.disk import NO_ROOM, TEMPORARY_SUFFIX
from dledger.store.disk_usage import DiskUsage
from dledger.store.os_calls import failing, sync_all, sync_data
from dledger.store.os_files import OsFile, OsMappedFile, OsRegion, check_written
from dledger.store.zeros import ZERO_PIECE, ZEROS, ZEROS_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.entry import Buffer
    from dledger.store.disk import DiskFile, FileTree, FolderLock, MappedRegion


class OsDisk:
    """The operating system's files."""

    def create_file(self, path: str) -> None:
        """See `Disk.create_file`."""
        with failing(path, "create"):
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
                if error.errno in NO_ROOM:
                    raise self._full(path, 0, error) from error
                raise

    def make_folder(self, path: str) -> None:
        """See `Disk.make_folder`."""
        path = os.path.abspath(path)
        with failing(path, "create folder"):
            missing: list[str] = []
            while not os.path.isdir(path):
                missing.append(path)
                path = os.path.dirname(path)
            for folder in reversed(missing):
                os.makedirs(folder, exist_ok=True)
                self.sync_folder(os.path.dirname(folder))

    def list_folder(self, path: str) -> list[str]:
        """See `Disk.list_folder`."""
        with failing(path, "list"):
            return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        """See `Disk.exists`."""
        return os.path.exists(path)

    def file_size(self, path: str) -> int:
        """See `Disk.file_size`."""
        with failing(path, "stat"):
            return os.stat(path).st_size

    def allocate(self, path: str, size: int, *, zero_size: int) -> MappedRegion:
        """See `Disk.allocate`."""
        temporary = path + TEMPORARY_SUFFIX
        with failing(path, "allocate"):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                _reserve(fd, size, zero_size=zero_size)
                sync_all(fd)
                os.rename(temporary, path)
                self.sync_folder(os.path.dirname(path))
                return OsRegion(path, fd, size, writable=True)
            except OSError as error:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                if error.errno in NO_ROOM:
                    raise self._full(path, size, error) from error
                raise

    def open_region(self, path: str, *, writable: bool) -> MappedRegion:
        """See `Disk.open_region`."""
        with failing(path, "open"):
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                return OsRegion(path, fd, os.fstat(fd).st_size, writable=writable)
            except BaseException:
                os.close(fd)
                raise

    def open_file(self, path: str, *, through_map: bool = False) -> DiskFile:
        """See `Disk.open_file`."""
        with failing(path, "open"):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        return OsMappedFile(path, fd) if through_map else OsFile(path, fd)

    def write_file(self, path: str, parts: Iterable[tuple[int, Buffer]]) -> bool:
        """See `Disk.write_file`."""
        with failing(path, "write"):
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                for offset, data in parts:
                    check_written(path, os.pwrite(fd, data, offset), data)
            finally:
                os.close(fd)
        return True

    def read_file(self, path: str) -> bytes:
        """See `Disk.read_file`."""
        with failing(path, "read"), open(path, "rb") as file:
            return file.read()

    def write_file_atomic(self, path: str, data: bytes) -> None:
        """See `Disk.write_file_atomic`."""
        temporary = path + TEMPORARY_SUFFIX
        with failing(path, "write"):
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    sync_all(file.fileno())
                os.rename(temporary, path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                if error.errno in NO_ROOM:
                    raise self._full(path, len(data), error) from error
                raise
        self.sync_folder(os.path.dirname(path))

    def rename(self, source: str, target: str) -> None:
        """See `Disk.rename`."""
        with failing(source, f"rename to {target}"):
            os.rename(source, target)

    def unlink(self, path: str) -> None:
        """See `Disk.unlink`."""
        with failing(path, "unlink"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def sync_folder(self, path: str) -> None:
        """See `Disk.sync_folder`."""
        with failing(path, "sync folder"):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sync_all(fd)
            finally:
                os.close(fd)

    def open_tree(self, path: str) -> FileTree | None:
        """See `Disk.open_tree`."""
        with failing(path, "open"):
            tree = tree_sync.open_tree(path)
        return None if tree is None else OsTree(path, tree)

    def free_bytes(self, path: str) -> int:
        """See `Disk.free_bytes`."""
        with failing(path, "statvfs"):
            found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def disk_usage(self, path: str) -> DiskUsage:
        """See `Disk.disk_usage`."""
        with failing(path, "statvfs"):
            found = os.statvfs(path)
        return DiskUsage(
            used=(found.f_blocks - found.f_bfree) * found.f_frsize,
            available=found.f_bavail * found.f_frsize,
        )

    def lock_folder(self, path: str) -> FolderLock:
        """See `Disk.lock_folder`."""
        if not os_calls.has_locks():
            raise StorageFailedError(f"{path}: lock: {sys.platform} has no file locks; use Linux")
        with failing(path, "lock"):
            fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os_calls.lock(fd)
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


class OsTree:
    """A `FileTree` of the operating system."""

    def __init__(self, path: str, tree: tree_sync.OpenTree) -> None:
        self._path = path
        self._tree = tree

    def sync(self) -> None:
        """See `FileTree.sync`."""
        with failing(self._path, "sync all below"):
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


def _reserve(fd: int, size: int, *, zero_size: int) -> None:
    """Give the new file *fd* *size* zero bytes that are certain to find room when written."""
    # A sparse file would kill the process (SIGBUS) when the disk is full and the map is stored to.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        zero_size = size
    for offset in range(0, zero_size, ZEROS_SIZE):
        os.pwrite(fd, ZEROS[: zero_size - offset], offset)
        if not (offset + ZEROS_SIZE) % ZERO_PIECE:
            sync_data(fd)  # by the piece: a sync of the log never waits for all of it
