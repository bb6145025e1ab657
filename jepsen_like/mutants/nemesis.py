"""Faults that are none: a run with them says nothing, and has to say that it says nothing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from jepsen_like.mutants.grounds import Ground
from jepsen_like.sim.runs import Tally
from jepsen_like.sim.scheduling import SimProcess
from jepsen_like.sim.sim_disk import SimDisk
from jepsen_like.sim.sim_network import SimNetwork
from jepsen_like.sim.world import run_seed

if TYPE_CHECKING:
    from collections.abc import Callable

    from jepsen_like.mutants.mutant import Patch

UNKNOWN = 2  # the exit code of a suite that says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class NemesisMutant:
    """One fault that does nothing."""

    name: str
    fault: str
    patches: tuple[Patch, ...]

    @property
    def ground(self) -> Ground:
        """Where it is tried."""
        return Ground(name=self.name, faults=(self.fault,), fault_seconds=8.0)


def _nothing(*_: Any) -> None:
    pass


_ALL = (
    NemesisMutant(
        name="power-loss-loses-nothing",
        fault="power",
        patches=((SimDisk, "lose_power", _nothing),),
    ),
    NemesisMutant(
        name="partition-cuts-nothing",
        fault="isolate",
        patches=((SimNetwork, "cut", _nothing), (SimNetwork, "heal", _nothing)),
    ),
    NemesisMutant(
        name="pause-does-not-pause",
        fault="pause",
        patches=((SimProcess, "stop", _nothing),),
    ),
)
NEMESIS_MUTANTS = {mutant.name: mutant for mutant in _ALL}


def suite_code(
    mutant: NemesisMutant, *, is_mutated: bool, tell: Callable[[str], object], seed: int = 1
) -> int:
    """Return the exit code of a suite of one seed with that fault, as it is or doing nothing."""
    with ExitStack() as stack:
        for target, attribute, replacement in mutant.patches if is_mutated else ():
            stack.enter_context(patch.object(target, attribute, replacement))
        outcome = run_seed(mutant.ground.mix(seed))
    tally = Tally()
    tally.done = 1
    tally.totals.update(outcome.counts)
    if not outcome.is_valid:
        tally.failed[seed] = ", ".join(outcome.verdict.kinds)
    elif outcome.verdict.state == "unknown":
        tally.unknown.append(seed)
    return tally.conclude(tell)
