"""Labs are apart from the rest of the machine and leave nothing on it."""

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from broker.cli.processes import ProcessMark
from jepsen_like.real import leftovers
from jepsen_like.real.lab import Lab
from jepsen_like.real.leftovers import default_base
from jepsen_like.real.namespaces import NAMESPACE_FOLDER
from jepsen_like.real.proof import LabError
from tests.fakes.children import child
from tests.process.kit import eventually

_SCRIPT = """
import sys, trio
from jepsen_like.real.lab import Lab, hear_interrupts

async def main():
    async with Lab(nodes=["n1", "n2"], clients=["c1"]) as lab:
        sleeper = lab.nodes["n1"].process(["sleep", "1000"])
        sleeper.start()
        print("sleeps", sleeper.pid, flush=True)
        await trio.sleep_forever()

hear_interrupts()
trio.run(main)
"""


def started_lab():
    return child("-c", _SCRIPT, stdout=subprocess.PIPE, text=True)


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def traces(prefix):
    """Everything on the machine that has the lab's name on it."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    loops = subprocess.run(
        ["losetup", "--list", "--noheadings", "--raw", "--output", "BACK-FILE"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [
        *(f"namespace {path.name}" for path in NAMESPACE_FOLDER.glob(f"{prefix}-*")),
        *(f"mount {line}" for line in mounts if f"/{prefix}/" in line),
        *(f"loop device on {line}" for line in loops if f"/{prefix}/" in line),
        *(f"folder {path}" for path in default_base().glob(prefix)),
        *(f"control group {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{prefix}-*")),
    ]


async def test_a_client_reaches_a_node_and_nothing_else_does(lab):
    node, client = lab.nodes["n1"], lab.clients["c1"]
    with node.namespace.entered():
        listening = socket.create_server((node.address, 9000))
    with listening:
        connected = await client.network().connect(node.address, 9000)
        accepted, (peer, _) = listening.accept()
        accepted.sendall(b"here")
        assert await connected.receive_some() == b"here"
        assert peer == client.address
        accepted.close()
        connected.close()

        # Something else may answer at that address outside; what counts is who is asked.
        with socket.socket() as outside, contextlib.suppress(OSError):
            outside.settimeout(0.2)
            outside.connect((node.address, 9000))
        listening.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listening.accept()


async def test_each_node_has_a_file_system_of_its_own(lab):
    one, two = (lab.nodes[name].disk.path for name in ("n1", "n2"))

    assert one.is_mount()
    assert two.is_mount()
    assert len({one.stat().st_dev, two.stat().st_dev, lab.folder.stat().st_dev}) == 3


async def test_nothing_is_left_at_the_end():
    async with Lab(nodes=["n1"], clients=["c1"]) as lab:
        process = lab.nodes["n1"].process(["sleep", "1000"])
        process.start()
        assert len(traces(lab.prefix)) >= 6

    assert traces(lab.prefix) == []
    assert not process.is_running


@pytest.mark.parametrize("step", ["compile_library", "_add_disk", "_join", "open"])
async def test_nothing_is_left_when_the_set_up_fails(monkeypatch, step):
    async def fail(*_):
        raise LabError("on purpose")

    owners = {
        "compile_library": "jepsen_like.real.shim",
        "open": "jepsen_like.real.wire.Wire",
    }
    monkeypatch.setattr(f"{owners.get(step, 'jepsen_like.real.lab.Lab')}.{step}", fail)
    lab = Lab(nodes=["n1", "n2"])

    with pytest.raises(LabError, match="on purpose"):
        async with lab:
            raise AssertionError("it was set up")

    assert traces(lab.prefix) == []


async def until(prefix, what):
    async def found():
        return any(what in trace for trace in traces(prefix))

    await eventually(f"{prefix} has {what}", found)


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        *((signal.SIGINT, stage) for stage in ("folder", "mount", "-switch", "sleeps")),
        *((signal.SIGTERM, stage) for stage in ("folder", "mount", "-switch", "sleeps")),
        (signal.SIGHUP, "sleeps"),
    ],
)
async def test_nothing_is_left_when_a_signal_ends_it(number, stage):
    sleeper = None
    with started_lab() as process:
        prefix = f"jl{process.pid}"
        if stage == "sleeps":
            word, pid = (await trio.to_thread.run_sync(process.stdout.readline)).split()
            assert word == "sleeps"
            sleeper = ProcessMark.of(int(pid))
            assert sleeper is not None
        else:
            await until(prefix, stage)
        process.send_signal(number)
        code = await trio.to_thread.run_sync(process.wait)

    expected = {signal.SIGINT: {1, -2, 130}}.get(number, {128 + number})
    assert code in expected
    assert traces(prefix) == []
    assert sleeper is None or not sleeper.is_running


async def test_sigterm_ends_a_lab_in_the_background_of_a_shell():
    """Where Ctrl-C is ignored: it went on for ever."""
    script = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{_SCRIPT}"
    with child("-c", script, stdout=subprocess.PIPE, text=True) as process:
        await trio.to_thread.run_sync(process.stdout.readline)
        process.terminate()
        code = await trio.to_thread.run_sync(process.wait)

    assert code == 128 + signal.SIGTERM
    assert traces(f"jl{process.pid}") == []


async def test_what_a_killed_lab_left_is_swept_away_by_the_next():
    with started_lab() as process:
        prefix = f"jl{process.pid}"
        _, pid = (await trio.to_thread.run_sync(process.stdout.readline)).split()
        sleeper = ProcessMark.of(int(pid))

        async def sleeps():
            return command_of(pid) == b"sleep"

        await eventually("the kernel knows that it is to die with the lab", sleeps)
        process.kill()
        await trio.to_thread.run_sync(process.wait)

    async def ended():
        return not sleeper.is_running

    await eventually("the node's process ends with the lab's", ended)
    assert len(traces(prefix)) >= 6

    async with Lab(nodes=["n1"]):
        assert traces(prefix) == []


async def test_a_lab_whose_process_runs_is_not_swept_away(lab):
    before = traces(lab.prefix)

    swept = await leftovers.sweep(default_base())

    assert lab.prefix not in swept
    assert traces(lab.prefix) == before
    assert f"jl{os.getpid()}" in lab.prefix
