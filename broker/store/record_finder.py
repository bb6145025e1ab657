"""A record by its place in the log, which somebody may have made up.

Bytes at any place may look like a record: the body of a message may hold one.  What proves a record
is the unit of its consume queue, which must lead to that very place.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.message import codec
from dledger.store.entry_index import EntryNotFoundError

if TYPE_CHECKING:
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView

_HEAD = struct.Struct(">iI4xi4xqq20xq20xi")
_UNIT = struct.Struct(">qi8x")
_U16 = struct.Struct(">H")

assert _HEAD.size == codec.BODY_OFFSET


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRecord:
    """A record that a consumer could read."""

    view: memoryview  # over the log: nothing is copied
    topic: str
    queue_id: int
    queue_offset: int
    store_timestamp_ms: int
    encoded_properties: bytes


def record_at(log: LogView, queues: ConsumeQueues, position: int) -> FoundRecord | None:
    """Return the record that begins at *position*; None when none does that can be read here."""
    try:
        head = log.bytes_at(position, codec.BODY_OFFSET)
        size, magic, queue_id, queue_offset, place, store_timestamp, body_size = _HEAD.unpack(head)
        topic_head = {codec.MAGIC_V1: 1, codec.MAGIC_V2: 2}.get(magic)
        if topic_head is None or place != position or size < codec.RECORD_SIZE_MIN:
            return None
        view = log.bytes_at(position, size)
    except EntryNotFoundError:
        return None
    topic_at = codec.BODY_OFFSET + body_size
    if body_size < 0 or topic_at + topic_head > size:
        return None
    topic_size = view[topic_at] if topic_head == 1 else _U16.unpack_from(view, topic_at)[0]
    properties_at = topic_at + topic_head + topic_size + 2
    if properties_at > size:
        return None
    topic = str(view[topic_at + topic_head : properties_at - 2], "utf-8", "replace")
    queue = queues.get(topic, queue_id)
    if queue is None or not queue.min_offset <= queue_offset < queue.max_offset:
        return None
    if _UNIT.unpack(queue.units_from(queue_offset, unit_count_max=1)) != (position, size):
        return None
    return FoundRecord(
        view=view,
        topic=topic,
        queue_id=queue_id,
        queue_offset=queue_offset,
        store_timestamp_ms=store_timestamp,
        encoded_properties=bytes(view[properties_at:]),
    )
