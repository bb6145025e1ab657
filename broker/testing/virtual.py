"""A whole broker node in memory, in the test's own event loop: no sockets, no files, no threads.

With trio's MockClock and autojump (pytest-trio's ``autojump_clock``) its time is the test's: a pull
that waits for 15 seconds, a send that is given up after a minute, take no time at all.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import broker
from broker.config import BrokerConfig, MemberConfig, MetricsConfig, NodeConfig
from broker.message.model import HostAddress
from broker.node import Node
from broker.open_files import open_files
from broker.testing.memory_disk import NodeDisk
from broker.testing.memory_network import MemoryNetwork
from broker.testing.memory_worker import FakeWorker
from broker.testing.waiting import until_serving
from broker.wiring import Surroundings
from dledger.config import KIB, MIB, StoreConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ADDRESS = "127.0.0.1:9876"  # of nobody outside the test
SEGMENT_SIZE = 1 * MIB  # bytes, all in memory
INDEX_FILE_UNITS = 96 * KIB  # of 32 bytes; for fewer `append_size_max` is too large
LATENCY_SECONDS = 0.000_2  # on the way from client to node, and back
SYNC_SECONDS = 0.001  # what the disk takes
WALL_MS = 1_700_000_000_000  # wall time when trio's clock says 0


class VirtualClock:
    """Trio's time as the product's clock; see `dledger.clock.Clock`."""

    def now(self) -> float:
        """Return trio's time, in seconds."""
        return trio.current_time()

    def wall_ms(self) -> int:
        """Return the wall time that belongs to it, in milliseconds since 1970."""
        return WALL_MS + int(trio.current_time() * 1000)

    def local_hour(self) -> int:
        """Return the hour of the day in UTC, which is where the test is."""
        return self.wall_ms() // 3_600_000 % 24


class MemoryBroker:
    """A group of one node; see `memory_broker`."""

    def __init__(
        self, nursery: trio.Nursery, *, config: BrokerConfig | None = None, seed: int = 1
    ) -> None:
        """Make one that is not running yet; it lives in *nursery*."""
        self.address = ADDRESS
        self.clock = VirtualClock()
        self.network = MemoryNetwork(latency_seconds=LATENCY_SECONDS)
        self.disk = NodeDisk()
        self._nursery = nursery
        self._config = config or BrokerConfig()
        self._chance = random.Random(seed)
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    @property
    def is_running(self) -> bool:
        """Whether there is a node."""
        return self._scope is not None

    def connect(
        self,
        *,
        group_timeout: float = 10.0,
        request_timeout: float = 1.0,
        connect_timeout: float = 1.0,
        auto_create_topic: bool = True,
    ) -> broker.Client:
        """Return a client of it, to be opened with ``async with``. See `broker.connect`."""
        return broker.connect(
            self.address,
            group_timeout=group_timeout,
            request_timeout=request_timeout,
            connect_timeout=connect_timeout,
            auto_create_topic=auto_create_topic,
            network=self.network,
            clock=self.clock,
            chance=random.Random(self._chance.getrandbits(64)),
        )

    async def start(self) -> None:
        """Start the node on the disk as it is; returns once it takes messages."""
        assert not self.is_running, "it is running already"
        self._ended = trio.Event()
        await self._nursery.start(self._live)

    async def kill(self) -> None:
        """End the node at once, as SIGKILL would; its disk stays. Clients try to reach it again."""
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        config = NodeConfig(
            group="memory",
            node_id="n1",
            members=(
                MemberConfig(node_id="n1", host="127.0.0.1", peer_port=9000, broker_port=9876),
            ),
            data_folder="/data",
            store=StoreConfig(segment_size=SEGMENT_SIZE, index_file_units=INDEX_FILE_UNITS),
            broker=self._config,
            metrics=MetricsConfig(port=0),
        )
        files = open_files(config, self.disk)
        node: Node | None = None
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:

                    def make_worker(name: str) -> FakeWorker:
                        worker = FakeWorker(nursery, name)
                        worker.seconds = SYNC_SECONDS
                        return worker

                    node = Node(
                        config,
                        files,
                        Surroundings(
                            clock=self.clock,
                            disk=self.disk,
                            network=self.network,
                            chance=random.Random(self._chance.getrandbits(64)),
                            make_worker=make_worker,
                        ),
                        store_host=HostAddress(b"\x7f\0\0\1", 9876),
                    )
                    await nursery.start(node.run)
                    await until_serving(node)
                    task_status.started()
        finally:
            if node is not None:
                node.close(write_down=False)
            self.disk.process_crash()
            self._scope = None
            self._ended.set()


@asynccontextmanager
async def memory_broker(
    *, config: BrokerConfig | None = None, seed: int = 1
) -> AsyncIterator[MemoryBroker]:
    """Run a broker in memory for as long as the block takes; needs trio.

    >>> async def main() -> None:
    ...     async with memory_broker() as memory, memory.connect() as mq:
    ...         async with mq.producer() as producer:
    ...             print((await producer.send("orders", b"hello")).queue_offset)
    >>> trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    0

    Args:
        config: limits and the like; None for the defaults.
        seed: of everything that is left to chance.
    """
    async with trio.open_nursery() as nursery:
        memory = MemoryBroker(nursery, config=config, seed=seed)
        await memory.start()
        try:
            yield memory
        finally:
            with trio.CancelScope(shield=True):
                await memory.kill()
            nursery.cancel_scope.cancel()
