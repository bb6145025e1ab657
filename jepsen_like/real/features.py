"""What this machine allows; what is missing is told by name, with the remedy."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

EXIT_SKIPPED = 77  # automake's "not run", also of other test harnesses


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One thing the laboratory can use."""

    name: str
    is_there: bool
    is_needed: bool  # without it no lab at all
    remedy: str  # what to do about it

    def __str__(self) -> str:
        if self.is_there:
            return f"{self.name}: yes"
        return f"{self.name}: MISSING{' (needed)' if self.is_needed else ''}; {self.remedy}"


_TOOLS = {
    "ip": "apt install iproute2",
    "ethtool": "apt install ethtool",
    "setpriv": "apt install util-linux",
    "nsenter": "apt install util-linux",
    "mkfs.ext4": "apt install e2fsprogs",
    "losetup": "apt install mount",
    "mount": "apt install mount",
    "gcc": "apt install gcc libc6-dev",
}


def probe() -> list[Feature]:
    """Look at the machine; changes nothing that stays."""
    found = [
        Feature(
            name="root",
            is_there=os.geteuid() == 0,
            is_needed=True,
            remedy="namespaces, mounts and loop devices are made by root: use sudo",
        )
    ]
    found += [
        Feature(
            name=tool,
            is_there=shutil.which(tool) is not None,
            is_needed=True,
            remedy=remedy,
        )
        for tool, remedy in _TOOLS.items()
    ]
    return found


def missing() -> list[str]:
    """Return what a lab cannot do without and does not find, each with its remedy."""
    return [str(feature) for feature in probe() if feature.is_needed and not feature.is_there]
