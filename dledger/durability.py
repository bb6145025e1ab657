"""How well an entry is kept: by whom, and whether a power loss would take it.

Two questions that have nothing to do with each other: whose copies there are, and whether these
copies are on disks.  An entry that all members have in memory and one that a majority has on disk
are each better than the other in one respect, so levels are compared by `Durability.covers`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Copies(enum.IntEnum):
    """Who has a copy. Source: RocketMQ ``BrokerRole``, which knows the first two."""

    LEADER = 1  # the leader alone: gone if another one is elected that lacks it
    MAJORITY = 2  # every later leader has it
    ALL = 3  # every member of the group


class Durability(NamedTuple):
    """A level of durability, as asked for or as reached.

    >>> str(Durability(Copies.MAJORITY, synced=True))
    'majority/sync'
    """

    copies: Copies
    synced: bool  # on those members' disks; else in their page caches

    def __str__(self) -> str:
        return f"{self.copies.name.lower()}/{'sync' if self.synced else 'async'}"

    def covers(self, wanted: Durability) -> bool:
        """Return whether this is as good as *wanted* in both respects."""
        return self.copies >= wanted.copies and (self.synced or not wanted.synced)


# The better of two that do not cover each other is the one that outlives a power loss.
BEST_FIRST = (
    Durability(Copies.ALL, synced=True),
    Durability(Copies.MAJORITY, synced=True),
    Durability(Copies.ALL, synced=False),
    Durability(Copies.MAJORITY, synced=False),
    Durability(Copies.LEADER, synced=True),
    Durability(Copies.LEADER, synced=False),
)
