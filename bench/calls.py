"""``python -m bench.calls``: how many function calls one message costs, on which node and where.

Counted and not timed, so that what else runs on the machine has no part in it.  Three nodes and a
client that has one message under way share one event loop, with real sockets and files.  Then
time stands still: no heartbeat and no timer mixes in, and what is counted is what a message
takes by itself.  The number of turns of the loop and steps of tasks is that of all together.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import random
import socket
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click
import trio

import broker
from bench.frames import FrameRing
from bench.raw_load import acknowledged_opaques
from bench.scratch import scratch_folder
from broker.cli.local_group import GroupPlan, LocalGroup, find_base_port
from broker.message.model import HostAddress
from broker.node import Node
from broker.open_files import open_files
from broker.wiring import Surroundings
from dledger.config import FlushDiskType, SyncBy
from dledger.remoting.alarm import Alarm
from dledger.remoting.connection import Connection
from dledger.remoting.readiness import HotSockets
from dledger.remoting.tcp import TcpNetwork
from dledger.remoting.tcp_stream import TcpStream
from dledger.store.os_disk import OsDisk
from dledger.sync_ring import RingWorker, make_sync_worker
from dledger.worker import ThreadWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from dledger.worker import Worker

_THREADS = "threads' ends"
_WHOSE: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default=_THREADS)
_LOOP = "loop"
_CLIENT = "client"
_WARM_UP_COUNT = 200
_TOPIC = "bench"
_QUEUE_COUNT = 4
_SILENCE_SECONDS = 10.0
_POLL_SECONDS = 0.01
_ROOMS = (
    "pysyncobj", "trio", "dledger/raft", "dledger/store", "dledger/remoting", "dledger/peers",
    "dledger", "broker/store", "broker/handlers", "broker",
)  # fmt: skip

# Does not count: what counts, and what the event loop does to have it told.
_OURS = frozenset({__file__, str(Path(trio.__file__).with_name("_core") / "_instrumentation.py")})

_P = ParamSpec("_P")
_R = TypeVar("_R")
Place = tuple[str, int, str]  # file, line and name of a function; the file of a built-in is empty


class StoppableClock(trio.abc.Clock):
    """The time of the event loop and of the nodes; as costly to read as the real ones."""

    goes_by_itself = True  # see `dledger.remoting.readiness.timed_sockets`

    def __init__(self) -> None:
        self.stopped_at: float | None = None

    def start_clock(self) -> None:
        """See `trio.abc.Clock`."""

    def current_time(self) -> float:
        """See `trio.abc.Clock`."""
        now = perf_counter()
        return now if self.stopped_at is None else self.stopped_at

    now = current_time  # see `dledger.clock.Clock`

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See `trio.abc.Clock`."""
        if self.stopped_at is not None and deadline > self.stopped_at:
            return float("inf")
        return deadline - self.current_time()

    def wall_ms(self) -> int:
        """See `dledger.clock.Clock`."""
        return int(self.current_time() * 1000)

    def local_hour(self) -> int:
        """See `dledger.clock.Clock`."""
        return 3


