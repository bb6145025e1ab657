"""One run of retention, killed before any step of it, with and without the page cache.

Log, states and consume queues are the real ones; what comes back is the old beginning of the log or
a new one, with the state that leads there and queues that begin where the log does.
"""

from __future__ import annotations

import dataclasses
import random

import pytest

from broker.store.append_state import AppendState
from broker.store.derived import DerivedState
from broker.store.dispatch_service import DispatchService
from broker.store.reader import PullStatus, Reader
from dledger.config import StoreConfig
from dledger.entry import EntryKind
from dledger.store.disk_usage import DiskUsage
from dledger.store.housekeeping import Housekeeping
from dledger.store.ledger_store import LedgerStore
from tests.broker_store.derived_node import CountingMachine
from tests.broker_store.helpers import FixedClock, NothingDispatched, make_chunk, new_group
from tests.fakes.disk import SimulatedCrash
from tests.fakes.nodes import NodeDisk

SEGMENT = 8 * 1024
CONFIG = StoreConfig(segment_size=SEGMENT, index_file_units=128)
HOUR_MS = 3_600_000
UNITS_PER_FILE = 8


class Worker:
    """Keeps the jobs until told to do them; one thread for all of a node's."""

    def __init__(self):
        self.jobs = []

    def submit(self, job, done):
        self.jobs.append((job, done))

    def drain(self):
        while self.jobs:
            job, done = self.jobs.pop(0)
            job()
            done(None)


class Life:
    """One process over the disk."""

    def __init__(self, disk, clock, **settings):
        self.disk, self.clock = disk, clock
        self.store = LedgerStore.open(disk, CONFIG, "/data")
        self.derived = DerivedState.open(
            disk,
            "/data/derived",
            self.store,
            commit_index=self.store.checkpoint_commit_index,
            segment_size=SEGMENT,
            metadata=CountingMachine(),
            units_per_file=UNITS_PER_FILE,
        )
        self.worker = Worker()
        self.service = DispatchService(
            self.derived,
            clock=clock,
            worker=self.worker,
            state_interval_seconds=1e9,
            dispatched=lambda: None,
        )
        self.house = Housekeeping(
            self.store,
            dataclasses.replace(CONFIG, **settings),
            clock=clock,
            worker=self.worker,
            state_keeper=self.service,
            hooks=self,
        )

    # HousekeepingHooks
    @property
    def committed_index(self):
        return self.store.synced_index

    def on_segment_prepared(self, failure):
        assert failure is None

    def on_disk_measured(self, usage):
        pass

    def on_house_kept(self, failure):
        if failure is not None:
            raise failure

    def fill(self, count):
        state = AppendState(NothingDispatched(), self.store)
        for number in range(count):
            group = new_group(state, self.clock)
            group.add_chunk(make_chunk([b"%d" % number * 800] * 2, queue_id=number % 2))
            body = list(group.encode(self.store.position_for(group.body_size)))
            self.store.append(
                kind=EntryKind.NORMAL, channel=0, term=1, body=body, body_size=sum(map(len, body))
            )
        self.store.sync()
        self.catch_up()

    def catch_up(self):
        while self.derived.dispatched_index < self.store.end_index:
            self.derived.dispatch_up_to(self.store.end_index)
            for job in self.derived.begin_jobs():
                job.run()
                job.finish()

    def keep_house(self):
        for _ in range(4):
            self.clock.ms += 10_000
            self.house.start_due()
            self.worker.drain()

    def check(self):
        """Whatever is there fits together."""
        self.catch_up()
        store, base = self.store, self.store.base
        store.verify(store.begin_index, store.end_index)
        if base.index:
            assert self.derived.read_state(base.index)
        reader = Reader(store, self.derived.queues)
        for queue_id in (0, 1):
            queue = self.derived.queues.get("orders", queue_id)
            if queue.min_offset > 0:
                gone = reader.get_messages("orders", queue_id, 0, count_max=1, size_max=1)
                assert gone.status is PullStatus.OFFSET_TOO_SMALL
            firsts = [
                entry.body_position
                for entry in store.entries(store.begin_index, store.end_index)
                if int.from_bytes(entry.body[12:16], "big") == queue_id
            ]
            if not firsts:
                assert queue.min_offset == queue.max_offset
                continue
            found = reader.get_messages(
                "orders", queue_id, queue.min_offset, count_max=10_000, size_max=1 << 30
            )
            assert found.message_count == queue.max_offset - queue.min_offset
            assert queue.position_at(queue.min_offset) == firsts[0]


def filled(reason):
    """A node whose next round drops segments for a *reason*."""
    disk, clock = NodeDisk(), FixedClock()
    settings = {"log_size_max": 3 * SEGMENT} if reason == "size" else {}
    life = Life(disk, clock, **settings)
    life.fill(36)
    assert life.store.end_position > 6 * SEGMENT
    if reason == "disk":
        disk.usage = DiskUsage(used=87 * SEGMENT, available=13 * SEGMENT)
    if reason == "age":
        clock.ms += (100 + (4 - clock.local_hour() - 100) % 24) * HOUR_MS
    return life, settings


@pytest.mark.parametrize("reason", ["size", "age", "disk"])
def test_a_run_killed_before_any_step_leaves_an_old_or_a_new_beginning(reason):
    undisturbed, _ = filled(reason)
    before = undisturbed.disk.step_count
    undisturbed.keep_house()
    undisturbed.check()
    steps = undisturbed.disk.step_count - before
    end = undisturbed.store.base
    assert end.index > 0
    assert steps > 10

    bases = set()
    for step in range(steps):
        for loses_power in (False, True):
            life, settings = filled(reason)
            disk, clock = life.disk, life.clock
            disk.crash_at_step = disk.step_count + step
            with pytest.raises(SimulatedCrash):
                life.keep_house()
            disk.process_crash()
            if loses_power:
                disk.power_loss(random.Random(step))
            again = Life(disk, clock, **settings)
            again.check()
            bases.add(again.store.base.index)
            again.keep_house()
            again.check()
            assert again.store.base.index >= end.index
    assert 0 in bases
    assert end.index in bases
