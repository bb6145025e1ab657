"""How long things took: a histogram that costs a few additions for each batch of equal times."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS_MIN = 1e-5  # everything shorter counts as this
BUCKETS_PER_OCTAVE = 8  # a quantile is right to within 9 %
SINGLE_COUNT_MAX = 256
BUCKET_COUNT = 28 * BUCKETS_PER_OCTAVE  # up to 45 minutes


class _Counted:
    """What has been counted, and times that have not been yet; one thread changes it."""

    __slots__ = ("buckets", "count", "seconds_max", "seconds_sum", "single")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKET_COUNT
        self.count = 0
        self.seconds_sum = 0.0
        self.seconds_max = 0.0
        self.single: list[float] = []  # not counted yet: many together take less than one by one

    def add(self, seconds: float, count: int) -> None:
        bucket = 0
        if seconds > SECONDS_MIN:
            bucket = int(math.log2(seconds / SECONDS_MIN) * BUCKETS_PER_OCTAVE)
            bucket = min(bucket, BUCKET_COUNT - 1)
        self.buckets[bucket] += count
        self.count += count
        self.seconds_sum += seconds * count
        self.seconds_max = max(self.seconds_max, seconds)

    def all_counted(self) -> _Counted:
        """Return a copy in which everything is counted; from any thread."""
        copy = _Counted()
        copy.buckets = self.buckets.copy()
        copy.count = sum(copy.buckets)  # of the same moment
        copy.seconds_sum = self.seconds_sum
        copy.seconds_max = self.seconds_max
        for seconds in self.single.copy():
            copy.add(seconds, 1)
        return copy


class LatencyHistogram:
    """Times in seconds; one thread adds them, any may read.

    >>> times = LatencyHistogram()
    >>> times.add(0.002, 98)
    >>> times.add(0.5, 2)
    >>> times.count
    100
    >>> 0.0018 < times.p50 < 0.0022
    True
    >>> 0.45 < times.p99 < 0.55
    True
    """

    __slots__ = ("_counted",)

    def __init__(self) -> None:
        # Replaced as a whole when single times are counted: readers in other threads find each
        # time once, in the old one or in the new.
        self._counted = _Counted()

    def add(self, seconds: float, count: int = 1) -> None:
        """Count *count* things that took *seconds* each."""
        self._counted.add(seconds, count)

    def add_batch(self, begins: Sequence[float], now: float) -> None:
        """Count what began at *begins*, ascending and often equal, and is done *now*."""
        count = len(begins)
        if count == 1:
            single = self._counted.single
            single.append(now - begins[0])
            if len(single) >= SINGLE_COUNT_MAX:
                self._counted = self._counted.all_counted()
            return
        at = 0
        while at < count:
            begin = begins[at]
            until = bisect_right(begins, begin, at)
            self.add(now - begin, until - at)
            at = until

    @property
    def count(self) -> int:
        """How many there are."""
        counted = self._counted
        return counted.count + len(counted.single)

    @property
    def seconds_sum(self) -> float:
        """How long all took together."""
        return self._counted.all_counted().seconds_sum

    @property
    def seconds_max(self) -> float:
        """How long the slowest took."""
        return self._counted.all_counted().seconds_max

    def quantile(self, share: float) -> float:
        """Return the seconds within which *share* of all, 0 to 1, were done; 0.0 without any."""
        counted = self._counted.all_counted()
        wanted = share * counted.count
        seen = 0
        for bucket, count in enumerate(counted.buckets):
            seen += count
            if count and seen >= wanted:
                middle: float = SECONDS_MIN * 2 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)
                return min(middle, counted.seconds_max)
        return 0.0

    @property
    def p50(self) -> float:
        """Seconds within which half were done."""
        return self.quantile(0.50)

    @property
    def p99(self) -> float:
        """Seconds within which 99 % were done."""
        return self.quantile(0.99)

    @property
    def mean(self) -> float:
        """Seconds on average; 0.0 without any."""
        counted = self._counted.all_counted()
        return counted.seconds_sum / counted.count if counted.count else 0.0

    def __repr__(self) -> str:
        return (
            f"LatencyHistogram(count={self.count}, p50={self.p50:.6f}, p99={self.p99:.6f}, "
            f"max={self.seconds_max:.6f})"
        )
