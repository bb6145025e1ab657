"""One member of the simulated group: its disk and network stay, its processes come and go."""

from __future__ import annotations

import random
import traceback
from typing import TYPE_CHECKING

import trio

from broker.config import MemberConfig, NodeConfig
from broker.message.model import HostAddress
from broker.node import Node
from broker.open_files import OpenFiles, open_files
from broker.wiring import Surroundings
from dledger.core import Role
from dledger.errors import LedgerError, StorageFailedError
from dledger.remoting.errors import RemotingError
from jepsen_like.sim.flow import watch_flow
from jepsen_like.sim.scheduling import PROCESS, SimProcess
from jepsen_like.sim.sim_clock import SimClock
from jepsen_like.sim.sim_disk import SimDisk, SimMount
from jepsen_like.sim.sim_open import ProcessGoneError
from jepsen_like.sim.sim_worker import DiskSpeed, SimWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from jepsen_like.faults.group import FileKind, TraceKind
    from jepsen_like.history import History
    from jepsen_like.sim.drops import Drops
    from jepsen_like.sim.mix import Mix
    from jepsen_like.sim.promises import Promises
    from jepsen_like.sim.sim_network import SimNetwork
    from jepsen_like.sim.trace import Trace

BROKER_PORT, PEER_PORT = 9876, 9000


