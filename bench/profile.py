"""Stacks of the nodes while a load runs, sampled from outside by py-spy where it is installed.

The files hold one stack a line and how often it was seen, as flame graph tools read them:
``LOAD-FLUSH-BODYSIZE-ROLE.txt``.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING

from bench.measured import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_SAMPLES_PER_SECOND = 200


def find_sampler() -> str:
    """Return the path of py-spy.

    Raises:
        LoadError: it is not installed.
    """
    path = shutil.which("py-spy")
    if path is None:
        raise LoadError("py-spy is not on the PATH; pip install py-spy, or leave --profile out")
    return path


@contextlib.contextmanager
def sampled(pids: Mapping[str, int], folder: Path, name: str, *, seconds: float) -> Iterator[None]:
    """Sample the processes *pids*, named by their roles, for *seconds* from now on."""
    sampler = find_sampler()
    samplers = [
        subprocess.Popen(
            [
                sampler,
                "record",
                *("--pid", str(pid)),
                "--nonblocking",
                *("--rate", str(_SAMPLES_PER_SECOND)),
                *("--duration", str(max(1, round(seconds)))),
                *("--format", "raw"),
                *("--output", str(folder / f"{name}-{role}.txt")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for role, pid in pids.items()
    ]
    try:
        yield
    finally:
        for process in samplers:
            try:
                process.wait(timeout=5 * seconds + 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
