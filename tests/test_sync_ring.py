"""Syncs that the kernel does by itself: same order, same failures, same promises as a thread's."""

import contextlib
import errno
import os
import sys
import threading

import pytest
import trio

from dledger import sync_ring
from dledger.config import SyncBy
from dledger.errors import ConfigError, StorageFailedError
from dledger.remoting import readiness
from dledger.store.os_disk import OsDisk
from dledger.sync_ring import RingWorker, SyncNotBegunError, SyncRing, make_sync_worker
from dledger.worker import DataSync, ThreadWorker
from tests.fakes.ended_loop import what_ended
from tests.store.model import append, open_store


def why_no_ring() -> str:
    if sys.platform != "linux":
        return "io_uring is Linux's"
    try:
        SyncRing().close()
    except OSError as error:
        return f"io_uring cannot be had here: {error.strerror}"
    return ""


needs_ring = pytest.mark.skipif(bool(why_no_ring()), reason=why_no_ring() or "it can be had")


class Job(DataSync):
    """One sync of *fd*; None: there is more to do. Writes down what happens to it."""

    def __init__(self, fd, told, name="job"):
        self.fd, self.told, self.name = fd, told, name

    def __call__(self):
        self.told.append(f"{self.name} called")

    def begin(self):
        self.told.append(f"{self.name} begun")
        return self.fd

    def end(self, error):
        self.told.append(f"{self.name} ended" if error is None else f"{self.name} failed")
        if error is not None:
            raise error

    def take_back(self):
        self.told.append(f"{self.name} taken back")


class FakeRing:
    """A ring whose completions a test decides about; readable when there is one."""

    def __init__(self, *, takes=True):
        self.fd, self._end = os.pipe()
        self.takes = takes
        self.begun = []
        self.outcome = None

    def begin(self, fd):
        if self.takes:
            self.begun.append(fd)
        return self.takes

    def complete(self, outcome):
        self.outcome = outcome
        os.write(self._end, b"x")

    def take(self):
        if self.outcome is None:
            return False
        os.read(self.fd, 1)
        outcome, self.outcome = self.outcome, None
        if isinstance(outcome, BaseException):
            raise outcome
        return True

    def wait(self):
        self.complete("done")

    def close(self):
        os.close(self.fd)
        os.close(self._end)


@contextlib.contextmanager
def worker_over(ring):
    worker = RingWorker("test-sync", ring)
    yield worker
    worker.close()
    assert worker.join(60)


class Waiter:
    """Collects what `done` is called with."""

    def __init__(self, told, name="job"):
        self.told, self.name = told, name
        self.event = trio.Event()
        self.failure = None

    def __call__(self, failure):
        self.told.append(f"{self.name} done")
        self.failure = failure
        self.event.set()


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"x" * 4096, 0)
    yield fd
    os.close(fd)


@needs_ring
async def test_the_kernel_syncs_one_file_after_another(file):
    told = []
    with worker_over(SyncRing()) as worker:
        for _ in range(5):
            waiter = Waiter(told)
            worker.submit(Job(file, told), waiter)
            await waiter.event.wait()
            assert waiter.failure is None
    assert told == ["job begun", "job ended", "job done"] * 5


@needs_ring
@pytest.mark.parametrize("why", ["another event loop", "no watches left"])
async def test_where_nothing_is_read_out_of_the_poll_a_task_waits_for_the_kernel(
    file, monkeypatch, why
):
    class Full:
        def add(self, fd, reader):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hot = None if why == "another event loop" else Full()
    monkeypatch.setattr(sync_ring, "hot_sockets", lambda: hot)
    told = []
    with worker_over(SyncRing()) as worker:
        for _ in range(3):
            waiter = Waiter(told)
            worker.submit(Job(file, told), waiter)
            await waiter.event.wait()
    assert told == ["job begun", "job ended", "job done"] * 3


@needs_ring
@pytest.mark.skipif(not readiness.is_supported, reason="nothing goes out of the poll")
def test_what_goes_wrong_at_the_end_of_a_sync_ends_the_event_loop(file):
    def fail(_):
        raise LookupError("it broke")

    async def main():
        with worker_over(SyncRing()) as worker:
            worker.submit(Job(file, []), fail)
            await trio.sleep_forever()

    assert str(what_ended(main)) == "it broke"


@needs_ring
async def test_a_failed_sync_is_told(file):
    told = []
    reader, writer = os.pipe()  # has nothing that could be synced
    with worker_over(SyncRing()) as worker:
        waiter = Waiter(told)
        worker.submit(Job(writer, told), waiter)
        await waiter.event.wait()
        assert isinstance(waiter.failure, OSError)
        assert waiter.failure.errno == errno.EINVAL
        fine = Waiter(told)
        worker.submit(Job(file, told), fine)
        await fine.event.wait()
        assert fine.failure is None
    assert told[:3] == ["job begun", "job failed", "job done"]
    os.close(reader)
    os.close(writer)


@needs_ring
async def test_draining_waits_for_the_kernel_and_tells_nobody(file):
    told = []
    with worker_over(SyncRing()) as worker:
        worker.submit(Job(file, told), Waiter(told))
        worker.submit(Job(file, told, "second"), Waiter(told, "second"))
        worker.drain()
        assert told == ["job begun", "job ended", "second begun", "second ended"]


async def test_what_the_kernel_has_done_is_known_when_asked_for_and_told_later():
    """Whoever judges by the time it has taken does so before the loop's poll is looked at."""
    told = []
    ring = FakeRing()
    with worker_over(ring) as worker:
        waiter = Waiter(told)
        worker.submit(Job(5, told), waiter)
        worker.take_up()
        assert told == ["job begun"]
        ring.complete("done")

        worker.take_up()

        assert told == ["job begun", "job ended"]
        await waiter.event.wait()
        assert waiter.failure is None
    assert told == ["job begun", "job ended", "job done"]


