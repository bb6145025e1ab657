"""The measurement of failovers, run for two of them: it works, and nothing is lost meanwhile."""

import json

import pytest

from bench.failover import main

pytestmark = [pytest.mark.process, pytest.mark.slow]

SECONDS_MAX = 2.0  # no figure, only a bound: the machine of a test run may be busy


def test_a_killed_leader_is_followed_and_the_time_is_told(tmp_path, capsys):
    code = main(["--kills", "2", "--keep", str(tmp_path / "group"), "--json", str(tmp_path / "f")])

    assert code == 0, capsys.readouterr()
    result = json.loads((tmp_path / "f").read_text())
    assert len(result["times_ms"]) == 2
    assert 0 < result["p50_ms"] <= result["max_ms"] < SECONDS_MAX * 1000
    assert result["failed_sends"] == 0
    assert "first acknowledgement after p50" in capsys.readouterr().out
