"""What a run was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine_of() -> dict[str, Any]:
    """Return it for machines."""
    return {
        "processors": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "memory_gib": round(_memory() / (1 << 30), 1),
        "load_average": os.getloadavg(),
    }


def machine_line() -> str:
    """Return it in one line for people, with how busy the machine is."""
    found = machine_of()
    one, five, _ = found["load_average"]
    return (
        f"{found['processors']} processors, {found['memory_gib']:g} GiB, {found['system']}, "
        f"Python {found['python']}; load average {one:.1f} over a minute, {five:.1f} over five"
    )


def _memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
