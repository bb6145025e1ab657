"""Disks that are slow, full, failing or rotting; clocks that are set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dledger.errors import LedgerError, LedgerFullError, StorageFailedError
from jepsen_like.faults.fault import Fault

if TYPE_CHECKING:
    from jepsen_like.sim.member import SimMember


class SlowDisk(Fault):
    """Every job takes 10 to 100 times as long (N9)."""

    name = "slow-disk"
    _member: SimMember

    def inject(self) -> str:
        """See `Fault`."""
        self._member = self.cluster.pick(self.chance)
        self._member.speed.slowdown = self.chance.choice((10, 30, 100))
        return self._member.name

    def heal(self) -> None:
        """See `Fault`."""
        self._member.speed.slowdown = 1.0


class StalledDisk(Fault):
    """Nothing comes back from the disk (N8)."""

    name = "stalled-disk"
    _member: SimMember

    def inject(self) -> str:
        """See `Fault`."""
        self._member = self.cluster.pick(self.chance)
        self._member.speed.stall()
        return self._member.name

    def heal(self) -> None:
        """See `Fault`."""
        self._member.speed.go_on()


class FullDisk(Fault):
    """No room for another file (N7)."""

    name = "full-disk"
    _member: SimMember

    def inject(self) -> str:
        """See `Fault`."""
        self._member = self.cluster.pick(self.chance)
        disk = self._member.disk
        disk.capacity = disk.used + self.chance.choice((0, 20_000, 200_000))
        self._member.expected.add(LedgerFullError)
        return self._member.name

    def heal(self) -> None:
        """See `Fault`."""
        self._member.disk.capacity = 1 << 40


class FailedSync(Fault):
    """A sync fails once, and the kernel forgets that the pages were dirty (N9)."""

    name = "failed-sync"
    allows_async = False
    weight = 0.6

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        if not member.is_running:
            return ""
        member.disk.sync_errors = 1
        member.expected.add(StorageFailedError)
        return member.name


class BitRot(Fault):
    """Bits of one stopped member's files turn; never where the last good copy is (N10)."""

    name = "bit-rot"
    nodes_min = 3
    weight = 0.6

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        if not self.cluster.may_harm(member):
            return ""
        disk = member.disk
        kind = self.chance.choice(("commitlog", "commitlog", "index", "derived", "vote", "ch"))
        files = sorted(path for path in disk.files if f"/data/{kind}" in path)
        files = [path for path in files if disk.files[path].size]
        if not files:
            return ""
        self.cluster.unsound.add(member.name)
        member.expected.add(LedgerError)
        member.kill()
        path = self.chance.choice(files[-2:])
        file = disk.files[path]
        end = max(len(bytes(file.cache[: file.size]).rstrip(b"\0")), 1)
        for _ in range(self.chance.randint(1, 3)):
            file.rot(self.chance.randrange(end), self.chance.randrange(8))
        return f"{member.name} {path}"


class WallClock(Fault):
    """The wall clock is set forwards or backwards, and stays wrong (N6)."""

    name = "wall-clock"

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        jump = int(1.5 ** self.chance.uniform(6, 31)) * self.chance.choice((-1, 1))
        member.clock.wall_offset_ms += jump
        return f"{member.name} {jump:+} ms"
