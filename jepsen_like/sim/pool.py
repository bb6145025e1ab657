"""Many seeds, or many mutants, on all cores: the same command once more for each core.

A child with ``--share 0/2`` runs every second of the seeds, tells of those that are not valid as it
meets them, and leaves its tally in a file for the parent to add up.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli.processes import ending_with_us
from jepsen_like.sim.runs import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
        codes = _run_all(
            [*arguments, "--share", f"{number}/{jobs}", "--tally", str(file)]
            for number, file in enumerate(files)
        )
        for code, file in zip(codes, files, strict=True):
            if code != 0 or not file.exists():
                raise ChildFailedError(f"a process that ran seeds ended with code {code}")
            tally.add(Tally.from_json(file.read_text(encoding="utf-8")))
    return tally


def hunt_in_processes(arguments: Sequence[str], shares: Sequence[Sequence[str]]) -> int:
    """Run ``python -m jepsen_like`` with *arguments* in a process for each of *shares* of names.

    Return 0 when each was caught, 1 when one was not, else 2.
    """
    codes = _run_all([*arguments, "--jobs", "1", *names] for names in shares)
    return 1 if 1 in codes else max(map(abs, codes))


def _run_all(commands: Iterable[Sequence[str]]) -> list[int]:
    """Run this program with each list of arguments, all at once; return how each ended."""
    children = [
        subprocess.Popen(ending_with_us([sys.executable, "-u", "-m", "jepsen_like", *arguments]))
        for arguments in commands
    ]
    try:
        return [child.wait() for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