async def test_what_is_more_than_one_sync_goes_to_the_thread():
    told = []
    with worker_over(FakeRing()) as worker:
        waiter = Waiter(told)
        worker.submit(Job(None, told), waiter)
        await waiter.event.wait()
        plain = Waiter(told, "plain")
        worker.submit(lambda: told.append("plain called"), plain)
        await plain.event.wait()
    assert told == ["job begun", "job called", "job done", "plain called", "plain done"]


async def test_jobs_keep_their_order_and_never_run_two_at_once():
    told = []
    ring = FakeRing()
    with worker_over(ring) as worker:
        second, third = Waiter(told, "second"), Waiter(told, "third")
        worker.submit(Job(5, told, "first"), Waiter(told, "first"))
        worker.submit(lambda: told.append("second called"), second)
        worker.submit(Job(6, told, "third"), third)
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["first begun"]  # the others wait for it
        ring.complete("done")
        await second.event.wait()
        await third.event.wait()
    assert ring.begun == [5]  # as the thread was busy, the third went to it as well
    calls = [word for word in told if not word.endswith("done")]
    assert calls == ["first begun", "first ended", "second called", "third called"]


async def test_a_job_behind_one_of_the_thread_goes_to_the_thread():
    told = []
    ring = FakeRing()
    with worker_over(ring) as worker:
        go_on = threading.Event()
        worker.submit(go_on.wait, Waiter(told, "slow"))
        waiter = Waiter(told)
        worker.submit(Job(5, told), waiter)
        go_on.set()
        await waiter.event.wait()
    assert ring.begun == []
    assert told == ["slow done", "job called", "job done"] or told == [
        "job called",
        "slow done",
        "job done",
    ]


@pytest.mark.parametrize("takes", [False, True])
async def test_what_the_kernel_cannot_begin_the_thread_does(takes):
    told = []
    ring = FakeRing(takes=takes)
    with worker_over(ring) as worker:
        waiter = Waiter(told)
        worker.submit(Job(5, told), waiter)
        if takes:
            ring.complete(SyncNotBegunError())
        await waiter.event.wait()
        assert waiter.failure is None
    assert told == ["job begun", "job taken back", "job called", "job done"]


@needs_ring
async def test_a_file_that_is_no_file_can_be_told_from_one_that_was_not_begun():
    ring = SyncRing()
    assert ring.begin(1 << 20)
    ring.wait()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ring.take()
    assert not ring.take()
    ring.close()


async def test_without_io_uring_a_thread_syncs_unless_it_was_asked_for(monkeypatch, caplog):
    def refuse():
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(sync_ring, "SyncRing", refuse)
    caplog.set_level("INFO")
    worker = make_sync_worker("n1-sync", SyncBy.AUTO)
    assert type(worker) is ThreadWorker
    worker.close()
    assert "a thread syncs the log: io_uring cannot be had" in caplog.text
    with pytest.raises(ConfigError, match="sync_by = io_uring"):
        make_sync_worker("n1-sync", SyncBy.IO_URING)


@needs_ring
async def test_it_is_used_where_it_can_be_had_and_wanted():
    for sync_by, wanted in (
        (SyncBy.AUTO, RingWorker),
        (SyncBy.IO_URING, RingWorker),
        (SyncBy.THREAD, ThreadWorker),
    ):
        worker = make_sync_worker("n1-sync", sync_by)
        assert type(worker) is wanted
        worker.close()


# -- the log's side ------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    opened = open_store(OsDisk(), folder=str(tmp_path / "data"))
    opened.sync()  # names, and all there was
    yield opened
    opened.close()


def test_a_ticket_for_one_file_is_one_sync(store):
    append(store, b"one")
    ticket = store.begin_sync()
    fd = ticket.begin()
    os.fdatasync(fd)
    assert store.durable_index == 0
    ticket.end(None)
    assert store.finish_sync(ticket) == 1


def test_a_ticket_for_more_is_called(store):
    while True:
        append(store, b"x" * 1000)
        ticket = store.begin_sync()
        if len(store._log) > 1:
            break
        ticket.run()
        store.finish_sync(ticket)
    assert ticket.begin() is None  # two files, and the folder
    ticket()
    assert store.finish_sync(ticket) == store.end_index


def test_a_sync_that_failed_beside_us_is_never_tried_again(store):
    append(store, b"one")
    ticket = store.begin_sync()
    assert ticket.begin() is not None
    with pytest.raises(StorageFailedError, match="sync: Input/output error"):
        ticket.end(OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(StorageFailedError):
        store.finish_sync(ticket)
    with pytest.raises(StorageFailedError):
        store.begin_sync()
    with pytest.raises(StorageFailedError, match="an earlier sync failed"):
        store._log.last.sync()  # a checkpoint's
    assert store._log.last.begin_sync() is None
    assert store.durable_index == 0


def test_a_ticket_taken_back_has_promised_nothing(store):
    append(store, b"one")
    ticket = store.begin_sync()
    assert ticket.begin() is not None
    ticket.take_back()
    with pytest.raises(AssertionError, match="run"):
        store.finish_sync(ticket)
    ticket.run()
    assert store.finish_sync(ticket) == 1


def test_a_region_closed_meanwhile_keeps_its_descriptor_until_the_end(tmp_path):
    region = OsDisk().allocate(str(tmp_path / "file"), 8192, zero_size=0)
    fd = region.begin_sync()
    assert not region.close()  # may not be used again yet
    os.fdatasync(fd)
    region.end_sync(None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fdatasync(fd)
    assert region.begin_sync() is None
