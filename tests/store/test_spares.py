"""Files made ahead: zeroed as long as nobody has taken them, and not a byte further."""

from __future__ import annotations

import contextlib
import errno
import threading

import pytest

from dledger.errors import StorageFailedError
from dledger.store import mapped_file_queue
from dledger.store.mapped_file_queue import MappedFileQueue
from dledger.store.zeros import ZEROS
from tests.fakes.disk import FakeDisk

KIB = 1024
MIB = 1024 * KIB
SIZE = 8 * KIB


@pytest.fixture
def queue(monkeypatch):
    monkeypatch.setattr(mapped_file_queue, "_zero_sizes", lambda _: (2 * KIB, KIB))
    monkeypatch.setattr(mapped_file_queue, "ZEROS_SIZE", KIB // 4)
    monkeypatch.setattr(mapped_file_queue, "ZEROS", ZEROS[: KIB // 4])
    queue = MappedFileQueue.open(FakeDisk(), "log", SIZE, start=0, zeroes=True)
    queue.reset(0)
    return queue


def zero_all(queue):
    """Have the next file zeroed until there is nothing left to do."""
    while queue.zeroed_size < queue.file_size:
        queue.zero_more()


def at_each_piece(queue, monkeypatch, hear):
    """Call *hear* with the number of pieces written so far, each time one is synced."""
    open_region, pieces = queue._disk.open_region, []

    def watched(path, *, writable):
        region = open_region(path, writable=writable)
        sync = region.sync

        def syncing():
            sync()
            pieces.append(region.path)
            hear(len(pieces))

        region.sync = syncing
        return region

    monkeypatch.setattr(queue._disk, "open_region", watched)


def test_a_spare_is_zeroed_to_its_end_when_nobody_takes_it(queue, monkeypatch):
    counts = []
    at_each_piece(queue, monkeypatch, counts.append)

    queue.prepare_spare()
    assert (counts, queue.zeroed_size) == ([], 2 * KIB), "some comes with the file"
    assert queue.spare_count == 1, "it is there before it is zeroed"
    queue.zero_more()
    assert (counts, queue.zeroed_size) == ([1], 3 * KIB)
    zero_all(queue)
    queue.zero_more()

    assert counts == [1, 2, 3, 4, 5, 6], "all but the two that come with the file"
    assert queue.spare_count == 1


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (4 * KIB, (4 * KIB, 4 * KIB)),
        (16 * KIB, (4 * KIB, 4 * KIB)),
        (60 * MIB, (960 * KIB, 960 * KIB)),
        (1024 * MIB, (4 * MIB, MIB)),
    ],
)
def test_small_files_get_their_zeros_in_small_pieces(size, sizes):
    assert mapped_file_queue._zero_sizes(size) == sizes


def test_the_first_file_of_a_log_is_zeroed_to_its_end(queue, monkeypatch):
    counts = []
    at_each_piece(queue, monkeypatch, counts.append)

    queue.reset(0, zeroes_all=True)

    assert counts == [1, 2, 3, 4, 5, 6]
    assert queue.zeroed_size == SIZE


def test_a_log_that_begins_anew_waits_for_no_zeros(queue, monkeypatch):
    """A state is installed on the event loop, and the next file may have few of them as yet."""
    counts = []
    at_each_piece(queue, monkeypatch, counts.append)
    queue.prepare_spare()

    queue.reset(SIZE)

    assert counts == []
    assert queue.zeroed_size == SIZE, "nobody writes to what was taken"


def test_a_spare_found_at_the_start_gets_its_zeros(queue, monkeypatch):
    """The life before was cut short, and nobody knows how far it had come."""
    queue.prepare_spare()
    queue.close()
    again = MappedFileQueue.open(queue._disk, "log", SIZE, start=0, zeroes=True)
    counts = []
    at_each_piece(again, monkeypatch, counts.append)

    assert (again.spare_count, again.zeroed_size) == (1, 0)
    zero_all(again)
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8]


def test_of_two_spares_the_one_that_comes_next_gets_its_zeros(queue):
    queue.prepare_spare()
    queue.zero_more()
    queue.prepare_spare(wanted=2)

    assert (queue.spare_count, queue.zeroed_size) == (2, 3 * KIB)
    zero_all(queue)
    assert bytes(queue.roll().view(SIZE, SIZE)) == bytes(SIZE)


