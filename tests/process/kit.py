"""Groups of real processes: started, hurt, healed and looked at by tests.

A `ProcessGroup` owns its processes: whatever happens to the test they end with it.  Nothing here
sleeps for a fixed time and hopes: `eventually` waits for what has to become true.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import trio

from broker.cli.ask import ask_group, ask_node
from broker.cli.processes import ending_with_us
from broker.config import BrokerConfig, MemberConfig, MetricsConfig, NameserverConfig, NodeConfig
from broker.config_file import dump_config
from broker.errors import BrokerError
from dledger.config import KIB, StoreConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.client.connect import Client
    from broker.protocol.bodies import GroupStatus

SECONDS = 40.0  # a deadline that only a hang or a dead machine passes
POLL_SECONDS = 0.02
LAST_LINES = 25

# Below the ports the kernel gives to callers: a dead node's port must not be anybody's by chance.
_PORTS = range(15_000, 30_000)
_LAUNCH = "from broker.cli.main import main; main()"


async def eventually(what: str, holds: Callable[[], Awaitable[object]], *, seconds=SECONDS):
    """Return the first true thing *holds* returns; fail with *what* when time is up."""
    with trio.move_on_after(seconds):
        while True:
            found = await holds()
            if found:
                return found
            await trio.sleep(POLL_SECONDS)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports nobody listens on."""
    chance = random.Random(os.urandom(8))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found: list[int] = []
    while len(found) < count:
        port = chance.choice(_PORTS)
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            if port not in found:
                found.append(port)
    return found


