"""Everything derived from a log prefix but the consume queues' units, in one piece of bytes.

    magic     4 bytes  "DLS1"
    crc       uint32   of everything behind it
    payload            one msgpack array:
                       [index, term, position, chain_crc]   the point behind the last entry taken in
                       [[topic, queue id, next offset] ...] sorted
                       producers                            `ProducerTable.snapshot`
                       metadata                             a map by name, sorted
                       [[topic, queue id, floor] ...]       sorted
                       key index                            `IndexSnapshot.to_plain`

A floor is where a queue begins that was trimmed, or whose topic was deleted; see
`broker.store.consume_queues`.

The bytes depend on the log prefix alone: every node writes the same for the same index, so that one
of them can hand them to another that lags behind retention.  Files are named ``state-<index>``.

States without the last element, or the last two, are those of earlier versions, and can be read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack

from broker.store.index_folder import IndexSnapshot
from dledger.checksum import crc32
from dledger.entry import LogPoint
from dledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.message.codec import Buffer

FILE_PREFIX = "state-"

_MAGIC = b"DLS1"
_HEAD = struct.Struct(">4sI")


class CorruptStateError(LedgerError):
    """The bytes are no state, or not of this version; caught where another state can be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSnapshot:
    """What a state file holds."""

    point: LogPoint
    queues: list[tuple[str, int, int]]  # topic, queue id, next offset
    producers: list[Any]
    metadata: dict[str, Any]
    floors: list[tuple[str, int, int]] = field(default_factory=list)  # topic, queue id, floor
    key_index: IndexSnapshot | None = None  # None: written by a version that had none


def encode_state(
    point: LogPoint,
    *,
    queues: list[tuple[str, int, int]],
    producers: bytes,
    metadata: dict[str, Any],
    floors: Sequence[tuple[str, int, int]] = (),
    key_index: IndexSnapshot | None = None,
) -> bytes:
    """Return the bytes of a state; the same for the same log prefix. *producers* are packed."""
    others = [] if key_index is None and not floors else [msgpack.packb(list(floors))]
    if key_index is not None:
        others.append(msgpack.packb(key_index.to_plain()))
    payload = b"".join(
        [
            msgpack.Packer().pack_array_header(4 + len(others)),
            msgpack.packb([point.index, point.term, point.position, point.chain_crc]),
            msgpack.packb(queues),
            producers,
            msgpack.packb(metadata),
            *others,
        ]
    )
    return _HEAD.pack(_MAGIC, crc32(payload)) + payload


def payload_of_state(data: Buffer) -> memoryview:
    """Return what is behind the checksum, which must be right.

    Raises:
        CorruptStateError: *data* is damaged, or of a version this program does not know.
    """
    if len(data) < _HEAD.size:
        raise CorruptStateError(f"{len(data)} bytes are no state")
    magic, crc = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptStateError(f"magic {magic!r} is not {_MAGIC!r}, the one this version writes")
    payload = memoryview(data)[_HEAD.size :]
    if crc32(payload) != crc:
        raise CorruptStateError("the checksum does not fit the content")
    return payload


def decode_state(data: Buffer) -> DerivedSnapshot:
    """Return what `encode_state` was given.

    Raises:
        CorruptStateError: *data* is damaged, or of a version this program does not know.
    """
    payload = payload_of_state(data)
    try:
        content = msgpack.unpackb(payload, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptStateError(
            f"the content is no msgpack: {type(error).__name__}: {error}"
        ) from error
    try:
        point, queues, producers, metadata, *others = content
        floors = others[0] if others else []
        key_index = IndexSnapshot.from_plain(*others[1:]) if others[1:] else None
        snapshot = DerivedSnapshot(
            point=LogPoint(*point),
            queues=[(topic, queue_id, offset) for topic, queue_id, offset in queues],
            producers=producers,
            metadata=metadata,
            floors=[(topic, queue_id, floor) for topic, queue_id, floor in floors],
            key_index=key_index,
        )
    except (ValueError, TypeError) as error:
        raise CorruptStateError(
            f"the content is no state: {type(error).__name__}: {error}"
        ) from error
    _check_types(snapshot, point)
    return snapshot


def _check_types(snapshot: DerivedSnapshot, point: list[Any]) -> None:
    """Check what is used before anybody else looks at it: as a place, and as names of files."""
    if not all(type(number) is int and number >= 0 for number in point):
        raise CorruptStateError(f"the point {point!r:.200} is not four whole numbers")
    for topic, queue_id, offset in snapshot.queues:
        if not (
            type(topic) is str
            and type(queue_id) is int
            and type(offset) is int
            and queue_id >= 0
            and offset >= 1
        ):
            raise CorruptStateError(f"{(topic, queue_id, offset)!r:.200} is no queue and its end")
    ends = {(topic, queue_id): offset for topic, queue_id, offset in snapshot.queues}
    for topic, queue_id, floor in snapshot.floors:
        if type(floor) is not int or not 1 <= floor <= ends.get((topic, queue_id), 0):
            raise CorruptStateError(f"{(topic, queue_id, floor)!r:.200} is no queue and its floor")


def file_name(index: int) -> str:
    """Return the name of the state file of entry *index*."""
    return f"{FILE_PREFIX}{index:020d}"


def index_of_file(name: str) -> int | None:
    """Return the index a state file's name tells; None when the name is not one's."""
    digits = name.removeprefix(FILE_PREFIX)
    if digits == name or len(digits) != 20 or not digits.isdecimal():
        return None
    return int(digits)
