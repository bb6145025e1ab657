"""A group of real node processes, and what it says and costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from bench.measured import LoadError
from broker.cli.ask import ask_group, ask_node
from broker.cli.local_group import GroupPlan, LocalGroup, find_base_port
from broker.cli.log_check import StoredLog, compare
from dledger.config import parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from broker.cli.local_node import LocalNode
    from broker.cli.processes import ProcessMark
    from dledger.config import FlushDiskType

NODE_COUNT = 3
_START_SECONDS = 20.0
_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.05


class BenchGroup:
    """Some nodes in a folder of their own."""

    def __init__(
        self,
        folder: Path,
        *,
        flush: FlushDiskType,
        segment_size: int,
        node_count: int = NODE_COUNT,
        plan_class: type[GroupPlan] = GroupPlan,
    ) -> None:
        self.node_count = node_count
        plan = plan_class(
            node_count=node_count,
            base_port=find_base_port(node_count),
            flush_disk_type=flush,
            segment_size=segment_size,
        )
        self._group = LocalGroup.find_or_create(folder, plan)
        self._group.end_with_us()
        self._equal_index = 0  # last entry that all nodes are known to have

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of every node."""
        return self._group.addresses

    @property
    def nodes(self) -> Sequence[LocalNode]:
        """All nodes, by id."""
        return self._group.nodes

    async def start(self) -> None:
        """Start the processes; return when one of them leads.

        Raises:
            LoadError: nobody does after a while.
        """
        self._group.start_missing()
        await self.leader()

    async def stop(self) -> None:
        """Stop the processes."""
        await self._group.stop()

    async def leader(self) -> LocalNode:
        """Return the node that leads now, waiting for one if there is none."""
        with trio.move_on_after(_START_SECONDS):
            while True:
                view = await ask_group(self.addresses)
                if view.leader is not None:
                    return self._group.node(view.leader.node_id)
                await trio.sleep(_POLL_SECONDS)
        words = "; ".join(f"{node.node_id}: {node.last_words()}" for node in self._group.nodes)
        raise LoadError(f"nobody leads after {_START_SECONDS:g} s; last words: {words}")

    async def wait_until_equal(self) -> None:
        """Return once every node has committed and indexed the leader's last entry.

        Raises:
            LoadError: that takes too long.
        """
        with trio.move_on_after(_SETTLE_SECONDS):
            while True:
                view = await ask_group(self.addresses)
                points = {
                    point
                    for answer in view.answering
                    if (status := answer.status) is not None
                    for point in (status.end_index, status.commit_index, status.dispatched_index)
                }
                if len(points) == 1 and len(view.answering) == self.node_count:
                    self._equal_index = points.pop()
                    return
                await trio.sleep(_POLL_SECONDS)
        raise LoadError(f"the nodes are not equal after {_SETTLE_SECONDS:g} s")

    async def rss(self) -> tuple[int, ...]:
        """Return the resident memory of each node without mapped files, in bytes."""
        answers = [await ask_node(address) for address in self.addresses]
        return tuple(answer.status.rss_bytes if answer.status else 0 for answer in answers)

    def cpu_seconds_by_node(self) -> dict[str, float]:
        """Return the processor time that each node has spent so far, by its id."""
        return {node.node_id: _cpu_seconds(node) for node in self._group.nodes}

    async def cpu_seconds_since(self, before: Mapping[str, float]) -> list[float]:
        """Return what each node has spent since *before*; who leads now comes first."""
        leader = (await self.leader()).node_id
        now = self.cpu_seconds_by_node()
        spent = {node_id: now[node_id] - before.get(node_id, 0.0) for node_id in now}
        return [spent.pop(leader), *spent.values()]

    def cpu_seconds_of(self, node: LocalNode) -> float:
        """Return the processor time that the process of *node* has spent."""
        return _cpu_seconds(node)

    def pid_of(self, node: LocalNode) -> int:
        """Return the process id of *node*."""
        return _mark(node).pid

    def all_pids(self) -> dict[str, int]:
        """Return the process id of each node, by its id."""
        return {node.node_id: _mark(node).pid for node in self._group.nodes}

    async def leader_address(self) -> tuple[str, int]:
        """Return host and port of the leader."""
        return parse_address((await self.leader()).address)

    def compare_logs(self) -> tuple[int, int]:
        """Compare the logs of the stopped nodes byte for byte; return entries and bytes.

        That of a group of one is read to its end, each entry's CRCs checked.

        A leader that stops hands over, and the next one may have begun its term with an entry that
        not all of them had any more.

        Raises:
            LoadError: they differ, or one lacks an entry that all had.
        """
        first, *others = (node.folder for node in self._group.nodes)
        stored = StoredLog.open(first)
        if not others:
            for _ in stored.walk():
                pass
            if stored.end.index < self._equal_index:
                raise LoadError(
                    f"the log of {first.name} ends at entry {stored.end.index}, and entry "
                    f"{self._equal_index} was committed"
                )
        results = compare(stored, [(other.name, StoredLog.open(other)) for other in others])
        for result in results:
            if result.difference or result.identical_index < self._equal_index:
                raise LoadError(
                    f"the log of {result.name} is not that of {first.name}: identical up to entry "
                    f"{result.identical_index}, they end at {result.end_index} and "
                    f"{stored.end.index}; {result.difference}"
                )
        return stored.end.index, stored.end.position


def _mark(node: LocalNode) -> ProcessMark:
    mark = node.process
    if mark is None:
        raise LoadError(f"{node.node_id} has ended: {node.last_words()}")
    return mark


def _cpu_seconds(node: LocalNode) -> float:
    """Return the processor time of a node's process, its threads that ended included.

    By the process's own clock, in nanoseconds: `/proc/PID/stat` counts in hundredths of a second.
    """
    # What `clock_getcpuclockid` returns; Python has it for threads only. 2: CPUCLOCK_SCHED.
    clock = (~_mark(node).pid << 3) | 2
    try:
        return time.clock_gettime_ns(clock) / 1e9
    except OSError as error:
        raise LoadError(f"{node.node_id} has ended: {error}") from None
