"""How much came into each topic and went out of it lately, for people who look.

What has passed since the node started, for machines that look, is in `broker.metrics.traffic`.

Nothing here has a timer: what is counted goes into the bucket of its time, and who reads adds up
the buckets that still count.  What came in is counted by run as it is dispatched, by the store
times of the records, so that every node tells the same, also one that has just caught up.  What
went out is counted by answer, on the node that gave it.

Source: RocketMQ ``BrokerStatsManager``, which samples every ten seconds.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.store.runs import RecordRun

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
PERIODS = (MINUTE_MS, HOUR_MS, DAY_MS)
BUCKETS = 6  # of a period that are over; one more is being filled
_FINEST_MS = MINUTE_MS // BUCKETS  # the buckets of all periods begin where one of these does
READERS_MAX = 10_000  # pairs of topic and group; the longest idle goes first


class Sum(NamedTuple):
    """What a period adds up to."""

    messages: int = 0
    size: int = 0  # bytes
    additions: int = 0  # how often something was counted


class _Meter:
    """Counts over one period: as many buckets as are over, and the one that fills."""

    __slots__ = ("_buckets", "_width_ms")

    def __init__(self, period_ms: int) -> None:
        self._width_ms = period_ms // BUCKETS
        self._buckets: list[tuple[int, int, int, int]] = [(-1, 0, 0, 0)] * (BUCKETS + 1)

    def add(self, at_ms: int, new: Sum) -> None:
        number = at_ms // self._width_ms
        place = number % (BUCKETS + 1)
        found, messages_before, size_before, additions = self._buckets[place]
        if found == number:
            bucket = (
                number,
                messages_before + new.messages,
                size_before + new.size,
                additions + new.additions,
            )
        elif found < number:
            bucket = (number, *new)
        else:
            return  # older than all that counts: a node that catches up
        self._buckets[place] = bucket

    def sum(self, now_ms: int) -> Sum:
        """Return what the buckets hold that were full at *now_ms*, and lie within the period."""
        last = now_ms // self._width_ms
        found = [bucket for bucket in self._buckets if last - BUCKETS <= bucket[0] < last]
        return Sum(*(sum(column) for column in list(zip(*found, strict=True))[1:]))


class Counter:
    """What was counted of one thing, over a minute, an hour and a day, and ever."""

    __slots__ = ("_additions", "_at_ms", "_bucket", "_messages", "_meters", "_size", "_total")

    def __init__(self) -> None:
        self._meters = tuple(_Meter(period) for period in PERIODS)
        self._total = Sum()
        # What came since the meters were last told, all of one bucket of the finest.
        self._bucket = -1
        self._at_ms = 0
        self._messages = self._size = self._additions = 0

    @property
    def total(self) -> Sum:
        """What was counted since the node started."""
        self._settle()
        return self._total

    def add(self, at_ms: int, messages: int, size: int) -> None:
        """Count *messages* of *size* bytes together at the time *at_ms*."""
        bucket = at_ms // _FINEST_MS
        if bucket != self._bucket:
            self._settle()
            self._bucket, self._at_ms = bucket, at_ms
        self._messages += messages
        self._size += size
        self._additions += 1

    def sums(self, now_ms: int) -> tuple[Sum, Sum, Sum]:
        """Return what the last minute, hour and day add up to."""
        self._settle()
        minute, hour, day = (meter.sum(now_ms) for meter in self._meters)
        return minute, hour, day

    def _settle(self) -> None:
        """Tell the meters: once for many additions, as there are some for each entry."""
        new = Sum(self._messages, self._size, self._additions)
        if not new.additions:
            return
        for meter in self._meters:
            meter.add(self._at_ms, new)
        total = self._total
        self._total = Sum(*map(operator.add, total, new))
        self._messages = self._size = self._additions = 0


class TopicRates:
    """Counters of topics, and of groups that read them; a dispatcher (`broker.store.dispatch`)."""

    def __init__(self) -> None:
        self._in: dict[str, Counter] = {}
        self._out: dict[str, Counter] = {}
        self._readers: dict[tuple[str, str], Counter] = {}  # topic and group, the last used last

    def dispatch_runs(self, runs: Iterable[RecordRun], body: memoryview) -> None:
        """Count what came in."""
        counters = self._in
        for run in runs:
            topic = run.topic
            counter = counters.get(topic)
            if counter is None:
                counter = counters[topic] = Counter()
            counter.add(run.store_timestamp_ms, run.record_count, run.size)

    def pulled(self, topic: str, group: str, messages: int, size: int, *, now_ms: int) -> None:
        """Count what one answer took out."""
        counter = self._out.get(topic)
        if counter is None:
            counter = self._out[topic] = Counter()
        counter.add(now_ms, messages, size)
        if not group:
            return
        key = topic, group
        counter = self._readers.pop(key, None) or Counter()
        counter.add(now_ms, messages, size)
        self._readers[key] = counter
        if len(self._readers) > READERS_MAX:
            del self._readers[next(iter(self._readers))]

    def topic_deleted(self, topic: str) -> None:
        """Forget *topic*."""
        self._in.pop(topic, None)
        self._out.pop(topic, None)
        for key in [key for key in self._readers if key[0] == topic]:
            del self._readers[key]

    def came_in(self, topic: str) -> Counter:
        """Return what came into *topic*."""
        return self._in.get(topic) or Counter()

    def went_out(self, topic: str, group: str = "") -> Counter:
        """Return what went out of *topic*, to *group* if one is named."""
        found = self._readers.get((topic, group)) if group else self._out.get(topic)
        return found or Counter()