def test_little_is_written_at_once(queue, monkeypatch):
    """For large writes Linux takes memory that was free for long: see `dledger.store.zeros`."""
    open_region, offsets, sizes = queue._disk.open_region, [], []

    def watched(path, *, writable):
        region = open_region(path, writable=writable)
        write = region.write

        def writing(offset, parts, *, through_map):
            offsets.append(offset)
            sizes.extend(len(part) for part in parts)
            write(offset, parts, through_map=through_map)

        region.write = writing
        return region

    monkeypatch.setattr(queue._disk, "open_region", watched)

    queue.prepare_spare()
    zero_all(queue)

    assert offsets == list(range(2 * KIB, SIZE, KIB // 4))
    assert set(sizes) == {KIB // 4}


def test_a_spare_for_copies_is_not_zeroed(queue, monkeypatch):
    counts, sizes = [], []
    at_each_piece(queue, monkeypatch, counts.append)
    allocate = queue._disk.allocate

    def allocating(path, size, *, zero_size):
        sizes.append(zero_size)
        return allocate(path, size, zero_size=zero_size)

    monkeypatch.setattr(queue._disk, "allocate", allocating)

    queue.prepare_spare(is_for_copies=True)

    queue.zero_more()

    assert (counts, sizes) == ([], [0])
    assert (queue.spare_count, queue.zeroed_size) == (1, SIZE)


def test_zeros_end_where_a_spare_is_taken(queue, monkeypatch):
    """Whoever took it writes to all of it at once: nothing of that may be overwritten."""
    counts = []

    def take(count):
        counts.append(count)
        if count == 2:
            queue.roll().write(SIZE, [b"x" * SIZE], through_map=True)

    at_each_piece(queue, monkeypatch, take)

    queue.prepare_spare()
    zero_all(queue)
    queue.zero_more()

    assert counts == [1, 2]
    assert queue.spare_count == 0
    assert bytes(queue.view(SIZE, SIZE)) == b"x" * SIZE


def test_zeros_end_where_the_queue_is_closed(queue, monkeypatch):
    """Another life may have the file by then, and have acknowledged what it wrote there."""
    counts = []

    def close(count):
        counts.append(count)
        if count == 2:
            queue.close()
            disk = queue._disk
            region = disk.open_region(f"log/spare-{count - 1}", writable=True)
            region.write(0, [b"x" * SIZE], through_map=True)

    at_each_piece(queue, monkeypatch, close)

    queue.prepare_spare()
    zero_all(queue)
    queue.zero_more()

    assert counts == [1, 2]
    (spare,) = (name for name in queue._disk.list_folder("log") if name.startswith("spare"))
    region = queue._disk.open_region(f"log/{spare}", writable=False)
    assert bytes(region.view(0, SIZE)) == b"x" * SIZE


def test_nothing_is_written_to_a_spare_made_for_a_closed_queue(queue, monkeypatch):
    counts = []
    at_each_piece(queue, monkeypatch, counts.append)
    queue.close()

    queue.prepare_spare()
    queue.zero_more()

    assert counts == []
    assert queue.spare_count == 0


def test_a_spare_is_not_taken_while_a_piece_of_it_is_written(queue):
    """Nor renamed before the worker has opened it."""
    queue.prepare_spare()
    open_region, takers = queue._disk.open_region, []

    def take():
        queue.roll().write(SIZE, [b"x" * SIZE], through_map=True)

    def opening(path, *, writable):
        takers.append(threading.Thread(target=take))
        takers[0].start()
        takers[0].join(0.05)
        return open_region(path, writable=writable)

    queue._disk.open_region = opening
    queue.zero_more()
    takers[0].join()

    assert bytes(queue.view(SIZE, SIZE)) == b"x" * SIZE


@pytest.mark.parametrize(
    ("number", "is_grave"),
    [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EMFILE, False), (errno.EIO, True)],
)
@pytest.mark.parametrize("opens", [True, False])
def test_a_disk_that_is_full_while_a_spare_is_zeroed_leaves_it_as_it_is(
    queue, monkeypatch, number, is_grave, opens
):
    """Some file systems do not keep for us what was allocated. Any other failure is one."""
    open_region = queue._disk.open_region

    def full(path, *, writable):
        if not opens:
            raise StorageFailedError("open") from OSError(number, "")
        region = open_region(path, writable=writable)

        def write(offset, parts, *, through_map):
            raise StorageFailedError("write") from OSError(number, "")

        region.write = write
        return region

    monkeypatch.setattr(queue._disk, "open_region", full)
    with pytest.raises(StorageFailedError) if is_grave else contextlib.nullcontext():
        queue.prepare_spare()
        queue.zero_more()
    assert (queue.spare_count, queue.zeroed_size) == (1, SIZE), "nothing is tried again"
