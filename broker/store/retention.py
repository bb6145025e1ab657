"""Where the queues of a topic should begin that keeps its messages for less long than the log.

Asked for on the leader only, which makes commands of the answers; so all nodes do the same.

By age the place is found by a binary search over store times (`broker.store.time_search`).  By size
the messages of a topic are counted once and then kept count of, and the oldest of all its queues go
first, by their places in the log.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from broker.store.columns import UNIT
from broker.store.log_view import LogView
from broker.store.time_search import offset_by_time, store_timestamp_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.store.consume_queue import ConsumeQueue
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.queue_files import QueueKey

COUNTED_AT_ONCE = 100_000  # units: less than a millisecond of the event loop
_BLOCK_UNITS = 1024


class SearchableLog(LogView, Protocol):
    """A log that knows which entry holds a byte."""

    def find_index_at_position(self, position: int) -> int:
        """Return the index of the entry that holds byte *position*."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicBounds:
    """What one topic keeps of its own; 0: no bound."""

    topic: str
    queue_count: int
    retention_ms: int
    retention_bytes: int  # of all its queues together


class _Count:
    """Bytes of the records of one queue, by blocks of units: what is trimmed is taken off again."""

    def __init__(self) -> None:
        self._blocks: deque[int] = deque()
        self._first = 0  # number of the first block
        self._begin = 0  # in it: what lies before is not counted
        self._end = 0
        self._total = 0

    def size_of(self, queue: ConsumeQueue) -> int | None:
        """Return the bytes of what is in *queue* now; None when there is more left to count."""
        begin = queue.min_offset
        if self._end > queue.max_offset or self._begin > begin or self._end < begin:
            self._blocks.clear()  # it is another queue, or all of it is gone that was counted
            self._first = begin // _BLOCK_UNITS
            self._begin = self._end = begin
            self._total = 0
        while self._blocks and self._first < begin // _BLOCK_UNITS:
            self._total -= self._blocks.popleft()
            self._first += 1
        if begin > self._begin and self._blocks:
            rest = min((self._first + 1) * _BLOCK_UNITS, self._end) - begin
            size = _size_of(queue, begin, rest) if rest else 0
            self._total += size - self._blocks[0]
            self._blocks[0] = size
        self._begin = begin
        if not self._blocks:
            self._first = begin // _BLOCK_UNITS
        stop = min(queue.max_offset, self._end + COUNTED_AT_ONCE)
        while self._end < stop:
            block = self._end // _BLOCK_UNITS
            count = min((block + 1) * _BLOCK_UNITS, stop) - self._end
            size = _size_of(queue, self._end, count)
            if block == self._first + len(self._blocks):
                self._blocks.append(size)
            else:
                self._blocks[-1] += size
            self._total += size
            self._end += count
        return self._total if self._end == queue.max_offset else None


def _size_of(queue: ConsumeQueue, begin: int, count: int) -> int:
    table = np.frombuffer(queue.units_from(begin, unit_count_max=count), UNIT)
    return int(table["size"].sum(dtype=np.int64))


class TopicRetention:
    """Plans trims; keeps count of the topics that are bounded by size."""

    def __init__(self, log: SearchableLog, queues: ConsumeQueues) -> None:
        self._log = log
        self._queues = queues
        self._counts: dict[QueueKey, _Count] = {}
        # First offset of a queue, and when that message was stored: it lies in a file that nobody
        # has read for long, and is asked for every few seconds.
        self._oldest: dict[QueueKey, tuple[int, int]] = {}

    def plan(self, bounds: TopicBounds, now_ms: int) -> dict[int, int]:
        """Return where queues of a topic should begin that begin earlier now, by queue id.

        Raises:
            CorruptStoreError: an entry that decides is damaged.
        """
        queues = {
            queue_id: queue
            for queue_id in range(bounds.queue_count)
            if (queue := self._queues.get(bounds.topic, queue_id)) is not None
            and queue.min_offset < queue.max_offset
        }
        begins = {queue_id: queue.min_offset for queue_id, queue in queues.items()}
        if bounds.retention_ms:
            kept_from_ms = now_ms - bounds.retention_ms
            for queue_id, queue in queues.items():
                begins[queue_id] = self._first_younger(
                    (bounds.topic, queue_id), queue, kept_from_ms
                )
        if bounds.retention_bytes:
            for queue_id, offset in self._within_size(bounds, queues).items():
                begins[queue_id] = max(begins[queue_id], offset)
        return {
            queue_id: offset
            for queue_id, offset in begins.items()
            if offset > queues[queue_id].min_offset
        }

    def forget(self, topics: Mapping[str, TopicBounds]) -> None:
        """Drop the counts of all but *topics*: of topics that are gone, or no longer bounded."""
        for known in (self._counts, self._oldest):
            for key in [key for key in known if key[0] not in topics]:
                del known[key]

    def _first_younger(self, key: QueueKey, queue: ConsumeQueue, kept_from_ms: int) -> int:
        """Return the offset of the first message stored at *kept_from_ms* or later."""
        begin = queue.min_offset
        known_begin, oldest_ms = self._oldest.get(key, (-1, 0))
        if known_begin != begin:
            oldest_ms = store_timestamp_ms(self._log, queue.position_at(begin))
            self._oldest[key] = begin, oldest_ms
        if oldest_ms >= kept_from_ms:
            return begin
        offset = offset_by_time(self._log, queue, kept_from_ms)
        if offset > begin:
            # A bit that has turned in this one time would take messages on every node.
            index = self._log.find_index_at_position(queue.position_at(offset - 1))
            self._log.verify(index, index)
        return offset

    def _within_size(
        self, bounds: TopicBounds, queues: Mapping[int, ConsumeQueue]
    ) -> dict[int, int]:
        """Return where the queues have to begin so that all of them are within the bound."""
        total = 0
        for queue_id, queue in queues.items():
            count = self._counts.setdefault((bounds.topic, queue_id), _Count())
            size = count.size_of(queue)
            if size is None:
                return {}  # to be gone on with the next time
            total += size
        excess = total - bounds.retention_bytes
        if excess <= 0:
            return {}
        begins: dict[int, int] = {}
        heads = [(queue.position_at(queue.min_offset), number) for number, queue in queues.items()]
        heapq.heapify(heads)
        while excess > 0 and heads:
            _, queue_id = heapq.heappop(heads)
            queue = queues[queue_id]
            begin = begins.get(queue_id, queue.min_offset)
            table = np.frombuffer(queue.units_from(begin, unit_count_max=_BLOCK_UNITS), UNIT)
            going = len(table)
            if heads:  # as far as its messages are older than the oldest of the next queue
                going = max(1, int(np.searchsorted(table["position"], heads[0][0])))
            sums = np.cumsum(table["size"][:going], dtype=np.int64)
            going = min(going, int(np.searchsorted(sums, excess)) + 1)
            excess -= int(sums[going - 1])
            begins[queue_id] = begin + going
            if begin + going < queue.max_offset:
                heapq.heappush(heads, (queue.position_at(begin + going), queue_id))
        return begins
