"""The operating system's files, as `dledger.store.disk` wants them: mapped whole, or in place."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from typing import TYPE_CHECKING

from dledger.errors import StorageFailedError
from dledger.store import os_calls
from dledger.store.os_calls import failing, failure, sync_data, write_parts
from dledger.store.zeros import ZEROS_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dledger.entry import Buffer

_PARTS_MAX = 512  # buffers of one pwritev; Linux allows 1024 (IOV_MAX)
_LEAVE_SIZE = 16 * 1024 * 1024  # bytes of a file that leave the cache at a time
_WRITE_SIZE_MAX = ZEROS_SIZE  # bytes of it, and for the same reason


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
            with failing(self.path, "open"):
                self._fd_beside = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        if through_map:
            self._is_mapped_dirty = True
            for part in parts:
                end = offset + len(part)
                assert end <= self.size
                self._map[offset:end] = part
                offset = end
            return
        size = sum(map(len, parts))
        assert offset + size <= self.size
        # Both members that an entry waits for write it here, and nothing else goes on meanwhile.
        try:
            if size <= _WRITE_SIZE_MAX and len(parts) <= _PARTS_MAX:
                self._write_some(offset, parts, size=size)
                return
            for piece in _cut(parts, offset):
                offset = self._write_some(offset, piece, size=sum(map(len, piece)))
        except OSError as error:
            raise failure(self.path, "write", error) from error

    def view(self, offset: int, size: int) -> memoryview:
        """See `MappedRegion.view`."""
        assert 0 <= offset <= offset + size <= self.size
        return memoryview(self._map)[offset : offset + size].toreadonly()

    def read_ahead(self, is_wanted: bool, start: int = 0) -> None:
        """See `MappedRegion.read_ahead`."""
        if os_calls.CAN_ADVISE and not self._is_closed:
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
            with failing(self.path, "sync"):
                # Linux writes pages dirtied through the map on fdatasync as well, and msync in
                # CPython keeps the interpreter lock: the event loop would stand still meanwhile.
                if self._is_mapped_dirty and not os_calls.FDATASYNC_SEES_MAP:
                    self._map.flush()
                sync_data(fd)
        finally:
            self._sync_ended()

    def begin_sync(self) -> int | None:
        """See `MappedRegion.begin_sync`."""
        with self._lock:
            if self._is_closed or not os_calls.FDATASYNC_SEES_MAP:
                return None
            self._syncs_running += 1
        return self._fd

    def end_sync(self, error: OSError | None) -> None:
        """See `MappedRegion.end_sync`."""
        self._sync_ended()
        if error is not None:
            with failing(self.path, "sync"):
                raise error

    def settled(self) -> None:
        """See `MappedRegion.settled`. A node keeps thousands of such files open."""
        with self._lock:
            self._close_beside()

    def leave_cache(self) -> None:
        """See `MappedRegion.leave_cache`."""
        if not os_calls.CAN_LEAVE_CACHE:
            return
        for start in range(0, self.size, _LEAVE_SIZE):
            size = min(_LEAVE_SIZE, self.size - start)
            with self._lock:
                if self._is_closed:
                    return
                with contextlib.suppress(OSError):  # a hint
                    # What is mapped stays; views see the same bytes, from the disk.
                    self._map.madvise(mmap.MADV_DONTNEED, start, size)
                    os.posix_fadvise(self._fd, start, size, os.POSIX_FADV_DONTNEED)

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

    def _write_some(self, offset: int, parts: Sequence[Buffer], *, size: int) -> int:
        """Write up to 512 *parts*, together *size* bytes; return the offset behind them."""
        written = write_parts(self._fd, parts, offset)
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
        with failing(self.path, "read"):
            return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `DiskFile.read_at`."""
        with failing(self.path, "read"):
            return os.pread(self._fd, size, offset)

    def write_at(self, offset: int, data: bytes) -> None:
        """See `DiskFile.write_at`."""
        with failing(self.path, "write"):
            check_written(self.path, os.pwrite(self._fd, data, offset), data)

    def sync(self) -> None:
        """See `DiskFile.sync`."""
        with failing(self.path, "sync"):
            sync_data(self._fd)

    def close(self) -> None:
        """See `DiskFile.close`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_written(path: str, written: int, data: Buffer) -> None:
    """Raise unless all of *data* was *written*."""
    if written != len(data):
        raise StorageFailedError(
            f"{path}: wrote {written} of {len(data)} bytes; check the disk, then restart"
        )


class OsMappedFile(OsFile):
    """One that is written to through a mapping; its size does not change."""

    def __init__(self, path: str, fd: int) -> None:
        super().__init__(path, fd)
        self._map: mmap.mmap | None = None

    def write_at(self, offset: int, data: bytes) -> None:
        """See `DiskFile.write_at`."""
        if self._map is None:
            with failing(self.path, "map"):
                self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        self._map[offset : offset + len(data)] = data

    def close(self) -> None:
        """See `DiskFile.close`."""
        if self._map is not None:
            self._map.close()
            self._map = None
        super().close()


def _cut(parts: Sequence[Buffer], offset: int) -> Iterator[list[Buffer]]:
    """Cut *parts*, for a file from *offset* on, where the file's blocks of memory end."""
    piece: list[Buffer] = []
    room = _WRITE_SIZE_MAX - offset % _WRITE_SIZE_MAX
    for part in parts:
        rest = memoryview(part)
        while rest:
            piece.append(rest[:room])
            rest, room = rest[room:], room - len(piece[-1])
            if not room or len(piece) == _PARTS_MAX:
                yield piece
                piece, room = [], room or _WRITE_SIZE_MAX
    if piece:
        yield piece
