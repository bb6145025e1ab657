"""Many seeds on all cores: a process for each, every seed in a process that does nothing else.

A child is this same command with ``--share 0/2``: it runs every second of the seeds, tells of those
that are not valid as it meets them, and leaves its tally in a file for the parent to add up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jepsen_like.sim.runs import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChildFailedError(Exception):
    """A process that ran seeds ended without a tally."""


def run_in_processes(arguments: Sequence[str], *, jobs: int) -> Tally:
    """Run ``python -m jepsen_like`` with *arguments* in *jobs* processes; return what all came to.

    Raises:
        ChildFailedError: one of them broke off; what it was at stands on standard error.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="jepsen-like-") as folder:
        files = [Path(folder, f"tally-{number}") for number in range(jobs)]
        children = [
            subprocess.Popen(
                [
                    sys.executable, "-u", "-m", "jepsen_like", *arguments,
                    "--share", f"{number}/{jobs}", "--tally", str(file),
                ],
            )
            for number, file in enumerate(files)
        ]  # fmt: skip
        try:
            codes = [child.wait() for child in children]
        finally:
            for child in children:
                if child.poll() is None:
                    os.kill(child.pid, signal.SIGKILL)
                    child.wait()
        for code, file in zip(codes, files, strict=True):
            if code != 0 or not file.exists():
                raise ChildFailedError(f"a process that ran seeds ended with code {code}")
            tally.add(Tally.from_json(file.read_text(encoding="utf-8")))
    return tally
