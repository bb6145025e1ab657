"""One node's clocks, shifted and sped up while its process runs.

By our own shim, not by libfaketime: it needs no file read at each look at the clock, it counts the
answers it changed in the very process, and it translates the instants that threads wait for, which
Python reckons from the monotonic clock.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.proof import LabError, Proof
from jepsen_like.real.shim import CLOCK_SIZE, CLOCK_TURN, CLOCKS

if TYPE_CHECKING:
    from jepsen_like.real.namespaces import Namespace
    from jepsen_like.real.shim import Shim

_WALL, _MONOTONIC = range(2)
_BASE, _OFFSET, _DRIFT, _IS_ON, _TOLD, _TOLD_OFFSET = range(0, 48, 8)
_MS = 1_000_000
_PROBE = "import time; print(time.time_ns(), time.monotonic_ns())"


class NodeClock:
    """What the node's processes are told when they ask for the time; those to come as well."""

    def __init__(self, name: str, shim: Shim, namespace: Namespace) -> None:
        self.name = name
        self._shim = shim
        self._namespace = namespace
        self._base_ns = [0, 0]
        self._offset_ns = [0, 0]
        self._drift = [0.0, 0.0]
        self._told_before = [0, 0]

    async def shift(self, offset_ms: float) -> Proof:
        """Let the wall clock jump to *offset_ms* from the true time; 0 puts it right."""
        self._set(_WALL, offset_ns=int(offset_ms * _MS), drift=self._drift[_WALL])
        return await self._probe(f"wall clock {offset_ms:+g} ms")

    async def rate(self, rate: float) -> Proof:
        """Let the wall clock run *rate* times as fast from now on, without a jump."""
        self._set(_WALL, offset_ns=self._offset_now(_WALL), drift=rate - 1)
        return await self._probe(f"wall clock x {rate:g}")

    async def monotonic_rate(self, rate: float) -> Proof:
        """Let the monotonic clock run *rate* times as fast from now on; it never goes back."""
        assert rate > 0
        self._set(_MONOTONIC, offset_ns=self._offset_now(_MONOTONIC), drift=rate - 1)
        return await self._probe(f"monotonic clock x {rate:g}")

    async def clear(self) -> Proof:
        """Tell the true time of day again, and let the monotonic clock run as fast as it does."""
        self._set(_WALL, offset_ns=0, drift=0.0)
        self._set(_MONOTONIC, offset_ns=self._offset_now(_MONOTONIC), drift=0.0)
        return await self._probe("clocks put right")

    async def proof(self) -> Proof:
        """Return how it stands now, and what the node's processes were told since the change."""
        told, told_monotonic = self.told, self.told_monotonic  # before the probe is told, too
        found = await self._probe("clocks")
        told_figures = {"told": told, "told_monotonic": told_monotonic}
        return dataclasses.replace(found, figures={**found.figures, **told_figures})

    @property
    def told(self) -> int:
        """How many changed times of day the node's processes have been told since the change.

        Probes count too: one each.
        """
        return self._shim.get(_place(_WALL, _TOLD)) - self._told_before[_WALL]

    @property
    def told_monotonic(self) -> int:
        """The same of the monotonic clock."""
        return self._shim.get(_place(_MONOTONIC, _TOLD)) - self._told_before[_MONOTONIC]

    # -- the control file -----------------------------------------------------------------------

    def _set(self, which: int, *, offset_ns: int, drift: float) -> None:
        now = time.monotonic_ns()
        self._base_ns[which], self._offset_ns[which], self._drift[which] = now, offset_ns, drift
        shim = self._shim
        turn = shim.get(CLOCK_TURN)
        shim.put(CLOCK_TURN, turn + 1)  # odd: half written
        shim.put(_place(which, _BASE), now)
        shim.put(_place(which, _OFFSET), offset_ns)
        shim.put_float(_place(which, _DRIFT), drift)
        shim.put(CLOCK_TURN, turn + 2)
        shim.put(_place(which, _IS_ON), int(offset_ns != 0 or drift != 0))
        self._told_before[which] = shim.get(_place(which, _TOLD))

    def _offset_now(self, which: int) -> int:
        passed = time.monotonic_ns() - self._base_ns[which]
        return self._offset_ns[which] + int(passed * self._drift[which])

    async def _probe(self, what: str) -> Proof:
        """Ask the time of a process that is told what the node is told, and compare with ours."""
        earliest, wall_before = self._both_offsets(), time.time_ns()
        monotonic_before = time.monotonic_ns()
        told_wall, told_monotonic = await trio.to_thread.run_sync(self._ask)
        latest, wall_after = self._both_offsets(), time.time_ns()
        monotonic_after = time.monotonic_ns()
        # An offset that grows or falls meanwhile lies between the two; so does our own time.
        is_wall_right = (
            wall_before + min(earliest[_WALL], latest[_WALL])
            <= told_wall
            <= wall_after + max(earliest[_WALL], latest[_WALL])
        )
        is_monotonic_right = (
            monotonic_before + min(earliest[_MONOTONIC], latest[_MONOTONIC])
            <= told_monotonic
            <= monotonic_after + max(earliest[_MONOTONIC], latest[_MONOTONIC])
        )
        return Proof(
            what=f"{what} of {self.name}",
            took_effect=is_wall_right and is_monotonic_right,
            figures={
                "wall_offset_ms": round((told_wall - wall_after) / _MS),
                "monotonic_offset_ms": round((told_monotonic - monotonic_after) / _MS),
                "processes": len(self._namespace.pids()),
            },
        )

    def _both_offsets(self) -> tuple[int, int]:
        return self._offset_now(_WALL), self._offset_now(_MONOTONIC)

    def _ask(self) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROBE],
            env=self._shim.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"clock of {self.name}: the probe failed: {done.stderr.strip()}")
        wall, monotonic = done.stdout.split()
        return int(wall), int(monotonic)


def _place(which: int, field: int) -> int:
    return CLOCKS + which * CLOCK_SIZE + field
