"""What a message costs a group, in processor time, so that a shared machine matters little."""

from __future__ import annotations

import contextlib
import functools
import random
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import trio

import broker
from bench import raw_load
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.open_load import run_sends_at
from bench.warm import taken_at_most, warm_memory
from broker.cli.local_group import GroupPlan
from dledger.config import MIB, FlushDiskType, RaftConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from bench.measured import Measured
    from broker.config import NodeConfig

IDLE_SECONDS = 2.0
ROUNDS = 3
LOAD_SECONDS = 1.0
_CALM = RaftConfig(election_timeout_min_ms=2000, election_timeout_max_ms=3000)
_UNDER_WAY_MAX = 16 * MIB  # bytes; what the nodes let one connection have


@dataclass(frozen=True, slots=True, kw_only=True)
class CalmPlan(GroupPlan):
    """A local group that elects nobody because others keep the machine busy for a second."""

    def configs(self) -> list[NodeConfig]:
        """See `GroupPlan`."""
        # Not by super(): the class that `slots` makes is another than the one super() looks for.
        return [replace(config, raft=_CALM) for config in GroupPlan.configs(self)]


class Probe:
    """A group of real nodes that is asked for its costs again and again."""

    def __init__(self, folder: Path, *, node_count: int = 3) -> None:
        self.group = BenchGroup(
            folder,
            flush=FlushDiskType.ASYNC_FLUSH,
            segment_size=64 * MIB,
            node_count=node_count,
            plan_class=CalmPlan,
        )
        self.chance = random.Random(5)
        self._rings: dict[object, FrameRing] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Probe]:
        """Start the group; stop it at the end."""
        try:
            await self.group.start()
            yield self
        finally:
            with trio.CancelScope(shield=True):
                await self.group.stop()

    async def create_topics(self, names: Sequence[str], *, queue_count: int) -> None:
        """Make topics, many at the same time."""
        limit = trio.CapacityLimiter(32)
        async with broker.connect(self.group.addresses) as client:

            async def create(name: str) -> None:
                async with limit:
                    await client.admin.create_topic(name, queue_count=queue_count)

            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(create, name)

    async def send(
        self,
        topics: Sequence[str],
        *,
        queue_count: int = 8,
        body_size: int = 100,
        batch_count: int = 1,
        in_flight: int = 1000,
        rate: float | None = None,
        seconds: float = LOAD_SECONDS,
    ) -> Measured:
        """Keep single messages, or batches, under way over one plain socket.

        With *rate* single messages instead, so many a second whatever the answers do.
        """
        key = (tuple(topics), queue_count, body_size, batch_count)
        if key not in self._rings:
            self._rings[key] = FrameRing(
                topic=topics,
                queue_count=queue_count,
                body_size=body_size,
                batch_count=batch_count,
                producer_id=self.chance.getrandbits(63) or 1,
                chance=self.chance,
                frame_count_min=in_flight,
            )
        ring = self._rings[key]
        in_flight = max(1, min(in_flight, _UNDER_WAY_MAX // ring.frame_size, ring.frame_count))
        run = (
            functools.partial(raw_load.run_sends, in_flight=in_flight, batch_count=batch_count)
            if rate is None
            else functools.partial(run_sends_at, rate=rate)
        )
        host, port = await self.group.leader_address()
        with raw_load.connect(host, port) as connected:
            return await trio.to_thread.run_sync(
                lambda: run(connected, ring, seconds=seconds, warm_up_seconds=0.0)
            )

    async def cost_at_rate(self, topics: Sequence[str], rate: float) -> float:
        """Return the leader's processor us a message at *rate* of them a second: least of rounds.

        They go to all queues of *topics* in turn.
        """
        costs = []
        for _ in range(ROUNDS):
            before = self.group.cpu_seconds_by_node()
            measured = await self.send(topics, rate=rate)
            await self.group.wait_until_equal()
            spent = await self.group.cpu_seconds_since(before)
            costs.append(1e6 * spent[0] / measured.written_count)
        return min(costs)

    async def cost_of_sends(
        self,
        topics: Sequence[str],
        *,
        queue_count: int = 8,
        body_size: int = 100,
        batch_count: int = 1,
        in_flight: int = 1000,
    ) -> tuple[float, float]:
        """Return leader's and one follower's processor us a message, medians of some rounds.

        Sends go to all queues of *topics* in turn, *in_flight* of *batch_count* messages each.
        """
        leaders, followers = [], []
        send = functools.partial(
            self.send,
            topics,
            queue_count=queue_count,
            body_size=body_size,
            batch_count=batch_count,
            in_flight=in_flight,
        )
        await send(seconds=0.3)
        for _ in range(ROUNDS):
            # A segment's zeros fall into some windows and not into others, and cost a node as much
            # as all else where the host has to find the memory.
            with warm_memory(taken_at_most(body_size, LOAD_SECONDS)):
                before = self.group.cpu_seconds_by_node()
                measured = await send()
            await self.group.wait_until_equal()
            spent = await self.group.cpu_seconds_since(before)
            leader, *others = (1e6 * seconds / measured.written_count for seconds in spent)
            leaders.append(leader)
            followers.append(sum(others) / max(1, len(others)))
        return median(leaders), median(followers)

    async def one_in_flight(
        self, topics: Sequence[str], *, queue_count: int = 8, body_size: int = 100
    ) -> tuple[float, float]:
        """Return p50 in ms and the leader's processor us of a message alone: least of rounds.

        They go to all queues of *topics* in turn.
        """
        latencies, costs = [], []
        for _ in range(ROUNDS):
            before = self.group.cpu_seconds_by_node()
            measured = await self.send(
                topics, queue_count=queue_count, body_size=body_size, in_flight=1, seconds=0.7
            )
            spent = await self.group.cpu_seconds_since(before)
            latencies.append(measured.p50)
            costs.append(1e6 * spent[0] / measured.written_count)
        return min(latencies), min(costs)

    async def cost_of_pulls(self, topic: str, *, queue_count: int = 8) -> float:
        """Return the leader's processor us for a message pulled from the beginning on."""
        host, port = await self.group.leader_address()
        costs = []
        for _ in range(ROUNDS):
            before = self.group.cpu_seconds_by_node()
            with raw_load.connect(host, port) as connected:
                measured = await trio.to_thread.run_sync(
                    lambda connected=connected: raw_load.run_pulls(
                        connected, topic, queue_count=queue_count, seconds=0.5
                    )
                )
            spent = await self.group.cpu_seconds_since(before)
            costs.append(1e6 * spent[0] / max(1, measured.message_count))
        return median(costs)

    async def idle_cost(self) -> float:
        """Return the processor time of the leader while nobody asks anything, in ms a second."""
        await trio.sleep(0.5)
        before = self.group.cpu_seconds_by_node()
        began = perf_counter()
        await trio.sleep(IDLE_SECONDS)
        spent = await self.group.cpu_seconds_since(before)
        return 1000 * spent[0] / (perf_counter() - began)

    async def rss_mib(self) -> float:
        """Return the memory of the largest node, mapped files not counted, in MiB."""
        return max(await self.group.rss()) / MIB

    async def restart(self, topic: str) -> tuple[float, float]:
        """Stop and start all; return seconds to an ack, and processor seconds of the dearest node.

        Raises:
            LoadError: nobody leads after a long while.
        """
        await self.group.stop()
        began = perf_counter()
        await self.group.start()
        async with (
            broker.connect(self.group.addresses) as client,
            client.producer("growth", send_timeout=120.0) as producer,
        ):
            await producer.send(topic, b"first", queue=0)
        spent = perf_counter() - began
        await self.group.wait_until_equal()
        cpu = max(self.group.cpu_seconds_by_node().values())
        return spent, cpu
