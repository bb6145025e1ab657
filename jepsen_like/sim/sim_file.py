"""One file of a simulated disk: as processes see it, and as the platter holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

PAGE = 4096
SECTOR = 512
# Room that a growing file is given at once: a view over it would keep it from growing later.
_ROOM = 64 * 1024

KEEP, DROP = 0.3, 0.4  # of a dirty page at a power loss; otherwise it is torn


class SimFile:
    """The bytes of a file, with the pages that differ from the platter's."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.cache = bytearray(max(size, 1))
        self.durable = bytearray(size)  # its length is the durable size
        self.dirty: set[int] = set()  # pages written and not known to be on the platter
        self._syncs = 0
        self._synced_by: dict[int, int] = {}  # page -> number of the sync that wrote it last
        self.rotten: set[int] = set()  # bytes that bit rot has changed, on the platter too

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes as a process sees them."""
        return bytes(self.cache[offset : min(offset + size, self.size)])

    def write(self, offset: int, data: bytes) -> None:
        """Write into the page cache; a file written beyond its end grows."""
        end = offset + len(data)
        if end > len(self.cache):
            grown = bytearray(max(2 * end, _ROOM))
            grown[: self.size] = self.cache[: self.size]
            self.cache = grown  # views of the old bytes stay as they are
        self.cache[offset:end] = data
        self.size = max(self.size, end)
        if data:
            self.dirty.update(range(offset // PAGE, (end - 1) // PAGE + 1))
            if self.rotten:
                self.rotten.difference_update(range(offset, end))

    def begin_sync(self) -> Callable[[], None]:
        """Take what a sync that begins now promises; the result puts it on the platter."""
        size = self.size
        pages = [(page, self._page(page, size)) for page in sorted(self.dirty)]
        self._syncs += 1
        number = self._syncs

        def finish() -> None:
            self._grow_durable(size)
            for page, data in pages:
                if self._synced_by.get(page, 0) > number:
                    continue  # a sync that began later was faster
                self._synced_by[page] = number
                start = page * PAGE
                self.durable[start : start + len(data)] = data
                if self.read(start, PAGE) == data:
                    self.dirty.discard(page)

        return finish

    def fail_sync(self) -> None:
        """Mark dirty pages clean without writing them, as Linux does after an I/O error."""
        self.dirty.clear()

    def after_power_loss(self, chance: random.Random) -> tuple[SimFile, int]:
        """Return what is found when the power is back, and how many dirty pages were not kept."""
        after = SimFile()
        durable, lost = bytearray(self.durable), 0
        for page in sorted(self.dirty):
            drawn = chance.random()
            new = self._page(page, self.size)
            if drawn < KEEP + DROP and drawn >= KEEP:
                lost += 1
                continue
            start = page * PAGE
            if len(durable) < start + len(new):
                durable += bytes(start + len(new) - len(durable))
            if drawn >= KEEP:
                lost += 1
                for at in range(0, len(new), SECTOR):
                    if chance.random() < 0.5:
                        sector = new[at : at + SECTOR]
                        durable[start + at : start + at + len(sector)] = sector
            else:
                durable[start : start + len(new)] = new
        after.durable = durable
        after.size = len(durable)
        after.cache = bytearray(durable) or bytearray(1)
        after.rotten = self.rotten
        return after, lost

    def rot(self, offset: int, bit: int) -> None:
        """Turn one bit, on the platter and in the cache."""
        self.cache[offset] ^= 1 << bit
        if offset < len(self.durable):
            self.durable[offset] ^= 1 << bit
        self.rotten.add(offset)

    def _page(self, page: int, size: int) -> bytes:
        return bytes(self.cache[page * PAGE : min((page + 1) * PAGE, size)])

    def _grow_durable(self, size: int) -> None:
        if len(self.durable) < size:
            self.durable += bytes(size - len(self.durable))
