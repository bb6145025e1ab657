"""The simulated disk loses what a real one may lose, and nothing else."""

from __future__ import annotations

import random

import pytest
import trio

from dledger.errors import LedgerFullError, StorageFailedError
from jepsen_like.sim.sim_disk import SimDisk
from jepsen_like.sim.sim_file import PAGE, SimFile
from jepsen_like.sim.sim_open import ProcessGoneError
from jepsen_like.sim.sim_time import SimTime
from jepsen_like.sim.trace import Trace


def run_in_sim(work) -> None:
    async def main() -> None:
        work(lambda seed: SimDisk("n1", random.Random(seed), Trace()))

    trio.run(main, clock=SimTime())


def test_what_was_synced_survives_and_what_was_not_may_be_kept_lost_or_torn() -> None:
    fates = set()

    def work(make_disk) -> None:
        for seed in range(40):
            disk = make_disk(seed)
            mount = disk.mount()
            region = mount.allocate("/data/a", 4 * PAGE, zero_size=0)
            region.write(0, [b"s" * PAGE], through_map=False)
            region.sync()
            region.write(PAGE, [b"u" * PAGE], through_map=False)
            disk.lose_power()
            found = disk.mount().read_file("/data/a")
            assert found[:PAGE] == b"s" * PAGE
            count = found.count(b"u")
            fates.add("kept" if count == PAGE else "torn" if count else "lost")

    run_in_sim(work)
    assert fates == {"kept", "lost", "torn"}


def test_a_killed_process_loses_nothing_it_wrote() -> None:
    def work(make_disk) -> None:
        disk = make_disk(1)
        mount = disk.mount()
        mount.allocate("/data/a", PAGE, zero_size=0).write(5, [b"abc"], through_map=False)
        mount.is_dead = True
        assert disk.mount().read_file("/data/a")[5:8] == b"abc"

    run_in_sim(work)


def test_a_dead_process_writes_nothing_any_more() -> None:
    def work(make_disk) -> None:
        disk = make_disk(1)
        mount = disk.mount()
        region = mount.allocate("/data/a", PAGE, zero_size=0)
        mount.is_dead = True
        region.write(0, [b"late"], through_map=False)
        mount.unlink("/data/a")
        assert disk.mount().read_file("/data/a") == bytes(PAGE)

    run_in_sim(work)


def test_a_name_is_durable_only_after_its_folder_was_synced() -> None:
    kept = set()

    def work(make_disk) -> None:
        for seed in range(20):
            disk = make_disk(seed)
            mount = disk.mount()
            mount.write_file_atomic("/data/a", b"1")
            mount.rename("/data/a", "/data/b")
            disk.lose_power()
            kept.add(tuple(sorted(disk.files)))
            mount = disk.mount()
            mount.sync_folder("/data")
            disk.lose_power()
            assert tuple(sorted(disk.files)) in kept

    run_in_sim(work)
    assert kept == {("/data/a",), ("/data/b",)}


def test_after_a_failed_sync_the_next_one_succeeds_and_lies() -> None:
    def work(make_disk) -> None:
        disk = make_disk(1)
        mount = disk.mount()
        region = mount.allocate("/data/a", PAGE, zero_size=0)
        region.write(0, [b"gone"], through_map=False)
        disk.sync_errors = 1
        with pytest.raises(StorageFailedError, match="/data/a"):
            region.sync()
        region.sync()
        assert mount.read_file("/data/a")[:4] == b"gone"  # the cache still has it
        disk.lose_power()
        assert disk.mount().read_file("/data/a")[:4] == bytes(4)

    run_in_sim(work)


def test_a_full_disk_refuses_a_new_file_and_keeps_the_old_ones() -> None:
    def work(make_disk) -> None:
        disk = make_disk(1)
        mount = disk.mount()
        mount.write_file_atomic("/data/a", b"1")
        disk.capacity = PAGE
        with pytest.raises(LedgerFullError, match="no room"):
            mount.allocate("/data/b", PAGE, zero_size=0)
        assert sorted(disk.files) == ["/data/a"]

    run_in_sim(work)


def test_a_process_may_die_at_any_step_of_an_atomic_write() -> None:
    found = set()

    def work(make_disk) -> None:
        for steps in range(5):
            disk = make_disk(steps)
            mount = disk.mount()
            mount.write_file_atomic("/data/a", b"old")
            disk.die_in_steps = steps
            try:
                mount.write_file_atomic("/data/a", b"new")
            except ProcessGoneError:
                assert mount.is_dead
            found.add(disk.mount().read_file("/data/a"))

    run_in_sim(work)
    assert found == {b"old", b"new"}


def test_a_sync_that_overtakes_another_is_not_undone_by_it() -> None:
    """Found as seeds 101, 110 and 117, which blamed the product for it."""
    file = SimFile(PAGE)
    file.write(0, b"one")
    slow = file.begin_sync()
    file.write(0, b"two")
    file.begin_sync()()
    slow()

    after, lost = file.after_power_loss(random.Random(1))

    assert after.read(0, 3) == b"two"
    assert lost == 0


def test_a_sync_promises_only_what_was_written_before_it_began() -> None:
    kept = set()
    for seed in range(30):
        file = SimFile(PAGE)
        finish = file.begin_sync()
        file.write(0, b"later")
        finish()
        after, _ = file.after_power_loss(random.Random(seed))
        kept.add(after.read(0, 5))

    assert kept == {b"later", bytes(5)}
