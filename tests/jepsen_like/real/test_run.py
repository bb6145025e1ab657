"""One short run of everything: real processes, a real power loss, a verdict, and nothing left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepsen_like.verdict import read_verdict
from tests.fakes.children import child

pytestmark = pytest.mark.slow


def test_a_short_run_with_power_loss_is_valid_and_leaves_nothing(tmp_path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "jepsen_like", "real", "--fault", "power,kill",
            "--seconds", "12", "--seed", "7", "--sends", "100", "--members", "0",
            "--out", str(tmp_path),
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


def test_an_interrupted_run_says_so_and_leaves_nothing(tmp_path) -> None:
    words = ["-m", "jepsen_like", "real", "--fault", "kill", "--out", tmp_path]
    history = tmp_path / "real-kill-1" / "c1.jsonl"
    with child(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while not history.exists():  # until the load has begun
            assert run.poll() is None, run.communicate()
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate()

    assert (run.returncode, err) == (130, "interrupted\n")
    assert list(Path("/run/netns").glob(f"jl{run.pid}*")) == []
    assert f"jl{run.pid}" not in Path("/proc/mounts").read_text()


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
