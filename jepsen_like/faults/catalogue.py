"""Every fault by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jepsen_like.faults.coup import Coup
from jepsen_like.faults.disks import (
    BitRot,
    CrowdedDisk,
    FailedSync,
    FullDisk,
    SlowDisk,
    StalledDisk,
    WallClock,
)
from jepsen_like.faults.links import BadWire, ClientCut, Flapping, Halves, Isolate, OneWay, Ring
from jepsen_like.faults.machine import BrokenDisk, ClockRate, DamagedFile, RoughWire, Scarce
from jepsen_like.faults.places import KillAtPlace
from jepsen_like.faults.power import LostDisk, PowerLoss
from jepsen_like.faults.processes import (
    CrashLoop,
    Kill,
    KillAtStep,
    Pause,
    PowerLossAtStep,
    Restart,
    Rolling,
    Transfer,
)

if TYPE_CHECKING:
    from jepsen_like.faults.fault import Fault

_ALL: tuple[type[Fault], ...] = (
    Kill,
    CrashLoop,
    KillAtStep,
    KillAtPlace,
    PowerLossAtStep,
    Pause,
    Restart,
    Rolling,
    Transfer,
    Coup,
    PowerLoss,
    LostDisk,
    Isolate,
    Halves,
    OneWay,
    Ring,
    ClientCut,
    Flapping,
    BadWire,
    SlowDisk,
    StalledDisk,
    FullDisk,
    CrowdedDisk,
    FailedSync,
    BitRot,
    WallClock,
    RoughWire,
    ClockRate,
    Scarce,
    DamagedFile,
    BrokenDisk,
)

CATALOGUE: dict[str, type[Fault]] = {fault.name: fault for fault in _ALL}


def offered(layer: Literal["sim", "real"]) -> dict[str, type[Fault]]:
    """Return those that one layer can do, in the catalogue's order."""
    return {name: fault for name, fault in CATALOGUE.items() if fault.where in ("both", layer)}
