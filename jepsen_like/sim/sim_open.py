"""What a process has open of a simulated disk: regions, files, trees of files, locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.testing.memory_region import MemoryRegion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.entry import Buffer
    from jepsen_like.sim.sim_disk import SimMount
    from jepsen_like.sim.sim_file import SimFile


class ProcessGoneError(BaseException):
    """The process died inside a call of its disk; nobody but the simulator may catch this."""


class SimRegion(MemoryRegion):
    """See `dledger.store.disk.MappedRegion`."""

    def __init__(self, mount: SimMount, path: str, file: SimFile) -> None:
        super().__init__(path, file.size)
        self._mount = mount
        self._file = file

    def write(self, offset: int, parts: Sequence[Buffer], *, through_map: bool) -> None:
        """See `MappedRegion.write`."""
        assert not self._is_closed
        data = b"".join(parts)
        assert 0 <= offset <= offset + len(data) <= self.size
        mount = self._mount
        try:
            is_alive = mount.step(f"write {self.path}")
        except ProcessGoneError:
            self._file.write(offset, data[: mount.disk.chance.randrange(len(data) + 1)])
            raise
        if is_alive:
            self._file.write(offset, data)

    def view(self, offset: int, size: int) -> memoryview:
        """See `MappedRegion.view`."""
        assert 0 <= offset <= offset + size <= self.size
        return memoryview(self._file.cache)[offset : offset + size].toreadonly()

    def sync(self, *, beside: bool = False) -> None:
        """See `MappedRegion.sync`."""
        if not self._is_closed:
            self._mount.sync_file(self.path, self._file)

    def _content(self) -> bytearray:
        return self._file.cache


class SimOpenFile:
    """See `dledger.store.disk.DiskFile`."""

    def __init__(self, mount: SimMount, path: str, file: SimFile) -> None:
        self.path = path
        self._mount = mount
        self._file = file

    def read_all(self) -> bytes:
        """See `DiskFile.read_all`."""
        return self._file.read(0, self._file.size)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `DiskFile.read_at`."""
        end = min(offset + size, self._file.size)
        return self._file.read(offset, end - offset) if offset < end else b""

    def write_at(self, offset: int, data: Buffer) -> None:
        """See `DiskFile.write_at`."""
        if self._mount.step(f"write {self.path}"):
            self._file.write(offset, bytes(data))

    def sync(self) -> None:
        """See `DiskFile.sync`."""
        self._mount.sync_file(self.path, self._file)

    def close(self) -> None:
        """See `DiskFile.close`."""


class SimTree:
    """See `dledger.store.disk.FileTree`."""

    def __init__(self, mount: SimMount, path: str) -> None:
        self._mount = mount
        self._path = path

    def sync(self) -> None:
        """See `FileTree.sync`."""
        self._mount.sync_below(self._path)

    def close(self) -> None:
        """See `FileTree.close`."""


class SimLock:
    """See `dledger.store.disk.FolderLock`."""

    def __init__(self, mount: SimMount, path: str) -> None:
        self._mount = mount
        self._path = path

    def release(self) -> None:
        """See `FolderLock.release`."""
        if not self._mount.is_dead:
            self._mount.disk.unlock(self._path)
