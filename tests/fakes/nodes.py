"""Whole members of a group in one event loop, under virtual time: no sockets, no threads.

`FakeMembers` keeps what ledger servers and broker nodes have in common: a disk each that outlives
the process, a network with links that can be cut or fall silent, workers whose jobs take virtual
time.  A member dies by cancellation, which closes its connections as a kernel would.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import trio

from broker.testing.memory_disk import NodeDisk
from broker.testing.memory_network import MemoryNetwork
from broker.testing.memory_worker import FakeWorker
from dledger.remoting.errors import ConnectFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.testing.memory_network import MemoryListener, MemoryStream

WALL_MS = 1_700_000_000_000


class TrioClock:
    """Virtual time as the product's clock."""

    wall_offset_ms = 0  # what somebody set the wall clock forwards by

    def now(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return WALL_MS + self.wall_offset_ms + int(trio.current_time() * 1000)

    def local_hour(self) -> int:
        return self.wall_ms() // 3_600_000 % 24


class Wires:
    """One network for all members, which knows whose connection each is."""

    def __init__(self, network: MemoryNetwork | None = None) -> None:
        self.network = network or MemoryNetwork(latency_seconds=0.0002)
        self.owner_of_port: dict[int, str] = {}
        self.cut_pairs: set[frozenset[str]] = set()
        self.connects: list[tuple[float, str, int]] = []  # when, who, to which port
        self._streams: dict[frozenset[str], list[MemoryStream]] = {}

    def of(self, name: str) -> OneWire:
        return OneWire(self, name)

    def cut(self, one: str, other: str) -> None:
        """Break the connections between two members and let no new one come about."""
        pair = frozenset((one, other))
        self.cut_pairs.add(pair)
        for stream in self._streams.pop(pair, []):
            stream.abort()

    def heal(self, one: str, other: str) -> None:
        self.cut_pairs.discard(frozenset((one, other)))

    def isolate(self, name: str) -> None:
        for other in set(self.owner_of_port.values()) - {name}:
            self.cut(name, other)

    def rejoin(self, name: str) -> None:
        self.cut_pairs = {pair for pair in self.cut_pairs if name not in pair}

    def silence(self, one: str, other: str) -> None:
        """Let nothing that is sent from now on arrive, and nobody notice: a lost route."""
        void = MemoryNetwork(capacity=1 << 40, latency_seconds=float("inf"))
        for stream in self._streams.get(frozenset((one, other)), []):
            stream._outbound.network = stream._inbound.network = void

    def streams(self, one: str, other: str) -> list[MemoryStream]:
        """Return the ends of the open connections between two members, dialler's first."""
        found = self._streams.get(frozenset((one, other)), [])
        return [stream for stream in found if not stream.closed]

    async def connect(self, name: str, host: str, port: int) -> MemoryStream:
        self.connects.append((trio.current_time(), name, port))
        pair = frozenset((name, self.owner_of_port.get(port, "?")))
        if pair in self.cut_pairs:
            await trio.lowlevel.checkpoint()
            raise ConnectFailedError(f"cannot connect to {host}:{port}: No route to host")
        stream = await self.network.connect(host, port)
        at = self.network.streams.index(stream)
        pair = frozenset((name, self.owner_of_port.get(port, "?")))
        self._streams.setdefault(pair, []).extend(self.network.streams[at : at + 2])
        return stream


class OneWire:
    """The network as one member sees it."""

    def __init__(self, wires: Wires, name: str) -> None:
        self._wires = wires
        self._name = name

    async def connect(self, host: str, port: int) -> MemoryStream:
        return await self._wires.connect(self._name, host, port)

    async def listen(self, host: str, port: int) -> MemoryListener:
        self._wires.owner_of_port[port] = self._name
        return await self._wires.network.listen(host, port)


class FakeMember:
    """One member: its disk outlives its process."""

    def __init__(self, members: FakeMembers, name: str, number: int) -> None:
        self.name = name
        self.disk = NodeDisk()
        self.workers: dict[str, FakeWorker] = {}
        self.running: Any = None  # what runs: a LedgerServer, a Node
        self.last_word: BaseException | None = None
        self.sync_seconds = 0.001
        self._members = members
        self._number = number
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    @property
    def is_running(self) -> bool:
        return self.running is not None

    def chance(self) -> random.Random:
        return random.Random(1000 * self._members.seed + self._number)

    async def start(self) -> None:
        assert not self.is_running
        self._ended = trio.Event()
        self.last_word = None
        await self._members.nursery.start(self._live)

    async def kill(self) -> None:
        """End the process at once; what it wrote stays in the page cache."""
        assert self._scope is not None
        self._scope.cancel()
        await self._ended.wait()

    async def ended(self, seconds: float = 30.0) -> BaseException | None:
        """Wait for the process to end by itself; return its last word."""
        with trio.fail_after(seconds):
            await self._ended.wait()
        return self.last_word

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self._scope:
            try:
                async with trio.open_nursery() as nursery:

                    def make_worker(name: str) -> FakeWorker:
                        kind = name.rpartition("-")[2]
                        worker = self.workers[kind] = FakeWorker(nursery, name)
                        worker.seconds = self.sync_seconds
                        return worker

                    self.running = self._members.build(self, make_worker)
                    await nursery.start(self.running.run)
                    task_status.started()
            except Exception as error:  # noqa: BLE001 - the process' last word
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                self.last_word = error
        dead, self.running = self.running, None
        self._members.bury(self, dead)
        self.disk.process_crash()
        self._ended.set()


class FakeMembers:
    """The members; a subclass says what one is made of."""

    def __init__(self, nursery: trio.Nursery, count: int = 3, *, seed: int = 1) -> None:
        self.nursery = nursery
        self.seed = seed
        self.clock = TrioClock()
        self.wires = Wires()
        self.members = {f"n{n + 1}": FakeMember(self, f"n{n + 1}", n) for n in range(count)}

    def __getitem__(self, name: str) -> FakeMember:
        return self.members[name]

    def __iter__(self):
        return iter(self.members.values())

    def build(self, member: FakeMember, make_worker: Callable[[str], FakeWorker]) -> Any:
        raise AssertionError("a subclass builds")

    def bury(self, member: FakeMember, dead: Any) -> None:
        raise AssertionError("a subclass closes files")

    @property
    def alive(self) -> list[FakeMember]:
        return [member for member in self if member.is_running]

    def others(self, *excluded: FakeMember) -> list[FakeMember]:
        return [member for member in self if member not in excluded]

    async def start(self) -> None:
        for member in self:
            await member.start()


async def until(what: str, holds: Callable[[], object], *, seconds: float = 30.0) -> Any:
    """Let virtual time pass until *holds* returns something true; return that."""

    async def holds_now() -> object:
        return holds()

    return await until_async(what, holds_now, seconds=seconds)


async def until_async(
    what: str, holds: Callable[[], Awaitable[object]], *, seconds: float = 30.0
) -> Any:
    """As `until`, for a question that has to be waited for."""
    with trio.move_on_after(seconds):
        for turn in itertools.count():
            found = await holds()
            if found:
                return found
            await trio.sleep(0.001 if turn < 300 else 0.020)
    raise AssertionError(f"not within {seconds:g} s: {what}")
