"""What a message costs a group, in processor time, so that a shared machine matters little."""

from __future__ import annotations

import contextlib
import random
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import trio

import broker
from bench import raw_load
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.measured import LoadError
from dledger.config import MIB, FlushDiskType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from bench.measured import Measured

IDLE_SECONDS = 2.0
ROUNDS = 3
LOAD_SECONDS = 1.0
_UNDER_WAY_MAX = 16 * MIB  # bytes; what the nodes let one connection have


class Probe:
    """A group of real nodes that is asked for its costs again and again."""

    def __init__(self, folder: Path, *, node_count: int = 3) -> None:
        self.group = BenchGroup(
            folder,
            flush=FlushDiskType.ASYNC_FLUSH,
            segment_size=64 * MIB,
            node_count=node_count,
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
        seconds: float = LOAD_SECONDS,
    ) -> Measured:
        """Keep single messages, or batches, under way over one plain socket."""
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
        host, port = await self.group.leader_address()
        with raw_load.connect(host, port) as connected:
            return await trio.to_thread.run_sync(
                lambda: raw_load.run_sends(
                    connected,
                    ring,
                    in_flight=in_flight,
                    batch_count=batch_count,
                    seconds=seconds,
                    warm_up_seconds=0.0,
                )
            )

    async def cost_of_sends(
        self,
        topics: Sequence[str],
        *,
        queue_count: int = 8,
        body_size: int = 100,
        in_flight: int = 1000,
    ) -> tuple[float, float]:
        """Return leader's and one follower's processor us a message, medians of some rounds."""
        leaders, followers = [], []
        await self.send(
            topics, queue_count=queue_count, body_size=body_size, in_flight=in_flight, seconds=0.3
        )
        for _ in range(ROUNDS):
            before = await self.group.cpu_seconds_of_all()
            measured = await self.send(
                topics, queue_count=queue_count, body_size=body_size, in_flight=in_flight
            )
            await self.group.wait_until_equal()
            after = await self.group.cpu_seconds_of_all()
            spent = [
                1e6 * (b - a) / measured.written_count for a, b in zip(before, after, strict=True)
            ]
            leaders.append(spent[0])
            followers.append(sum(spent[1:]) / max(1, len(spent) - 1))
        return median(leaders), median(followers)

    async def latency(self, topic: str, *, queue_count: int = 8, body_size: int = 100) -> float:
        """Return the p50 of one message in flight, in ms: the least of some rounds."""
        found = [
            await self.send(
                [topic], queue_count=queue_count, body_size=body_size, in_flight=1, seconds=0.5
            )
            for _ in range(ROUNDS)
        ]
        return min(measured.p50 for measured in found)

    async def cost_of_pulls(self, topic: str, *, queue_count: int = 8) -> float:
        """Return the leader's processor us for a message pulled from the beginning on."""
        host, port = await self.group.leader_address()
        spent = []
        for _ in range(ROUNDS):
            before = await self.group.cpu_seconds_of_all()
            with raw_load.connect(host, port) as connected:
                measured = await trio.to_thread.run_sync(
                    lambda connected=connected: raw_load.run_pulls(
                        connected, topic, queue_count=queue_count, seconds=0.5
                    )
                )
            after = await self.group.cpu_seconds_of_all()
            spent.append(1e6 * (after[0] - before[0]) / max(1, measured.message_count))
        return median(spent)

    async def idle_cost(self) -> float:
        """Return the processor time of the leader while nobody asks anything, in ms a second."""
        await trio.sleep(0.5)
        before = await self.group.cpu_seconds_of_all()
        began = perf_counter()
        await trio.sleep(IDLE_SECONDS)
        after = await self.group.cpu_seconds_of_all()
        return 1000 * (after[0] - before[0]) / (perf_counter() - began)

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
        cpu = max(await self.group.cpu_seconds_of_all())
        if cpu <= 0:
            raise LoadError("the kernel counts no processor time here (/proc/PID/task/*/schedstat)")
        return spent, cpu
