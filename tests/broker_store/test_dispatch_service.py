"""The dispatch service: what it does when, under virtual time."""

from __future__ import annotations

import logging

import pytest
import trio

from broker.store.derived import DerivedState
from broker.store.dispatch_service import (
    FULL_RETRY_SECONDS,
    PAUSE_SECONDS,
    STATE_SHARE,
    DispatchService,
)
from dledger.errors import LedgerFullError, PoisonEntryError, StorageFailedError
from tests.broker_store.derived_node import SEGMENT, CountingMachine, fill
from tests.broker_store.growing_disk import GrowingDisk
from tests.broker_store.helpers import MemoryLog
from tests.fakes.worker import FakeWorker

STATE_SECONDS = 10.0


class TrioClock:
    def now(self):
        return trio.current_time()

    def wall_ms(self):
        return int(trio.current_time() * 1000)

    def local_hour(self):
        return self.wall_ms() // 3_600_000 % 24


class World:
    def __init__(self, nursery):
        self.log = MemoryLog(segment_size=SEGMENT)
        fill(self.log, entries=20)
        self.disk = GrowingDisk()
        self.worker = FakeWorker(nursery)
        self.batches = 0
        self.is_urgent = True
        self.open()

    def open(self):
        self.derived = DerivedState.open(
            self.disk,
            "/derived",
            self.log,
            commit_index=self.log.end_index,
            segment_size=SEGMENT,
            metadata=CountingMachine(),
        )
        self.service = DispatchService(
            self.derived,
            clock=TrioClock(),
            worker=self.worker,
            state_interval_seconds=STATE_SECONDS,
            dispatched=self.heard,
            is_urgent=lambda: self.is_urgent,
        )

    def heard(self):
        self.batches += 1

    def states(self):
        names = [path for path in self.disk.files() if "/state-" in path]
        return [int(path.rpartition("-")[2]) for path in names]


@pytest.fixture
async def world(nursery):
    return World(nursery)


async def test_commits_are_taken_in_at_once(world, nursery, autojump_clock):
    await nursery.start(world.service.run)

    world.service.committed_to(5)
    await trio.testing.wait_all_tasks_blocked()

    assert (world.derived.dispatched_index, world.batches) == (5, 1)
    assert trio.current_time() == 0
    world.service.committed_to(3)
    world.service.committed_to(9)
    await trio.testing.wait_all_tasks_blocked()
    assert (world.derived.dispatched_index, world.batches) == (9, 2)


@pytest.fixture
async def unread(world, nursery, monkeypatch):
    """A service that runs, and nobody waits for what it takes in."""
    monkeypatch.setattr("broker.store.dispatch_service.PAUSE_SIZE_MAX", 10 * SEGMENT)
    await nursery.start(world.service.run)
    await trio.testing.wait_all_tasks_blocked()
    world.is_urgent = False
    return world


async def test_entries_that_nobody_waits_for_are_taken_in_together(unread, autojump_clock):
    world = unread

    for index in (1, 2, 3):
        world.service.committed_to(index)
        await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 0
    await trio.sleep(PAUSE_SECONDS + 0.001)

    assert (world.derived.dispatched_index, world.batches) == (3, 1)
    assert trio.current_time() < 2 * PAUSE_SECONDS


async def test_who_asks_meanwhile_or_waits_has_them_at_once(unread, autojump_clock):
    world = unread
    world.service.committed_to(2)
    world.service.catch_up()
    assert world.derived.dispatched_index == 2
    waiting = []
    world.service.waiting = [{}, waiting]
    world.service.committed_to(3)
    waiting.append("somebody")
    world.service.committed_to(4)
    await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 4
    world.service.committed_to(5)
    await trio.testing.wait_all_tasks_blocked()

    assert world.derived.dispatched_index == 5
    assert trio.current_time() == 0


async def test_a_node_that_takes_over_has_them_at_once(unread, autojump_clock):
    world = unread
    world.service.committed_to(3)
    await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 0
    world.is_urgent = True
    world.service.end_pause()
    await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 3
    world.service.committed_to(4)
    await trio.testing.wait_all_tasks_blocked()

    assert world.derived.dispatched_index == 4
    assert trio.current_time() == 0


async def test_many_entries_wait_for_nothing(unread, autojump_clock, monkeypatch):
    world = unread
    monkeypatch.setattr("broker.store.dispatch_service.PAUSE_COUNT_MAX", 5)
    world.service.committed_to(4)
    await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 0
    world.service.committed_to(5)
    await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 5
    world.service.committed_to(10)
    await trio.testing.wait_all_tasks_blocked()

    assert world.derived.dispatched_index == 10
    assert trio.current_time() == 0


