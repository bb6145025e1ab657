"""Ids a client gives its messages, a whole tick's worth at a time.

The format is RocketMQ's (`broker.message.message_id.UniqueKeyGenerator` makes the same one by one):
ip(4) pid(2) hash(4) milliseconds since the month began(4) counter(2), in upper-case
hexadecimal.  All but the counter is the same for every message of a millisecond, so it is formatted
once.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_NEARLY_A_MONTH_MS = 28 * 24 * 3_600_000


def month_start_ms(wall_ms: int) -> int:
    """Return the first millisecond of the UTC month *wall_ms* lies in."""
    date = datetime.datetime.fromtimestamp(wall_ms / 1000, datetime.UTC)
    start = datetime.datetime(date.year, date.month, 1, tzinfo=datetime.UTC)
    return int(start.timestamp()) * 1000


class UniqueIds:
    """Prefixes of unique ids; the caller appends four hexadecimal digits of its counter.

    The place of pid and hash is taken by chance: it tells two clients apart just as well, and a run
    can be replayed.
    """

    def __init__(self, ip: bytes, chance: random.Random) -> None:
        assert len(ip) == 4
        self._head = f"{ip.hex()}{chance.getrandbits(48):012x}".upper()
        self._month_start_ms = 0

    def prefix(self, wall_ms: int) -> str:
        """Return the 28 digits that all ids of this millisecond begin with."""
        # A month has at most 2,678,400,000 ms, so that 32 bits hold it; then the next one begins.
        if not 0 <= wall_ms - self._month_start_ms < _NEARLY_A_MONTH_MS:
            self._month_start_ms = month_start_ms(wall_ms)
        return f"{self._head}{(wall_ms - self._month_start_ms) & 0xFFFFFFFF:08X}"
