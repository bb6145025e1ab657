"""Finding the queue offset that belongs to a time.

Units of a consume queue have no time, so a search reads the store timestamps of about twenty
records of the log, wherever they lie: as much as a pull of twenty scattered messages.

Store timestamps are leaders' clocks.  After a change of the lead they may fall by what two clocks
differ; a search then finds one of the places where the queue crosses the time asked for.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

from broker.message import codec
from dledger.errors import CorruptStoreError
from dledger.store.entry_index import EntryNotFoundError

if TYPE_CHECKING:
    from broker.store.consume_queue import ConsumeQueue
    from broker.store.log_view import LogView

_STORE_TIMESTAMP = struct.Struct(">q")


class Boundary(enum.Enum):
    """Which of the messages around a time is meant. Source: RocketMQ 5 ``BoundaryType``."""

    LOWER = "lower"  # the first one stored at that time or later
    UPPER = "upper"  # the last one stored at that time or earlier


def offset_by_time(
    log: LogView, queue: ConsumeQueue, timestamp_ms: int, boundary: Boundary = Boundary.LOWER
) -> int:
    """Return the queue offset of *queue* that belongs to *timestamp_ms*.

    LOWER returns the end of the queue when every message is older.  UPPER returns the first
    message kept when every message is younger.  An empty queue answers with its end.

    Raises:
        CorruptStoreError: a unit leads to bytes that the log does not have.

    Source: RocketMQ 5 ``ConsumeQueue.binarySearchInQueueByTime``, which answers 0 for UPPER when
    every message is younger, also where retention has taken that one.
    """
    low, high = queue.min_offset, queue.max_offset
    wanted = timestamp_ms if boundary is Boundary.LOWER else timestamp_ms + 1
    while low < high:
        middle = (low + high) // 2
        if store_timestamp_ms(log, queue.position_at(middle)) < wanted:
            low = middle + 1
        else:
            high = middle
    if boundary is Boundary.LOWER:
        return low
    return max(low - 1, queue.min_offset)


def store_timestamp_ms(log: LogView, position: int) -> int:
    """Return when the record at *position* was stored, in milliseconds since 1970.

    Raises:
        CorruptStoreError: the log has no such bytes.
    """
    try:
        head = log.bytes_at(position, codec.BODY_OFFSET)
    except EntryNotFoundError as error:
        raise CorruptStoreError(
            f"a consume queue is damaged ({error}); stop the node, delete its folder "
            "derived/consumequeue and start: it is built again from the log"
        ) from error
    (timestamp,) = _STORE_TIMESTAMP.unpack_from(head, codec.STORE_TIMESTAMP_OFFSET)
    return int(timestamp)
