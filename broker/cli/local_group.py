"""A group of nodes on this machine, in one folder, to develop and play with.

DIR/up.lock            held while `start` is at work
DIR/n1/                a node, see `broker.cli.local_node`
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.cli.local_node import LocalNode
from broker.cli.processes import ProcessMark, is_port_free, read_pid_file
from broker.cli.servers import DEFAULT_BASE_PORT
from broker.config import MemberConfig, MetricsConfig, NameserverConfig, NodeConfig
from broker.config_file import differing_keys, dump_config
from dledger.config import MIB, FlushDiskType, StoreConfig
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PEER_PORT_DISTANCE = 1000  # from a node's broker port to its peer port
METRICS_PORT_DISTANCE = 2000  # and to the one for metrics
DEFAULT_GROUP = "local"
DEFAULT_SEGMENT_SIZE = 64 * MIB  # small: three nodes share one machine's disk
STOP_SECONDS = 10.0  # SIGTERM to SIGKILL

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """What a user asks of a new group; None: the default, or what the group there already has."""

    node_count: int | None = None
    base_port: int | None = None  # broker port of n1; n2 has the next
    flush_disk_type: FlushDiskType | None = None
    segment_size: int | None = None  # bytes
    group: str | None = None  # its name
    cluster: str | None = None
    name_servers: str | None = None  # to register with: host:port, several with ";" between them

    def configs(self) -> list[NodeConfig]:
        """Return the settings of every node, their data folders relative."""
        count = self.node_count or 3
        base_port = self.base_port or DEFAULT_BASE_PORT
        last_port = base_port + METRICS_PORT_DISTANCE + count - 1
        if last_port > 65_535:
            raise ConfigError(
                f"--base-port {base_port} needs ports up to {last_port}, above 65535; "
                f"take one up to {65_535 - METRICS_PORT_DISTANCE - count + 1}"
            )
        members = tuple(
            MemberConfig(
                node_id=f"n{number + 1}",
                host="127.0.0.1",
                broker_port=base_port + number,
                peer_port=base_port + PEER_PORT_DISTANCE + number,
            )
            for number in range(count)
        )
        store = StoreConfig(
            segment_size=self.segment_size or DEFAULT_SEGMENT_SIZE,
            flush_disk_type=self.flush_disk_type or FlushDiskType.SYNC_FLUSH,
        )
        return [
            NodeConfig(
                group=self.group or DEFAULT_GROUP,
                cluster=self.cluster or "",
                node_id=member.node_id,
                members=members,
                data_folder="data",
                store=store,
                nameserver=NameserverConfig(addresses=self.name_servers or ""),
                metrics=MetricsConfig(port=member.broker_port + METRICS_PORT_DISTANCE),
            )
            for member in members
        ]


def find_base_port(node_count: int) -> int:
    """Return a base port for *node_count* nodes, all of whose ports are free.

    Below the range from which systems draw ports for outgoing connections (32768 up on Linux): one
    of those could be taken by a connection before its node listens on it.

    Raises:
        ConfigError: none is free.
    """
    first, count = 20_000, 10_000
    for number in range(0, count, node_count):
        # Two groups started at the same time begin to look at different places.
        base_port = first + (os.getpid() * node_count + number) % count
        ports = [base_port + node for node in range(node_count)]
        distances = (0, PEER_PORT_DISTANCE, METRICS_PORT_DISTANCE)
        ports = [port + distance for distance in distances for port in ports]
        if all(map(is_port_free, ports)):
            return base_port
    raise ConfigError(f"no {2 * node_count} free ports between {first} and {first + count}")


class LocalGroup:
    """The nodes under one folder."""

    def __init__(self, folder: Path, nodes: Sequence[LocalNode]) -> None:
        self.folder = folder
        self.nodes = list(nodes)

    @classmethod
    def find(cls, folder: Path) -> LocalGroup | None:
        """Return the group that lives in *folder*; None when there is none.

        Nodes whose ``node.toml`` is missing or wrong are in it: those that run, and those that
        the others name as members.
        """
        nodes = [LocalNode.read(path.parent) for path in _homes(folder)]
        nodes += [LocalNode.read(folder / node_id) for node_id in _missing(nodes)]
        if not nodes:
            return None
        return cls(folder, sorted(nodes, key=lambda node: _natural(node.folder.name)))

    @classmethod
    def find_or_create(cls, folder: Path, plan: GroupPlan) -> LocalGroup:
        """Return the group in *folder*, made as *plan* says if there is none.

        Raises:
            ConfigError: the group there is another than *plan* asks for.
        """
        group = cls.find(folder)
        if group is not None:
            group.check_agrees(plan)
            return group
        try:
            for config in plan.configs():
                home = folder / config.node_id
                home.mkdir(parents=True, exist_ok=True)
                fresh = home / "node.toml.new"
                fresh.write_text(dump_config(config), encoding="utf-8")
                fresh.replace(home / "node.toml")
        except OSError as error:
            raise ConfigError(
                f"{error.filename or folder}: {error.strerror}; name another folder with --data"
            ) from None
        group = cls.find(folder)
        assert group is not None
        return group

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of every node for clients; of one without settings, what others call it.

        Raises:
            ConfigError: no node has a ``node.toml`` that can be read.
        """
        first = next((node for node in self.nodes if node.is_readable), self.nodes[0])
        named = {member.node_id: member.broker_address for member in first.config.members}
        return [
            node.address if node.is_readable else named[node.node_id]
            for node in self.nodes
            if node.is_readable or node.node_id in named
        ]

    def node(self, node_id: str) -> LocalNode:
        """Return the node *node_id*.

        Raises:
            ConfigError: the group has no such node.
        """
        for node in self.nodes:
            if node.node_id == node_id:
                return node
        known = ", ".join(node.node_id for node in self.nodes)
        raise ConfigError(f"{self.folder} has no node {node_id!r}; it has {known}")

    def running(self) -> list[LocalNode]:
        """Return the nodes whose process runs."""
        return [node for node in self.nodes if node.process is not None]

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Keep other `dledger up` of this folder out; they hear who is at it."""
        import fcntl  # not on Windows, where a line says so before this is reached

        with (self.folder / "up.lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another `dledger up` is starting the group in {self.folder}; "
                    "wait for it, then ask `dledger status`"
                ) from None
            yield

    def end_with_us(self) -> None:
        """Have the nodes that this process starts from now on killed when it is gone itself."""
        for node in self.nodes:
            node.outlives_us = False

    def start_missing(self) -> list[LocalNode]:
        """Start every node that does not run and return those; none, if a port is taken.

        Raises:
            ConfigError: names the port, who has it and the remedy.
        """
        missing = [node for node in self.nodes if node.process is None]
        for node in missing:
            node.check_ports()
        for node in missing:
            node.start()
        return missing

    async def stop(self, *, seconds: float = STOP_SECONDS) -> dict[str, str]:
        """Stop every process: SIGTERM, then SIGKILL after *seconds*; what became of each node."""
        outcome = {node.node_id: "was not running" for node in self.nodes}
        asked = {}
        for node in self.nodes:
            mark = node.send_signal(signal.SIGTERM)
            if mark is not None:
                asked[node.node_id] = mark
                mark.send_signal(signal.SIGCONT)  # one that SIGSTOP holds hears SIGTERM only then
        outcome |= dict.fromkeys(asked, "stopped")
        left = await self._wait_ended(asked, seconds)
        for node_id, mark in left.items():
            mark.send_signal(signal.SIGKILL)
            outcome[node_id] = f"killed, as it did not stop within {seconds:g} s"
        await self._wait_ended(left, STOP_SECONDS)
        for node in self.nodes:
            if node.process is None:
                (node.folder / "node.pid").unlink(missing_ok=True)
        return outcome

    async def _wait_ended(
        self, marks: dict[str, ProcessMark], seconds: float
    ) -> dict[str, ProcessMark]:
        left = dict(marks)
        with trio.move_on_after(seconds):
            while left:
                for node in self.nodes:
                    mark = left.get(node.node_id)
                    if node.process is None and mark is not None and not mark.is_running:
                        del left[node.node_id]
                await trio.sleep(_POLL_SECONDS)
        return left

    def check_readable(self, nodes: Sequence[LocalNode]) -> None:
        """Raise `ConfigError` where the ``node.toml`` of one of *nodes* is missing or wrong."""
        for node in nodes:
            if not node.is_readable and not (node.folder / "node.toml").exists():
                other = next((node for node in self.nodes if node.is_readable), self.nodes[0])
                raise ConfigError(
                    f"{node.folder}/node.toml is missing; copy {other.folder}/node.toml there, and "
                    f'change its node_id to "{node.node_id}" and the port under [metrics]'
                )
            _ = node.config

    def check_agrees(self, plan: GroupPlan) -> None:
        """Raise `ConfigError` where *plan* names something that this group has otherwise.

        And where a ``node.toml`` is missing or wrong.
        """
        self.check_readable(self.nodes)
        first = self.nodes[0].config
        has = GroupPlan(
            node_count=len(self.nodes),
            base_port=first.member.broker_port,
            flush_disk_type=first.store.flush_disk_type,
            segment_size=first.store.segment_size,
            group=first.group,
            cluster=first.cluster,
            name_servers=first.nameserver.addresses,
        )
        for item in dataclasses.fields(GroupPlan):
            wanted, found = getattr(plan, item.name), getattr(has, item.name)
            if wanted is not None and wanted != found:
                show = [str(getattr(value, "value", value)) for value in (found, wanted)]
                raise ConfigError(
                    f"the group in {self.folder} has {item.name} = {show[0]}, you ask for "
                    f"{show[1]}; leave the option out, or name another folder with --data"
                )
        for node in self.nodes[1:]:
            differing = [
                text
                for text in differing_keys(first, node.config)
                if text.startswith(("group:", "members:", "store.segment_size:"))
            ]
            if differing:
                raise ConfigError(
                    f"{self.nodes[0].folder}/node.toml and {node.folder}/node.toml disagree on "
                    f"{differing[0]}; make them the same"
                )


def _homes(folder: Path) -> list[Path]:
    """Return what makes a folder a node's: its settings, or without them a process that runs."""
    settings = list(folder.glob("*/node.toml"))
    known = {path.parent for path in settings}
    pids = [path for path in folder.glob("*/node.pid") if path.parent not in known]
    return settings + [path for path in pids if read_pid_file(path) is not None]


def _missing(nodes: list[LocalNode]) -> list[str]:
    """Return the members on this machine that the first of *nodes* knows and that are not there."""
    first = next((node.config for node in nodes if node.is_readable), None)
    if first is None:
        return []
    known = {name for node in nodes for name in (node.folder.name, node.node_id)}
    return [
        member.node_id
        for member in first.members
        if member.host == first.member.host and member.node_id not in known
    ]


def _natural(name: str) -> tuple[int, str]:
    """Sort n2 before n10."""
    return (len(name), name)
