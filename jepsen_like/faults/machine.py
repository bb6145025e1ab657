"""Faults that only a real machine has: rough wires, scarce memory, clocks that run too fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, cast

from dledger.errors import StorageFailedError
from jepsen_like.faults.disks import Harm
from jepsen_like.faults.fault import Fault
from jepsen_like.faults.group import Member, Shape

if TYPE_CHECKING:
    import random

    from jepsen_like.faults.group import FileKind, Way

Scarcity = Literal["descriptors", "memory", "processor"]
Damage = Literal["truncate", "old-chunk", "remove"]

_DAMAGED: tuple[FileKind, ...] = ("commitlog", "commitlog", "index", "derived", "checkpoint")


class Machine(Member, Protocol):
    """A member that is a process on a machine."""

    async def limit(self, what: Scarcity, chance: random.Random) -> str:
        """Make one thing scarce; return how scarce."""

    async def lift_limits(self) -> None:
        """Take all limits off."""

    async def set_clock_rate(self, rate: float, *, monotonic: bool) -> None:
        """Let one of its clocks run that fast; 1 for as it was."""

    async def damage(self, how: Damage, kind: FileKind, chance: random.Random) -> str:
        """Kill it and harm one of its files; return which, "" when there is none."""

    async def break_disk(self) -> None:
        """Let its file system give up and refuse every write (EROFS)."""

    async def remount_disk(self) -> None:
        """Mount it afresh; what was not synced before it broke is gone."""


class RoughWire(Fault):
    """Packets twice, out of order, damaged, or through a narrow wire (N5)."""

    name = "rough-wire"
    where = "real"
    _ways: list[Way]

    async def inject(self) -> str:
        """See `Fault`."""
        hosts = [member.address for member in self.group.members]
        hosts += self.group.client_addresses()
        kind, shape = self.chance.choice(
            (
                ("duplicate", Shape(duplicate=0.3)),
                ("reorder", Shape(reorder=0.2)),
                ("corrupt", Shape(corrupt=0.02)),
                ("narrow", Shape(rate_bits=1_000_000)),
                ("far", Shape(delay=0.05, jitter=0.01, loss=0.2)),
            )
        )
        self._ways = [
            (one, other)
            for one in hosts
            for other in hosts
            if one != other and self.chance.random() < 0.6
        ]
        for way in self._ways:
            await self.group.links.shape(*way, shape)
        return f"{kind} {len(self._ways)} ways"

    async def evidence(self) -> str:
        """See `Fault`."""
        return await self.group.links.traces(self._ways)

    async def heal(self) -> None:
        """See `Fault`."""
        for way in self._ways:
            await self.group.links.unshape(*way)


class ClockRate(Fault):
    """A clock runs too fast or too slow: the wall clock by half, the monotonic by a tenth (N6)."""

    name = "clock-rate"
    where = "real"
    _machine: Machine
    _monotonic = False

    async def inject(self) -> str:
        """See `Fault`."""
        self._machine = cast("Machine", self.pick())
        self._monotonic = self.chance.random() < 0.5
        rate = self.chance.choice((0.9, 1.1) if self._monotonic else (0.5, 0.9, 1.1, 1.5))
        await self.watch(self._machine, "clock")
        await self._machine.set_clock_rate(rate, monotonic=self._monotonic)
        return f"{self._machine.name} {'monotonic' if self._monotonic else 'wall'} x{rate:g}"

    async def heal(self) -> None:
        """See `Fault`."""
        await self._machine.set_clock_rate(1, monotonic=self._monotonic)


class Scarce(Fault):
    """Little memory, processor time or few descriptors for one member (N13)."""

    name = "scarce"
    where = "real"
    _machine: Machine

    async def inject(self) -> str:
        """See `Fault`."""
        self._machine = cast("Machine", self.pick())
        if not self._machine.is_running:
            return ""
        what: Scarcity = self.chance.choice(("descriptors", "memory", "processor"))
        await self.watch(self._machine, "limit")
        self._machine.expect(StorageFailedError)  # of a file that it may not open
        told = await self._machine.limit(what, self.chance)
        return f"{self._machine.name} {told}"

    async def heal(self) -> None:
        """See `Fault`."""
        await self._machine.lift_limits()


class DamagedFile(Harm):
    """One stopped member's file is cut short, gone, or holds an old piece of itself (N10)."""

    name = "damage"
    where = "real"

    async def _harm(self, member: Member) -> str:
        how: Damage = self.chance.choice(("truncate", "old-chunk", "remove"))
        kind = self.chance.choice(_DAMAGED)
        path = await cast("Machine", member).damage(how, kind, self.chance)
        return f"{how} {path}" if path else ""


class BrokenDisk(Fault):
    """The file system gives up and is mounted afresh: what it had not written is gone (N9)."""

    name = "broken-disk"
    where = "real"
    allows_async = False
    weight = 0.6
    _machine: Machine

    async def inject(self) -> str:
        """See `Fault`."""
        self._machine = cast("Machine", self.pick())
        await self.watch(self._machine, "failed-sync")
        self._machine.expect(StorageFailedError)
        await self._machine.break_disk()
        return self._machine.name

    async def heal(self) -> None:
        """See `Fault`."""
        await self._machine.remount_disk()