async def test_large_entries_wait_for_nothing(unread, autojump_clock, monkeypatch):
    world = unread
    size_max = world.log.end_position + 1
    monkeypatch.setattr("broker.store.dispatch_service.PAUSE_SIZE_MAX", size_max)
    world.service.committed_to(4)
    await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 0
    fill(world.log, entries=1)
    world.service.committed_to(5)
    await trio.testing.wait_all_tasks_blocked()
    assert world.derived.dispatched_index == 5
    monkeypatch.setattr("broker.store.dispatch_service.PAUSE_SIZE_MAX", 5)
    world.service.committed_to(6)
    await trio.testing.wait_all_tasks_blocked()

    assert world.derived.dispatched_index == 6
    assert trio.current_time() == 0


async def test_what_fails_where_somebody_asks_stops_the_node(world, monkeypatch, autojump_clock):
    monkeypatch.setattr("broker.store.dispatch_service.PAUSE_SIZE_MAX", 10 * SEGMENT)
    world.is_urgent = False
    world.derived._take_in = _poisoned

    with pytest.RaisesGroup(PoisonEntryError):
        async with trio.open_nursery() as inner:
            await inner.start(world.service.run)
            await trio.testing.wait_all_tasks_blocked()
            world.service.committed_to(2)
            world.service.catch_up()

    assert world.derived.dispatched_index == 0


async def test_what_failed_to_catch_up_is_not_written_down(unread, monkeypatch):
    """The node was told to stop before the service could say that it had failed."""
    world = unread
    before = world.states()
    world.service.committed_to(3)
    dispatch_up_to = world.derived.dispatch_up_to

    def fail_behind(index):
        dispatch_up_to(index)
        raise StorageFailedError("the disk is gone")

    monkeypatch.setattr(world.derived, "dispatch_up_to", fail_behind)
    world.service.catch_up()
    assert world.derived.dispatched_index == 3

    world.service.write_down()

    assert world.states() == before
    with pytest.raises(StorageFailedError):
        world.service._turn()
    world.service._failure = None  # said


def _poisoned(entry):
    raise PoisonEntryError(f"entry {entry.index} is poison")


async def test_states_are_written_down_as_often_as_told(world, nursery, autojump_clock):
    await nursery.start(world.service.run)
    world.service.committed_to(3)

    await trio.sleep(STATE_SECONDS + 0.1)

    assert 3 in world.states()
    jobs = world.worker.job_count
    await trio.sleep(5 * STATE_SECONDS)
    assert world.worker.job_count == jobs  # nothing new, nothing written


async def test_states_take_no_more_than_a_tenth_of_the_time(world, nursery, autojump_clock):
    """Those of 8,000 queues took all of it: one began when the one before was written."""
    world.worker.seconds = 3.0
    await nursery.start(world.service.run)
    world.service.committed_to(3)
    await trio.sleep(STATE_SECONDS + 3.1)
    assert 3 in world.states()
    world.service.committed_to(4)

    await trio.sleep(STATE_SHARE * 3.0 - 3.2)
    assert 4 not in world.states()
    await trio.sleep(3.2)
    assert 4 in world.states()


async def test_a_slow_disk_does_not_keep_the_loop_busy(world, nursery, autojump_clock):
    world.worker.seconds = 100.0
    await nursery.start(world.service.run)
    world.service.committed_to(3)
    turns = 0
    original = world.service._start_jobs

    def counting():
        nonlocal turns
        turns += 1
        original()

    world.service._start_jobs = counting
    await trio.sleep(90)

    assert turns < 5


async def test_dispatch_goes_on_when_the_states_for_deletions_are_written(
    world, nursery, autojump_clock, monkeypatch
):
    monkeypatch.setattr("broker.store.derived.DELETION_STATES_SIZE_MAX", 1)
    world.log = MemoryLog(segment_size=SEGMENT)
    fill(world.log, deletes=True)
    world.open()
    world.derived.reopen(0)
    world.worker.seconds = 0.5
    await nursery.start(world.service.run)

    world.service.committed_to(world.log.end_index)
    await trio.testing.wait_all_tasks_blocked()
    assert 0 < world.derived.dispatched_index < world.log.end_index
    await trio.sleep(0.9 * STATE_SECONDS)  # nothing but the end of the jobs has woken it

    assert world.derived.dispatched_index == world.log.end_index
    assert world.batches > 5


