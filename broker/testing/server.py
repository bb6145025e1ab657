"""A real broker node in a thread of the test's own process: real sockets, real files.

Its ports are bound before it is built and handed to it open, so that nobody else can have them in
between.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import broker
from broker import sync
from broker.config import BrokerConfig, MemberConfig, MetricsConfig, NodeConfig
from broker.message.model import HostAddress
from broker.node import Node
from broker.open_files import open_files
from broker.testing.waiting import until_serving
from broker.wiring import Surroundings
from dledger.clock import SystemClock
from dledger.config import MIB, FlushDiskType, StoreConfig
from dledger.remoting.tcp import TcpListener, TcpNetwork
from dledger.store.os_disk import OsDisk
from dledger.worker import ThreadWorker

if TYPE_CHECKING:
    from types import TracebackType

    from dledger.remoting.network import Listener, Network

HOST = "127.0.0.1"
SEGMENT_SIZE = 4 * MIB  # bytes; allocated at once, and a test writes little
START_SECONDS = 30.0  # longest time a start may take on a busy machine
STOP_SECONDS = 30.0
BACKLOG = 128  # connections that wait to be accepted


class BrokerServer:
    """A group of one node: ``with BrokerServer() as server: ... server.address``.

    >>> import broker
    >>> with BrokerServer() as server, broker.sync.connect(server.address) as mq:
    ...     mq.send("orders", b"hello").queue_offset
    0
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        flush: FlushDiskType = FlushDiskType.ASYNC_FLUSH,
        config: BrokerConfig | None = None,
    ) -> None:
        """Make one that is not running yet.

        Args:
            folder: where its data is, and stays afterwards; None for a temporary folder.
            flush: whether a message is on the disk before it is acknowledged. By default it is not:
                a test's data need not outlive the machine.
            config: limits and the like; None for the defaults.
        """
        self._wanted_folder = folder
        self._flush = flush
        self._config = config or BrokerConfig()
        self._folder: Path | None = None
        self._thread: threading.Thread | None = None
        self._begun = threading.Event()
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._end: trio.Event | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """``host:port`` for `broker.connect`."""
        if not self._port:
            raise RuntimeError("the broker is not running: use it inside 'with', or start() it")
        return f"{HOST}:{self._port}"

    @property
    def folder(self) -> Path:
        """Where its data is."""
        if self._folder is None:
            raise RuntimeError("the broker is not running: use it inside 'with', or start() it")
        return self._folder

    def connect(self) -> broker.Client:
        """Return a client of it, to be opened with ``async with`` under trio or asyncio."""
        return broker.connect(self.address)

    def connect_sync(self) -> sync.SyncClient:
        """Return a client of it, to be opened with ``with``."""
        return sync.connect(self.address)

    def start(self) -> None:
        """Start it, and return once it takes messages.

        Raises:
            RuntimeError: it does not start; the cause says why.
        """
        assert self._thread is None, "it is running already"
        if self._wanted_folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="broker-test-"))
        else:
            self._folder = Path(self._wanted_folder)
        self._failure = None
        self._begun.clear()
        self._thread = threading.Thread(target=self._run, name="broker-server", daemon=True)
        self._thread.start()
        has_begun = self._begun.wait(START_SECONDS)
        if self._failure is not None or not has_begun:
            failure = self._failure
            self.stop()
            raise RuntimeError(
                f"the broker does not start: {failure or 'no time left'}"
            ) from failure

    def stop(self) -> None:
        """Stop it as SIGTERM would, and delete its temporary folder."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._token is not None and self._end is not None and thread.is_alive():
            with contextlib.suppress(trio.RunFinishedError):  # it has ended by itself
                self._token.run_sync_soon(self._end.set)
        thread.join(STOP_SECONDS)
        self._port = 0
        if self._wanted_folder is None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def __enter__(self) -> BrokerServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # --- inside -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - told by `start`
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._failure = error
        finally:
            self._begun.set()

    async def _main(self) -> None:
        assert self._folder is not None
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        network = _BoundNetwork()
        try:
            client_port, peer_port = network.bind(), network.bind()
            await self._live(network, self._node_config(client_port, peer_port))
        finally:
            network.close_rest()

    async def _live(self, network: Network, config: NodeConfig) -> None:
        assert self._end is not None
        disk = OsDisk()
        files = await trio.to_thread.run_sync(open_files, config, disk)
        surroundings = Surroundings(
            clock=SystemClock(),
            disk=disk,
            network=network,
            chance=random.Random(),
            make_worker=ThreadWorker,
        )
        port = config.member.broker_port
        store_host = HostAddress(socket.inet_aton(HOST), port)
        node = Node(config, files, surroundings, store_host=store_host)
        stopped_well = False
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run)
                nursery.start_soon(self._tell_when_serving, node, port)
                await self._end.wait()
                await node.step_back()
                nursery.cancel_scope.cancel()
            stopped_well = True
        finally:
            node.close(write_down=stopped_well)

    async def _tell_when_serving(self, node: Node, port: int) -> None:
        await until_serving(node)
        self._port = port
        self._begun.set()

    def _node_config(self, client_port: int, peer_port: int) -> NodeConfig:
        member = MemberConfig(node_id="n1", host=HOST, peer_port=peer_port, broker_port=client_port)
        return NodeConfig(
            group="test",
            node_id="n1",
            members=(member,),
            data_folder=str(self._folder),
            store=StoreConfig(segment_size=SEGMENT_SIZE, flush_disk_type=self._flush),
            broker=self._config,
            metrics=MetricsConfig(port=0),
        )


class _BoundNetwork(TcpNetwork):
    """TCP, with ports that were bound beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self._sockets: dict[int, socket.socket] = {}

    def bind(self) -> int:
        """Bind a free port and return its number."""
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.bind((HOST, 0))
        bound.listen(BACKLOG)
        bound.setblocking(False)
        port = int(bound.getsockname()[1])
        self._sockets[port] = bound
        return port

    def close_rest(self) -> None:
        """Close what nobody listens on."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    async def listen(self, host: str, port: int) -> Listener:
        """See `Network.listen`."""
        bound = self._sockets.pop(port, None)
        if bound is None:
            return await super().listen(host, port)
        await trio.lowlevel.checkpoint()
        return TcpListener(bound)
