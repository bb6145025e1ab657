"""A leader that slept through its own deposition, and a voter that does not remember it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from jepsen_like.faults.fault import Fault

if TYPE_CHECKING:
    from jepsen_like.faults.group import Member, Way

ANSWERS_SECONDS = 0.05  # for what was on its way to the leader, and makes it sure of itself
ELECTION_SECONDS_MAX = 3.0


class Coup(Fault):
    """The leader is stopped until another leads, and wakes up where it cannot hear of that.

    The last answers it got are still unread, so it goes on for a while.  Either it is alone with
    clients that have waited for it, or also with a member that elected the other leader, has lost
    its disk and remembers nothing.  Nobody may find two leaders.
    """

    name = "coup"
    where = "sim"
    nodes_min = 3
    weight = 0.7

    async def inject(self) -> str:
        """See `Fault`."""
        old = self.group.leader
        if old is None or not old.is_up:
            return ""
        self._old = old
        self._cut: list[Way] = []
        self._is_healed = False
        await self.watch(old, "pause")
        await old.pause()
        assert self.group.nursery is not None
        self.group.nursery.start_soon(self._go_on)
        return ",".join(member.name for member in self.group.members)

    async def _go_on(self) -> None:
        old = self._old
        await trio.sleep(ANSWERS_SECONDS)
        for other in self.group.members:
            await self._part(old, other)
        with trio.move_on_after(ELECTION_SECONDS_MAX):
            while True:
                await trio.sleep(0.01)
                if self._is_healed or self.group.leader not in (None, old):
                    break
        # Not for long: it gives up peers that have been silent before it hears what they said.
        await trio.sleep(self.chance.uniform(0.0, 0.3))
        new = self.group.leader
        if not self._is_healed and new not in (None, old) and self.chance.random() < 0.5:
            assert new is not None
            await self._make_forget(new)
        await old.resume()

    async def _make_forget(self, new: Member) -> None:
        old = self._old
        voter = self.chance.choice([m for m in self.group.members if m not in (old, new)])
        if await self.group.may_lose_disk(voter):
            self.group.unsound.add(voter.name)
            await voter.wipe()
            await self._part(voter, new)
            for way in ((old.address, voter.address), (voter.address, old.address)):
                if way in self._cut:
                    self._cut.remove(way)
                    await self.group.links.heal(*way)

    async def _part(self, one: Member, other: Member) -> None:
        for way in ((one.address, other.address), (other.address, one.address)):
            if one is not other and not self._is_healed:
                await self.group.links.cut(*way)
                self._cut.append(way)

    async def heal(self) -> None:
        """See `Fault`."""
        self._is_healed = True
        await self._old.resume()
        for way in self._cut:
            await self.group.links.heal(*way)
        self._cut.clear()
