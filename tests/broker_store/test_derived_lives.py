"""Derived state that is killed at any step, with and without its page cache, and comes back.

Whatever happens to the files, a start ends with the same units and the same state as a node that
nothing ever happened to.
"""

from __future__ import annotations

import random

import pytest

from broker.store import growing_files
from broker.store.derived import DerivedState
from dledger.errors import StorageFailedError
from tests.broker_store.derived_node import SEGMENT, CountingMachine, fill
from tests.broker_store.growing_disk import GrowingDisk
from tests.broker_store.helpers import MemoryLog
from tests.fakes.disk import SimulatedCrash

UNITS_PER_FILE = 50


@pytest.fixture(scope="module")
def whole():
    """What a node without mishaps derives, by the index of the last entry."""
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=3, entries=40)
    return log


def start(disk, log):
    return DerivedState.open(
        disk,
        "/derived",
        log,
        commit_index=log.end_index,
        segment_size=SEGMENT,
        metadata=CountingMachine(),
        units_per_file=UNITS_PER_FILE,
    )


def run(jobs):
    for job in jobs:
        job.run()
        job.finish()


def everything(derived, log):
    """Catch up; return the state's bytes, every unit that can be read and the index's files."""
    while derived.dispatched_index < log.end_index:
        derived.dispatch_up_to(log.end_index)
    run(derived.begin_jobs(with_state=True))
    units = {}
    for topic, queue_id, end in derived.queues.snapshot():
        queue = derived.queues.get(topic, queue_id)
        begin = queue.min_offset
        found = queue.units_from(begin, unit_count_max=end) if begin < end else b""
        units[topic, queue_id] = begin, end, bytes(found)
    index_files = derived.key_index.files
    index = {path: index_files._disk.read_file(path) for path in derived.key_index.paths}
    return derived.read_state(log.end_index), units, index


def live(disk, log, chance):
    """Dispatch and write down in random steps until the end or a crash."""
    derived = start(disk, log)
    while derived.dispatched_index < log.end_index:
        derived.dispatch_up_to(log.end_index, size_max=chance.choice([1, 60_000]))
        if chance.random() < 0.7:
            run(derived.begin_jobs(with_state=chance.random() < 0.6))


@pytest.fixture(autouse=True)
def in_every_other_all_files_are_synced_together(request, monkeypatch):
    if sum(n for n in request.node.callspec.params.values() if type(n) is int) % 2:
        monkeypatch.setattr(growing_files, "SYNCED_EACH_MAX", 0)


@pytest.fixture(scope="module")
def with_deletions():
    """The same with topics that are deleted, and made again by the next message."""
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=4, entries=50, deletes=True)
    return log


@pytest.mark.parametrize("batch", range(3))
def test_lives_of_crashes_with_deleted_topics_end_with_the_same_bytes(with_deletions, batch):
    test_lives_of_crashes_end_with_the_same_bytes(with_deletions, batch + 10)


@pytest.fixture(scope="module")
def with_trims():
    """The same with queues that are trimmed, and topics that are deleted."""
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=6, entries=50, deletes=True, trims=True)
    return log


@pytest.mark.parametrize("batch", range(3))
def test_lives_of_crashes_with_trimmed_queues_end_with_the_same_bytes(with_trims, batch):
    test_lives_of_crashes_end_with_the_same_bytes(with_trims, batch + 20)


@pytest.mark.parametrize("batch", range(6))
def test_lives_of_crashes_end_with_the_same_bytes(whole, batch):
    expected = everything(start(GrowingDisk(), whole), whole)
    crashes = 0
    for seed in range(10 * batch, 10 * batch + 10):
        chance = random.Random(seed)
        disk = GrowingDisk()
        for _ in range(chance.randint(2, 8)):
            if chance.random() < 0.5:
                disk.crash_at_step = disk.step_count + chance.randrange(1, 150)
            else:
                disk.crash_after_bytes = chance.randrange(20_000)
            try:
                live(disk, whole, chance)
            except SimulatedCrash:
                crashes += 1
            if chance.random() < 0.7:
                disk.power_loss(chance)
            else:
                disk.process_crash()

        assert everything(start(disk, whole), whole) == expected, f"seed {seed}"
    assert crashes > 10


@pytest.mark.parametrize("seed", range(60))
def test_a_life_of_crashes_after_retention_ends_with_the_same_bytes(seed):
    chance = random.Random(seed)
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=3, entries=40, trims=seed >= 40)
    disk = GrowingDisk()
    derived = start(disk, log)
    everything(derived, log)
    log.drop_before(2 * SEGMENT)
    jobs = []
    jobs.append(derived.begin_drop(jobs.append))
    if chance.random() < 0.5:
        disk.crash_at_step = disk.step_count + chance.randrange(6)
    expected = everything(derived, log) if disk.crash_at_step is None else None
    try:
        for job in jobs:  # the first adds another
            job.run()
            job.finish()
    except SimulatedCrash:
        disk.power_loss(chance)
    for _ in range(3):
        disk.crash_at_step = disk.step_count + chance.randrange(1, 100)
        try:
            live(disk, log, chance)
        except SimulatedCrash:
            disk.power_loss(chance)
        disk.process_crash()

    found = everything(start(disk, log), log)

    assert expected is None or found == expected
    there = {path for path in disk.files() if "/keyindex/" in path}
    assert there - set(found[2]) == set()
    for begin, end, units in found[1].values():
        assert len(units) == 20 * (end - begin)


@pytest.mark.parametrize("verb", ["write", "sync"])
def test_a_disk_that_fails_is_not_tried_again(whole, verb):
    disk = GrowingDisk()
    derived = start(disk, whole)
    derived.dispatch_up_to(whole.end_index)
    disk.failing["consumequeue"] = verb

    with pytest.raises(StorageFailedError, match="consumequeue"):
        run(derived.begin_jobs(with_state=True))

    assert not [path for path in disk.files() if "state-" in path]
