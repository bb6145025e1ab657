"""The measurement of failovers, run for two of them: it works, and nothing is lost meanwhile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_a_killed_leader_is_followed_and_the_time_is_told(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.failover", "--kills", "2",
            "--keep", str(tmp_path / "group"), "--json", str(tmp_path / "figures"),
        ],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "first acknowledgement after p50" in done.stdout
    result = json.loads((tmp_path / "figures").read_text())
    assert len(result["times_ms"]) == 2
    assert 0 < result["p50_ms"] <= result["max_ms"]
    assert result["failed_sends"] == 0
