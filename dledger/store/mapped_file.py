"""One file of fixed size that holds a known range of positions.

Opened on first use, so that a restart does not grow with the number of files kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dledger.errors import StorageFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.entry import Buffer
    from dledger.store.disk import Disk, MappedRegion


class MappedFile:
    """The bytes from *position* up to ``position + size``."""

    def __init__(
        self, disk: Disk, path: str, *, position: int, size: int, region: MappedRegion | None = None
    ) -> None:
        self.path = path
        self.position = position  # of the first byte
        self.size = size
        self.end = position + size  # the position behind the last byte
        self.is_dirty = False  # written since the last sync began
        self.holds_new = False  # not only copies of what others have long had
        self._disk = disk
        self._region = region
        self._bytes: memoryview | None = None
        self._sync_has_failed = False
        self._is_filling = False  # what is not written yet is not read ahead
        self._is_filled = False
        self._unwritten: tuple[int, Buffer] | None = None  # position, and what is to be there

    @property
    def bytes(self) -> memoryview:
        """All of the file, read-only; not to be kept by a caller, slices of it may be."""
        if self._unwritten is not None:
            self.write_out()
        return self._all()

    def view(self, position: int, size: int) -> memoryview:
        """Return *size* bytes at *position*, read-only, over the map."""
        start = position - self.position
        assert 0 <= start <= start + size <= self.size
        # What lies in front of it is read by other threads, too, which may not write it.
        if (unwritten := self._unwritten) is not None and position + size > unwritten[0]:
            self.write_out()
        return (self._bytes or self._all())[start : start + size]

    def newest(self, position: int, size: int) -> memoryview:
        """As `view`, but of what was given to `write_later` it is no reason to write it."""
        unwritten = self._unwritten
        if unwritten is not None and unwritten[0] == position and len(unwritten[1]) == size:
            return memoryview(unwritten[1])
        return self.view(position, size)

    def write_later(self, position: int, data: Buffer) -> None:
        """Take *data* to be written at *position* with the next `write_out`.

        Or before, as soon as anybody reads the file, or writes to it again: only `newest` can tell.
        """
        if self._unwritten is not None:
            self.write_out()
        self.is_dirty = True
        self._unwritten = position, data

    def write_out(self) -> None:
        """Write what `write_later` was given, if that is still to be done; on the event loop.

        Raises:
            StorageFailedError: as `write`.
        """
        if (unwritten := self._unwritten) is not None:
            self._write(unwritten[0], (unwritten[1],), through_map=False)
            # Only now: after a failure no sync may speak for it, and nobody read what is not there.
            self._unwritten = None

    def write(self, position: int, parts: Sequence[Buffer], *, through_map: bool) -> None:
        """Write *parts* one after another at *position*.

        Raises:
            StorageFailedError: the write failed, perhaps in part; stop the process.
        """
        if self._unwritten is not None:
            self.write_out()
        self._write(position, parts, through_map=through_map)

    def _write(self, position: int, parts: Sequence[Buffer], *, through_map: bool) -> None:
        self.is_dirty = True
        region = self._region or self._open()
        if not (self._is_filling or self._is_filled):
            self._is_filling = True
            region.read_ahead(False, position - self.position)
        region.write(position - self.position, parts, through_map=through_map)

    def filled(self) -> None:
        """Hear that no more entries come: who reads of it now reads on, most likely."""
        self._is_filled = True
        if self._is_filling and self._region is not None:
            self._is_filling = False
            self._region.read_ahead(True)

    def sync(self, *, beside: bool = False) -> None:
        """Make what was written before the call durable; blocking, any thread.

        Args:
            beside: as of `MappedRegion.sync`: for whoever is not the log itself.

        Raises:
            StorageFailedError: this sync failed, or an earlier one did.  Linux tells of an error
                once and calls the pages clean: the next sync, a checkpoint's for instance, would
                succeed without having written them.
        """
        region = self._region
        if region is None:  # a file never opened was never written
            return
        if self._sync_has_failed:
            raise StorageFailedError(
                f"{self.path}: an earlier sync failed; check the disk, then restart the node"
            )
        try:
            region.sync(beside=beside)
        except StorageFailedError:
            self._sync_has_failed = True
            raise

    def settled(self) -> None:
        """Hear that a checkpoint covers all of it: it is not written to again; any thread."""
        if self._region is not None:
            self._region.settled()

    def leave_cache(self) -> None:
        """Hear that nobody is likely to read of it soon: see `MappedRegion.leave_cache`."""
        if self._region is not None:
            self._region.leave_cache()

    def begin_sync(self) -> int | None:
        """Return the descriptor for a sync beside this process, which `end_sync` ends.

        None where that cannot be had; `sync` then does what there is to do.
        """
        if self._region is None or self._sync_has_failed:
            return None
        return self._region.begin_sync()

    def end_sync(self, error: OSError | None) -> None:
        """Take note of a sync begun with `begin_sync`.

        Raises:
            StorageFailedError: *error* ended it; as `sync`.
        """
        assert self._region is not None
        try:
            self._region.end_sync(error)
        except StorageFailedError:
            self._sync_has_failed = True
            raise

    def move(self, path: str, *, position: int) -> None:
        """Rename the file, replacing what has that name; it now holds the bytes at *position*."""
        self._disk.rename(self.path, path)
        self.path = path
        self.position = position
        self.end = position + self.size
        self._is_filled = self.holds_new = False
        if self._region is not None:
            self._region.path = path

    def close(self) -> bool:
        """Let go of the file; whether no view is alive, so that it may be written to again.

        What is still to be written never will be: nobody has been told of it.
        """
        self._unwritten = None
        if self._bytes is not None:
            self._bytes.release()
            self._bytes = None
        return self._region is None or self._region.close()

    def _all(self) -> memoryview:
        if self._bytes is None:
            self._bytes = self._open().view(0, self.size)
        return self._bytes

    def _open(self) -> MappedRegion:
        if self._region is None:
            self._region = self._disk.open_region(self.path, writable=True)
        return self._region
