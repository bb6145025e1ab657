"""Ids a client gives its messages, thousands at a time.

The format is RocketMQ's (`broker.message.message_id.UniqueKeyGenerator` makes the same one by one):
ip(4) pid(2) hash(4) milliseconds since the month began(4) counter(2), in upper-case hexadecimal.
All but the last three digits of the counter is the same for 4096 messages, so it is formatted once;
those three come from a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.message import properties as names
from broker.message.message_id import month_start_ms

if TYPE_CHECKING:
    import random

UNIQUE_ID_SIZE = 32  # digits
UNIQUE_DIGITS = 3  # that differ within a block
UNIQUE_DIGITS_COUNT = 16**UNIQUE_DIGITS
UNIQUE_BLOCKS = 16  # of a millisecond
# An id tells the time to so much: who sends one message after another begins no block for each.
RENEWED_AFTER_MS = 10
UNIQUE_KEY_PROPERTY = f"{names.UNIQUE_KEY}{names.NAME_VALUE_SEPARATOR}".encode()
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
        self._wall_ms = -1  # of the block given out last
        self._block = 0

    def next_block(self, wall_ms: int) -> tuple[int, str]:
        """Return a block that nobody has: its millisecond, *wall_ms* or later, and its prefix.

        All producers of a client draw from here: their ids differ in nothing else.
        """
        if wall_ms > self._wall_ms:
            self._wall_ms, self._block = wall_ms, 0
        elif self._block + 1 < UNIQUE_BLOCKS:
            self._block += 1
        else:  # a millisecond that has used up its own blocks borrows the next one's
            self._wall_ms, self._block = self._wall_ms + 1, 0
        return self._wall_ms, self.prefix(self._wall_ms, self._block)

    def prefix(self, wall_ms: int, block: int) -> str:
        """Return the 29 digits that all ids of this block of this millisecond begin with."""
        assert 0 <= block < UNIQUE_BLOCKS
        if not 0 <= wall_ms - self._month_start_ms < _NEARLY_A_MONTH_MS:
            self._month_start_ms = month_start_ms(wall_ms)
        elapsed = (wall_ms - self._month_start_ms) & 0xFFFFFFFF
        return f"{self._head}{elapsed:08X}{block:X}"


class IdBlocks:
    """The block of ids that a producer gives its messages from, and the one behind it.

    Attributes:
        prefix: what the ids of this block begin with.
        property: the same behind the name of the property.
        number: of the next id in this block, counted on by the caller; behind the last, `go_on`.
        stamp: tells the prefix of one block from another's.
        renewed_from_ms: from this time on `renew` is due.
    """

    __slots__ = (
        "_ids",
        "_wall_ms",
        "number",
        "prefix",
        "property",
        "renewed_from_ms",
        "stamp",
    )

    def __init__(self, ids: UniqueIds) -> None:
        self._ids = ids
        self._wall_ms = -1
        self.prefix = ""
        self.property = b""
        self.number = 0
        self.stamp = 0
        self.renewed_from_ms = 0

    def renew(self, wall_ms: int) -> None:
        """Begin with the ids of *wall_ms*, later than all that ids were given from."""
        assert wall_ms > self._wall_ms
        self._begin(wall_ms)

    def go_on(self) -> None:
        """Go on to the next block."""
        self._begin(self._wall_ms)

    def _begin(self, wall_ms: int) -> None:
        self._wall_ms, self.prefix = self._ids.next_block(wall_ms)
        self.property = UNIQUE_KEY_PROPERTY + self.prefix.encode()
        self.stamp += 1
        self.number = 0
        self.renewed_from_ms = self._wall_ms + RENEWED_AFTER_MS
