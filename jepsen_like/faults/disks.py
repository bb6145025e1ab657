"""Disks that are slow, full, failing or rotting; clocks that are set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from dledger.errors import LedgerError, LedgerFullError, StorageFailedError
from jepsen_like.faults.fault import Fault
from jepsen_like.faults.group import Member

if TYPE_CHECKING:
    from jepsen_like.faults.group import FileKind

_ROTTING: tuple[FileKind, ...] = (
    "commitlog", "commitlog", "index", "derived", "vote", "checkpoint",
)  # fmt: skip


class SlowDisk(Fault):
    """Every job takes 10 to 100 times as long (N9)."""

    name = "slow-disk"
    _member: Member

    async def inject(self) -> str:
        """See `Fault`."""
        self._member = self.pick()
        await self.watch(self._member, "slow")
        await self._member.slow_disk(self.chance.choice((10, 30, 100)))
        return self._member.name

    async def heal(self) -> None:
        """See `Fault`."""
        await self._member.slow_disk(1)


class StalledDisk(Fault):
    """Nothing comes back from the disk (N8)."""

    name = "stalled-disk"
    _member: Member

    async def inject(self) -> str:
        """See `Fault`."""
        self._member = self.pick()
        await self.watch(self._member, "stall")
        await self._member.stall_disk()
        return self._member.name

    async def heal(self) -> None:
        """See `Fault`."""
        await self._member.unstall_disk()


class FullDisk(Fault):
    """No room for another file (N7)."""

    name = "full-disk"
    _member: Member

    async def inject(self) -> str:
        """See `Fault`."""
        self._member = self.pick()
        await self.watch(self._member, "full")
        self._member.expect(LedgerFullError)
        await self._member.fill_disk(room=self.chance.choice((0, 20_000, 200_000)))
        return self._member.name

    async def heal(self) -> None:
        """See `Fault`."""
        await self._member.empty_disk()


class Crowding(Member, Protocol):
    """A member of the simulation, whose disk others fill."""

    async def crowd_disk(self, percent: float) -> bool:
        """Have so much of its disk in use, whoever uses it; whether it would mind."""

    async def uncrowd_disk(self) -> None:
        """Give the disk back the size it had."""


class CrowdedDisk(Fault):
    """Somebody else fills the disk up to some percentage: files go, or messages are refused."""

    name = "crowded-disk"
    where = "sim"
    _member: Crowding

    async def inject(self) -> str:
        """See `Fault`."""
        self._member = cast("Crowding", self.pick())
        await self.watch(self._member, "full")
        is_minded = await self._member.crowd_disk(self.chance.choice((78.0, 86.0, 88.0, 93.0)))
        return self._member.name if is_minded else ""

    async def heal(self) -> None:
        """See `Fault`."""
        await self._member.uncrowd_disk()


class FailedSync(Fault):
    """A sync fails once, and the kernel forgets that the pages were dirty (N9)."""

    name = "failed-sync"
    allows_async = False
    weight = 0.6

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        if not member.is_running:
            return ""
        await self.watch(member, "failed-sync")
        member.expect(StorageFailedError)
        await member.fail_next_sync()
        return member.name


class Harm(Fault):
    """A file of one stopped member is not as it was; never where the last good copy is (N10)."""

    nodes_min = 3
    weight = 0.6
    needs_whole = True

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        if not await self.group.may_harm(member):
            return ""
        was_unsound = member.name in self.group.unsound
        await self.watch(member, "rot")
        self.group.unsound.add(member.name)
        harmed = await self._harm(member)
        if not harmed:
            if not was_unsound:
                self.group.unsound.discard(member.name)
            return ""
        member.expect(LedgerError)
        return f"{member.name} {harmed}"

    async def _harm(self, member: Member) -> str:
        """Do it; return what was done to which file, "" where there is none."""
        raise AssertionError(f"{type(self).__name__} has no _harm()")


class BitRot(Harm):
    """Bits of one stopped member's files turn; never where the last good copy is (N10)."""

    name = "bit-rot"

    async def _harm(self, member: Member) -> str:
        return await member.rot(self.chance.choice(_ROTTING), self.chance)


class WallClock(Fault):
    """The wall clock is set forwards or backwards, and stays wrong (N6)."""

    name = "wall-clock"

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        await self.watch(member, "clock")
        jump = int(1.5 ** self.chance.uniform(6, 31)) * self.chance.choice((-1, 1))
        await member.shift_wall_clock(jump)
        return f"{member.name} {jump:+} ms"
