"""Memory, processor time and descriptors of one node, made scarce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.proof import LabError, Proof

if TYPE_CHECKING:
    from jepsen_like.real.processes import LabProcess

_ROOT = Path("/sys/fs/cgroup")


def cgroup_folders(pattern: str) -> list[Path]:
    """Return the control groups whose name fits *pattern*, of both versions."""
    return [*_ROOT.glob(pattern), *_ROOT.glob(f"*/{pattern}")]


class Limits:
    """One node's limits; they hold for the life of a process, and it is told which."""

    def __init__(self, name: str, group_name: str) -> None:
        self.name = name
        self._group_name = group_name

    async def descriptors(self, process: LabProcess, count: int) -> Proof:
        """Let *process* have no descriptor above *count*, from now on (RLIMIT_NOFILE)."""
        raise LabError(f"descriptors of {process.name}, {count}: not built yet")

    async def memory(self, process: LabProcess, size: int) -> Proof:
        """Let *process* have *size* bytes of memory; more gets it killed by the kernel."""
        raise LabError(f"memory of {process.name}, {size}: not built yet")

    async def processor(self, process: LabProcess, share: float) -> Proof:
        """Let *process* have the *share* of one processor: 0.1 is 10 ms in every 100."""
        raise LabError(f"processor of {process.name}, {share}: not built yet")

    async def clear(self, process: LabProcess) -> Proof:
        """Take all limits off; the figures say how often each was felt."""
        raise LabError(f"limits of {process.name}: not built yet")

    async def remove(self) -> None:
        """Remove the control groups; the lab does it at its end."""
        await trio.lowlevel.checkpoint()
