"""What is done to a process is seen in /proc."""

import signal

import pytest

from jepsen_like.real.proof import LabError


async def test_it_runs_in_its_namespace_and_logs(lab):
    process = lab.process("talker", ["sh", "-c", "ip -br addr; exit 3"],
                          namespace=lab.clients["c1"])  # fmt: skip
    process.start()

    assert await process.wait() == 3
    assert lab.clients["c1"].address in process.log
    assert process.exits == [3]


async def test_its_pid_is_the_command_s_own(lab):
    process = lab.nodes["n1"].process(["sleep", "1000"])
    process.start()

    assert process.pid in lab.nodes["n1"].namespace.pids()
    assert (await process.kill()).took_effect
    assert process.returncode == -signal.SIGKILL
    assert not (await process.kill()).took_effect, "nothing to kill"


async def test_stop_and_resume_are_proved_by_proc(lab):
    process = lab.nodes["n1"].process(["sh", "-c", "while :; do :; done"])
    process.start()

    stopped = await process.stop()
    assert stopped.took_effect
    assert process.is_stopped
    resumed = await process.resume()
    assert resumed.took_effect
    assert not process.is_stopped
    await process.kill()
    assert not (await process.stop()).took_effect, "nothing to stop"


async def test_sigterm_that_is_not_heeded_has_no_effect(lab):
    process = lab.process("deaf", ["sh", "-c", "trap '' TERM; echo deaf; sleep 1000; sleep 1000"],
                          namespace=lab.clients["c1"])  # fmt: skip
    process.start()
    while "deaf" not in process.log:
        assert process.is_running

    proof = await process.terminate(seconds=0.2)

    assert not proof.took_effect
    assert not process.is_running


async def test_a_command_that_is_not_there_is_told(lab):
    process = lab.process("ghost", ["no-such-command"], namespace=lab.clients["c1"])
    try:
        process.start()
        assert await process.wait() != 0
        assert "no-such-command" in process.last_words()
    except LabError as error:
        pytest.fail(f"the launcher itself is missing: {error}")
