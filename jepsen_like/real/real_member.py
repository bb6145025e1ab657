"""One member of the real group: a machine whose processes come and go, and what is done to it."""

from __future__ import annotations

import shutil
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from broker.config import dump_config
from dledger.errors import StorageFailedError
from jepsen_like.real.damage import Damage
from jepsen_like.real.damage import FileKind as DiskFile
from jepsen_like.real.endings import end_of, speaks_of
from jepsen_like.real.node_log import NodeLog
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

BROKER_PORT, PEER_PORT = 9876, 10876
_LOOK_SECONDS = 0.03  # between two looks at the process and its log
_STOP_SECONDS = 20.0
SLOW_MS = 2.0  # a sync takes about that long; a disk 100 times slower takes 200 ms

_DISK_FILES: dict[FileKind, tuple[DiskFile, ...]] = {
    "commitlog": (DiskFile.COMMITLOG,),
    "index": (DiskFile.INDEX,),
    "derived": (DiskFile.CONSUME_QUEUE, DiskFile.STATE),
    "vote": (DiskFile.VOTE,),
    "checkpoint": (DiskFile.CHECKPOINT,),
}


class RealMember:
    """See `jepsen_like.faults.group.Member` and `jepsen_like.faults.machine.Machine`."""

    def __init__(
        self, node: LabNode, config: NodeConfig, *, history: History, chance: random.Random
    ) -> None:
        self.node = node
        self.config = config
        self.history = history
        self.role, self.term = "", 0
        self.cut_count = self.install_count = self.installing_count = 0
        self.bytes_lost = 0
        self.step_deaths = 0
        self.life = 0
        self.may_run = True
        self.rotten: list[str] = []  # files harmed since the disk was last empty
        self.expected: set[type[BaseException]] = set()
        self.on_last_word: Callable[[RealMember, str], bool] = lambda _member, _word: False
        self.on_transfer: Callable[[RealMember, str | None], None] = lambda _member, _target: None
        path = node.folder / "node.toml"
        path.write_text(dump_config(config), encoding="utf-8")
        self.process = node.process(
            [sys.executable, "-m", "broker.cli.main", "node", "start", "-c", str(path)]
        )
        self._log = NodeLog(self.process.log_path)
        self._chance = chance
        self._traces: dict[TraceKind, list[str]] = {}
        self._wake = trio.Event()
        self._damage = Damage(node.disk)
        self._bench = trio.Lock()  # held while the machine is off and somebody works on its disk
        self._is_ready = False
        self._was_ready = False  # in this life
        self._is_excused = False  # its next end was made to happen
        self._stops_well = False
        self._steps_left = False  # the shim is to kill it
        self._power_fails = False  # and takes the power with it
        self._clock_ms = 0
        self._is_clock_wrong = False
        self._is_frozen = self._is_full = self._is_shimmed = self._is_limited = False
        self._last_word = self._traceback = ""
        self._slow_proof = ""
        self._is_retired = False

    @property
    def name(self) -> str:
        """See `Member`."""
        return self.config.node_id

    @property
    def address(self) -> str:
        """See `Member`."""
        return self.node.address

    @property
    def broker(self) -> str:
        """Where clients find it."""
        return f"{self.address}:{BROKER_PORT}"

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.node.disk.data

    @property
    def is_running(self) -> bool:
        """See `Member`."""
        return self.process.is_running

    @property
    def is_up(self) -> bool:
        """See `Member`."""
        return self._is_ready and self.process.is_running and not self.process.is_stopped

    @property
    def is_leader(self) -> bool:
        """Whether it runs and last said that it leads."""
        return self.is_up and self.role == "leader"

    def expect(self, error: type[BaseException]) -> None:
        """See `Member`."""
        self.expected.add(error)

    # -- traces ---------------------------------------------------------------------------------

    async def traces(self, of: TraceKind) -> list[str]:
        """See `Member`."""
        if of == "slow" and self._slow_proof:
            self._trace(of, self.node.shim.proof(self._slow_proof))
        elif of == "clock" and self._is_clock_wrong:
            clock = self.node.clock
            if max(clock.told, clock.told_monotonic) > 1:  # one was the clock's own probe
                self._trace(of, await clock.proof())
        return list(self._traces.get(of, ()))

    def _trace(self, of: TraceKind, proof: Proof) -> None:
        if proof.took_effect:
            self.leave_trace(of, str(proof))

    def leave_trace(self, of: TraceKind, what: str) -> None:
        """Note that a fault took effect."""
        self._traces.setdefault(of, []).append(what)

    # -- its process ----------------------------------------------------------------------------

    async def kill(self) -> None:
        """See `Member`."""
        self._is_excused = True
        await self._thaw()  # or the end of the process would wait for the disk
        if self.is_running:
            self._trace("kill", await self.process.kill())

    async def pause(self) -> None:
        """See `Member`."""
        self._trace("pause", await self.process.stop())

    async def resume(self) -> None:
        """See `Member`."""
        if self.is_running:
            await self.process.resume()

    async def stop_gracefully(self) -> None:
        """See `Member`."""
        if not self.is_running:
            return
        self._stops_well = True
        proof = await self.process.terminate(seconds=_STOP_SECONDS)
        self._trace("stop", proof)

    def hold_down(self) -> None:
        """See `Member`."""
        self.may_run = False

    async def retire(self) -> None:
        """Stop it gracefully and for good; `run` returns when all has been told."""
        self._is_retired = True
        await self.stop_gracefully()
        self.start()  # if it was held down: nothing to wait for

    def start(self) -> None:
        """See `Member`."""
        self.may_run = True
        self._wake.set()

    async def transfer(self, target: str | None) -> None:
        """See `Member`."""
        self.on_transfer(self, target)

    async def die_in_steps(self, step_count: int, *, power: bool) -> None:
        """See `Member`."""
        self._power_fails |= power
        await self.die_before(step_count + 1, STEPS)

    async def die_before(self, step: int, calls: tuple[Call, ...], *, path_part: str = "") -> None:
        """Have it killed before its *step*-th of *calls* from now on; see `Shim.kill_before`."""
        self._steps_left = True
        self._is_shimmed = True
        self.node.shim.kill_before(step, calls, path_part=path_part)

    # -- its disk -------------------------------------------------------------------------------

    @asynccontextmanager
    async def power_off(self) -> AsyncIterator[None]:
        """Let nothing run here while the block works on the disk; what runs now ends in it."""
        self._is_excused = True
        await self._thaw()
        async with self._bench:
            yield

    def tell_power_loss(self, proof: Proof) -> None:
        """Note what the power took with it."""
        lost = int(proof.figures.get("bytes_lost", 0))
        self.bytes_lost += lost
        self.history.note("power", node=self.name, o=lost, v=str(proof))
        self._trace("power", proof)

    async def wipe(self) -> None:
        """See `Member`."""
        await self.kill()
        async with self._bench:
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
        if not self._is_frozen:
            async with self._bench:
                self._is_frozen = True
                self._trace("stall", await self.node.disk.freeze())

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
        self._is_full = True
        self._trace("full", await self.node.disk.fill(leave=room))

    async def empty_disk(self) -> None:
        """See `Member`."""
        if self._is_full:
            self._is_full = False
            await self.node.disk.free()

    async def fail_next_sync(self) -> None:
        """See `Member`."""
        self._is_shimmed = True
        self.node.shim.fail(1)

    async def break_disk(self) -> None:
        """See `Machine`."""
        self._trace("failed-sync", await self.node.disk.abort())

    async def remount_disk(self) -> None:
        """See `Machine`."""
        self._is_excused = True
        async with self._bench:
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
            await self._damage.remember(file_kind)
            await trio.sleep(chance.uniform(0.5, 2.0))  # something is written meanwhile
        await self.kill()
        async with self._bench:
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
            self._trace("rot", proof)
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
            self._is_excused = True  # the kernel may kill it
            proof = await limits.memory(self.process, chance.choice((2, 16)) << 20)
        else:
            proof = await limits.processor(self.process, chance.choice((0.05, 0.2)))
        self._trace("limit", proof)
        return str(proof)

    async def lift_limits(self) -> None:
        """See `Machine`."""
        self._is_limited = False
        self._trace("limit", await self.node.limits.clear(self.process))

    async def mend(self) -> None:
        """End whatever faults have left behind on this machine; its wall clock stays wrong."""
        if self._is_shimmed:
            self.node.shim.clear()
        self._is_shimmed = False
        self._slow_proof = ""
        self._steps_left = self._power_fails = False
        await self._thaw()
        await self.empty_disk()
        if self._is_limited:
            await self.lift_limits()
        await self.resume()

    # -- its life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run one process after another until cancelled, or until the last after `retire`."""
        while not self._is_retired:
            while not self.may_run:
                self._wake = trio.Event()
                await self._wake.wait()
            async with self._bench:
                if self.may_run and not self._is_retired:
                    self._begin_life()
            if self.process.is_running:
                await self._attend()
            await trio.sleep(self._chance.uniform(0.02, 0.4))

    def _begin_life(self) -> None:
        self.life += 1
        self._is_excused = self._stops_well = False
        self._last_word = self._traceback = ""
        self.role, self._is_ready, self._was_ready = "", False, False
        self.process.start()

    async def _attend(self) -> None:
        while self.process.is_running:
            self._read_log()
            await trio.sleep(_LOOK_SECONDS)
        self._read_log()
        self._is_ready = False
        code = self.process.returncode
        assert code is not None
        await self._tell_end(code)

    def _read_log(self) -> None:
        told = self._log.read_on()
        if told.is_ready:
            self._is_ready = self._was_ready = True
            self.history.note("start", node=self.name)
        for role, term in told.roles:  # told again when a leader begins to serve
            if role == "leader" and (self.role, self.term) != (role, term):
                self.history.note("leader", node=self.name, o=term)
            self.role, self.term = role, term
        self.cut_count += told.cut_count
        self.install_count += told.install_count
        self.installing_count += told.installing
        self._last_word = told.last_word or self._last_word
        self._traceback = self._traceback or told.traceback

    async def _tell_end(self, code: int) -> None:
        word = self._last_word
        died_at_step = code == -signal.SIGKILL and self._steps_left and not self._is_excused
        if died_at_step:
            self._steps_left = False
            self.step_deaths += 1
            self.leave_trace("step", f"life {self.life} died at a step")
        end = end_of(
            code,
            last_word=word,
            traceback=self._traceback,
            is_excused=self._is_excused or died_at_step,
            stops_well=self._stops_well,
            was_ready=self._was_ready,
            expected=self.expected,
        )
        how = end.how
        self.history.note("exit", node=self.name, v=how, err=end.why or None)
        if how == "expected" and speaks_of(word, StorageFailedError):
            self.leave_trace("failed-sync", word)
        if how in ("expected", "stopped") and self.on_last_word(self, word):
            await self.wipe()
        if died_at_step and self._power_fails:
            self._power_fails = False
            async with self.power_off():
                self.tell_power_loss(await self.node.disk.power_loss())