class NodeProcess:
    """One node: its folder outlives its processes."""

    def __init__(self, folder: Path, config: NodeConfig) -> None:
        self.folder = folder
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        self.is_stopped = False
        folder.mkdir(parents=True, exist_ok=True)
        self.write_config(config)

    def write_config(self, config: NodeConfig) -> None:
        self.config = config
        (self.folder / "node.toml").write_text(dump_config(config))

    @property
    def node_id(self) -> str:
        return self.config.node_id

    @property
    def address(self) -> str:
        return self.config.advertised_address

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "node.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        assert not self.is_running
        self.is_stopped = False
        options = ["node", "start", "-c", str(self.folder / "node.toml")]
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                ending_with_us([sys.executable, "-c", _LAUNCH, *options]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.is_stopped = number == signal.SIGSTOP

    def kill(self) -> None:
        """SIGKILL, and the end of it."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    async def ended(self, *, seconds: float = SECONDS) -> int:
        """Wait for the process to end by itself; return its exit code."""
        process = self.process
        assert process is not None

        async def is_over() -> bool:
            return process.poll() is not None

        await eventually(f"{self.node_id} ends", is_over, seconds=seconds)
        return int(process.returncode)

    async def terminate(self) -> None:
        """SIGTERM; it has to end well."""
        self.signal(signal.SIGTERM)
        assert await self.ended() == 0, self.log

    def wipe(self) -> None:
        """Lose the disk."""
        assert not self.is_running
        shutil.rmtree(self.data)

    async def status(self) -> GroupStatus | None:
        """Return what it says, for somebody who asks again: None when it says nothing in time."""
        return (await ask_node(self.address, seconds=2.0)).status

    async def told(self) -> GroupStatus:
        """Wait until it says how it is."""
        return await eventually(f"{self.node_id} says how it is", self.status)


class NameServerProcess:
    """A name server of its own; use as ``async with NameServerProcess(folder) as server``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.metrics_port = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        path = self.folder / "nameserver.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self) -> None:
        """Start it, and wait until it can be connected to."""
        options = ["--port", self.port, "--data", self.folder / "data"]
        options += ["--metrics-port", self.metrics_port]
        before = self.log.count("name server ready")
        self._launch([*map(str, options)])

        async def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return self.log.count("name server ready") > before

        await eventually("the name server is ready", is_ready)

    def _launch(self, options: list[str]) -> None:
        with (self.folder / "nameserver.log").open("ab") as log:
            self.process = subprocess.Popen(
                ending_with_us([sys.executable, "-c", _LAUNCH, "nameserver", *options]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def until_registered(self, count: int) -> None:
        """Wait until *count* brokers have registered since its start."""

        async def are() -> bool:
            return (await http_json(self.metrics_port, "/readyz")).get("brokers") == count

        await eventually(f"{count} brokers are registered", are)

    async def terminate(self) -> int:
        """SIGTERM; return its exit code."""
        process = self.process
        assert process is not None
        process.terminate()

        async def is_over() -> bool:
            return process.poll() is not None

        await eventually("the name server ends", is_over)
        return int(process.returncode)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def __aenter__(self) -> NameServerProcess:
        await self.start()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if kind is not None:
            lines = self.log.splitlines()[-LAST_LINES:]
            sys.stderr.write("\n".join(["--- the last words of the name server", *lines, ""]))


async def http_json(port: int, path: str) -> Any:
    """Return what a page of a local process says."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        answer = b"".join([piece async for piece in stream])
    return json.loads(answer.partition(b"\r\n\r\n")[2])


class ProcessGroup:
    """The members of one group; use as ``async with ProcessGroup(folder) as group``."""

    def __init__(
        self,
        folder: Path,
        *,
        count: int = 3,
        host: str = "127.0.0.1",
        broker: BrokerConfig | None = None,
        nameserver: NameserverConfig | None = None,
        group: str = "proof",
        cluster: str = "",
        **store: object,
    ) -> None:
        ports = free_ports(3 * count, host)
        members = tuple(
            MemberConfig(
                node_id=f"n{n + 1}", host=host, broker_port=ports[2 * n], peer_port=ports[2 * n + 1]
            )
            for n in range(count)
        )
        settings = {"segment_size": 256 * KIB, **store}
        self.has_retention = bool(settings.get("log_size_max"))
        self.nodes = {
            member.node_id: NodeProcess(
                folder / member.node_id,
                NodeConfig(
                    group=group,
                    cluster=cluster,
                    node_id=member.node_id,
                    members=members,
                    data_folder="data",
                    listen_host=host,
                    store=StoreConfig(**settings),  # type: ignore[arg-type]
                    broker=broker or BrokerConfig(),
                    nameserver=nameserver or NameserverConfig(),
                    metrics=MetricsConfig(port=metrics_port),
                ),
            )
            for member, metrics_port in zip(members, ports[2 * count :], strict=True)
        }

    def __getitem__(self, node_id: str) -> NodeProcess:
        return self.nodes[node_id]

    def __iter__(self):
        return iter(self.nodes.values())

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self]

    @property
    def running(self) -> list[NodeProcess]:
        return [node for node in self if node.is_running]

    @property
    def reachable(self) -> list[NodeProcess]:
        return [node for node in self.running if not node.is_stopped]

    def others(self, *excluded: NodeProcess) -> list[NodeProcess]:
        return [node for node in self if node not in excluded]

    async def __aenter__(self) -> ProcessGroup:
        try:
            for node in self:
                node.start()
            await self.leader()
        except BaseException:
            self._end()
            self._tell()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self._end()
        if kind is not None:
            self._tell()

    def _end(self) -> None:
        for node in self.running:
            node.kill()

    def _tell(self) -> None:
        for node in self:
            lines = node.log.splitlines()[-LAST_LINES:]
            sys.stderr.write("\n".join([f"--- the last words of {node.node_id}", *lines, ""]))

    # -- what it is like ------------------------------------------------------------------------

    async def leader(self, *, above_term: int = 0) -> NodeProcess:
        """Wait for a serving leader that every reachable node follows."""

        async def led() -> NodeProcess | None:
            view = await ask_group([node.address for node in self.reachable], seconds=1.0)
            leader = view.leader
            if leader is None or leader.status is None or leader.status.term <= above_term:
                return None
            follow = [
                answer
                for answer in view.answering
                if answer.status is not None and answer.status.leader_id == leader.node_id
            ]
            return self[leader.node_id] if len(follow) == len(self.reachable) else None

        return await eventually("a leader that all follow", led)

    async def handed_over(self, client: Client, target: str | None = None) -> NodeProcess:
        """Have the lead handed over, again if nobody takes it in time; return who leads."""

        async def is_over() -> NodeProcess | None:
            try:
                found = await client.admin.transfer_leadership(target)
            except BrokerError:
                return None
            return self[found]

        return await eventually("the lead is handed over", is_over)

    async def followers(self) -> list[NodeProcess]:
        return self.others(await self.leader())

    async def settled(self) -> GroupStatus:
        """Wait until every running node has committed and dispatched the leader's last entry."""

        async def equal() -> GroupStatus | None:
            view = await ask_group([node.address for node in self.reachable], seconds=2.0)
            leader = view.leader
            if leader is None or leader.status is None:
                return None
            end = leader.status.end_index
            here = [
                answer.status
                for answer in view.answering
                if answer.status is not None
                and answer.status.end_index == end
                and answer.status.commit_index == end
                and answer.status.dispatched_index == end
            ]
            return leader.status if len(here) == len(self.reachable) else None

        return await eventually("all nodes are equal", equal)

    def start_missing(self) -> None:
        for node in self:
            if not node.is_running:
                node.start()

    async def terminate(self) -> None:
        """Stop every node well, all at the same time."""
        for node in self.running:
            node.signal(signal.SIGTERM)
        for node in self:
            if node.process is not None:
                assert await node.ended() == 0, node.log
