"""A benchmark leaves nothing behind unless it failed; where it cannot write it says so."""

import signal
import subprocess
import sys

import click
import pytest

from bench.scratch import check_writable, scratch_folder
from tests.fakes.children import child

BENCHMARK = """
import signal, sys
from bench.scratch import scratch_folder
with scratch_folder("killed-") as folder:
    (folder / "log").write_text("much")
    print(folder, flush=True)
    signal.pause()
"""


def fail_in(where, error):
    with scratch_folder("failed-", where=where) as folder:
        (folder / "log").touch()
        raise error


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_folder_of_a_killed_benchmark_is_gone_behind_it(tmp_path, monkeypatch, how):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with child("-c", BENCHMARK, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as benchmark:
        assert benchmark.stdout.readline().startswith(str(tmp_path).encode())
        assert len(list(tmp_path.iterdir())) == 1

        benchmark.send_signal(signal.Signals[how])

        benchmark.stdout.read()  # until who removes it has ended, too
        assert not list(tmp_path.iterdir())


def test_the_folder_is_gone_at_the_end_and_kept_where_an_error_ended_it(tmp_path, capsys):
    with scratch_folder("good-", where=tmp_path) as folder:
        (folder / "log").touch()
    assert not folder.exists()

    with pytest.raises(ValueError, match="lost"):
        fail_in(tmp_path, ValueError("lost"))
    [kept] = tmp_path.iterdir()
    assert (kept / "log").exists()
    assert str(kept) in capsys.readouterr().err


def test_ctrl_c_comes_out_of_its_groups_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path, BaseExceptionGroup("tasks", [KeyboardInterrupt()]))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(tmp_path):
    with (
        pytest.raises(click.UsageError, match="--data"),
        scratch_folder("any-", where=tmp_path / "missing"),
    ):
        pass


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").touch()
    check_writable(None, tmp_path / "new" / "figures.json")
    assert (tmp_path / "new").is_dir()
    for path in (tmp_path / "file" / "figures.json", tmp_path):
        with pytest.raises(click.UsageError, match="cannot be written"):
            check_writable(path)


@pytest.mark.parametrize("module", ["flavours", "failover", "calls", "flood"])
def test_help_starts_nothing(module):
    asked = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", "--help"], capture_output=True, check=True
    )
    assert asked.stdout.lower().startswith(b"usage: python -m bench.")
