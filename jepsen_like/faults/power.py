"""Power that fails, and disks that are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.faults.fault import Fault

if TYPE_CHECKING:
    from jepsen_like.sim.member import SimMember


class PowerLoss(Fault):
    """Unsynced pages are kept, lost or torn (N3, S3, S4)."""

    name = "power"
    allows_async = False
    weight = 1.5
    _members: list[SimMember]

    def inject(self) -> str:
        """See `Fault`."""
        self._members = self.cluster.pick_some(self.chance)
        stays_down = self.chance.random() < 0.5
        for member in self._members:
            if stays_down:
                member.hold_down()
            member.kill(power=True)
        return ",".join(member.name for member in self._members)

    def heal(self) -> None:
        """See `Fault`."""
        for member in self._members:
            member.start()


class LostDisk(Fault):
    """A machine comes back with an empty disk, while all others are whole."""

    name = "lost-disk"
    nodes_min = 3
    weight = 0.6
    _member: SimMember | None = None

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        if not self.cluster.may_harm(member):
            return ""
        self.cluster.unsound.add(member.name)
        member.wipe()
        self._member = member
        return member.name
