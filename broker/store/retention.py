"""Where the queues of a topic should begin that keeps its messages for less long than the log.

Asked for on the leader only, which makes commands of the answers; so all nodes do the same.

By age the place is found by a binary search over store times (`broker.store.time_search`).  By size
the messages of a topic are counted once and then kept count of, and the oldest of all its queues go
first, by their places in the log.

The first look of a leader may have much to read: it is done in turns, and others run in between.
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
    from collections.abc import Generator, Mapping

    from broker.store.consume_queue import ConsumeQueue
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.queue_files import QueueKey

READS_AT_ONCE = 100  # of up to a block of units each: about a millisecond of the event loop
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


class _Turn:
    """What may still be read before others have to run: one for all queues of all topics."""

    def __init__(self) -> None:
        self.left = READS_AT_ONCE

    def others(self) -> Generator[None]:
        """Let others run when nothing is left."""
        if self.left <= 0:
            yield
            self.left = READS_AT_ONCE


class _Count:
    """Bytes of the records of one queue, by blocks of units: what is trimmed is taken off again."""

    def __init__(self) -> None:
        self._blocks: deque[int] = deque()
        self._first = 0  # number of the first block
        self._begin = 0  # in it: what lies before is not counted
        self._end = 0
        self.total = 0
        self.head = 0  # position of the first record; nothing as long as none is counted

    def is_of(self, queue: ConsumeQueue) -> bool:
        """Return whether *queue* begins where the count does; it may have grown since."""
        return self._begin == queue.min_offset and self._end <= queue.max_offset

    def go_on(self, queue: ConsumeQueue, turn: _Turn) -> bool:
        """Count on as far as the turn goes; return whether all is counted of what is there now."""
        begin = queue.min_offset
        if self._end > queue.max_offset or self._begin > begin or self._end < begin:
            self._blocks.clear()  # it is another queue, or all of it is gone that was counted
            self._first = begin // _BLOCK_UNITS
            self._begin = self._end = begin
            self.total = 0
        while self._blocks and self._first < begin // _BLOCK_UNITS:
            self.total -= self._blocks.popleft()
            self._first += 1
        if begin > self._begin and self._blocks:
            rest = min((self._first + 1) * _BLOCK_UNITS, self._end) - begin
            size = _size_of(queue, begin, rest) if rest else 0
            turn.left -= 1
            self.total += size - self._blocks[0]
            self._blocks[0] = size
            if begin < self._end:
                self.head = queue.position_at(begin)
        self._begin = begin
        if not self._blocks:
            self._first = begin // _BLOCK_UNITS
        if self._end == begin < queue.max_offset:
            self.head = queue.position_at(begin)
        while self._end < queue.max_offset and turn.left > 0:
            turn.left -= 1
            block = self._end // _BLOCK_UNITS
            count = min((block + 1) * _BLOCK_UNITS, queue.max_offset) - self._end
            size = _size_of(queue, self._end, count)
            if block == self._first + len(self._blocks):
                self._blocks.append(size)
            else:
                self._blocks[-1] += size
            self.total += size
            self._end += count
        return self._end == queue.max_offset


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
        self._turn = _Turn()

    def plan(self, bounds: TopicBounds, now_ms: int) -> Generator[None, None, dict[int, int]]:
        """Return where queues of a topic should begin that begin earlier now, by queue id.

        Yields:
            Nothing, whenever others have to run before it goes on; queues may change meanwhile.

        Raises:
            CorruptStoreError: an entry that decides is damaged.
        """
        begins: dict[int, int] = {}
        if bounds.retention_ms:
            begins = yield from self._within_time(bounds, now_ms - bounds.retention_ms)
        if bounds.retention_bytes:
            within_size = yield from self._within_size(bounds)
            for queue_id, offset in within_size.items():
                begins[queue_id] = max(begins.get(queue_id, 0), offset)
        queues = self._filled(bounds)
        return {
            queue_id: begins[queue_id]
            for queue_id in sorted(begins)
            if queue_id in queues and begins[queue_id] > queues[queue_id].min_offset
        }

    def forget(self, topics: Mapping[str, TopicBounds]) -> None:
        """Drop the counts of all but *topics*: of topics that are gone, or no longer bounded."""
        for known in (self._counts, self._oldest):
            for key in [key for key in known if key[0] not in topics]:
                del known[key]

    def _filled(self, bounds: TopicBounds) -> dict[int, ConsumeQueue]:
        """Return the queues of a topic that hold messages now."""
        return {
            queue_id: queue
            for queue_id in range(bounds.queue_count)
            if (queue := self._queues.get(bounds.topic, queue_id)) is not None
            and queue.min_offset < queue.max_offset
        }

    def _within_time(
        self, bounds: TopicBounds, kept_from_ms: int
    ) -> Generator[None, None, dict[int, int]]:
        """Return where the queues have to begin so that none has an older message."""
        begins: dict[int, int] = {}
        for queue_id in self._filled(bounds):
            queue = self._queues.get(bounds.topic, queue_id)  # it may have gone meanwhile
            if queue is not None and queue.min_offset < queue.max_offset:
                key = bounds.topic, queue_id
                begins[queue_id] = self._first_younger(key, queue, kept_from_ms)
                yield from self._turn.others()
        return begins

    def _first_younger(self, key: QueueKey, queue: ConsumeQueue, kept_from_ms: int) -> int:
        """Return the offset of the first message stored at *kept_from_ms* or later."""
        begin = queue.min_offset
        known_begin, oldest_ms = self._oldest.get(key, (-1, 0))
        if known_begin != begin:
            self._turn.left = 0  # anywhere in the log: as slow as the disk
            oldest_ms = store_timestamp_ms(self._log, queue.position_at(begin))
            self._oldest[key] = begin, oldest_ms
        if oldest_ms >= kept_from_ms:
            return begin
        self._turn.left = 0
        offset = offset_by_time(self._log, queue, kept_from_ms)
        if offset > begin:
            # A bit that has turned in this one time would take messages on every node.
            index = self._log.find_index_at_position(queue.position_at(offset - 1))
            self._log.verify(index, index)
        return offset

    def _within_size(self, bounds: TopicBounds) -> Generator[None, None, dict[int, int]]:
        """Return where the queues have to begin so that all of them are within the bound."""
        counts = yield from self._counted(bounds)
        excess = sum(count.total for count in counts.values()) - bounds.retention_bytes
        begins: dict[int, int] = {}
        heads = [(count.head, queue_id) for queue_id, count in counts.items() if count.total]
        heapq.heapify(heads)
        while excess > 0 and heads:
            if self._turn.left <= 0:
                yield from self._turn.others()
                if not self._are_of(counts, self._filled(bounds)):
                    # The log begins later now.  What is in begins is sound as it is: were only that
                    # taken, the topic would still be above its bound.
                    break
            self._turn.left -= 1
            _, queue_id = heapq.heappop(heads)
            queue = self._queues.get(bounds.topic, queue_id)
            assert queue is not None
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

    def _counted(self, bounds: TopicBounds) -> Generator[None, None, dict[int, _Count]]:
        """Return the counts of all queues of a topic, each from where its queue begins now.

        What came while others were counted may be missing: it is there the next time.
        """
        while True:
            counts: dict[int, _Count] = {}
            for queue_id in self._filled(bounds):
                key = bounds.topic, queue_id
                while (queue := self._queues.get(*key)) is not None:
                    counts[queue_id] = self._counts.setdefault(key, _Count())
                    is_done = counts[queue_id].go_on(queue, self._turn)
                    yield from self._turn.others()
                    if is_done:
                        break
            queues = self._filled(bounds)
            counts = {queue_id: count for queue_id, count in counts.items() if queue_id in queues}
            if self._are_of(counts, queues):
                return counts

    def _are_of(self, counts: Mapping[int, _Count], queues: Mapping[int, ConsumeQueue]) -> bool:
        return all(
            queue_id in queues and count.is_of(queues[queue_id])
            for queue_id, count in counts.items()
        )
