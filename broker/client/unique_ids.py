"""Ids a client gives its messages, thousands at a time.

The format is RocketMQ's (`broker.message.message_id.UniqueKeyGenerator` makes the same one by one):
ip(4) pid(2) hash(4) milliseconds since the month began(4) counter(2), in upper-case hexadecimal.
All but the last three digits of the counter is the same for 4096 messages, so it is formatted once;
those three come from a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.message.message_id import month_start_ms

if TYPE_CHECKING:
    import random

UNIQUE_ID_SIZE = 32  # digits
UNIQUE_DIGITS = 3  # that differ within a block
UNIQUE_DIGITS_COUNT = 16**UNIQUE_DIGITS
UNIQUE_BLOCKS = 16  # of a millisecond
DIGIT_TEXTS = [f"{number:03X}" for number in range(UNIQUE_DIGITS_COUNT)]
DIGITS = [text.encode() for text in DIGIT_TEXTS]

# A month has at most 2,678,400,000 ms, so that 32 bits hold it; then the next one begins.
_NEARLY_A_MONTH_MS = 28 * 24 * 3_600_000


class UniqueIds:
    """Prefixes of unique ids; the caller appends the last three digits.

    The place of pid and hash is taken by chance: it tells two clients apart just as well, and a run
    can be replayed.
    """

    def __init__(self, ip: bytes, chance: random.Random) -> None:
        assert len(ip) == 4
        self._head = f"{ip.hex()}{chance.getrandbits(48):012x}".upper()
        self._month_start_ms = 0

    def prefix(self, wall_ms: int, block: int) -> str:
        """Return the 29 digits that all ids of this block of this millisecond begin with."""
        assert 0 <= block < UNIQUE_BLOCKS
        if not 0 <= wall_ms - self._month_start_ms < _NEARLY_A_MONTH_MS:
            self._month_start_ms = month_start_ms(wall_ms)
        elapsed = (wall_ms - self._month_start_ms) & 0xFFFFFFFF
        return f"{self._head}{elapsed:08X}{block:X}"
