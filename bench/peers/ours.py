"""This project, in either flush mode, behind the same face as the peers."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import trio

import broker
from bench import client_load, raw_load
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.plan import QUEUE_COUNT
from dledger.config import FlushDiskType

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measured import Measured

_TOPIC = "bench"
_SEGMENT_SIZE = 256 * 1024 * 1024


class Ours:
    """Three nodes."""

    flush: FlushDiskType
    name: str
    durability: str
    library = "broker"
    is_emptied = False

    def __init__(self, folder: Path, *, body_size: int) -> None:
        self._body_size = body_size
        self._folder = folder
        self._chance = random.Random(body_size)
        self._group = BenchGroup(folder, flush=self.flush, segment_size=_SEGMENT_SIZE)
        try:
            trio.run(self._group.start)
            trio.run(self._create_topic)
            self._address = trio.run(self._group.leader_address)
        except BaseException:
            self.close()
            raise

    def send(self, *, in_flight: int, seconds: float, warm_up_seconds: float) -> Measured:
        """See `Peer`."""
        return self._send(
            in_flight=in_flight, batch_count=1, seconds=seconds, warm_up_seconds=warm_up_seconds
        )

    def send_batches(self, *, seconds: float, warm_up_seconds: float) -> Measured:
        """Keep 8 batches of 256 messages under way."""
        return self._send(
            in_flight=8, batch_count=256, seconds=seconds, warm_up_seconds=warm_up_seconds
        )

    def consume(self, *, count: int, seconds: float) -> Measured:
        """See `Peer`: pulls of 1 MiB, over and over; by time alone."""
        with raw_load.connect(*self._address) as connected:
            return raw_load.run_pulls(connected, _TOPIC, queue_count=QUEUE_COUNT, seconds=seconds)

    def send_by_library(
        self, *, task_count: int, seconds: float, warm_up_seconds: float
    ) -> Measured:
        """See `Peer`: ``await producer.send()``."""

        async def run() -> Measured:
            async with broker.connect(self._group.addresses) as client:
                return await client_load.run_sends(
                    client,
                    _TOPIC,
                    body=b"x" * self._body_size,
                    task_count=task_count,
                    seconds=seconds,
                    warm_up_seconds=warm_up_seconds,
                )

        return trio.run(run)

    def consume_by_library(self, *, count: int, seconds: float) -> Measured:
        """See `Peer`: ``async for message in consumer``."""

        async def run() -> Measured:
            async with broker.connect(self._group.addresses) as client:
                return await client_load.run_consumer(
                    client, _TOPIC, body_size=self._body_size, message_count=count, seconds=seconds
                )

        return trio.run(run)

    def cpu_seconds(self) -> float:
        """See `Peer`."""
        return sum(self._group.cpu_seconds_by_node().values())

    def rss(self) -> int:
        """See `Peer`."""
        return max(trio.run(self._group.rss))

    def close(self) -> None:
        """See `Peer`."""
        trio.run(self._group.stop)
        shutil.rmtree(self._folder)

    def _send(
        self, *, in_flight: int, batch_count: int, seconds: float, warm_up_seconds: float
    ) -> Measured:
        ring = FrameRing(
            topic=_TOPIC,
            queue_count=QUEUE_COUNT,
            body_size=self._body_size,
            batch_count=batch_count,
            producer_id=self._chance.getrandbits(63) or 1,
            chance=self._chance,
            frame_count_min=in_flight,
        )
        with raw_load.connect(*self._address) as connected:
            return raw_load.run_sends(
                connected,
                ring,
                in_flight=in_flight,
                batch_count=batch_count,
                seconds=seconds,
                warm_up_seconds=warm_up_seconds,
            )

    async def _create_topic(self) -> None:
        async with broker.connect(self._group.addresses) as client:
            await client.admin.create_topic(_TOPIC, queue_count=QUEUE_COUNT)


class OursAsync(Ours):
    """Acknowledged from the page caches of a majority."""

    flush = FlushDiskType.ASYNC_FLUSH
    name = "dledger ASYNC_FLUSH"
    durability = "page caches of a majority"


class OursSync(Ours):
    """Acknowledged from the disks of a majority."""

    flush = FlushDiskType.SYNC_FLUSH
    name = "dledger SYNC_FLUSH"
    durability = "disks of a majority"