async def test_a_full_disk_is_tried_again_and_messages_stay_readable(
    world, nursery, autojump_clock, caplog
):
    await nursery.start(world.service.run)
    world.disk.capacity = 1
    world.service.committed_to(world.log.end_index)
    with caplog.at_level(logging.WARNING):
        await trio.sleep(2 * STATE_SECONDS)

    assert world.derived.dispatched_index == world.log.end_index
    for topic, queue_id, end in world.derived.queues.snapshot():
        queue = world.derived.queues.get(topic, queue_id)
        assert len(queue.units_from(0, unit_count_max=end)) == 20 * end
    assert "no room" in caplog.text
    assert world.states() == []

    world.disk.capacity = 1 << 40
    await trio.sleep(FULL_RETRY_SECONDS + STATE_SECONDS + 1)
    assert world.log.end_index in world.states()
    world.open()
    assert world.derived.dispatched_index == world.log.end_index


@pytest.mark.parametrize("has_room", [True, False])
async def test_a_node_that_stops_writes_down_only_what_the_disk_has_room_for(
    world, nursery, autojump_clock, has_room
):
    """A state that counted on units the disk had refused would lose them at the next start."""
    await nursery.start(world.service.run)
    world.disk.capacity = 1
    world.service.committed_to(10)
    await trio.sleep(STATE_SECONDS + 0.1)
    world.service.committed_to(world.log.end_index)
    await trio.testing.wait_all_tasks_blocked()
    expected = {
        key[:2]: bytes(world.derived.queues.get(*key[:2]).units_from(0, unit_count_max=1 << 20))
        for key in world.derived.queues.snapshot()
    }
    if has_room:
        world.disk.capacity = 1 << 40

    world.service.write_down()

    world.disk.capacity = 1 << 40
    world.open()
    assert world.derived.dispatched_index == (world.log.end_index if has_room else 0)
    while world.derived.dispatched_index < world.log.end_index:
        world.derived.dispatch_up_to(world.log.end_index)
    for key, units in expected.items():
        assert world.derived.queues.get(*key).units_from(0, unit_count_max=1 << 20) == units


async def test_a_disk_that_fails_stops_the_service(world, nursery, autojump_clock):
    world.disk.failing["consumequeue"] = "write"
    world.service.committed_to(5)

    with pytest.raises(StorageFailedError):
        await world.service.run()


async def test_an_entry_that_cannot_be_taken_in_stops_the_service(world, nursery, autojump_clock):
    world.log.append(b"garbage")
    world.service.committed_to(world.log.end_index)

    with pytest.raises(PoisonEntryError):
        await world.service.run()


async def test_a_log_replaced_on_a_full_disk_stops_the_service_with_that_reason(
    world, nursery, autojump_clock
):
    """Seed 7: the queues of the new log did not fit, and dispatch went on behind the old one.

    It asked for an entry that the new log does not hold, which hid what was the matter.
    """
    peer = DerivedState.open(
        GrowingDisk(),
        "/derived",
        world.log,
        commit_index=world.log.end_index,
        segment_size=SEGMENT,
        metadata=CountingMachine(),
    )
    while peer.dispatched_index < world.log.end_index:
        peer.dispatch_up_to(world.log.end_index)
    for job in peer.begin_jobs(with_state=True):
        job.run()
        job.finish()
    world.log.drop_before(4 * SEGMENT)
    base = world.log.base
    world.service.install_state(base, peer.read_state(base.index))
    world.disk.capacity = 1

    with pytest.raises(LedgerFullError):
        world.service.log_replaced(base)

    world.service.committed_to(world.log.end_index)
    with pytest.raises(LedgerFullError):
        await world.service.run()


async def test_a_drop_removes_files_at_once_where_the_disk_is_too_full_to_write(
    world, nursery, autojump_clock
):
    """It makes the room that what was refused waits for."""
    await nursery.start(world.service.run)
    fill(world.log, entries=40)
    world.service.committed_to(world.log.end_index)
    await trio.sleep(STATE_SECONDS + 1)
    states = world.states()
    fill(world.log, entries=5)
    world.service.committed_to(world.log.end_index)
    world.disk.capacity = 0
    await trio.sleep(STATE_SECONDS)
    assert world.service._refused
    world.log.drop_before(2 * SEGMENT)

    world.service.log_dropped()()
    await trio.sleep(0.1)

    assert world.service._refused
    assert len(world.states()) < len(states)
    for topic, queue_id, _ in world.derived.queues.snapshot():
        queue = world.derived.queues.get(topic, queue_id)
        assert queue.position_at(queue.begin_so_far) >= world.log.base.position
