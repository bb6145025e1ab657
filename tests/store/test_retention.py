"""Dropping old segments, using their files again, and beginning anew from a snapshot's base."""

import pytest

from dledger.entry import LogPoint
from dledger.errors import LedgerFullError
from dledger.store.entry_index import EntryNotFoundError
from tests.store.model import FOLDER, SEGMENT, append, check_agreement, dump, fill, open_store


@pytest.fixture
def store(disk):
    store = open_store(disk)
    fill(store, 100, 400, term=1)  # nine in a segment
    store.sync()
    return store


def names(disk, folder="commitlog"):
    return disk.list_folder(f"{FOLDER}/{folder}")


def test_whole_segments_below_the_position_go_and_the_base_moves(disk, store):
    held = dump(store)
    store.drop_before(2 * SEGMENT + 100)
    assert store.base == LogPoint(18, 1, 2 * SEGMENT, held[18][2])
    assert store.begin_index == 19
    assert store.term_at(18) == 1
    assert store.point_at(18) == store.base
    with pytest.raises(EntryNotFoundError, match="entry 18 is not in the log, which holds 19 to"):
        store.view(18)
    with pytest.raises(EntryNotFoundError):
        store.bytes_at(SEGMENT, 10)
    assert f"{0:020d}" not in names(disk)
    check_agreement(store)
    again = open_store(disk)
    assert (again.base, again.end) == (store.base, store.end)
    assert dump(again) == dump(store)


@pytest.mark.parametrize("position", [0, 1, SEGMENT - 1])
def test_a_segment_with_a_wanted_byte_stays(store, position):
    assert store.begin_drop(position) is None
    assert store.begin_index == 1


def test_the_segment_being_filled_always_stays(store):
    store.drop_before(1 << 50)
    assert store.stats.segment_count == 1
    assert store.begin_index == 100
    check_agreement(store)


def test_what_is_not_synced_stays(disk):
    store = open_store(disk)
    fill(store, 20, 400, term=1)
    store.sync()
    fill(store, 50, 400, term=1)
    store.drop_before(1 << 50)
    assert store.base.index == 18


def test_the_index_files_go_with_their_entries(disk):
    store = open_store(disk)
    fill(store, 1000, 100, term=1)
    store.sync()
    store.drop_before(store.locate(600).position)
    assert names(disk, "index")[0] == f"{4 * 4096:020d}"
    check_agreement(store)
    check_agreement(open_store(disk))


def test_a_dropped_file_is_used_again(disk, store):
    store.drop_before(1 << 50)
    assert store.stats.spare_count == 2
    steps = disk.step_count
    fill(store, 18, 400, term=1)
    assert store.stats.spare_count == 0
    assert disk.step_count - steps == 2 * 18 + 2 + 2  # entries, units, blanks, renames
    check_agreement(store)
    disk.process_crash()
    check_agreement(open_store(disk))


def test_old_bytes_of_a_file_used_again_are_never_taken_for_entries(disk, store):
    """The old entries behind the new end have the right shape, but other positions."""
    store.drop_before(1 << 50)
    for _ in range(12):
        append(store, b"12345678" + bytes(392), term=1)
        assert open_store(disk).end == store.end


def test_a_file_that_is_being_read_is_not_used_again(disk, store):
    body = store.view(3).body
    content = bytes(body)
    store.drop_before(1 << 50)
    spares = [name for name in names(disk) if name.startswith("spare")]
    assert len(spares) == 2
    fill(store, 40, 399, term=1)
    assert bytes(body) == content


def test_the_files_go_only_when_the_job_runs(disk, store):
    ticket = store.begin_drop(1 << 50)
    assert f"{0:020d}" in names(disk)
    assert store.begin_index == 100
    disk.process_crash()
    assert open_store(disk).begin_index == 1
    ticket.run()
    assert f"{0:020d}" not in names(disk)


def test_drops_follow_one_another_in_any_order_of_their_jobs(disk, store):
    first, second = store.begin_drop(2 * SEGMENT), store.begin_drop(5 * SEGMENT)
    second.run()
    first.run()
    again = open_store(disk)
    assert again.base == store.base
    check_agreement(again)


def test_retention_works_on_a_full_disk(disk, store):
    """The checkpoint needs no new room, or the disk could never be freed."""
    disk.capacity = 0
    store.drop_before(1 << 50)
    assert open_store(disk).base == store.base


def test_spares_of_another_time_are_taken_up_or_removed(disk, store):
    store.drop_before(1 << 50)
    disk.allocate(f"{FOLDER}/commitlog/spare-77", 100, zero_size=0)
    disk.allocate(f"{FOLDER}/commitlog/{9:020d}.tmp", 100, zero_size=0)
    again = open_store(disk)
    assert again.stats.spare_count == 2
    assert "spare-77" not in names(disk)
    assert not any(name.endswith(".tmp") for name in names(disk))
    again.prepare_next()
    fill(again, 40, 400, term=1)
    check_agreement(open_store(disk))


def test_a_strange_file_is_left_alone(disk, store, caplog):
    disk.write_file_atomic(f"{FOLDER}/commitlog/README", b"hello")
    open_store(disk)
    assert "commitlog/README: not a file of ours" in caplog.text
    assert "README" in names(disk)


# -- snapshot install -----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 123, SEGMENT - 8])
def test_after_a_reset_the_log_goes_on_from_the_new_base(disk, store, offset):
    base = LogPoint(index=5000, term=7, position=300 * SEGMENT + offset, chain_crc=123456)
    store.reset_to(base)
    assert store.base == store.end == base
    assert (store.durable_index, store.checkpoint_commit_index) == (5000, 5000)
    assert store.term_at(5000) == 7
    ref = append(store, b"x" * 100, term=8)
    assert ref.index == 5001
    assert ref.position == base.position if offset < 200 else 301 * SEGMENT
    check_agreement(store)
    again = open_store(disk)
    assert (again.base, again.end) == (base, store.end)
    check_agreement(again)
    fill(again, 400, 300, term=9)
    check_agreement(open_store(disk))


def test_a_reset_may_be_followed_by_retention(disk, store):
    """The first segment holds no entry of its own: the next one begins right behind the base."""
    base = LogPoint(index=5000, term=7, position=301 * SEGMENT - 60, chain_crc=1)
    store.reset_to(base)
    fill(store, 30, 400, term=7)
    store.sync()
    store.drop_before(301 * SEGMENT)
    assert store.base == LogPoint(5000, 7, 301 * SEGMENT, 1)
    check_agreement(open_store(disk))


def test_a_reset_that_finds_no_room_changes_nothing(disk, store):
    disk.capacity = 0
    held = dump(store)
    with pytest.raises(LedgerFullError):
        store.reset_to(LogPoint(5000, 7, 300 * SEGMENT, 1))
    assert dump(store) == held
    assert open_store(disk).end == store.end


def test_views_survive_a_reset(store):
    body = store.view(50).body
    content = bytes(body)
    store.reset_to(LogPoint(5000, 7, 300 * SEGMENT, 1))
    fill(store, 100, 400, term=9)
    assert bytes(body) == content
