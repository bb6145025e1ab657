"""Memory, processor time and descriptors of one node, made scarce."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.cgroups import ControlGroup
from jepsen_like.real.proof import Proof

if TYPE_CHECKING:
    from jepsen_like.real.processes import LabProcess

_PERIOD_US = 100_000
_UNLIMITED_V1 = "-1"


class Limits:
    """One node's limits.  They hold for the life of a process, and the next one has none."""

    def __init__(self, name: str, group_name: str) -> None:
        """Limit nothing yet.

        Args:
            name: of the node.
            group_name: of its control groups, made when they are first needed.
        """
        self.name = name
        self._group_name = group_name
        self._groups: dict[str, ControlGroup] = {}
        self._descriptors_before: dict[int, tuple[int, int]] = {}  # by process
        self._felt_before: dict[str, int] = {}

    async def descriptors(self, process: LabProcess, count: int) -> Proof:
        """Let *process* open no descriptor from *count* on (RLIMIT_NOFILE); others stay open."""
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        self._descriptors_before.setdefault(process.pid, before)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (count, before[1]))
        now = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0]
        await trio.lowlevel.checkpoint()
        return Proof(
            what=f"descriptors of {self.name}",
            took_effect=now == count,
            figures={"limit": now, "limit_before": before[0]},
        )

    async def memory(self, process: LabProcess, size: int) -> Proof:
        """Let *process* take *size* bytes of memory on top of what it has.

        More gets it killed by the kernel.  What it has already stays on its old group's account.
        Pages of the files it writes count, but are given back first.

        Raises:
            LabError: there are no control groups here.
        """
        return await trio.to_thread.run_sync(self._limit_memory, process, size)

    async def processor(self, process: LabProcess, share: float) -> Proof:
        """Let *process* have the *share* of one processor: 0.1 is 10 ms in every 100.

        Raises:
            LabError: there are no control groups here.
        """
        return await trio.to_thread.run_sync(self._limit_processor, process, share)

    async def clear(self, process: LabProcess) -> Proof:
        """Take all limits off; the figures say how often each was felt since it was put on.

        It took effect when there was one.
        """
        return await trio.to_thread.run_sync(self._clear, process)

    async def remove(self) -> None:
        """Remove the control groups; the lab does it at its end."""
        while self._groups:
            _, group = self._groups.popitem()
            await trio.to_thread.run_sync(group.remove)

    # -- control groups -------------------------------------------------------------------------

    def _limit_memory(self, process: LabProcess, size: int) -> Proof:
        group = self._group("memory")
        name = "memory.max" if group.is_v2 else "memory.limit_in_bytes"
        group.write(name, str(size))
        is_in = group.take(process.pid)
        return Proof(
            what=f"memory of {self.name}",
            took_effect=is_in and int(group.read(name)) <= size,
            figures={"limit": int(group.read(name))},
        )

    def _limit_processor(self, process: LabProcess, share: float) -> Proof:
        assert share > 0
        group = self._group("cpu")
        quota_us = max(1_000, int(share * _PERIOD_US))
        if group.is_v2:
            group.write("cpu.max", f"{quota_us} {_PERIOD_US}")
            found = group.read("cpu.max").split()[0]
        else:
            group.write("cpu.cfs_period_us", str(_PERIOD_US))
            group.write("cpu.cfs_quota_us", str(quota_us))
            found = group.read("cpu.cfs_quota_us")
        is_in = group.take(process.pid)
        return Proof(
            what=f"processor of {self.name}",
            took_effect=is_in and int(found) == quota_us,
            figures={"share": int(found) / _PERIOD_US},
        )

    def _clear(self, process: LabProcess) -> Proof:
        figures: dict[str, int | float | str] = {}
        for pid, before in self._descriptors_before.items():
            if process.is_running and process.pid == pid:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            figures["descriptors_limited"] = 1
        self._descriptors_before.clear()
        felt = self._felt()
        for name, count in felt.items():
            figures[name] = count - self._felt_before.get(name, 0)
        self._felt_before = felt
        for controller, group in self._groups.items():
            group.release()
            if controller == "memory" and not group.is_v2:
                group.write("memory.limit_in_bytes", _UNLIMITED_V1)
        return Proof(what=f"limits of {self.name}", took_effect=bool(figures), figures=figures)

    def _felt(self) -> dict[str, int]:
        found: dict[str, int] = {}
        if memory := self._groups.get("memory"):
            if memory.is_v2:
                events = memory.figures("memory.events")
                found["memory_refused"] = events["max"]
                found["memory_kills"] = events["oom_kill"]
            else:
                found["memory_refused"] = int(memory.read("memory.failcnt"))
                found["memory_kills"] = memory.figures("memory.oom_control")["oom_kill"]
        if cpu := self._groups.get("cpu"):
            found["processor_throttled"] = cpu.figures("cpu.stat")["nr_throttled"]
        return found

    def _group(self, controller: str) -> ControlGroup:
        if controller not in self._groups:
            self._groups[controller] = ControlGroup(controller, self._group_name)
        return self._groups[controller]
