"""A node's two clocks: virtual time, as its crystal and its operator bend it."""

from __future__ import annotations

from jepsen_like.sim.sim_time import current_sim_time

EPOCH_MS = 1_700_000_000_000  # any fixed moment: a run must not depend on today's date


class SimClock:
    """A `dledger.clock.Clock` over virtual time."""

    def __init__(
        self, *, uptime_seconds: float = 0.0, rate: float = 1.0, wall_rate: float = 1.0
    ) -> None:
        """Make a clock.

        Args:
            uptime_seconds: where the monotonic clock stands at first; its zero means nothing.
            rate: its seconds in one virtual second; crystals differ.
            wall_rate: the same of its wall clock: with hours in a second messages grow old.
        """
        self._uptime_seconds = uptime_seconds
        self._rate = rate
        self._wall_rate = wall_rate
        self._frozen_at: float | None = None
        self._time = current_sim_time()
        self.wall_offset_ms = 0  # what an operator or NTP has moved it by
        self.wall_offset_max_ms = 0  # the most it ever was

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._uptime_seconds + self._time.seconds * self._rate

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 UTC, as this machine believes."""
        seconds = self._time.seconds if self._frozen_at is None else self._frozen_at
        return EPOCH_MS + int(seconds * 1000 * self._wall_rate) + self.wall_offset_ms

    def shift_wall(self, milliseconds: int) -> None:
        """Set the wall clock forwards or backwards."""
        self.wall_offset_ms += milliseconds
        self.wall_offset_max_ms = max(self.wall_offset_max_ms, self.wall_offset_ms)

    def freeze_wall(self) -> None:
        """Let no message grow older from now on."""
        self._frozen_at = self._time.seconds

    def local_hour(self) -> int:
        """Return the hour of the day, which is UTC's."""
        return self.wall_ms() // 3_600_000 % 24
