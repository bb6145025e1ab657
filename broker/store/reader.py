"""Messages by topic, queue and offset, as views over the log."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from broker.message.codec import RECORD_SIZE_MIN
from broker.store.columns import COLUMN_MIN, UNIT
from broker.store.runs import UNIT_SIZE
from dledger.errors import CorruptStoreError
from dledger.store.entry_index import EntryNotFoundError

if TYPE_CHECKING:
    from broker.store.consume_queue import ConsumeQueue
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView

# Units looked at for one pull with a filter: 0.1 ms. Source: RocketMQ
# ``MessageStoreConfig.maxFilterMessageSize``, units in bytes there.
FILTER_UNITS_MAX = 16_000
VIEWS_MAX = 64  # more are joined: each costs the kernel more than copying a small record does

_EMPTY: list[memoryview] = []


class PullStatus(enum.Enum):
    """What a pull came to. Source: RocketMQ ``GetMessageStatus``."""

    FOUND = "found"
    NO_MATCHED_MESSAGE = "no message with one of the tags between offset and next_offset"
    NO_NEW_MESSAGE = "the offset is the end of the queue"
    OFFSET_TOO_SMALL = "retention has removed the offset; go on at min_offset"
    OFFSET_TOO_LARGE = "the offset is beyond the end of the queue"
    NO_MESSAGE_IN_QUEUE = "the queue never had a message"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullResult:
    """What a pull found."""

    status: PullStatus
    next_offset: int  # where the next pull should begin
    min_offset: int
    max_offset: int
    views: list[memoryview]  # records back to back, in order; a view holds one or many
    message_count: int = 0
    size: int = 0  # bytes of all views


class Reader:
    """Finds messages through the consume queues."""

    def __init__(self, log: LogView, queues: ConsumeQueues) -> None:
        self._log = log
        self._queues = queues

    def get_messages(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        *,
        count_max: int,
        size_max: int,
        tags_codes: frozenset[int] | None = None,
    ) -> PullResult:
        """Return messages from *offset* on, as views over the log: nothing is copied.

        Args:
            topic: whose messages.
            queue_id: of *topic*.
            offset: queue offset of the first message wanted.
            count_max: most messages to return; at least 1.
            size_max: most bytes to return; the first message is returned whatever its size.
            tags_codes: only messages whose tag has one of these hashes, among the next
                `FILTER_UNITS_MAX`; None for all.  A hash may be another tag's, too, so the client
                compares the tag itself.

        Returns:
            What was found; ``next_offset`` is right for every status.

        Raises:
            CorruptStoreError: the units lead to bytes that the log does not have.
        """
        assert count_max >= 1
        queue = self._queues.get(topic, queue_id)
        if queue is None:
            status = PullStatus.OFFSET_TOO_LARGE if offset > 0 else PullStatus.NO_MESSAGE_IN_QUEUE
            return PullResult(
                status=status, next_offset=0, min_offset=0, max_offset=0, views=_EMPTY
            )
        if offset < queue.min_offset:
            return _nothing(PullStatus.OFFSET_TOO_SMALL, queue, queue.min_offset)
        if offset > queue.max_offset:
            return _nothing(PullStatus.OFFSET_TOO_LARGE, queue, queue.max_offset)
        if offset == queue.max_offset:
            return _nothing(PullStatus.NO_NEW_MESSAGE, queue, offset)
        units = queue.units_from(
            offset, unit_count_max=count_max if tags_codes is None else FILTER_UNITS_MAX
        )
        looked_at = len(units) // UNIT_SIZE
        table = np.frombuffer(units, UNIT)
        matching = None
        if tags_codes is not None:
            matching = np.flatnonzero(
                np.isin(table["tags_code"], np.array([*tags_codes], np.int64))
            )
            if not len(matching):
                return _nothing(PullStatus.NO_MATCHED_MESSAGE, queue, offset + looked_at)
            table = table[matching]
        count = _count_within(table["size"][:count_max], size_max)
        if count < len(table):
            looked_at = count if matching is None else int(matching[count])
        positions = table["position"][:count].tolist()
        sizes = table["size"][:count].tolist()
        try:
            if min(sizes) < RECORD_SIZE_MIN:
                raise EntryNotFoundError(f"{min(sizes)} bytes are no record")
            views = self._views(positions, sizes)
        except EntryNotFoundError as error:
            raise CorruptStoreError(
                f"the consume queue of topic {topic} and queue {queue_id} is damaged at offset "
                f"{offset} or behind ({error}); stop the node, delete its folder "
                "derived/consumequeue and start: it is built again from the log"
            ) from error
        return PullResult(
            status=PullStatus.FOUND,
            next_offset=offset + looked_at,
            min_offset=queue.min_offset,
            max_offset=queue.max_offset,
            views=views,
            message_count=count,
            size=sum(sizes),
        )

    def min_offset(self, topic: str, queue_id: int) -> int:
        """Return the first offset that can be read; 0 for a queue without messages."""
        queue = self._queues.get(topic, queue_id)
        return 0 if queue is None else queue.min_offset

    def max_offset(self, topic: str, queue_id: int) -> int:
        """Return the offset behind the last committed message; 0 for a queue without messages."""
        return self._queues.next_queue_offset(topic, queue_id)

    def _views(self, positions: list[int], sizes: list[int]) -> list[memoryview]:
        """Return the records, those that lie next to one another in one view."""
        bytes_at = self._log.bytes_at
        views: list[memoryview] = []
        begin = end = positions[0]
        for position, size in zip(positions, sizes, strict=True):
            if position != end:  # an entry's header, a mark or another queue's record between
                views.append(bytes_at(begin, end - begin))
                begin = position
            end = position + size
        views.append(bytes_at(begin, end - begin))
        if len(views) > VIEWS_MAX:
            return [memoryview(b"".join(views))]
        return views


def _count_within(sizes: np.ndarray[tuple[int], np.dtype[np.int32]], size_max: int) -> int:
    """Return how many of *sizes* sum up to at most *size_max*; at least 1."""
    if len(sizes) < COLUMN_MIN:
        left = size_max
        for count, size in enumerate(sizes.tolist()):
            left -= size
            if left < 0:
                return max(1, count)
        return len(sizes)
    sums = np.cumsum(sizes, dtype=np.int64)
    return max(1, int(np.searchsorted(sums, size_max, side="right")))


def _nothing(status: PullStatus, queue: ConsumeQueue, next_offset: int) -> PullResult:
    return PullResult(
        status=status,
        next_offset=next_offset,
        min_offset=queue.min_offset,
        max_offset=queue.max_offset,
        views=_EMPTY,
    )
