"""The fuzzer's own ways: a fault is found, written down, and can be run again."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from jepsen_like.fuzz import campaign
from jepsen_like.fuzz.target import Target, WrongAnswerError, must_say
from jepsen_like.fuzz.targets import TARGETS


def test_a_finding_is_run_again(tmp_path, monkeypatch):
    def run(data):
        if data.startswith(b"bad"):
            raise KeyError("nobody caught this")

    monkeypatch.setitem(TARGETS, "broken", Target("broken", "for this test", list, run))
    told = []
    for content, code in ((b"bad input", 1), (b"good input", 0)):
        path = tmp_path / "finding"
        path.write_bytes(content)
        assert campaign.replay("broken", path, tell=told.append) == code
    assert "KeyError: 'nobody caught this'" in told[0]
    assert "as it should" in told[1]


@pytest.mark.parametrize("text", ["", "no", "x" * 200_000])
def test_an_error_that_says_nothing_or_everything_is_a_finding(text):
    with pytest.raises(WrongAnswerError):
        must_say(ValueError(text))
    with pytest.raises(WrongAnswerError):
        must_say(ValueError("long enough, but without the name"), names="/data/vote")


def test_without_the_fuzzer_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    told = []

    assert campaign.fuzz(["header"], seconds=1, out=tmp_path, tell=told.append) == 77
    assert "pip install --group fuzz" in told[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "nothing"], "no target 'nothing'; there are frame, header"),
        (["--replay", "x"], "--replay needs the one --target"),
        (["--live", "127.0.0.1:1"], "127.0.0.1:1 does not answer"),
        (["--live", "127.0.0.1:1", "--target", "x"], "no attack 'x'; there are broken_frames"),
    ],
)
def test_wrong_usage_is_told(arguments, said):
    done = subprocess.run(
        [sys.executable, "-m", "jepsen_like", "fuzz", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr + done.stdout


def test_a_known_input_is_replayed_from_the_command_line(tmp_path):
    path = tmp_path / "finding"
    path.write_bytes(TARGETS["header"].seeds()[0])
    command = campaign.replay_command("header", path).split()[1:]

    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "header takes it or refuses it as it should" in done.stdout
