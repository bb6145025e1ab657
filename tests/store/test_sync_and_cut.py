"""What may be promised: after a sync, after a cut in the middle of a sync, after a restart."""

import random

import pytest

from dledger.errors import CorruptStoreError, StorageFailedError
from dledger.store.entry_index import EntryNotFoundError
from tests.store.model import (
    ASYNC,
    FOLDER,
    SEGMENT,
    append,
    check_agreement,
    dump,
    fill,
    open_store,
)


def test_an_entry_is_durable_when_its_sync_is_finished_not_before(store):
    fill(store, 3, term=1)
    assert store.durable_index == 0
    ticket = store.begin_sync()
    fill(store, 2, term=1)
    ticket.run()
    assert store.durable_index == 0
    assert store.finish_sync(ticket) == 3
    assert store.sync() == 5
    assert store.begin_sync() is None


def test_entries_waiting_on_a_sync_share_the_next_one(disk, store):
    append(store, b"first", term=1)
    ticket = store.begin_sync()
    before = disk.sync_count
    fill(store, 50, 20, term=1)
    ticket.run()
    store.finish_sync(ticket)
    store.sync()
    assert disk.sync_count == before + 2
    assert store.durable_index == 51


def test_with_async_flush_the_page_cache_is_durable_enough(disk):
    store = open_store(disk, ASYNC)
    fill(store, 3, term=1)
    assert (store.durable_index, store.synced_index) == (3, 0)
    store.sync()
    assert store.synced_index == 3


def test_a_cut_takes_back_what_a_running_sync_would_have_promised(store):
    """RabbitMQ's ra, issue 516: a late "written" confirmed unwritten entries of a later term."""
    fill(store, 10, term=1)
    ticket = store.begin_sync()
    store.truncate_from(6)
    fill(store, 5, term=2)
    ticket.run()
    assert store.finish_sync(ticket) == 5
    assert store.sync() == 10


def test_a_cut_takes_back_what_is_synced(store):
    fill(store, 10, term=1)
    store.sync()
    store.truncate_from(6)
    assert (store.durable_index, store.synced_index, store.end_index) == (5, 5, 5)
    fill(store, 3, term=2)
    assert store.durable_index == 5


def test_a_cut_behind_a_running_sync_leaves_it_alone(store):
    fill(store, 5, term=1)
    ticket = store.begin_sync()
    fill(store, 5, term=1)
    store.truncate_from(8)
    ticket.run()
    assert store.finish_sync(ticket) == 5


def test_a_reset_takes_back_what_a_running_sync_would_have_promised(store):
    fill(store, 100, 400, term=1)
    ticket = store.begin_sync()
    store.reset_to(store.point_at(20))
    fill(store, 10, term=2)
    ticket.run()
    assert store.finish_sync(ticket) == 20


def test_tickets_finish_in_the_order_in_which_they_began(store):
    fill(store, 20, 1000, term=1)
    first = store.begin_sync()
    fill(store, 1, term=1)
    second = store.begin_sync()
    second.run()
    first.run()
    with pytest.raises(AssertionError, match="order"):
        store.finish_sync(second)
    assert store.finish_sync(first) == 20
    assert store.finish_sync(second) == 21


def test_a_ticket_that_has_not_run_promises_nothing(store):
    fill(store, 1, term=1)
    ticket = store.begin_sync()
    with pytest.raises(AssertionError, match=r"run\(\) comes first"):
        store.finish_sync(ticket)


def test_a_failed_sync_is_never_tried_again(disk, store):
    fill(store, 1, term=1)
    disk.failing["/commitlog/"] = "sync"
    ticket = store.begin_sync()
    with pytest.raises(StorageFailedError, match="commitlog"):
        ticket.run()
    disk.failing.clear()
    with pytest.raises(StorageFailedError):
        store.finish_sync(ticket)
    with pytest.raises(StorageFailedError):
        store.begin_sync()
    assert store.durable_index == 0


def test_a_sync_covers_the_names_of_new_segments(disk, store):
    fill(store, 30, 400, term=1)
    assert store.sync() == 30
    disk.power_loss(random.Random(1))
    assert open_store(disk).end_index == 30


def test_a_dead_process_leaves_nothing_durable_until_it_is_synced_again(disk, store):
    """Its page cache is there, but a power loss right after the start must not take it."""
    fill(store, 10, term=1)
    disk.process_crash()
    again = open_store(disk)
    assert again.durable_index == 10
    disk.power_loss(random.Random(3))
    assert open_store(disk).end_index == 10


