"""Calls of a real process to its disk are slowed, failed, lied about, or its last."""

import os
import sys
import time

import pytest

from jepsen_like.real.shim import SYNCS, Call
from tests.process.kit import eventually

# One line of output for each command on a line of a fifo, so that the test decides when.
_WORKER = """
import os, sys, mmap
path, orders = sys.argv[1:]
fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
mapped = mmap.mmap(fd, 8192)
folder = os.open(os.path.dirname(path), os.O_RDONLY)
def rename():
    os.rename(path, path + ".new")
    os.rename(path + ".new", path)
def unlink():
    open(path + ".gone", "w").close()
    os.unlink(path + ".gone")
calls = {
    "FSYNC": lambda: os.fsync(fd),
    "FSYNC_FOLDER": lambda: os.fsync(folder),
    "FDATASYNC": lambda: os.fdatasync(fd),
    "MSYNC": lambda: mapped.flush(),
    "RENAME": rename,
    "UNLINK": unlink,
    "WRITE": lambda: (os.pwrite(fd, b"1", 0), os.pwritev(fd, [b"2", b"3"], 1), os.write(fd, b"4")),
    "TRUNCATE": lambda: os.ftruncate(fd, 8192),
    "ALLOCATE": lambda: os.posix_fallocate(fd, 0, 8192),
}
print("ready", flush=True)
for line in open(orders):
    try:
        calls[line.strip()]()
        print("done", flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""


class Worker:
    """A process of node n1 that makes the calls it is told to."""

    def __init__(self, lab):
        self.node = lab.nodes["n1"]
        self.path = self.node.disk.path / "file"
        self.orders = self.node.folder / "orders"
        os.mkfifo(self.orders)
        self.process = self.node.process(
            [sys.executable, "-c", _WORKER, str(self.path), str(self.orders)]
        )
        self.said = 1

    async def start(self):
        self.process.start()
        self.pipe = self.orders.open("w")
        await self.answered()

    async def answered(self):
        async def more():
            return len(self.process.log.splitlines()) >= self.said or not self.process.is_running

        await eventually("an answer", more)
        self.said += 1
        return self.process.log.splitlines()[-1]

    async def do(self, call):
        self.pipe.write(f"{call.name}\n")
        self.pipe.flush()
        return await self.answered()


@pytest.fixture
async def worker(lab):
    worker = Worker(lab)
    await worker.start()
    yield worker
    worker.pipe.close()


@pytest.fixture
def shim(worker):
    return worker.node.shim


async def test_every_call_is_seen_and_passed_on(worker, shim):
    before = shim.counts()
    for call in Call:
        assert await worker.do(call) == "done"
        seen = shim.counts()[f"calls {call.name.lower()}"]
        assert seen > before[f"calls {call.name.lower()}"], call
    assert shim.counts()["attached"] >= 1
    assert worker.path.read_bytes()[:4] == b"423\0"


async def test_files_elsewhere_are_not_touched(worker, shim):
    before = shim.counts()["calls write"]
    await worker.do(Call.FSYNC)  # it writes to its log, which is not on its disk

    assert shim.counts()["calls write"] == before


async def test_slow_syncs_take_their_time(worker, shim):
    shim.slow(100)
    begun = time.perf_counter()
    assert await worker.do(Call.FDATASYNC) == "done"

    assert time.perf_counter() - begun >= 0.1
    proof = shim.proof("slow syncs")
    assert proof.took_effect
    assert proof.figures["slowed fdatasync"] == 1
    shim.slow(0)
    assert not shim.proof("slow syncs").took_effect


@pytest.mark.parametrize("call", Call)
async def test_the_next_calls_fail_and_then_no_more(worker, shim, call):
    shim.fail(1, [call])

    assert await worker.do(call) == "errno 5"
    assert await worker.do(call) == "done"
    proof = shim.proof("EIO")
    assert proof.took_effect
    assert proof.figures[f"failed {call.name.lower()}"] == 1


async def test_another_errno_can_be_had(worker, shim):
    shim.fail(1, [Call.WRITE], code=28)

    assert await worker.do(Call.WRITE) == "errno 28"


async def test_a_lying_sync_loses_what_it_promised(worker, shim):
    assert await worker.do(Call.FSYNC) == "done"
    assert await worker.do(Call.FSYNC_FOLDER) == "done"
    shim.lie()
    await worker.do(Call.WRITE)
    for call in SYNCS:
        assert await worker.do(call) == "done"
    assert worker.path.read_bytes()[:4] == b"423\0"

    assert (await worker.node.disk.power_loss()).took_effect

    assert worker.path.read_bytes()[:4] == bytes(4)
    assert shim.proof("lying syncs").figures["lied fsync"] == 1


async def test_a_process_dies_before_the_step_it_is_told(worker, shim):
    shim.kill_before(3, [Call.RENAME, Call.UNLINK])

    assert await worker.do(Call.RENAME) == "done"  # two of them
    await worker.do(Call.UNLINK)

    assert await worker.process.wait() == -9
    assert worker.path.with_name("file.gone").exists(), "before, not after"
    assert shim.killed_call is Call.UNLINK
    assert shim.proof("kill between steps").took_effect

    worker.pipe.close()
    worker.said = len(worker.process.log.splitlines()) + 1
    await worker.start()  # and is not killed again
    assert await worker.do(Call.RENAME) == "done"


async def test_steps_may_be_those_on_certain_files_only(worker, shim):
    shim.kill_before(1, [Call.FSYNC, Call.RENAME], path_part="elsewhere")
    assert await worker.do(Call.FSYNC) == "done"
    assert await worker.do(Call.RENAME) == "done"

    shim.kill_before(1, [Call.FSYNC], path_part="/file")
    await worker.do(Call.FSYNC)
    assert await worker.process.wait() == -9


async def test_a_rename_is_known_by_its_old_name(worker, shim):
    shim.kill_before(1, [Call.RENAME], path_part=".new")
    await worker.do(Call.RENAME)

    assert await worker.process.wait() == -9
    assert worker.path.with_name("file.new").exists()


async def test_all_of_it_is_over_when_it_is_cleared(worker, shim):
    shim.fail(10)
    shim.lie()
    shim.kill_before(1)
    shim.clear()

    for call in Call:
        assert await worker.do(call) == "done"
    assert not shim.proof("nothing").took_effect
