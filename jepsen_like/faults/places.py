"""Deaths in the middle of something seldom: what is written once for thousands of other writes."""

from __future__ import annotations

from typing import Protocol, cast

from jepsen_like.faults.fault import Fault
from jepsen_like.faults.group import Member

# Parts of paths: of the checkpoint, of segments about to be used or let go, of states, of votes.
PLACES = ("/checkpoint", "/spare-", "/state-", "/vote", "/index/", "/watermark", "/consumequeue/")


class Stepping(Member, Protocol):
    """A member of the simulation, each step of whose disk is seen."""

    async def die_at(self, place: str, step_count: int, *, power: bool) -> None:
        """Die at that many changes to files of which *place* is a part of the path."""


class KillAtPlace(Fault):
    """Dies just before or between a few steps that concern one kind of file (S6)."""

    name = "kill-at-place"
    where = "sim"
    weight = 0.7

    async def inject(self) -> str:
        """See `Fault`."""
        member = cast("Stepping", self.pick())
        if not member.is_running:
            return ""
        await self.watch(member, "step")
        place = self.chance.choice(PLACES)
        await member.die_at(place, self.chance.randrange(4), power=False)
        return member.name
