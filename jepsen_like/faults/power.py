"""Power that fails, and disks that are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.faults.fault import Fault

if TYPE_CHECKING:
    from jepsen_like.faults.group import Member


class PowerLoss(Fault):
    """Unsynced pages are kept, lost or torn (N3, S3, S4)."""

    name = "power"
    allows_async = False
    weight = 1.5
    _members: list[Member]

    async def inject(self) -> str:
        """See `Fault`."""
        self._members = self.pick_some()
        stays_down = self.chance.random() < 0.5
        for member in self._members:
            await self.watch(member, "power")
            if stays_down:
                member.hold_down()
        await self.group.lose_power(self._members)
        return ",".join(member.name for member in self._members)

    async def heal(self) -> None:
        """See `Fault`."""
        for member in self._members:
            member.start()


class LostDisk(Fault):
    """A machine comes back with an empty disk, while all others have theirs."""

    name = "lost-disk"
    nodes_min = 3
    weight = 0.6
    needs_whole = True

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        if not await self.group.may_lose_disk(member):
            return ""
        await self.watch(member, "wipe")
        self.group.unsound.add(member.name)
        await member.wipe()
        return member.name
