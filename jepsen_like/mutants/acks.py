"""Bugs of what a send is told to have reached, and of how much one connection may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dledger.durability import Copies
from dledger.raft.following import Following
from dledger.raft.level_waits import LevelWaits
from dledger.raft.levels import Levels
from dledger.remoting.session import Session
from jepsen_like.mutants.grounds import FLOW, LEVELS, MEMORY_LEVELS
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.durability import Durability


@mutant(on=LEVELS)
def all_is_told_at_the_commit() -> Sequence[Patch]:
    """A send that asks for all members is answered when a majority has it."""
    stock = Levels.reached

    def reached(self: Any, level: Durability) -> int:
        if level.copies is Copies.ALL:
            return int(self._engine.applied_index)
        return stock(self, level)

    return [(Levels, "reached", reached)]


@mutant(on=LEVELS)
def leader_ack_is_told_as_a_majority() -> Sequence[Patch]:
    """The copy of the leader is told as what a commit stands for."""

    def told(self: Any, wait: Any, committed_index: int) -> Durability:
        of_commit: Durability = self._levels.of_commit
        return of_commit if wait.level.copies is Copies.LEADER else wait.level

    return [(LevelWaits, "_told", told)]


@mutant(on=MEMORY_LEVELS)
def follower_tells_written_as_synced() -> Sequence[Patch]:
    """A follower that is asked to sync says so before it has."""
    stock = Following._send_answer

    def send_answer(self: Any, **fields: Any) -> None:
        if "synced_index" in fields:
            fields["synced_index"] = fields["written_index"]
        stock(self, **fields)

    return [(Following, "_send_answer", send_answer)]


@mutant(on=MEMORY_LEVELS)
def leader_disk_is_not_waited_for() -> Sequence[Patch]:
    """The leader counts its own copy as synced."""
    stock = Levels.reached

    def reached(self: Any, level: Durability) -> int:
        if level.copies is Copies.LEADER:
            return int(self._engine.store.end_index)
        return stock(self, level)

    return [(Levels, "reached", reached)]


@mutant(on=FLOW)
def no_limit_of_a_connection() -> Sequence[Patch]:
    """A connection is read on, however much of it is unanswered."""

    async def wait_for_room(self: Any) -> None:
        pass

    return [(Session, "wait_for_room", wait_for_room)]
