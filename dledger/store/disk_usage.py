"""How full a disk is."""

from __future__ import annotations

from typing import NamedTuple


class DiskUsage(NamedTuple):
    """A file system, as ``df`` sees it: what is kept for the superuser counts as neither."""

    used: int  # bytes, of whoever
    available: int  # bytes left to us

    @property
    def percent(self) -> float:
        """How much of what could be used is. Source: RocketMQ ``UtilAll``."""
        size = self.used + self.available
        return 100 * self.used / size if size else 100.0

    def excess(self, percent: int) -> int:
        """Return how many bytes would have to go for *percent* to be used; 0 when no more are."""
        return max(0, -(-(100 * self.used - percent * (self.used + self.available)) // 100))


def format_bytes(size: int) -> str:
    """Return *size* for people: ``"1.5 GiB"``."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
