"""Messages in a second over the last 10 s, minute and 10 minutes, as RocketMQ's brokerStatus has.

Source: RocketMQ ``StoreStatsService``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dledger.clock import Clock

SAMPLE_SECONDS: Final = 10.0
WINDOWS_SECONDS: Final = (10.0, 60.0, 600.0)


class Rates:
    """Counters looked at every ten seconds; `run` is started where a node really runs."""

    def __init__(self, clock: Clock, counters: Mapping[str, Callable[[], int]]) -> None:
        """Look at nothing yet.

        Args:
            clock: the time.
            counters: what only rises, by name.
        """
        self._clock = clock
        self._counters = dict(counters)
        size = round(WINDOWS_SECONDS[-1] / SAMPLE_SECONDS) + 1
        self._samples: deque[tuple[float, dict[str, int]]] = deque(maxlen=size)
        self.sample()

    def sample(self) -> None:
        """Take note of what the counters say now."""
        values = {name: counter() for name, counter in self._counters.items()}
        self._samples.append((self._clock.now(), values))

    def per_second(self, name: str) -> tuple[float, ...]:
        """Return the rate of counter *name* in each of `WINDOWS_SECONDS`, up to this moment."""
        now, value = self._clock.now(), self._counters[name]()
        found = []
        for window in WINDOWS_SECONDS:
            # The latest sample that lies a window back; the oldest one while there is none.
            at, values = self._samples[0]
            for sample_at, sample_values in reversed(self._samples):
                if now - sample_at >= window:
                    at, values = sample_at, sample_values
                    break
            elapsed = now - at
            found.append((value - values[name]) / elapsed if elapsed > 0 else 0.0)
        return tuple(found)

    async def run(self) -> None:
        """Look at the counters until cancelled."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            self.sample()
