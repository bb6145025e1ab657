"""What the simulator found in the product, each as small as it can be, with its seed."""

from __future__ import annotations

import random

import pytest
import trio

from dledger.config import StoreConfig
from dledger.entry import EntryKind
from dledger.errors import StorageFailedError
from dledger.store.ledger_store import LedgerStore
from jepsen_like.sim.sim_disk import SimDisk
from jepsen_like.sim.sim_time import SimTime
from jepsen_like.sim.trace import Trace

CONFIG = StoreConfig(segment_size=16 * 1024, index_file_units=128)


def with_disk(work) -> None:
    """Call *work* with a disk that loses every unsynced page."""

    async def main() -> None:
        chance = random.Random(1)
        chance.random = lambda: 0.5  # type: ignore[method-assign]
        work(SimDisk("n1", chance, Trace()))

    trio.run(main, clock=SimTime())


def open_store(disk) -> LedgerStore:
    return LedgerStore.open(disk.mount(), CONFIG, "/data")


def append(store, count: int) -> None:
    for _ in range(count):
        store.append(kind=EntryKind.NORMAL, channel=0, term=1, body=[b"x" * 500], body_size=500)


def test_what_a_dead_process_failed_to_sync_is_written_again_before_it_is_believed() -> None:
    """Seed 8 of failed-sync, power, kill: a hole in the committed log of n3.

    After an I/O error Linux calls the pages clean. The restarted node read its entries back from
    the cache, synced (which wrote nothing) and promised them; the next power loss took them.
    """

    def work(disk) -> None:
        store = open_store(disk)
        append(store, 60)  # over several segments
        disk.sync_errors = 9
        with pytest.raises(StorageFailedError, match="Input/output error"):
            store.sync()
        disk.sync_errors = 0

        again = open_store(disk)
        assert again.synced_index == again.end_index > 0
        promised = again.synced_index
        disk.lose_power()

        assert open_store(disk).end_index == promised

    with_disk(work)


def test_no_checkpoint_speaks_for_what_another_sync_failed_to_write() -> None:
    """A sync that fails is told of once; the checkpoint's own sync of the same file succeeded."""

    def work(disk) -> None:
        store = open_store(disk)
        append(store, 10)
        checkpoint = store.begin_checkpoint(10)
        assert checkpoint is not None
        disk.sync_errors = 1
        with pytest.raises(StorageFailedError, match="Input/output error"):
            store.sync()

        with pytest.raises(StorageFailedError, match="an earlier sync failed"):
            checkpoint.run()

    with_disk(work)
