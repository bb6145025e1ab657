"""A flame graph of each node while a load runs.

The nodes take their own samples (`bench.sampled_node`), so nothing has to be installed and no
privilege is needed. The graphs are ``LOAD-FLUSH-BODYSIZE-NODE-ROLE.svg``; the stacks they are drawn
from lie beside them as text, in the form that other flame graph tools read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import trio

from bench.flame import draw_flames, read_stacks
from bench.measured import LoadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from bench.group import BenchGroup

_LOOK_SECONDS = 0.02
_LOOKS_MAX = 1000


class Sampling:
    """Samples the nodes of one group."""

    def __init__(self, graphs: Path, folder: Path) -> None:
        """Write graphs to *graphs*; the nodes write their stacks to *folder*, the group's."""
        self._graphs = graphs
        self._folder = folder

    def attach(self, group: BenchGroup) -> None:
        """Have the nodes of a group, not started yet, take samples when they are told to."""
        for node in group.nodes:
            node.command = (
                *(sys.executable, "-m", "bench.sampled_node", str(self._folder)),
                *("node", "start"),
            )

    @contextlib.asynccontextmanager
    async def of(self, name: str, pids: Mapping[str, int], *, leader: str) -> AsyncIterator[None]:
        """Sample the processes *pids*, by node, and draw what was seen.

        Raises:
            LoadError: a node does not tell what it has seen.
        """
        for pid in pids.values():
            self._stacks(pid).unlink(missing_ok=True)
            os.kill(pid, signal.SIGUSR1)
        yield
        for pid in pids.values():
            os.kill(pid, signal.SIGUSR2)
        for node_id, pid in pids.items():
            for _ in range(_LOOKS_MAX):
                if self._stacks(pid).exists():
                    break
                await trio.sleep(_LOOK_SECONDS)
            else:
                raise LoadError(f"{node_id} wrote no stacks; it was told to by SIGUSR2")
            text = self._stacks(pid).read_text(encoding="utf-8")
            role = "leader" if node_id == leader else "follower"
            path = self._graphs / f"{name}-{node_id}-{role}"
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
            graph = draw_flames(read_stacks(text), title=f"{name}: {node_id}, {role}")
            path.with_suffix(".svg").write_text(graph, encoding="utf-8")

    def _stacks(self, pid: int) -> Path:
        return self._folder / f"{pid}.stacks"
