"""What a follower does otherwise while it is far behind: nobody waits for what it writes then."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dledger.config import FlushDiskType, StoreConfig, WriteMode
from dledger.store import ledger_writer, mapped_file_queue
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.watched_disk import WatchedDisk

KIB = 1024
SEGMENT = 64 * KIB
BODY = 4000
A_SEGMENT = SEGMENT // (BODY + 56)  # entries
STORE = StoreConfig(segment_size=SEGMENT, index_file_units=512)
ASYNC = replace(STORE, flush_disk_type=FlushDiskType.ASYNC_FLUSH)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    monkeypatch.setattr(ledger_writer, "_ROOM_AHEAD", 8 * KIB)
    monkeypatch.setattr(ledger_writer, "_FAR_BEHIND", 16 * KIB)
    monkeypatch.setattr(mapped_file_queue, "_ZERO_SIZE_NOW", 4 * KIB)


def follower_with(log, *, upto, commit, store=STORE):
    """Return one that was empty and has been sent *log* up to *upto*, one entry at a time."""
    follower = LoneCore(disk=WatchedDisk(), store=store, term=1)
    follower.connect("n2")
    feed(follower, log, after=0, upto=upto, commit=commit)
    return follower


def feed(follower, log, *, after, upto, commit):
    for index in range(after, upto):
        follower.hear("n2", log.append_message(1, after=index, upto=index + 1, commit=commit))
        while follower.store.needs_prepare:
            follower.store.prepare_next()


def test_no_zeros_are_written_ahead_of_what_the_leader_has_already():
    log = Log(*[1] * (4 * A_SEGMENT), size=BODY, store=STORE)
    follower = follower_with(log, upto=A_SEGMENT, commit=log.end)

    assert follower.disk.zero_sizes == [4 * KIB, 0], "the first, and what is made ahead"
    assert not any(follower.disk.through_map)


def test_zeros_are_written_again_where_the_next_segment_may_be_the_newest():
    """Of the next segment only a part is there: then come small entries that somebody waits for."""
    log = Log(*[1] * (2 * A_SEGMENT), size=BODY, store=STORE)
    follower = follower_with(log, upto=A_SEGMENT, commit=log.end - A_SEGMENT // 2)

    assert follower.disk.zero_sizes == [4 * KIB, 4 * KIB]


def test_who_wants_all_of_it_through_the_map_gets_that_and_zeros():
    log = Log(*[1] * (4 * A_SEGMENT), size=BODY, store=STORE)
    store = replace(STORE, write_mode=WriteMode.MMAP)
    follower = follower_with(log, upto=A_SEGMENT, commit=log.end, store=store)

    assert follower.disk.zero_sizes == [4 * KIB, 4 * KIB]
    assert all(follower.disk.through_map)


@pytest.mark.parametrize("mode", WriteMode)
@pytest.mark.parametrize("store", [STORE, ASYNC])
def test_a_follower_in_step_writes_as_it_is_told_to(store, mode):
    store = replace(store, write_mode=mode)
    log = Log(*[1] * A_SEGMENT, size=BODY, store=store)
    follower = follower_with(log, upto=A_SEGMENT, commit=0, store=store)

    assert set(follower.disk.through_map) == {mode is WriteMode.MMAP}


def test_with_async_flush_no_zeros_are_written_at_all():
    log = Log(*[1] * A_SEGMENT, size=BODY, store=ASYNC)
    follower = follower_with(log, upto=A_SEGMENT, commit=0, store=ASYNC)

    assert follower.disk.zero_sizes == [0, 0]


def test_only_segments_full_of_copies_leave_the_cache():
    """And only once what is in them has been taken in: it would be read from the disk."""
    log = Log(*[1] * (4 * A_SEGMENT), size=BODY, store=STORE)
    follower = follower_with(log, upto=3 * A_SEGMENT + 1, commit=2 * A_SEGMENT + 6)
    store = follower.store

    assert store.take_copied(A_SEGMENT) == [], "the last that was read lies in it"
    assert [file.position for file in store.take_copied(store.end_index)] == [0, SEGMENT]
    assert store.take_copied(store.end_index) == [], "each once"


@pytest.mark.parametrize("seed", range(5))
def test_what_was_written_so_is_there_after_a_power_loss_and_can_be_cut(seed):
    log = Log(*[1] * (4 * A_SEGMENT), size=BODY, store=STORE)
    follower = follower_with(log, upto=2 * A_SEGMENT, commit=log.end)
    follower.sync_log()
    synced = follower.store.end
    feed(follower, log, after=2 * A_SEGMENT, upto=2 * A_SEGMENT + 3, commit=log.end)

    follower.disk.power_loss(random.Random(seed))
    follower.start()

    store = follower.store
    assert store.end.index >= synced.index
    store.verify(1, store.end_index)
    assert store.point_at(synced.index) == synced
    follower.connect("n2")
    feed(follower, log, after=store.end_index, upto=log.end, commit=log.end)
    assert follower.store.end == log.store.end
