"""What is scarce is felt by the process, and the kernel counts it."""

import signal
import sys

import pytest

from jepsen_like.real import cgroups, features
from jepsen_like.real.proof import LabError
from tests.process.kit import eventually

_EAT = """
import sys
print("ready", flush=True)
eaten = []
sys.stdin = open(sys.argv[1])
for line in sys.stdin:
    eaten.append(b"x" * int(line))
    print(len(eaten), flush=True)
"""
_SPIN = "while True: pass"
_OPEN = """
import os
print("ready", flush=True)
found = []
while True:
    try:
        found.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print(error.errno, max(found), flush=True)
        break
    if len(found) == 1:
        open(os.environ["ORDERS"]).read()
"""


@pytest.fixture
def node(lab):
    return lab.nodes["n1"]


async def says(process, words):
    async def said():
        return words in process.log

    await eventually(f"{process.name} says {words!r}", said)


def fifo(node):
    import os

    path = node.folder / "orders"
    os.mkfifo(path)
    return path


async def test_a_process_gets_no_descriptor_above_its_limit(node):
    orders = fifo(node)
    process = node.process([sys.executable, "-c", _OPEN], environment={"ORDERS": str(orders)})
    process.start()
    await says(process, "ready")

    proof = await node.limits.descriptors(process, 30)
    orders.open("w").close()
    assert await process.wait() == 0

    assert proof.took_effect, proof
    assert process.last_words() == "24 29"


async def test_limits_are_lifted(node):
    process = node.process(["sleep", "1000"])
    process.start()
    before = (await node.limits.descriptors(process, 30)).figures["limit_before"]

    assert (await node.limits.clear(process)).took_effect
    assert (await node.limits.descriptors(process, 31)).figures["limit_before"] == before
    await node.limits.clear(process)
    assert not (await node.limits.clear(process)).took_effect, "there was none"


async def test_a_process_that_wants_more_memory_is_killed(node):
    orders = fifo(node)
    process = node.process([sys.executable, "-c", _EAT, str(orders)])
    process.start()
    await says(process, "ready")

    proof = await node.limits.memory(process, 32 << 20)
    assert proof.took_effect, proof
    with orders.open("w", buffering=1) as pipe:
        pipe.write(f"{8 << 20}\n")
        await says(process, "\n1\n")
        pipe.write(f"{64 << 20}\n")
        assert await process.wait() == -signal.SIGKILL

    lifted = await node.limits.clear(process)
    assert lifted.figures["memory_kills"] >= 1
    assert lifted.figures["memory_refused"] >= 1


async def test_a_process_that_spins_is_throttled_until_the_limit_is_lifted(node):
    process = node.process([sys.executable, "-c", _SPIN])
    process.start()
    proof = await node.limits.processor(process, 0.1)
    assert proof.took_effect, proof
    group = cgroups.ControlGroup("cpu", node.limits._group_name)

    async def throttled():
        return group.figures("cpu.stat")["nr_throttled"] >= 2

    await eventually("it is throttled", throttled)
    lifted = await node.limits.clear(process)
    assert lifted.figures["processor_throttled"] >= 2
    assert str(process.pid) not in group.read("cgroup.procs").split()


async def test_what_the_kernel_does_not_offer_is_told(node, monkeypatch):
    monkeypatch.setattr(cgroups, "find_controller", lambda _: None)
    process = node.process(["sleep", "1000"])
    process.start()

    with pytest.raises(LabError, match="no control group controller `memory`"):
        await node.limits.memory(process, 1 << 20)


# -- features -----------------------------------------------------------------------------------


def test_the_probe_tries_everything_here():
    found = {feature.name: feature for feature in features.probe()}

    assert features.missing() == []
    assert len(found) >= 14
    assert all(feature.is_there for feature in found.values() if feature.is_needed)


def test_without_root_the_command_is_skipped_and_says_why(monkeypatch, capsys):
    features.probe.cache_clear()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    try:
        with pytest.raises(SystemExit) as caught:
            features.require()
    finally:
        features.probe.cache_clear()

    assert caught.value.code == 77
    assert "root: MISSING (needed); " in capsys.readouterr().err


def test_a_missing_tool_is_told_with_its_remedy(monkeypatch):
    features.probe.cache_clear()
    monkeypatch.setattr("shutil.which", lambda name: None if name == "ethtool" else f"/bin/{name}")
    try:
        assert features.missing() == ["ethtool: MISSING (needed); apt install ethtool"]
    finally:
        features.probe.cache_clear()


def test_a_trial_that_fails_is_told(monkeypatch):
    def fail(_):
        raise OSError(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(features, "_try_disk", fail)
    features.probe.cache_clear()
    try:
        (told,) = features.missing()
    finally:
        features.probe.cache_clear()
    assert "shutdown call" in told
    assert "Inappropriate ioctl" in told
