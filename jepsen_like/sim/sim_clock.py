"""A node's two clocks: virtual time, as its crystal and its operator bend it."""

from __future__ import annotations

import trio

EPOCH_MS = 1_700_000_000_000  # any fixed moment: a run must not depend on today's date


class SimClock:
    """A `dledger.clock.Clock` over virtual time."""

    def __init__(self, *, uptime_seconds: float = 0.0, rate: float = 1.0) -> None:
        """Make a clock.

        Args:
            uptime_seconds: where the monotonic clock stands at first; its zero means nothing.
            rate: its seconds in one virtual second; crystals differ.
        """
        self._uptime_seconds = uptime_seconds
        self._rate = rate
        self.wall_offset_ms = 0  # what an operator or NTP has moved it by

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._uptime_seconds + trio.current_time() * self._rate

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 UTC, as this machine believes."""
        return EPOCH_MS + int(trio.current_time() * 1000) + self.wall_offset_ms
