"""The same seed does the same, to the last byte and bit, in another process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEEDS = ("3", "4", "12")  # the second with members that come and go
SCRIPT = """
import sys
from jepsen_like.sim.world import run
for seed in sys.argv[1:]:
    print(run(int(seed), fault_seconds=3.0).digest)
"""


def trace_hashes() -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *SEEDS],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    return run.stdout.split()


@pytest.mark.slow
def test_three_seeds_leave_the_same_traces_in_two_processes() -> None:
    first = trace_hashes()

    assert len(set(first)) == len(SEEDS)  # and each one its own
    assert trace_hashes() == first
