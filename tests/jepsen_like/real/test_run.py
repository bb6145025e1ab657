"""One short run of everything: real processes, a real power loss, a verdict, and nothing left."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jepsen_like.verdict import read_verdict

pytestmark = pytest.mark.slow


def test_a_short_run_with_power_loss_is_valid_and_leaves_nothing(tmp_path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "jepsen_like", "real", "--fault", "power,kill",
            "--seconds", "12", "--seed", "7", "--sends", "100", "--out", str(tmp_path),
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "real-power+kill-7"
    verdict = read_verdict(folder / "verdict.json")
    assert verdict.state == "valid"
    assert verdict.counts["effect power"] >= 1
    assert verdict.counts["drain ok"] == 8
    assert {"n1.log", "n2.log", "n3.log", "c1.log"} <= {p.name for p in (folder / "logs").iterdir()}


def test_disks_that_lie_about_syncs_are_found(tmp_path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "jepsen_like", "real", "--script", "lying-disks",
            "--seed", "7", "--sends", "100", "--out", str(tmp_path),
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert done.returncode == 1, done.stdout + done.stderr
    kinds = read_verdict(tmp_path / "real-lying-disks-7" / "verdict.json").kinds
    assert {"lost-write", "unseen", "inconsistent-offsets"} & set(kinds)
