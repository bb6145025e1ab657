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


class LatencyHistogram:
    """Times in seconds.

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

    __slots__ = ("_buckets", "_count", "_seconds_max", "_seconds_sum", "_single")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKET_COUNT
        self._count = 0
        self._seconds_sum = 0.0
        self._seconds_max = 0.0
        self._single: list[float] = []  # not counted yet: many together take less than one by one

    def add(self, seconds: float, count: int = 1) -> None:
        """Count *count* things that took *seconds* each."""
        bucket = 0
        if seconds > SECONDS_MIN:
            bucket = int(math.log2(seconds / SECONDS_MIN) * BUCKETS_PER_OCTAVE)
            bucket = min(bucket, BUCKET_COUNT - 1)
        self._buckets[bucket] += count
        self._count += count
        self._seconds_sum += seconds * count
        self._seconds_max = max(self._seconds_max, seconds)

    def add_batch(self, begins: Sequence[float], now: float) -> None:
        """Count what began at *begins*, ascending and often equal, and is done *now*."""
        count = len(begins)
        if count == 1:
            single = self._single
            single.append(now - begins[0])
            if len(single) >= SINGLE_COUNT_MAX:
                self._count_single()
            return
        at = 0
        while at < count:
            begin = begins[at]
            until = bisect_right(begins, begin, at)
            self.add(now - begin, until - at)
            at = until

    def _count_single(self) -> None:
        single, self._single = self._single, []
        for seconds in single:
            self.add(seconds)

    @property
    def count(self) -> int:
        """How many there are."""
        return self._count + len(self._single)

    @property
    def seconds_sum(self) -> float:
        """How long all took together."""
        self._count_single()
        return self._seconds_sum

    @property
    def seconds_max(self) -> float:
        """How long the slowest took."""
        self._count_single()
        return self._seconds_max

    def quantile(self, share: float) -> float:
        """Return the seconds within which *share* of all, 0 to 1, were done; 0.0 without any."""
        self._count_single()
        wanted = share * self._count
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                middle: float = SECONDS_MIN * 2 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)
                return min(middle, self._seconds_max)
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
        return self.seconds_sum / self.count if self.count else 0.0

    def __repr__(self) -> str:
        return (
            f"LatencyHistogram(count={self.count}, p50={self.p50:.6f}, p99={self.p99:.6f}, "
            f"max={self.seconds_max:.6f})"
        )
