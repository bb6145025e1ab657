"""One member of the real group: a machine whose processes come and go, and what is done to it."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.damage import Damage
from jepsen_like.real.damage import FileKind as DiskFile
from jepsen_like.real.node_life import NodeLife
from jepsen_like.real.shim import STEPS

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from broker.config import NodeConfig
    from jepsen_like.faults.group import FileKind, TraceKind
    from jepsen_like.faults.machine import Damage as DamageKind
    from jepsen_like.faults.machine import Scarcity
    from jepsen_like.history import History
    from jepsen_like.real.lab import LabNode
    from jepsen_like.real.proof import Proof
    from jepsen_like.real.shim import Call

SLOW_MS = 2.0  # a sync takes about that long; a disk 100 times slower takes 200 ms

_DISK_FILES: dict[FileKind, tuple[DiskFile, ...]] = {
    "commitlog": (DiskFile.COMMITLOG,),
    "index": (DiskFile.INDEX,),
    "derived": (DiskFile.CONSUME_QUEUE, DiskFile.STATE),
    "vote": (DiskFile.VOTE,),
    "checkpoint": (DiskFile.CHECKPOINT,),
}


class RealMember(NodeLife):
    """See `jepsen_like.faults.group.Member` and `jepsen_like.faults.machine.Machine`."""

    def __init__(
        self, node: LabNode, config: NodeConfig, *, history: History, chance: random.Random
    ) -> None:
        super().__init__(node, config, history=history, chance=chance)
        self.bytes_lost = 0
        self.rotten: list[str] = []  # kinds of files harmed since the disk was last empty
        self.on_last_word: Callable[[RealMember, str], bool] = lambda _member, _word: False
        self.on_transfer: Callable[[RealMember, str | None], None] = lambda _member, _target: None
        self._damage = Damage(node.disk)
        self._power_fails = False  # when it dies at a step
        self._clock_ms = 0
        self._is_clock_wrong = False
        self._is_frozen = self._is_full = self._is_broken = False
        self._is_shimmed = self._is_limited = False
        self._slow_proof = ""

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.node.disk.data

    # -- traces ---------------------------------------------------------------------------------

    async def traces(self, of: TraceKind) -> list[str]:
        """See `Member`."""
        if of == "slow" and self._slow_proof:
            self.trace(of, self.node.shim.proof(self._slow_proof))
        elif of == "clock" and self._is_clock_wrong:
            clock = self.node.clock
            if max(clock.told, clock.told_monotonic) > 1:  # one was the clock's own probe
                self.trace(of, await clock.proof())
        return await super().traces(of)

    # -- its process ----------------------------------------------------------------------------

    async def kill(self) -> None:
        """See `Member`."""
        await self._thaw()  # or the end of the process would wait for the disk
        await super().kill()

    async def clean_up(self, how: str, last_word: str, *, died_at_step: bool) -> None:
        """See `NodeLife`."""
        if how in ("expected", "stopped") and self.on_last_word(self, last_word):
            await self.wipe()
        if died_at_step and self._power_fails:
            self._power_fails = False
            async with self.power_off():
                self.tell_power_loss(await self.node.disk.power_loss())

    async def transfer(self, target: str | None) -> None:
        """See `Member`."""
        self.on_transfer(self, target)

    async def die_in_steps(self, step_count: int, *, power: bool) -> None:
        """See `Member`."""
        self._power_fails |= power
        await self.die_before(step_count + 1, STEPS)

    async def die_before(self, step: int, calls: tuple[Call, ...], *, path_part: str = "") -> None:
        """Have it killed before its *step*-th of *calls* from now on; see `Shim.kill_before`."""
        self._is_shimmed = True
        self.node.shim.kill_before(step, calls, path_part=path_part)

    # -- its disk -------------------------------------------------------------------------------

    @asynccontextmanager
    async def power_off(self) -> AsyncIterator[None]:
        """Let nothing begin here while the block works on the disk; what runs now ends in it."""
        await self._thaw()  # who works there now may wait for the disk
        async with self.bench:
            await self._thaw()
            self.is_excused = True
            if self._is_broken:
                await self._repair()
            yield

    @asynccontextmanager
    async def _killed(self) -> AsyncIterator[None]:
        """Let nothing run here while the block works on the disk."""
        async with self.power_off():
            await self.kill()
            yield

    def tell_power_loss(self, proof: Proof) -> None:
        """Note what the power took with it."""
        lost = int(proof.figures.get("bytes_lost", 0))
        self.bytes_lost += lost
        self.history.note("power", node=self.name, o=lost, v=str(proof))
        self.trace("power", proof)

    async def wipe(self) -> None:
        """See `Member`."""
        async with self._killed():
            files = sum(path.is_file() for path in self.data.rglob("*"))
            if self.data.exists():
                await trio.to_thread.run_sync(shutil.rmtree, self.data)
            self.rotten.clear()
            self.history.note("wipe", node=self.name)
            if files:
                self.leave_trace("wipe", f"{files} files gone")

    async def slow_disk(self, factor: float) -> None:
        """See `Member`."""
        if factor == 1:
            self.node.shim.slow(0)
            self._slow_proof = ""
            return
        self._is_shimmed = True
        self.node.shim.slow(factor * SLOW_MS)
        self._slow_proof = f"syncs of {self.name} {factor * SLOW_MS:g} ms slower"

    async def stall_disk(self) -> None:
        """See `Member`."""
        async with self.bench:
            if not self._is_frozen and not self._is_broken:
                self._is_frozen = True
                self.trace("stall", await self.node.disk.freeze())

    async def unstall_disk(self) -> None:
        """See `Member`."""
        await self._thaw()

    async def _thaw(self) -> None:
        if self._is_frozen:
            self._is_frozen = False
            await self.node.disk.thaw()

    async def fill_disk(self, *, room: int) -> None:
        """See `Member`."""
        await self.empty_disk()
        async with self.bench:
            if not self._is_broken:
                self._is_full = True
                self.trace("full", await self.node.disk.fill(leave=room))

    async def empty_disk(self) -> None:
        """See `Member`."""
        async with self.bench:
            if self._is_full and self._is_broken:
                await self._repair()  # or there would be no room even then
            if self._is_full:
                self._is_full = False
                await self.node.disk.free()

    async def fail_next_sync(self) -> None:
        """See `Member`."""
        self._is_shimmed = True
        self.node.shim.fail(1)

    async def break_disk(self) -> None:
        """See `Machine`."""
        await self._thaw()
        async with self.bench:
            await self._thaw()
            self._is_broken = True
            self.trace("failed-sync", await self.node.disk.abort())

    async def remount_disk(self) -> None:
        """See `Machine`."""
        if self._is_broken:
            async with self.power_off():
                pass  # it is repaired before anything else

    async def _repair(self) -> None:
        """Mount the disk afresh, which ends the process; the bench is held."""
        self.is_excused = True
        self._is_broken = False
        await self.node.disk.remount()

    async def rot(self, kind: FileKind, chance: random.Random) -> str:
        """See `Member`."""
        return await self._harm("rot", kind, chance)

    async def damage(self, how: DamageKind, kind: FileKind, chance: random.Random) -> str:
        """See `Machine`."""
        return await self._harm(how, kind, chance)

    async def _harm(self, how: str, kind: FileKind, chance: random.Random) -> str:
        file_kind = chance.choice(_DISK_FILES[kind])
        if not self._damage.files(file_kind):
            return ""
        if how == "old-chunk":
            async with self.bench:
                await self._damage.remember(file_kind)
            await trio.sleep(chance.uniform(0.5, 2.0))  # something is written meanwhile
        async with self._killed():
            if how == "rot":
                proof = await self._damage.flip_bits(file_kind, count=chance.randint(1, 3))
            elif how == "truncate":
                proof = await self._damage.truncate(file_kind)
            elif how == "remove":
                proof = await self._damage.remove(file_kind)
            else:
                proof = await self._damage.restore_old_chunk(file_kind)
            if not proof.took_effect:
                return ""
            self.trace("rot", proof)
            self.rotten.append(kind)
        return str(proof.figures["file"])

    # -- its clock and its limits ---------------------------------------------------------------

    async def shift_wall_clock(self, milliseconds: int) -> None:
        """See `Member`."""
        self._clock_ms += milliseconds
        self._is_clock_wrong = True
        await self.node.clock.shift(self._clock_ms)

    async def set_clock_rate(self, rate: float, *, monotonic: bool) -> None:
        """See `Machine`."""
        clock = self.node.clock
        self._is_clock_wrong = rate != 1 or self._clock_ms != 0
        await (clock.monotonic_rate if monotonic else clock.rate)(rate)

    async def limit(self, what: Scarcity, chance: random.Random) -> str:
        """See `Machine`."""
        limits = self.node.limits
        self._is_limited = True
        if what == "descriptors":
            proof = await limits.descriptors(self.process, chance.choice((40, 64)))
        elif what == "memory":
            self.is_excused = True  # the kernel may kill it
            proof = await limits.memory(self.process, chance.choice((2, 16)) << 20)
        else:
            proof = await limits.processor(self.process, chance.choice((0.05, 0.2)))
        self.trace("limit", proof)
        return str(proof)

    async def lift_limits(self) -> None:
        """See `Machine`."""
        self._is_limited = False
        self.trace("limit", await self.node.limits.clear(self.process))

    async def mend(self) -> None:
        """End whatever faults have left behind on this machine; its wall clock stays wrong."""
        if self._is_shimmed:
            self.node.shim.clear()
        self._is_shimmed = False
        self._slow_proof = ""
        self._power_fails = False
        await self._thaw()
        await self.remount_disk()
        await self.empty_disk()
        if self._is_limited:
            await self.lift_limits()
        await self.resume()
