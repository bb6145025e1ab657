"""The same seed does the same, to the last byte and bit, in another process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from jepsen_like.sim.world import run
print(run(int(sys.argv[1]), fault_seconds=6.0).digest)
"""


def trace_hash(seed: int) -> str:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(seed)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return run.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 11, 12])
def test_a_seed_leaves_the_same_trace_in_two_processes(seed: int) -> None:
    first = trace_hash(seed)

    assert len(first) == 16
    assert trace_hash(seed) == first


@pytest.mark.slow
def test_another_seed_leaves_another_trace() -> None:
    assert trace_hash(3) != trace_hash(11)
