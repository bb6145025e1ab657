"""Filling the fields of a record that only the leader knows, at the moment of append.

    queue_offset and position         bytes 20 to 36 of a record
    store_timestamp and store_host    bytes 56 to 72

Done over all records of an entry at once, by column, or one by one when they are few; both write
the same bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from broker.message import codec
from broker.store.columns import scatter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.store.columns import IntArray

_OFFSET_AND_POSITION = struct.Struct(">qq")
_TIMESTAMP_AND_HOST = struct.Struct(">q8s")
_PLACES = np.dtype([("queue_offset", ">i8"), ("position", ">i8")])

STORE_HOST_SIZE = 8

assert codec.POSITION_OFFSET == codec.QUEUE_OFFSET_OFFSET + 8
assert codec.STORE_HOST_OFFSET == codec.STORE_TIMESTAMP_OFFSET + 8


def stamp_each(
    body: bytearray,
    records: Iterable[tuple[int, int]],
    *,
    body_position: int,
    timestamp_ms: int,
    store_host: bytes,
) -> None:
    """Stamp records one by one.

    Args:
        body: of the entry, changed in place.
        records: where each record begins in *body*, and its queue offset.
        body_position: of *body* in the log, in bytes.
        timestamp_ms: the leader's clock.
        store_host: the leader's address for clients, 4 bytes and the port in 4.
    """
    place = _OFFSET_AND_POSITION.pack_into
    origin = _TIMESTAMP_AND_HOST.pack(timestamp_ms, store_host)
    for at, queue_offset in records:
        place(body, at + codec.QUEUE_OFFSET_OFFSET, queue_offset, body_position + at)
        origin_at = at + codec.STORE_TIMESTAMP_OFFSET
        body[origin_at : origin_at + 16] = origin


def stamp_columns(
    body: bytearray,
    starts: IntArray,
    queue_offsets: IntArray,
    *,
    body_position: int,
    timestamp_ms: int,
    store_host: bytes,
) -> None:
    """Stamp all records at once; as `stamp_each`, *starts* and *queue_offsets* pair up."""
    places = np.empty(len(starts), _PLACES)
    places["queue_offset"] = queue_offsets
    places["position"] = starts + body_position
    scatter(body, starts + codec.QUEUE_OFFSET_OFFSET, places)
    origin = np.full(
        len(starts), np.void(_TIMESTAMP_AND_HOST.pack(timestamp_ms, store_host)), "V16"
    )
    scatter(body, starts + codec.STORE_TIMESTAMP_OFFSET, origin)
