"""What is appended is read back, by every way there is, and lies where RocketMQ's rule puts it."""

import random

import pytest

from dledger.entry import EntryKind, LogPoint, encode_filler
from dledger.errors import CorruptEntryError, LedgerFullError, StorageFailedError
from dledger.store.entry_index import EntryNotFoundError
from dledger.store.os_disk import OsDisk
from tests.fakes.disk import FakeDisk
from tests.fakes.watched_disk import WatchedDisk
from tests.store.model import (
    ASYNC,
    ASYNC_MAPPED,
    CONFIG,
    FOLDER,
    MAPPED,
    SEGMENT,
    append,
    check_agreement,
    dump,
    fill,
    open_store,
)


def test_an_empty_log_ends_at_its_base(store):
    assert store.base == store.end == LogPoint(0, 0, 0, 0)
    assert (store.begin_index, store.end_index, store.end_term, store.end_position) == (1, 0, 0, 0)
    assert (store.last_chain_crc, store.durable_index) == (0, 0)
    assert store.term_at(0) == 0
    with pytest.raises(EntryNotFoundError, match="entry 1 is not in the log, which holds 1 to 0"):
        store.view(1)


@pytest.mark.parametrize("config", [CONFIG, MAPPED, ASYNC], ids=["pwrite", "mapped", "async"])
@pytest.mark.parametrize("is_real", [False, True], ids=["fake", "real"])
def test_entries_read_back_as_they_were_appended(config, is_real, tmp_path):
    disk = OsDisk() if is_real else FakeDisk()
    folder = str(tmp_path / "data") if is_real else FOLDER
    store = open_store(disk, config, folder)
    chance = random.Random(1)
    expected = {}
    for index in range(1, 300):
        body = chance.randbytes(chance.choice((0, 5, 100, 1000, SEGMENT - 56)))
        parts = [memoryview(body[:3]), bytearray(body[3:]), b""]
        ref = store.append(
            kind=EntryKind.NORMAL,
            channel=index % 2,
            term=1 + index // 70,
            body=parts,
            body_size=len(body),
        )
        assert ref == store.locate(index)
        expected[index] = (1 + index // 70, ref.position, store.last_chain_crc, 1, index % 2, body)
    assert dump(store) == expected
    check_agreement(store)
    store.close()
    again = open_store(disk, config, folder)
    assert dump(again) == expected
    check_agreement(again)
    again.close()


def test_the_position_promised_is_the_position_taken(store):
    for size in (0, 4000, 100, 3900, 4040, 1, 2000, 2100, 0):
        position = store.position_for(size)
        assert append(store, bytes(size)).position == position


def test_an_entry_that_does_not_fit_leaves_a_blank_and_starts_the_next_segment(disk, store):
    append(store, bytes(1000))
    append(store, bytes(4000))
    assert store.locate(2).position == SEGMENT
    content = disk.files()[f"{FOLDER}/commitlog/00000000000000000000"]
    assert content[1048:1056] == encode_filler(SEGMENT - 1048)
    assert f"{FOLDER}/commitlog/00000000000000004096" in disk.files()


def test_the_largest_entry_fills_a_segment_but_for_the_blank(store):
    append(store, b"x" * (SEGMENT - 56))
    append(store, b"x" * (SEGMENT - 56))
    assert store.locate(2).position == SEGMENT
    assert not store.has_room(SEGMENT - 55)


def test_a_follower_holds_the_very_bytes_of_its_leader(disk, store):
    fill(store, 50, 300, term=1)
    fill(store, 50, 77, term=2)
    for size_max in (1, 500, 10_000):
        other_disk = FakeDisk()
        follower = open_store(other_disk)
        while follower.end_index < store.end_index:
            raw, last = store.raw_range(follower.end_index + 1, size_max=size_max)
            refs = follower.append_raw(raw)
            assert [ref.index for ref in refs] == list(
                range(follower.end_index + 1 - len(refs), last + 1)
            )
        assert follower.end == store.end
        leader_files, follower_files = disk.files(), other_disk.files()
        for path, content in follower_files.items():
            if "/commitlog/" in path or "/index/" in path:
                assert leader_files[path] == content


@pytest.mark.parametrize(
    "then",
    [
        lambda store: store.write_out(),
        lambda store: store.view(2),
        lambda store: store.bytes_at(100, store.end_position - 100),
        lambda store: append(store, b"next", may_wait=True),
        lambda store: append(store, bytes(SEGMENT - 56)),  # to the next segment
        lambda store: store.begin_sync(),
    ],
    ids=["write_out", "read", "bytes", "append", "roll", "sync"],
)
def test_an_entry_that_may_wait_is_sent_before_it_is_written(disk, store, then):
    path = f"{FOLDER}/commitlog/00000000000000000000"
    append(store, b"first")
    append(store, b"second", may_wait=True)
    raw, last = store.raw_range(2, size_max=1)
    store.raw_range(1, size_max=1)  # what lies in front of it may be read by anybody
    ref = store.locate(2)

    assert (raw.nbytes, last, bytes(raw[-6:])) == (ref.size, 2, b"second")
    assert not any(disk.files()[path][ref.position : ref.end])
    then(store)
    assert disk.files()[path][ref.position : ref.end] == bytes(raw)


@pytest.mark.parametrize(
    "then",
    [
        lambda store: store.write_out(),
        lambda store: store.view(2),
        lambda store: append(store, b"next", may_wait=True),
        lambda store: store.sync(),
    ],
    ids=["write_out", "read", "append", "sync"],
)
def test_an_entry_that_could_not_be_written_later_is_never_passed_over(disk, store, then):
    """It has its place in the log: a sync without it would call it durable, and it is not there."""
    append(store, b"first")
    store.sync()
    append(store, b"second", may_wait=True)
    disk.failing["/commitlog/"] = "write"

    with pytest.raises(StorageFailedError, match="commitlog"):
        store.write_out()
    with pytest.raises(StorageFailedError, match="commitlog"):
        then(store)
    assert store.synced_index == 1
    store.close()
    assert open_store(disk_after_a_restart(disk)).end_index == 1


def disk_after_a_restart(disk):
    disk.failing.clear()
    disk.process_crash()
    return disk


@pytest.mark.parametrize("config", [ASYNC, MAPPED], ids=["async", "mapped"])
def test_no_entry_waits_to_be_written_where_memory_is_all_that_is_promised(config):
    store = open_store(disk := FakeDisk(), config)
    ref = append(store, b"first", may_wait=True)

    content = disk.files()[f"{FOLDER}/commitlog/00000000000000000000"]
    assert content[: ref.end] == bytes(store.raw_range(1, size_max=1)[0])


def test_raw_entries_may_span_segments_in_one_append(store):
    fill(store, 40, 300, term=1)
    raw = b"".join(bytes(store.raw_range(i, size_max=1)[0]) for i in range(1, 41))
    follower = open_store(FakeDisk())
    assert len(follower.append_raw(memoryview(raw))) == 40
    assert follower.end == store.end
    check_agreement(follower)


@pytest.mark.parametrize("damage", ["body", "index", "gap", "short", "again"])
def test_nothing_of_a_damaged_message_is_written(store, damage):
    fill(store, 20, 300, term=1)
    follower = open_store(FakeDisk())
    follower.append_raw(store.raw_range(1, size_max=1)[0])
    parts = [bytearray(store.raw_range(i, size_max=1)[0]) for i in range(2, 21)]
    if damage == "body":
        parts[-1][-1] ^= 1
    elif damage == "index":
        parts[-1][15] ^= 1
    elif damage == "gap":
        del parts[9]
    elif damage == "short":
        del parts[-1][-1:]
    else:
        parts.insert(0, bytearray(store.raw_range(1, size_max=1)[0]))
    with pytest.raises(CorruptEntryError, match=r"entry \d+: "):
        follower.append_raw(memoryview(b"".join(parts)))
    assert follower.end_index == 1
    assert follower.stats.appended_count == 1
    check_agreement(follower)


def test_raw_range_gives_what_fits_and_at_least_one(store):
    fill(store, 20, 300, term=1)  # 348 bytes each, eleven in a segment
    assert store.raw_range(1, size_max=0)[1] == 1
    assert store.raw_range(1, size_max=347)[1] == 1
    assert store.raw_range(1, size_max=695)[1] == 1
    assert store.raw_range(1, size_max=696)[1] == 2
    assert store.raw_range(1, size_max=1 << 30)[1] == 11
    assert store.raw_range(12, size_max=1 << 30)[1] == 20
    raw, last = store.raw_range(20, size_max=1 << 30)
    assert (len(raw), last) == (348, 20)
    with pytest.raises(EntryNotFoundError):
        store.raw_range(21, size_max=1)


def test_terms_are_found_by_binary_search(store):
    for term in (1, 1, 1, 4, 4, 9):
        append(store, b"x", term=term)
    assert [store.first_index_of_term(term) for term in (0, 1, 2, 4, 5, 9, 10)] == [
        1,
        1,
        4,
        4,
        6,
        6,
        7,
    ]
    assert store.first_index_of_term(store.term_at(5)) == 4


def test_a_position_in_the_blank_belongs_to_the_entry_behind_it(store):
    append(store, bytes(1000))
    append(store, bytes(4000))
    assert store.find_index_at_position(1047) == 1
    assert store.find_index_at_position(1048) == 2
    assert store.find_index_at_position(SEGMENT) == 2
    with pytest.raises(EntryNotFoundError):
        store.find_index_at_position(store.end_position)


def test_bytes_are_read_by_position(store):
    fill(store, 3, 100, term=1)
    ref = store.locate(2)
    assert store.bytes_at(ref.body_position, 8) == b"00000002"
    with pytest.raises(EntryNotFoundError):
        store.bytes_at(store.end_position - 1, 2)


def test_views_cannot_be_written_to(store):
    append(store, b"body", term=1)
    assert store.view(1).body.readonly
    assert store.raw_range(1, size_max=100)[0].readonly
    assert store.bytes_at(0, 10).readonly


def test_a_term_below_the_last_is_our_own_mistake(store):
    append(store, b"x", term=3)
    with pytest.raises(AssertionError):
        append(store, b"x", term=2)


# -- room ---------------------------------------------------------------------------------------


def test_has_room_keeps_a_place_for_one_no_op(store):
    """A new leader's no-op must never wait for an allocation."""
    assert store.has_room(SEGMENT - 48 - 56)  # entry, no-op and blank fill the segment
    assert not store.has_room(SEGMENT - 48 - 55)
    store.prepare_next()
    assert store.has_room(SEGMENT - 56)
    append(store, bytes(SEGMENT - 48 - 56), term=1)
    append(store, b"", kind=EntryKind.NOOP, term=2)
    assert store.stats.segment_count == 1


def test_a_worker_prepares_what_the_loop_will_need(disk, store):
    assert store.needs_prepare
    store.prepare_next()
    assert not store.needs_prepare
    store.prepare_next()  # once is enough
    assert store.stats.spare_count == 1
    steps = disk.step_count
    append(store, bytes(3000))
    append(store, bytes(3000))
    assert "allocate" not in disk.last_step
    assert disk.step_count == steps + 6  # two entries, one blank, two units, one rename
    assert store.needs_prepare


def test_room_is_made_for_an_entry_as_large_as_a_segment(store):
    """It takes one, and leaves its no-op to another: both have to be there before it."""
    append(store, bytes(3000))
    store.prepare_next()
    assert not store.has_room(SEGMENT - 56)

    while store.needs_prepare:
        count = store.stats.spare_count
        store.prepare_next()
        assert store.stats.spare_count > count, "called in vain, for ever"

    assert store.has_room(SEGMENT - 56)
    append(store, bytes(SEGMENT - 56))
    append(store, b"", kind=EntryKind.NOOP)
    assert store.stats.spare_count == 0


def test_the_next_segment_may_be_made_early_and_gets_zeros_in_step(store):
    assert not store.may_prepare
    store.prepare_next()
    while store.end_position <= SEGMENT // 8:
        assert not store.owes_zeros
        append(store, b"")
    assert not store.may_prepare, "there is one"
    assert not store.owes_zeros, "it is so small that all was zeroed at once"
    store._log._spares.clear()
    assert store.may_prepare


def test_the_index_is_prepared_as_well(store):
    """128 units a file: the next file is wanted from the middle of the last one on."""
    store.prepare_next()
    for _ in range(300):
        if store.needs_prepare:
            store.prepare_next()
        assert store.has_room(8)
        append(store, b"12345678", term=1)
    check_agreement(store)


def test_a_full_disk_refuses_an_entry_and_changes_nothing():
    disk = FakeDisk(capacity=30_000)
    store = open_store(disk)
    with pytest.raises(LedgerFullError, match=r"commitlog/spare-\d+: no room for 4096 bytes, \d+"):
        fill(store, 1000, 900, term=1)
    end = store.end
    assert not store.has_room(SEGMENT - 56)
    with pytest.raises(LedgerFullError):
        store.prepare_next()
    with pytest.raises(LedgerFullError):
        fill(store, 1, 3000, term=1)
    assert store.end == end
    check_agreement(store)
    disk.capacity = 1 << 30
    fill(store, 5, 3000, term=1)
    check_agreement(open_store(disk))


def test_a_failed_write_stops_the_store(disk, store):
    disk.failing["/commitlog/"] = "write"
    with pytest.raises(StorageFailedError, match="commitlog"):
        append(store, b"x", term=1)
    assert store.end_index == 0


def test_stats_count_what_was_done(store):
    fill(store, 30, 300, term=1)
    store.sync()
    store.truncate_from(29)
    stats = store.stats
    assert (stats.appended_count, stats.appended_size) == (30, 30 * 348)
    assert (stats.sync_count, stats.truncation_count, stats.segment_count) == (1, 1, 3)
    assert stats.log_size == store.end_position


def test_raw_range_agrees_with_a_walk_from_every_start_and_for_every_size(store):
    chance = random.Random(4)
    for _ in range(80):
        append(store, bytes(chance.choice((0, 10, 200, 900))), term=1)
    refs = [store.locate(index) for index in range(1, 81)]
    for first in refs:
        for size_max in (0, 48, 100, 500, 1500, 3000, 1 << 20):
            last = first
            for ref in refs[first.index :]:
                fits = ref.end - first.position <= size_max
                if not fits or ref.position // SEGMENT != first.position // SEGMENT:
                    break
                last = ref
            raw, last_index = store.raw_range(first.index, size_max=size_max)
            assert (last_index, len(raw)) == (last.index, last.end - first.position)


@pytest.mark.parametrize(
    ("config", "zero_size"),
    [(CONFIG, SEGMENT), (ASYNC, 0), (MAPPED, SEGMENT), (ASYNC_MAPPED, SEGMENT)],
)
def test_segments_are_filled_with_zeros_ahead_where_something_waits_and_index_files_are_not(
    config, zero_size
):
    """A sync does, and a store through the map: into blocks that were never written it waits for
    the file system's journal, which a sync beside it may keep busy for 60 ms."""
    disk = FakeDisk()
    zeroed: dict[str, set[int]] = {"commitlog": set(), "index": set()}
    allocate = disk.allocate

    def noting(path, size, *, zero_size):
        zeroed[path.split("/")[-2]].add(zero_size)
        return allocate(path, size, zero_size=zero_size)

    disk.allocate = noting
    store = open_store(disk, config)
    store.prepare_next()

    assert zeroed == {"commitlog": {zero_size}, "index": {0}}


@pytest.mark.parametrize(
    ("config", "through_map"), [(CONFIG, False), (ASYNC, False), (MAPPED, True)]
)
def test_entries_go_through_the_map_only_where_that_is_asked_for(config, through_map):
    disk = WatchedDisk()
    fill(open_store(disk, config), 3, 700, term=1)

    assert set(disk.through_map) == {through_map}


def test_a_snapshot_needs_no_second_spare():
    """A deposed leader may have wanted two, and its disk have room for none but those it has."""
    disk = FakeDisk()
    store = open_store(disk)
    append(store, bytes(3000))
    store.prepare_next()
    assert not store.has_room(SEGMENT - 56), "two are wanted"
    disk.capacity = 0

    store.reset_to(LogPoint(9, 2, 5 * SEGMENT, 0))

    assert store.end_index == 9
