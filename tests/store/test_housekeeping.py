"""When files may go: never before the log's new base is on the disk."""

from __future__ import annotations

import dataclasses

from dledger.store.housekeeping import Housekeeping
from tests.fakes.disk import FakeDisk
from tests.store.model import CONFIG, SEGMENT, fill, open_store


class Clock:
    seconds = 0.0

    def now(self):
        return self.seconds


class Worker:
    """Keeps the jobs until told to do them."""

    def __init__(self):
        self.jobs = []

    def submit(self, job, done):
        self.jobs.append((job, done))

    def do_all(self):
        while self.jobs:
            job, done = self.jobs.pop(0)
            job()
            done(None)


class Keeper:
    """Tells what base a crash would bring back at the moment its files may go."""

    def __init__(self, disk, store):
        self.disk, self.store = disk, store
        self.bases_found = []

    def has_state(self, index):
        return True

    def applied_index(self):
        return self.store.end_index

    def log_dropped(self):
        assert open_store(self.disk).base.index == 0
        return lambda: self.bases_found.append(open_store(self.disk).base.index)


class Hooks:
    def __init__(self, store):
        self.store = store

    @property
    def committed_index(self):
        return self.store.synced_index

    def on_house_kept(self, failure):
        assert failure is None

    def on_segment_prepared(self, failure):
        assert failure is None


def test_a_state_goes_only_when_the_base_behind_it_is_durable():
    """Seed 200027: killed in between, and the log that came back had no state to begin from."""
    disk, worker, clock = FakeDisk(), Worker(), Clock()
    store = open_store(disk)
    fill(store, 100, 400, term=1)
    store.sync()
    keeper = Keeper(disk, store)
    house = Housekeeping(
        store,
        dataclasses.replace(CONFIG, log_size_max=2 * SEGMENT),
        clock=clock,
        worker=worker,
        state_keeper=keeper,
        hooks=Hooks(store),
    )

    clock.seconds = 1e6
    house.start_due()

    assert store.base.index > 0  # readers are told at once
    assert keeper.bases_found == []
    worker.do_all()
    assert keeper.bases_found == [store.base.index]