class SimMember:
    """A machine that runs a node, or does not."""

    def __init__(
        self,
        mix: Mix,
        number: int,
        *,
        network: SimNetwork,
        history: History,
        trace: Trace,
        promises: Promises,
        drops: Drops,
    ) -> None:
        self.name = f"n{number + 1}"
        self.number = number
        self.history = history
        chance = random.Random(f"{mix.seed} member {number}")
        self.address = address_of(number)
        self.host = network.host(self.address)
        self.disk = SimDisk(self.name, random.Random(chance.getrandbits(64)), trace)
        self.disk.on_death = self._died_at_step
        self.speed = DiskSpeed(random.Random(chance.getrandbits(64)), mean_seconds=mix.sync_mean)
        self.clock = SimClock(
            uptime_seconds=chance.uniform(1, 1e5),
            rate=mix.clock_rates[number],
            wall_rate=mix.wall_rate,
        )
        self.config = NodeConfig(
            group="sim",
            node_id=self.name,
            members=tuple(
                MemberConfig(
                    node_id=f"n{n + 1}",
                    host=address_of(n),
                    peer_port=PEER_PORT,
                    broker_port=BROKER_PORT,
                )
                for n in range(mix.node_count)
            ),
            data_folder="/data",
            listen_host=self.address,
            store=mix.store,
            raft=mix.raft,
            broker=mix.broker,
        )
        self.life = 0  # counts processes
        self.node: Node | None = None  # while it serves
        self.files: OpenFiles | None = None
        self.process: SimProcess | None = None
        self.may_run = True
        self.is_excused = False  # its next end was made to happen
        self.expected: set[type[BaseException]] = set()  # last words that a fault explains
        self.on_last_word: Callable[[SimMember, BaseException], None] = lambda _member, _error: None
        self.truncations = 0
        self._promises = promises
        self._drops = drops
        drops.add_clock(self.clock)
        self.disk.on_written = lambda path, data: promises.written(self.name, path, data)
        self.disk.on_wipe = lambda: promises.lose_disk(self.name)
        self.tracebacks: list[str] = []
        self._traces: dict[TraceKind, list[str]] = {}
        self._mix = mix
        self._mount: SimMount | None = None
        self._scope: trio.CancelScope | None = None
        self._wake = trio.Event()
        self._restart_at = 0.0
        self._power_fails = False
        self._chance = random.Random(chance.getrandbits(64))

    @property
    def mount(self) -> SimMount | None:
        """The disk as the process sees it; None while there is none."""
        return self._mount

    @property
    def is_up(self) -> bool:
        """Whether a node runs here and takes connections."""
        return self.node is not None and not self.is_stopped

    @property
    def is_stopped(self) -> bool:
        """Whether its process is stopped (SIGSTOP)."""
        return self.process is not None and self.process.is_stopped

    @property
    def is_running(self) -> bool:
        """Whether there is a process, however far it has come."""
        return self._mount is not None

    @property
    def is_joining(self) -> bool:
        """Whether it may not vote, as far as is known: it also counts as such while it is down."""
        return self.files is None or self.files.folder.vote.joining

    # -- what is done to it ---------------------------------------------------------------------

    def expect(self, error: type[BaseException]) -> None:
        """See `Member`."""
        self.expected.add(error)

    async def traces(self, of: TraceKind) -> list[str]:
        """See `Member`."""
        found = list(self._traces.get(of, ()))
        process = self.process
        if of == "pause" and process is not None and process.held_count:
            found.append(f"process {process.name} leaves {process.held_count} wake-ups waiting")
        return found

    def _leave_trace(self, of: TraceKind, what: str) -> None:
        self._traces.setdefault(of, []).append(what)

    async def kill(self) -> None:
        """See `Member`."""
        self._kill(power=False)

    def lose_power(self) -> None:
        """End its process and lose what was not synced."""
        self._kill(power=True)

    def _kill(self, *, power: bool) -> None:
        self._power_fails |= power
        self.is_excused = True
        if self._mount is None:
            self._lose_power()
            return
        self._leave_trace("kill", f"process {self.name}.{self.life} gone")
        self._mount.is_dead = True
        self.host.die(silently=power)
        if self._scope is not None:
            self._scope.cancel()
        if self.process is not None:
            self.process.resume()  # its tasks end, unheard

    async def pause(self) -> None:
        """See `Member`."""
        assert self.process is not None
        self.process.stop()

    async def resume(self) -> None:
        """See `Member`."""
        if self.process is not None:
            self.process.resume()

    async def wipe(self) -> None:
        """See `Member`."""
        self._kill(power=False)
        self._leave_trace("wipe", f"{len(self.disk.files)} files gone")
        self.disk.wipe()

    async def die_in_steps(self, step_count: int, *, power: bool) -> None:
        """See `Member`."""
        await self.die_at("", step_count, power=power)

    async def die_at(self, place: str, step_count: int, *, power: bool) -> None:
        """As `die_in_steps`, counting only what is done to files whose path has *place* in it."""
        self.disk.die_in_steps, self.disk.die_at = step_count, place
        self._power_fails |= power

    async def transfer(self, target: str | None) -> None:
        """See `Member`."""
        assert self.node is not None
        term = self.node.ledger.term

        def done(error: LedgerError | None) -> None:
            if error is None:
                self._leave_trace("transfer", f"handed over what it led in term {term}")

        self.node.ledger.begin_transfer(target, done)

    async def slow_disk(self, factor: float) -> None:
        """See `Member`."""
        self.speed.slowdown = factor
        if factor != 1:
            self._leave_trace("slow", f"{factor:g} times slower")

    async def stall_disk(self) -> None:
        """See `Member`."""
        self.speed.stall()
        self._leave_trace("stall", "stalled")

    async def unstall_disk(self) -> None:
        """See `Member`."""
        self.speed.go_on()

    async def fill_disk(self, *, room: int) -> None:
        """See `Member`."""
        self.disk.capacity = self.disk.used + room
        self._leave_trace("full", f"{room} bytes left")

    async def empty_disk(self) -> None:
        """See `Member`."""
        self.disk.capacity = 1 << 40

    async def crowd_disk(self, percent: float) -> bool:
        """See `Crowding`."""
        if self.config.store.disk_force_percent == 100:
            return False
        self.disk.size = int(self.disk.used * 100 / percent)
        self._leave_trace("full", f"{percent:g} % are used of {self.disk.size} bytes")
        return True

    async def uncrowd_disk(self) -> None:
        """See `Crowding`."""
        self.disk.size = 0

    async def fail_next_sync(self) -> None:
        """See `Member`."""
        self.disk.sync_errors = 1

    async def rot(self, kind: FileKind, chance: random.Random) -> str:
        """See `Member`."""
        stem = kind[:2] if kind == "checkpoint" else kind
        files = sorted(path for path in self.disk.files if f"/data/{stem}" in path)
        files = [path for path in files if self.disk.files[path].size]
        if not files:
            return ""
        self._kill(power=False)
        path = chance.choice(files[-2:])
        file = self.disk.files[path]
        end = max(len(bytes(file.cache[: file.size]).rstrip(b"\0")), 1)
        count = chance.randint(1, 3)
        for _ in range(count):
            file.rot(chance.randrange(end), chance.randrange(8))
        self._leave_trace("rot", f"{count} bits of {path}")
        return path

    async def shift_wall_clock(self, milliseconds: int) -> None:
        """See `Member`."""
        self.clock.shift_wall(milliseconds)
        self._leave_trace("clock", f"now {self.clock.wall_offset_ms:+} ms")

    def start(self) -> None:
        """Let a process run here from now on."""
        self.may_run = True
        self._wake.set()

    def hold_down(self) -> None:
        """Start no process until `start`."""
        self.may_run = False

    async def stop_gracefully(self) -> None:
        """Have it stop as SIGTERM does."""
        node, scope, life = self.node, self._scope, self.life
        if node is None or scope is None:
            return
        token = PROCESS.set(self.process)
        try:
            # A stop that has begun is not taken back when its fault is healed: what is left would
            # be a node that runs and takes no clients.
            with trio.CancelScope(shield=True):
                await node.step_back()
        finally:
            PROCESS.reset(token)
        if self.life == life and self._mount is not None and not self._mount.is_dead:
            self._leave_trace("stop", f"process {self.name}.{life} told to stop")
            self.is_excused = True
            self._stops_well = True
            scope.cancel()

    _stops_well = False

    def _died_at_step(self) -> None:
        self._leave_trace("step", f"process {self.name}.{self.life} died at a step")
        self.is_excused = True
        self.host.die(silently=self._power_fails)
        if self._scope is not None:
            self._scope.cancel()

    def _lose_power(self) -> None:
        if self._power_fails:
            self._power_fails = False
            before = self.disk.lost_pages
            self.disk.lose_power()
            if any(file.rotten for file in self.disk.files.values()):
                # In another run of the machine, damage at the end of the log is no different from
                # a write that was cut short.
                self._promises.forget(self.name)
            lost = self.disk.lost_pages - before
            self.history.note("power", node=self.name, o=lost)
            if lost:
                self._leave_trace("power", f"{lost} pages lost")

    # -- its life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run one process after another until cancelled."""
        while True:
            while not self.may_run:
                self._wake = trio.Event()
                await self._wake.wait()
            self.life += 1
            await self._run_process()
            await trio.sleep(self._chance.uniform(0.02, 0.4))

    async def _run_process(self) -> None:
        self.process = SimProcess(f"{self.name}.{self.life}")
        self.is_excused = self._stops_well = False
        self.host.revive()
        last_word: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                token = PROCESS.set(self.process)
                try:
                    nursery.start_soon(self._serve, nursery)
                finally:
                    PROCESS.reset(token)
        except BaseException as error:  # noqa: BLE001 - sorted out below
            last_word = _first(error)
        self._note_truncations()
        node, self.node, self.process, self._scope = self.node, None, None, None
        mount, self._mount = self._mount, None
        if self._stops_well and node is not None and mount is not None and not mount.is_dead:
            try:
                node.close(write_down=True)
            except (LedgerError, ProcessGoneError) as error:
                last_word = error
        if mount is not None:
            mount.is_dead = True
        self.host.die(silently=self._power_fails)
        self._tell_end(last_word)
        self._lose_power()

    async def _serve(self, nursery: trio.Nursery) -> None:
        mount = self._mount = self.disk.mount()
        config = self.config
        files = open_files(config, mount)
        self.files = files
        chance = random.Random(f"{self._mix.seed} {self.name} life {self.life}")
        node = Node(
            config,
            files,
            Surroundings(
                clock=self.clock,
                disk=mount,
                network=self.host,
                chance=chance,
                make_worker=lambda name: SimWorker(name, mount=mount, speed=self.speed),
            ),
            store_host=HostAddress(bytes(map(int, self.address.split("."))), BROKER_PORT),
        )
        node.ledger.watch_role(self._role_changed)
        self._promises.begin_life(self.name, node.ledger, mount)
        self._drops.begin_life(self.name, node, files, mount, self.clock)
        watch_flow(self.name, node, self._promises)
        await nursery.start(node.run)
        self.node = node
        self.history.note("start", node=self.name)

    def _role_changed(self, role: Role, term: int, _leader_id: str | None) -> None:
        if role is Role.LEADER:
            self.history.note("leader", node=self.name, o=term)

    def _note_truncations(self) -> None:
        if self.files is not None:
            # Not from its `stats`: these need the files, and one that dies amid an installation
            # has none.
            self.truncations += self.files.store._truncation_count  # noqa: SLF001

    def _tell_end(self, last_word: BaseException | None) -> None:
        if last_word is None or isinstance(last_word, trio.Cancelled | ProcessGoneError):
            self.history.note("exit", node=self.name, v="killed" if self.is_excused else "ended")
            return
        kind = type(last_word).__name__
        if self.is_excused:
            self.history.note("exit", node=self.name, v="killed", err=f"{kind}: {last_word}")
            return
        how = "stopped" if isinstance(last_word, LedgerError | RemotingError) else "crashed"
        if isinstance(last_word, tuple(self.expected)):
            how = "expected"
            if isinstance(last_word, StorageFailedError):
                self._leave_trace("failed-sync", str(last_word))
        if how == "crashed":
            self.tracebacks.append("".join(traceback.format_exception(last_word)))
        self.history.note("exit", node=self.name, v=how, err=f"{kind}: {last_word}")
        self.on_last_word(self, last_word)


def address_of(number: int) -> str:
    """Return the IP address of a member."""
    return f"10.0.0.{number + 1}"


def _first(error: BaseException) -> BaseException | None:
    """Return what went wrong first, passing over cancellations."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found = _first(inner)
            if found is not None and not isinstance(found, trio.Cancelled):
                return found
        return None
    return error
