"""Ids of messages, as RocketMQ writes them: upper-case hexadecimal.

    offset id    ip(4 or 16) port(4) position(8)                       where the record lies
    unique key   ip(4 or 16) pid(2) hash(4) milliseconds(4) counter(2) given by the sender

Source: RocketMQ ``MessageDecoder.createMessageId`` and ``MessageClientIDSetter``.
"""

from __future__ import annotations

import datetime
import struct
from typing import TYPE_CHECKING

from broker.errors import InvalidMessageError
from broker.message.model import HostAddress

if TYPE_CHECKING:
    from collections.abc import Callable

_PLACE = struct.Struct(">iq")
_TAIL = struct.Struct(">IH")
_PREFIX_END = struct.Struct(">HI")


def encode_offset_id(host: HostAddress, position: int) -> str:
    """Return the id of the record at *position* in the log of the broker at *host*."""
    return (host.ip + _PLACE.pack(host.port, position)).hex().upper()


def decode_offset_id(message_id: str) -> tuple[HostAddress, int]:
    """Return the host and the position an offset id names.

    Raises:
        InvalidMessageError: *message_id* is no offset id.
    """
    try:
        raw = bytes.fromhex(message_id)
    except ValueError:
        raw = b""
    if len(raw) not in (16, 28):
        raise InvalidMessageError(
            f"message id {message_id[:80]!r} is no offset id: that has 32 hexadecimal digits, "
            "or 56 when the broker's address is IPv6"
        )
    port, position = _PLACE.unpack_from(raw, len(raw) - 12)
    return HostAddress(raw[:-12], port), position


def month_start_ms(wall_ms: int) -> int:
    """Return the first millisecond of the UTC month *wall_ms* lies in."""
    date = datetime.datetime.fromtimestamp(wall_ms / 1000, datetime.UTC)
    start = datetime.datetime(date.year, date.month, 1, tzinfo=datetime.UTC)
    return int(start.timestamp()) * 1000


class UniqueKeyGenerator:
    """Makes the ids a client gives its messages.

    Args:
        ip: the client's address, 4 or 16 bytes.
        process_id: the lowest 16 bits are used.
        process_hash: 32 bits that tell two clients in one process apart.
        wall_ms: reads milliseconds since 1970.
        month_start_ms: the first millisecond of the month a time lies in.
    """

    def __init__(
        self,
        *,
        ip: bytes,
        process_id: int,
        process_hash: int,
        wall_ms: Callable[[], int],
        month_start_ms: Callable[[int], int],
    ) -> None:
        assert len(ip) in (4, 16)
        self._prefix = (
            (ip + _PREFIX_END.pack(process_id & 0xFFFF, process_hash & 0xFFFFFFFF)).hex().upper()
        )
        self._wall_ms = wall_ms
        self._month_start_of = month_start_ms
        self._month_start_ms = month_start_ms(wall_ms())
        self._counter = 0

    def next_key(self) -> str:
        """Return an id not given out before by this generator.

        65,536 ids fit into one millisecond; the counter wraps after that, as RocketMQ's does.
        """
        now = self._wall_ms()
        # After 28 days, the shortest month, the calendar is asked; 32 bits hold the longest.
        if not 0 <= now - self._month_start_ms < 2_419_200_000:
            self._month_start_ms = self._month_start_of(now)
        counter = self._counter
        self._counter = (counter + 1) & 0xFFFF
        elapsed = (now - self._month_start_ms) & 0xFFFFFFFF
        return self._prefix + _TAIL.pack(elapsed, counter).hex().upper()
