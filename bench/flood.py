"""What a node keeps in memory when clients behave as badly as they can: ``python -m bench.flood``.

Floods come one after another, each from many connections to every node of a group of three: sends
without an end, answers that nobody reads, large pulls read drop by drop, requests that never end,
pulls that wait.  Meanwhile one well-behaved client sends, and is served.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

import broker
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.scratch import scratch_folder
from broker.cli.local_group import GroupPlan
from broker.config import BrokerConfig
from broker.errors import BrokerError
from broker.protocol.headers import PULL_FLAG_SUSPEND, PullMessageRequest
from broker.protocol.request_code import RequestCode
from dledger.config import MIB, FlushDiskType, RaftConfig, parse_address
from dledger.remoting.command import Command
from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.config import NodeConfig

TOPIC = "flood"
SILENT = "silent"  # nothing is ever sent to it
CONNECTIONS = 40  # of each flood to each node
SAMPLE_SECONDS = 0.02
PIECE = 256 * 1024

# Small, so that a flood of seconds reaches every one of them.
BROKER = BrokerConfig(
    connection_inflight_size_max=8 * MIB,
    inflight_size_max=64 * MIB,
    partial_size_max=32 * MIB,
    connection_pending_size_max=16 * MIB,
    unread_size_max=96 * MIB,
    requests_held_size_max=16 * MIB,
    pulls_held_max=20_000,
)
RAFT = RaftConfig(pending_size_max=32 * MIB)
# What may be kept for outsiders at the same time: what is unanswered counts in inflight_size_max.
BUDGETS = {
    "inflight_size_max": BROKER.inflight_size_max,
    "partial_size_max": BROKER.partial_size_max,
    "unread_size_max": BROKER.unread_size_max,
    "peer_buffer_max, two peers": 2 * RAFT.peer_buffer_max,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodPlan(GroupPlan):
    """A local group with small limits."""

    def configs(self) -> list[NodeConfig]:
        """See `GroupPlan`."""
        # Not by super(): the class that `slots` makes is another than the one super() looks for.
        return [replace(config, broker=BROKER, raft=RAFT) for config in GroupPlan.configs(self)]


@dataclass(slots=True)
class Watched:
    """Resident memory of each node, in bytes, mapped files aside."""

    pids: dict[str, int]
    start: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        """Take a sample."""
        for node_id, pid in self.pids.items():
            size = _resident(pid)
            self.start.setdefault(node_id, size)
            self.most[node_id] = max(size, self.most.get(node_id, 0))
            self.end[node_id] = size

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            self.look()
            await trio.sleep(SAMPLE_SECONDS)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Flood:
    """Connections to one node."""

    def __init__(self, address: str, chance: random.Random) -> None:
        self._host, self._port = parse_address(address)
        self._chance = chance

    async def _connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(self._host, self._port)

    async def sends(self) -> None:
        """Send as fast as the node takes it, and read no answer."""
        ring = FrameRing(
            topic=TOPIC,
            queue_count=4,
            body_size=32 * 1024,
            batch_count=4,
            producer_id=0,
            chance=self._chance,
            frame_count_min=4,
            frame_count_max=8,
        )
        async with await self._connect() as stream:
            while True:
                for piece in ring.take(4):
                    await stream.send_all(piece)

    async def pulls(self) -> None:
        """Ask for megabytes again and again, and read drop by drop."""
        request = _pull(TOPIC, count=4096, size=12 * MIB)
        async with await self._connect() as stream:
            while True:
                await stream.send_all(request * 4)
                await stream.receive_some(1024)
                await trio.sleep(0.05)

    async def half_frames(self) -> None:
        """Begin a request of 15 MiB and never end it."""
        async with await self._connect() as stream:
            await stream.send_all((15 * MIB).to_bytes(4, "big") + (4 << 24 | 20).to_bytes(4, "big"))
            for _ in range(14 * MIB // PIECE):
                await stream.send_all(bytes(PIECE))
                await trio.sleep(0.01)
            await trio.sleep_forever()

    async def waiting_pulls(self) -> None:
        """Have thousands of pulls wait at the end of a queue that nothing comes to."""
        request = _pull(SILENT, wait_ms=10_000)
        async with await self._connect() as stream:
            for _ in range(1000):
                await stream.send_all(request)
            await trio.sleep_forever()


def _pull(
    topic: str, *, count: int = 1, size: int = MIB, offset: int = 0, wait_ms: int = 0
) -> bytes:
    header = PullMessageRequest(
        consumer_group="flood",
        topic=topic,
        queue_id=0,
        queue_offset=offset,
        max_msg_nums=count,
        sys_flag=PULL_FLAG_SUSPEND if wait_ms else 0,
        suspend_timeout_millis=wait_ms,
        max_msg_bytes=size,
    )
    command = Command(RequestCode.PULL_MESSAGE.value, ext_fields=header.encode())
    return b"".join(bytes(part) for part in encode_frame(command))


FLOODS = {
    "sends, answers unread": Flood.sends,
    "pulls of 12 MiB, read drop by drop": Flood.pulls,
    "requests that never end": Flood.half_frames,
    "pulls that wait": Flood.waiting_pulls,
}


@dataclass(slots=True)
class Bystander:
    """A client that sends one message after another meanwhile."""

    acked: int = 0
    failed: int = 0
    longest: float = 0.0  # seconds

    async def run(self, addresses: list[str]) -> None:
        """Send until cancelled."""
        async with broker.connect(addresses) as client, client.producer() as producer:
            while True:
                began = trio.current_time()
                try:
                    await producer.send("bystander", b"still here")
                    self.acked += 1
                except BrokerError:
                    self.failed += 1
                self.longest = max(self.longest, trio.current_time() - began)
                await trio.sleep(0.01)


async def _keep_up(attack: Callable[[], Awaitable[None]]) -> None:
    """Attack again when the node has closed the connection."""
    while True:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            await attack()
        await trio.sleep(0.1)


async def flood(folder: Path, *, seconds: float) -> None:
    """Start a group, flood it and print what its nodes took."""
    group = BenchGroup(
        folder, flush=FlushDiskType.SYNC_FLUSH, segment_size=64 * MIB, plan_class=FloodPlan
    )
    await group.start()
    try:
        async with broker.connect(group.addresses) as client:
            await client.admin.create_topic(TOPIC, queue_count=4)
            await client.admin.create_topic(SILENT, queue_count=1)
            async with client.producer() as producer:
                await producer.send_many(TOPIC, [bytes(64 * 1024)] * 256)
        watched = Watched(group.all_pids())
        watched.look()
        bystander = Bystander()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.run)
            nursery.start_soon(bystander.run, group.addresses)
            for name, attack in FLOODS.items():
                await _one(name, attack, group.addresses, watched, seconds)
            await trio.sleep(2.0)
            watched.look()
            nursery.cancel_scope.cancel()
        await group.leader()
        _report(watched, bystander)
    finally:
        await group.stop()


async def _one(
    name: str,
    attack: Callable[[Flood], Awaitable[None]],
    addresses: list[str],
    watched: Watched,
    seconds: float,
) -> None:
    watched.most.clear()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                for number in range(CONNECTIONS):
                    one = Flood(address, random.Random(number))
                    nursery.start_soon(_keep_up, lambda one=one: attack(one))
    print(f"{name:36} {_each(watched.most)}", flush=True)


def _report(watched: Watched, bystander: Bystander) -> None:
    print(f"{'before':36} {_each(watched.start)}")
    print(f"{'two seconds after the last':36} {_each(watched.end)}")
    budgets = ", ".join(f"{name} {size // MIB}" for name, size in BUDGETS.items())
    print(f"budgets, MiB: {budgets}; together {sum(BUDGETS.values()) // MIB}")
    print(
        f"meanwhile one client: {bystander.acked} sends acknowledged, {bystander.failed} failed, "
        f"the longest took {bystander.longest:.2f} s"
    )


def _each(sizes: dict[str, int]) -> str:
    return "   ".join(f"{node_id} {size / MIB:6.1f} MiB" for node_id, size in sizes.items())


@click.command()
@click.option("--seconds", default=4.0, show_default=True, help="Of each of the four floods.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for the nodes' data.")
def main(seconds: float, data: Path | None) -> None:
    """Flood a group of three and print the memory of its nodes at most."""
    if not Path("/proc/self/status").exists():
        print("skipped: the memory of another process is read from /proc, which is not there")
        sys.exit(0)
    with scratch_folder("dledger-flood-", where=data) as folder:
        trio.run(lambda: flood(folder, seconds=seconds))


if __name__ == "__main__":
    main()
