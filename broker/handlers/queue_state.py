"""What this node has of each queue: ends, times, sizes, and what comes in and goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from broker.protocol.descriptions import QueueDescription, Rate
from broker.store.columns import UNIT
from broker.store.runs import UNIT_SIZE
from broker.store.time_search import offset_by_time, store_timestamp_ms

if TYPE_CHECKING:
    from broker.store.consume_queue import ConsumeQueue
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView
    from broker.store.topic_rates import Counter, TopicRates
    from dledger.clock import Clock

# Units whose sizes are added up for one answer, some 3 ms: beyond that a sample has to do.
UNITS_READ_MAX = 200_000
_SAMPLES = 32  # places of a queue that a sample looks at


class QueueStates:
    """Looks at queues for those who ask."""

    def __init__(
        self, *, log: LogView, queues: ConsumeQueues, rates: TopicRates, clock: Clock
    ) -> None:
        self._log = log
        self._queues = queues
        self._rates = rates
        self._clock = clock

    def ends(self, topic: str, queue_id: int) -> tuple[int, int]:
        """Return the offset of the first message kept and that of the next one."""
        queue = self._queues.get(topic, queue_id)
        return (0, 0) if queue is None else (queue.min_offset, queue.max_offset)

    def store_time(self, topic: str, queue_id: int, queue_offset: int) -> int:
        """Return when a message was stored, in milliseconds since 1970; -1: it is not there.

        Raises:
            CorruptStoreError: the log does not have what the queue says.
        """
        queue = self._queues.get(topic, queue_id)
        if queue is None or not queue.min_offset <= queue_offset < queue.max_offset:
            return -1
        return store_timestamp_ms(self._log, queue.position_at(queue_offset))

    def offset_at(self, topic: str, queue_id: int, timestamp_ms: int) -> int:
        """Return the offset of the first message stored at a time or later; the end if none was.

        Raises:
            CorruptStoreError: the log does not have what the queue says.
        """
        queue = self._queues.get(topic, queue_id)
        return 0 if queue is None else offset_by_time(self._log, queue, timestamp_ms)

    def describe(self, topic: str, queue_id: int, *, units_max: int) -> QueueDescription:
        """Return what there is of one queue, from at most *units_max* of its units.

        Raises:
            CorruptStoreError: the log does not have what the queue says.
        """
        first, end = self.ends(topic, queue_id)
        queue = self._queues.get(topic, queue_id)
        size = 0 if queue is None else _size_of(queue, units_max)
        return QueueDescription(
            queue_id=queue_id,
            min_offset=first,
            max_offset=end,
            size=size,
            is_size_estimated=end - first > units_max,
            oldest_ms=self.store_time(topic, queue_id, first),
            newest_ms=self.store_time(topic, queue_id, end - 1),
        )

    def in_rate(self, topic: str) -> Rate:
        """Return what came into *topic* in the last minute."""
        return self._rate(self._rates.came_in(topic))

    def out_rate(self, topic: str, group: str = "") -> Rate:
        """Return what went out of *topic* here in the last minute, to *group* if one is named."""
        return self._rate(self._rates.went_out(topic, group))

    def _rate(self, counter: Counter) -> Rate:
        minute, _, _ = counter.sums(self._clock.wall_ms())
        return Rate(
            messages_per_second=round(minute.messages / 60, 3),
            bytes_per_second=round(minute.size / 60, 1),
        )


def _size_of(queue: ConsumeQueue, units_max: int) -> int:
    """Return the bytes of all messages of *queue*; of a sample of them when there are too many."""
    first, end = queue.min_offset, queue.max_offset
    count = end - first
    if count <= units_max:
        return _sum(queue, first, count)
    each = max(units_max // _SAMPLES, 1)
    seen = size = 0
    for nth in range(_SAMPLES):
        begin = first + (count - each) * nth // (_SAMPLES - 1)
        size += _sum(queue, begin, each)
        seen += each
    return size * count // seen


def _sum(queue: ConsumeQueue, begin: int, count: int) -> int:
    if not count:
        return 0
    units = queue.units_from(begin, unit_count_max=count)
    assert len(units) == count * UNIT_SIZE
    return int(np.frombuffer(units, UNIT)["size"].sum(dtype=np.int64))
