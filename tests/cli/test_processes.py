"""Signals reach the process meant, and nobody else."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from broker.cli.processes import (
    ProcessMark,
    check_port_free,
    ending_with_us,
    find_listener,
    read_pid_file,
    start_process,
    write_pid_file,
)
from dledger.errors import ConfigError
from tests.fakes import children

WAIT = "import sys; sys.stdin.read()"
PARENT = """
import subprocess, sys
from broker.cli.processes import ending_with_us
child = [sys.executable, "-c", "import sys; print('runs', flush=True); sys.stdin.read()"]
subprocess.Popen(ending_with_us(child)).wait()
"""


@pytest.fixture(name="child")
def waiting_child():
    with children.child("-c", WAIT, stdin=subprocess.PIPE) as process:
        yield process


def test_a_pid_file_names_a_process_while_it_runs(child, tmp_path):
    mark = ProcessMark.of(child.pid)
    write_pid_file(tmp_path / "node.pid", mark)

    assert read_pid_file(tmp_path / "node.pid") == mark
    child.kill()
    child.wait()
    assert read_pid_file(tmp_path / "node.pid") is None


def test_a_zombie_runs_no_more(child):
    mark = ProcessMark.of(child.pid)
    assert mark.send_signal(signal.SIGKILL)
    child.stdin.close()

    # waitid leaves the zombie in place; only then the mark is asked.

    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not mark.is_running


def test_a_later_process_with_the_same_id_is_left_alone(child, tmp_path):
    """The pid file of a node that died long ago must not kill who has its id now."""
    stranger = ProcessMark(pid=child.pid, started="long ago")
    (tmp_path / "node.pid").write_text(f"{stranger.pid} {stranger.started}\n")

    assert read_pid_file(tmp_path / "node.pid") is None
    assert stranger.send_signal(signal.SIGKILL) is False
    assert child.poll() is None


@pytest.mark.parametrize("content", ["", "x y", "12"])
def test_a_broken_pid_file_names_nobody(tmp_path, content):
    (tmp_path / "node.pid").write_text(content)

    assert read_pid_file(tmp_path / "node.pid") is None


def test_a_taken_port_is_told_with_its_owner_and_the_remedy():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        with pytest.raises(ConfigError) as error:
            check_port_free("127.0.0.1", port, use="broker port of n1", remedy="move away")

    text = str(error.value)
    assert f"127.0.0.1:{port} (broker port of n1) is taken by" in text
    assert "move away" in text


def test_the_listener_of_a_port_is_found():

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert find_listener(listener.getsockname()[1]) is None
        listener.listen()

        assert f"(pid {os.getpid()})" in find_listener(listener.getsockname()[1])


def test_a_port_whose_last_connection_lingers_is_free():
    """A restart right after a crash finds connections in TIME_WAIT on its port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first is the one that lingers
            assert client.recv(1) == b""

    check_port_free("127.0.0.1", port, use="broker port of n1", remedy="move away")


def test_what_a_process_says_goes_to_its_log(tmp_path):
    log = tmp_path / "node.log"
    log.write_text("before\n")

    for stream in ("stdout", "stderr"):
        command = [sys.executable, "-c", f"import sys; sys.{stream}.write('{stream}\\n')"]
        assert start_process(command, log_path=log).wait() == 0

    assert log.read_text() == "before\nstdout\nstderr\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_is_to_end_with_us_does_however_we_end(number):
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with children.child("-c", PARENT, **options) as parent:
        assert parent.stdout.readline() == b"runs\n"

        parent.send_signal(number)

        assert parent.stdout.read() == b""  # that is: nobody has that end of the pipe any more


def test_for_who_is_gone_already_nothing_is_started():
    *launcher, parent, program, option, code = ending_with_us([sys.executable, "-c", "print(1)"])
    assert parent == str(os.getpid())

    done = subprocess.run(
        [*launcher, "1", program, option, code], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "gone" in done.stderr


def test_a_program_that_is_not_there_is_named():
    done = subprocess.run(
        ending_with_us(["/no/such/program"]), capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == "/no/such/program: No such file or directory\n"
