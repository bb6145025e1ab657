"""The fake disk for files that grow: a consume queue's do, the ledger's do not."""

from __future__ import annotations

from tests.fakes.disk import FakeDisk, FakeFile, FakeRegion, SimulatedCrash


class GrowingFile(FakeFile):
    """May be written at and beyond its end; a crash may cut any write short."""

    def write_at(self, offset: int, data: bytes) -> None:
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
    """See `tests.fakes.disk.FakeDisk`."""

    def open_file(self, path: str) -> GrowingFile:
        return GrowingFile(self, path, self._inode(path, "open"))

    def open_region(self, path: str, *, writable: bool) -> GrowingRegion:
        return GrowingRegion(self, path, self._inode(path, "open"))
