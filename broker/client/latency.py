"""How long things took: a histogram that costs a few additions for each batch of equal times."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS_MIN = 1e-5  # everything shorter counts as this
BUCKETS_PER_OCTAVE = 8  # a quantile is right to within 9 %
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

    __slots__ = ("_buckets", "count", "seconds_max", "seconds_sum")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKET_COUNT
        self.count = 0
        self.seconds_sum = 0.0
        self.seconds_max = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count *count* things that took *seconds* each."""
        bucket = 0
        if seconds > SECONDS_MIN:
            bucket = int(math.log2(seconds / SECONDS_MIN) * BUCKETS_PER_OCTAVE)
            bucket = min(bucket, BUCKET_COUNT - 1)
        self._buckets[bucket] += count
        self.count += count
        self.seconds_sum += seconds * count
        self.seconds_max = max(self.seconds_max, seconds)

    def add_batch(self, begins: Sequence[float], now: float) -> None:
        """Count what began at *begins*, ascending and often equal, and is done *now*."""
        at = 0
        count = len(begins)
        if count == 1:
            self.add(now - begins[0])
            return
        while at < count:
            begin = begins[at]
            until = bisect_right(begins, begin, at)
            self.add(now - begin, until - at)
            at = until

    def quantile(self, share: float) -> float:
        """Return the seconds within which *share* of all, 0 to 1, were done; 0.0 without any."""
        wanted = share * self.count
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                middle: float = SECONDS_MIN * 2 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)
                return min(middle, self.seconds_max)
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