class CallCounter(trio.abc.Instrument):
    """Counts the calls of each node's tasks while it is on."""

    def __init__(self) -> None:
        self.calls: dict[str, collections.Counter[Place]] = {}
        self.poll_count = 0
        self.step_count = 0
        self._places = self.calls.setdefault(_LOOP, collections.Counter())

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self.step_count += 1
        whose = task.context.get(_WHOSE, _THREADS)
        self._places = self.calls.setdefault(whose, collections.Counter())

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self._places = self.calls[_LOOP]

    def of(self, whose: str, call: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return *call* as one that counts for *whose*, though no task of theirs calls it."""

        def counted(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            before = self._places
            self._places = self.calls.setdefault(whose, collections.Counter())
            try:
                return call(*args, **kwargs)
            finally:
                self._places = before

        return counted

    @contextlib.contextmanager
    def attributing_reads(self) -> Iterator[None]:
        """Count what is read out of the event loop's poll for whoever waits for it."""
        receive_each, after_reads = TcpStream.receive_each, HotSockets.after_reads
        run_alarm, on_readable = Alarm.run, RingWorker.on_readable

        async def receive(stream: TcpStream, take: Callable[[bytes], bool]) -> None:
            await receive_each(stream, self.of(_WHOSE.get(), take))

        def after(sockets: HotSockets, call: Callable[[], None]) -> None:
            whose = next(name for name, places in self.calls.items() if places is self._places)
            after_reads(sockets, self.of(whose, call))

        async def run(alarm: Alarm) -> NoReturn:
            alarm.call = self.of(_WHOSE.get(), alarm.call)
            await run_alarm(alarm)

        def sync_ended(worker: RingWorker) -> None:
            self.of(_THREADS, on_readable)(worker)

        TcpStream.receive_each = receive  # type: ignore[method-assign]
        Alarm.run, RingWorker.on_readable = run, sync_ended  # type: ignore[method-assign]
        HotSockets.after_reads = after  # type: ignore[method-assign]
        try:
            yield
        finally:
            TcpStream.receive_each = receive_each  # type: ignore[method-assign]
            HotSockets.after_reads = after_reads  # type: ignore[method-assign]
            Alarm.run, RingWorker.on_readable = run_alarm, on_readable  # type: ignore[method-assign]

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        self.poll_count += 1

    def count(self, frame: FrameType, event: str, function: Any) -> None:  # noqa: ANN401
        """Take one event of `sys.setprofile`."""
        if event == "call":
            code = frame.f_code
            if code.co_filename not in _OURS:
                self._places[code.co_filename, code.co_firstlineno, code.co_name] += 1
        elif event == "c_call":
            self._places["", 0, function.__qualname__] += 1


async def count_calls(
    folder: Path, *, flush: FlushDiskType, message_count: int
) -> tuple[CallCounter, str]:
    """Send messages one after another to a new group; return what was counted, and the leader."""
    counter = CallCounter()
    with counter.attributing_reads():
        return counter, await _count(counter, folder, flush=flush, message_count=message_count)


async def _count(
    counter: CallCounter, folder: Path, *, flush: FlushDiskType, message_count: int
) -> str:
    """Count in *counter*; return the leader."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, StoppableClock)
    plan = GroupPlan(base_port=find_base_port(3), flush_disk_type=flush)
    group = LocalGroup.find_or_create(folder, plan)
    nodes: dict[str, Node] = {}
    workers: list[Worker] = []

    def keep(worker: Worker) -> Worker:
        workers.append(worker)
        return worker

    async def live(node: Node, *, task_status: trio.TaskStatus[None]) -> None:
        _WHOSE.set(node.config.node_id)
        async with trio.open_nursery() as own:
            await own.start(node.run)
            task_status.started()

    async with trio.open_nursery() as nursery:
        for local in group.nodes:
            disk = OsDisk()
            surroundings = Surroundings(
                clock=clock,
                disk=disk,
                network=TcpNetwork(),
                chance=random.Random(local.node_id),
                make_worker=lambda name: keep(ThreadWorker(name)),
                make_sync_worker=lambda name: keep(make_sync_worker(name, SyncBy.AUTO)),
            )
            nodes[local.node_id] = Node(
                local.config,
                open_files(local.config, disk),
                surroundings,
                store_host=HostAddress(b"\x7f\0\0\1", local.config.member.broker_port),
            )
            await nursery.start(live, nodes[local.node_id])
        async with broker.connect(group.addresses) as client:
            await client.admin.create_topic(_TOPIC, queue_count=_QUEUE_COUNT)
        while not (leading := [node for node in nodes.values() if node.queue.is_open]):  # noqa: ASYNC110
            await trio.sleep(_POLL_SECONDS)  # on a busy machine the lead may have moved
        clock.stopped_at = clock.current_time()  # from here on nobody loses it
        leader = leading[-1]
        _WHOSE.set(_CLIENT)
        await _send_one_by_one(leader, counter, clock, message_count)
        nursery.cancel_scope.cancel()
    for node in nodes.values():
        node.close(write_down=False)
    for worker in workers:
        assert isinstance(worker, ThreadWorker)
        worker.join(_SILENCE_SECONDS)
    return leader.config.node_id


async def _send_one_by_one(
    leader: Node, counter: CallCounter, clock: StoppableClock, message_count: int
) -> None:
    ring = FrameRing(
        topic=_TOPIC,
        queue_count=_QUEUE_COUNT,
        body_size=100,
        batch_count=1,
        producer_id=1,
        chance=random.Random(1),
        frame_count_min=_WARM_UP_COUNT + message_count,
    )
    frames = [bytes(ring.take(1)[0]) for _ in range(_WARM_UP_COUNT + message_count)]
    connection = Connection()
    with socket.create_connection(("127.0.0.1", leader.config.listen_broker_port)) as connected:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for number, frame in enumerate(frames):
                if number == _WARM_UP_COUNT:
                    trio.lowlevel.add_instrument(counter)
                    sys.setprofile(counter.count)
                connected.send(frame)
                await trio.lowlevel.wait_readable(connected)
                connection.receive_data(connected.recv(4096))
                (ack,) = connection.commands()
                assert acknowledged_opaques(ack).tolist() == [number]
        finally:
            sys.setprofile(None)
    trio.lowlevel.remove_instrument(counter)
    clock.stopped_at = None


def _room_of(place: Place) -> str:
    if not place[0]:
        return "built-in"
    return next((room for room in _ROOMS if f"/{room}/" in place[0]), "library")


def _lines(counter: CallCounter, leader: str, message_count: int, *, top: int) -> Iterator[str]:
    followers = {whose for whose in counter.calls if whose[:1] == "n" and whose != leader}
    of: dict[str, collections.Counter[Place]] = {}
    for whose, places in counter.calls.items():
        role = "leader" if whose == leader else "followers" if whose in followers else whose
        of.setdefault(role, collections.Counter()).update(places)
    rooms = ["built-in", *_ROOMS, "library"]
    yield f"{'calls a message':20}" + "".join(f"{room:>16}" for room in ["all", *rooms])
    for role, places in of.items():
        by_room: collections.Counter[str] = collections.Counter()
        for place, count in places.items():
            by_room[_room_of(place)] += count
        counts = [by_room.total(), *(by_room[room] for room in rooms)]
        yield f"{role:20}" + "".join(f"{count / message_count:16.1f}" for count in counts)
    for role in ("leader", "followers") if top else ():
        yield f"\n{role}:"
        for place, count in of[role].most_common(top):
            file = "/".join(Path(place[0]).parts[-2:])
            yield f"{count / message_count:9.2f}  {place[2]}" + (
                f"  {file}:{place[1]}" if file else ""
            )
    yield (
        f"\nof all together: {counter.poll_count / message_count:.2f} turns of the loop and "
        f"{counter.step_count / message_count:.2f} steps of tasks a message"
    )


@click.command()
@click.option("--flush", type=click.Choice(["sync", "async"]), default="async")
@click.option("--messages", "message_count", type=click.IntRange(1), default=200)
@click.option("--top", type=click.IntRange(0), default=0, help="Functions called most.")
def main(flush: str, message_count: int, top: int) -> None:
    """Count the function calls of one message, nothing else being under way."""
    mode = FlushDiskType.SYNC_FLUSH if flush == "sync" else FlushDiskType.ASYNC_FLUSH
    with scratch_folder("bench-calls-") as folder:

        async def run() -> tuple[CallCounter, str]:
            return await count_calls(folder, flush=mode, message_count=message_count)

        counter, leader = trio.run(run, clock=StoppableClock())
    for line in _lines(counter, leader, message_count, top=top):
        click.echo(line)


if __name__ == "__main__":
    main()
