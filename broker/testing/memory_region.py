"""What regions of files in memory have in common: nothing to read ahead, and no descriptor."""

from __future__ import annotations


class MemoryRegion:
    """A part of `dledger.store.disk.MappedRegion`; whoever has the bytes adds the rest."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self._is_closed = False

    def read_ahead(self, is_wanted: bool, start: int = 0) -> None:
        """See `MappedRegion.read_ahead`."""

    def leave_cache(self) -> None:
        """See `MappedRegion.leave_cache`."""

    def settled(self) -> None:
        """See `MappedRegion.settled`."""

    def begin_sync(self) -> int | None:
        """See `MappedRegion.begin_sync`."""
        return None  # there is no descriptor

    def end_sync(self, error: OSError | None) -> None:
        """See `MappedRegion.end_sync`."""
        raise AssertionError("no sync was begun")

    def close(self) -> bool:
        """See `MappedRegion.close`."""
        if self._is_closed:
            return False
        self._is_closed = True
        content = self._content()
        try:
            content.append(0)  # refused while anybody views it
            content.pop()
        except BufferError:
            return False
        return True

    def _content(self) -> bytearray:
        """Return the file's bytes as processes see them."""
        raise AssertionError(f"{type(self).__name__} has no _content()")