def test_a_cut_may_go_back_over_segments(disk, store):
    fill(store, 50, 400, term=1)
    store.truncate_from(4)
    assert store.end_index == 3
    assert store.stats.segment_count == 1
    fill(store, 60, 333, term=2)
    check_agreement(store)
    assert dump(open_store(disk)) == dump(store)


def test_a_cut_at_the_first_entry_of_a_segment_ends_in_the_segment_before(disk, store):
    fill(store, 30, 400, term=1)  # nine in a segment
    assert store.locate(10).position == SEGMENT
    store.truncate_from(10)
    assert store.stats.segment_count == 1
    assert store.end_position == 9 * 448
    assert open_store(disk).end == store.end
    append(store, b"small", term=2)
    assert store.locate(10).position == 9 * 448


def test_all_of_the_log_may_be_cut(disk, store):
    fill(store, 30, 400, term=1)
    store.truncate_from(1)
    assert store.end == store.base
    assert open_store(disk).end_index == 0
    store.truncate_from(1)
    with pytest.raises(EntryNotFoundError):
        store.truncate_from(3)
    with pytest.raises(EntryNotFoundError):
        store.truncate_from(0)


def test_what_was_cut_never_comes_back(disk, store):
    """Same sizes, same places: only the chain tells the old entry behind the new one."""
    fill(store, 9, 100, term=1)
    store.sync()
    store.truncate_from(3)
    fill(store, 1, 100, term=2)
    assert open_store(disk).end_index == 3


def test_a_committed_entry_is_never_cut(store):
    fill(store, 10, term=1)
    store.begin_checkpoint(7).run()
    store.truncate_from(8)
    with pytest.raises(CorruptStoreError, match="entries up to 7 are committed"):
        store.truncate_from(7)
    assert store.end_index == 7


def test_views_of_a_segment_cut_off_keep_their_bytes(disk, store):
    """The file is unlinked, not used again, as long as somebody reads it."""
    fill(store, 30, 400, term=1)
    body = store.view(20).body
    content = bytes(body)
    store.truncate_from(5)
    fill(store, 60, 300, term=2)
    assert bytes(body) == content


# -- checkpoint ---------------------------------------------------------------------------------


def test_a_restart_scans_from_the_checkpoint_only(disk, store):
    fill(store, 2000, 100, term=1)
    store.begin_checkpoint(1990).run()
    again = open_store(disk)
    assert again.end_index == 2000
    assert again.scanned_count == 10
    assert again.checkpoint_commit_index == 1990
    check_agreement(again)


def test_without_a_checkpoint_all_of_the_log_is_scanned(disk, store):
    fill(store, 200, 100, term=1)
    assert open_store(disk).scanned_count == 200


def test_a_checkpoint_syncs_what_it_speaks_of(disk, store):
    fill(store, 100, 400, term=1)
    store.begin_checkpoint(100).run()
    disk.power_loss(random.Random(5))
    again = open_store(disk)
    assert (again.end_index, again.scanned_count) == (100, 0)
    check_agreement(again)


def test_a_checkpoint_never_goes_back(disk, store):
    fill(store, 20, term=1)
    store.begin_checkpoint(15).run()
    assert store.begin_checkpoint(10) is None
    assert store.begin_checkpoint(15) is None
    assert store.checkpoint_commit_index == 15


def test_a_checkpoint_that_runs_late_does_not_replace_a_newer_one(disk, store):
    fill(store, 100, 400, term=1)
    late = store.begin_checkpoint(10)
    store.begin_checkpoint(90).run()
    store.drop_before(store.point_at(80).position)
    late.run()
    again = open_store(disk)
    assert again.base == store.base
    assert again.checkpoint_commit_index == 90


def test_a_checkpoint_that_runs_after_a_reset_does_not_bring_the_old_base_back(disk, store):
    fill(store, 100, 400, term=1)
    late = store.begin_checkpoint(90)
    base = store.point_at(95)
    store.reset_to(base)
    late.run()
    assert open_store(disk).base == base


def test_only_committed_entries_are_covered(disk, store):
    fill(store, 10, term=1)
    store.begin_checkpoint(99).run()
    assert store.checkpoint_commit_index == 10
    assert f"{FOLDER}/checkpoint" in disk.files()
