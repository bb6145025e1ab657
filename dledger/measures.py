"""Distributions of what is measured, kept as counts: nothing is allocated when a value comes in."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# A sync of an SSD takes 0.1 to 5 ms, one of a disk that is in trouble seconds.
SECONDS_BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0,
)  # fmt: skip
COUNT_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)


class Histogram:
    """Counts of values by upper bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Make an empty one.

        Args:
            bounds: upper bounds, rising; a value equal to one counts as below it.
        """
        assert list(bounds) == sorted(set(bounds))
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values have come in."""
        return sum(self._counts)

    def observe(self, value: float, *, times: int = 1) -> None:
        """Take *value* in, as if it had come *times* times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def add(self, counts: Sequence[int], total: float) -> None:
        """Take many values in: how many lie at each bound and above the last, and their sum."""
        for place, count in enumerate(counts):
            self._counts[place] += count
        self.sum += total

    def cumulative(self) -> list[int]:
        """Return how many values are at or below each bound, and at the end how many there are."""
        return list(accumulate(self._counts))
