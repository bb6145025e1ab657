"""The one source of time: passed in, so that a run can be replayed under virtual time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two readings of time that never stand in for one another."""

    def now(self) -> float:
        """Return seconds on a clock that only moves forward; its zero means nothing."""
        ...

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 UTC; may jump when an operator sets the clock."""
        ...

    def local_hour(self) -> int:
        """Return the hour of the day, 0 to 23, where the machine is."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic()  # noqa: TID251 - this file is the one place that reads the clock

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def local_hour(self) -> int:
        """Return the hour of the day, 0 to 23, in the machine's time zone."""
        return datetime.now(UTC).astimezone().hour
