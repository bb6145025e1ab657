"""The operating system's files keep what `Disk` promises, as far as a test can see."""

import errno
import mmap
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest

from dledger.errors import FolderInUseError, LedgerFullError, StorageFailedError
from dledger.store.data_folder import DataFolder
from dledger.store.mapped_file_queue import MappedFileQueue
from dledger.store.os_disk import OsDisk
from dledger.store.zeros import ZEROS_SIZE
from tests.store.model import CONFIG, SEGMENT, append, check_agreement, dump, fill, open_store


@pytest.fixture
def disk():
    return OsDisk()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "file")


@pytest.mark.parametrize("zero_size", [0, 4096, 8192])
def test_an_allocated_file_is_all_zeros_and_has_its_blocks(disk, path, zero_size):
    region = disk.allocate(path, 8192, zero_size=zero_size)
    assert bytes(region.view(0, 8192)) == bytes(8192)
    assert os.stat(path).st_size == 8192
    assert os.stat(path).st_blocks * 512 >= 8192
    assert os.listdir(os.path.dirname(path)) == ["file"]
    region.close()


@pytest.mark.parametrize("through_map", [False, True])
def test_a_view_shows_what_is_written_and_outlives_the_region(disk, path, through_map):
    region = disk.allocate(path, 8192, zero_size=0)
    view = region.view(100, 10)
    region.write(100, [b"01234", memoryview(b"56789"), b""], through_map=through_map)
    assert view == b"0123456789"
    assert view.readonly
    region.sync()
    assert not region.close()
    os.unlink(path)
    assert view == b"0123456789"


def test_a_region_without_views_may_be_used_again(disk, path):
    region = disk.allocate(path, 8192, zero_size=0)
    region.view(0, 10).release()
    assert region.close()
    assert not region.close()


def test_many_parts_go_out_in_one_write(disk, path):
    region = disk.allocate(path, 8192, zero_size=0)
    parts = [bytes([n % 256]) * 3 for n in range(2000)]
    region.write(17, parts, through_map=False)
    assert bytes(region.view(17, 6000)) == b"".join(parts)
    region.close()


def test_what_leaves_the_cache_is_read_from_the_disk(disk, path):
    region = disk.allocate(path, 1 << 20, zero_size=0)
    written = os.urandom(1 << 20)
    region.write(0, [written], through_map=False)
    region.write(5, [b"stored"], through_map=True)
    held = region.view(0, 1 << 20)
    assert held[5:11] == b"stored"

    region.leave_cache()  # not synced yet: nothing is lost
    region.sync()
    region.leave_cache()

    assert held == written[:5] + b"stored" + written[11:]
    held.release()
    region.close()
    region.leave_cache()


def test_little_is_written_by_one_call(disk, path, monkeypatch):
    """For large writes Linux takes memory that was free for long: see `dledger.store.zeros`."""
    calls, pwritev = [], os.pwritev

    def counting(fd, parts, offset):
        calls.append((offset, sum(map(len, parts))))
        return pwritev(fd, parts, offset)

    monkeypatch.setattr(os, "pwritev", counting)
    region = disk.allocate(path, 1 << 20, zero_size=0)
    parts = [os.urandom(size) for size in (1, 70_000, 300_000, 3, *[7] * 600, 131_072, 5)]
    written = b"".join(parts)

    region.write(777, parts, through_map=False)

    assert bytes(region.view(777, len(written))) == written
    assert sum(size for _, size in calls) == len(written)
    assert max(size for _, size in calls) <= ZEROS_SIZE
    assert all(offset % ZEROS_SIZE == 0 for offset, size in calls if size == ZEROS_SIZE)


def test_a_write_cut_short_by_the_system_is_finished(disk, path, monkeypatch):
    region = disk.allocate(path, 8192, zero_size=0)
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, offset: os.pwrite(fd, parts[0], offset))
    region.write(0, [b"abc", b"defg", b"h"], through_map=False)
    assert bytes(region.view(0, 9)) == b"abcdefgh\0"
    region.close()


def test_a_region_closed_during_its_sync_is_closed_by_it(disk, path, monkeypatch):
    """The sync runs in a worker; the loop drops the segment meanwhile and does not wait."""
    region = disk.allocate(path, 8192, zero_size=0)
    region.write(0, [b"abc"], through_map=False)
    entered, leave = threading.Event(), threading.Event()
    real, synced = os.fdatasync, []

    def slow(fd):
        entered.set()
        assert leave.wait(10)
        real(fd)
        synced.append(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    worker = threading.Thread(target=region.sync)
    worker.start()
    assert entered.wait(10)
    assert not region.close()
    leave.set()
    worker.join()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(synced[0])
    region.sync()
    assert len(synced) == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_or_sync_names_path_and_cause(disk, path, monkeypatch, code):
    region = disk.allocate(path, 8192, zero_size=0)

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(StorageFailedError, match=f"{path}: write: {os.strerror(code)}"):
        region.write(0, [b"x"], through_map=False)
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageFailedError, match=f"{path}: sync: {os.strerror(code)}"):
        region.sync()
    region.close()


def test_no_room_names_path_size_and_what_is_free(disk, path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(LedgerFullError, match=rf"{path}: no room for 8192 bytes, \d+ are free"):
        disk.allocate(path, 8192, zero_size=0)
    assert os.listdir(os.path.dirname(path)) == []


def test_an_atomic_write_replaces_the_file_as_a_whole(disk, path, monkeypatch):
    disk.write_file_atomic(path, b"old")
    disk.write_file_atomic(path, b"newer")
    assert disk.read_file(path) == b"newer"

    def fail(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LedgerFullError):
        disk.write_file_atomic(path, b"newest")
    assert disk.read_file(path) == b"newer"
    assert os.listdir(os.path.dirname(path)) == ["file"]


def test_a_small_file_is_written_in_place(disk, path):
    disk.write_file_atomic(path, bytes(100))
    file = disk.open_file(path)
    file.write_at(50, b"here")
    file.sync()
    assert file.read_all()[48:56] == b"\0\0here\0\0"
    file.close()
    file.close()


def test_what_is_missing_is_named(disk, path):
    for ask in (disk.read_file, disk.file_size, disk.list_folder, disk.open_file, disk.sync_folder):
        with pytest.raises(StorageFailedError, match=f"{path}: .*No such file"):
            ask(path)
    disk.unlink(path)
    assert not disk.exists(path)


def test_folders_are_made_with_those_above_them(disk, tmp_path):
    path = str(tmp_path / "a" / "b" / "c")
    disk.make_folder(path)
    disk.make_folder(path)
    assert disk.exists(path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailedError, match="file/below"):
        disk.make_folder(str(tmp_path / "file" / "below"))


def test_an_empty_file_is_made_with_its_folders_and_left_alone_where_there_is_one(disk, tmp_path):
    path = str(tmp_path / "a" / "b" / "file")
    disk.create_file(path)
    assert disk.read_file(path) == b""
    with open(path, "wb") as file:
        file.write(b"kept")
    disk.create_file(path)
    assert disk.read_file(path) == b"kept"


def test_no_room_for_a_name_is_told_as_no_room(disk, path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(LedgerFullError, match=path):
        disk.create_file(path)


def test_a_folder_is_locked_once(disk, tmp_path):
    lock = disk.lock_folder(str(tmp_path))
    with pytest.raises(FolderInUseError, match=f"{tmp_path}: another process"):
        disk.lock_folder(str(tmp_path))
    lock.release()
    lock.release()
    disk.lock_folder(str(tmp_path)).release()


def test_a_boot_is_named_the_same_throughout(disk):
    assert disk.boot_id() == disk.boot_id()
    assert len(disk.boot_id()) <= 64


def test_a_store_on_real_files_lives_through_it_all(disk, tmp_path):
    path = str(tmp_path / "data")
    folder = DataFolder.open(disk, path, group="g", node_id="n0", config=CONFIG, joining=False)
    store = open_store(disk, CONFIG, path)
    for n in range(300):
        if store.needs_prepare:
            store.prepare_next()
        append(store, b"%d" % n * 50, term=1 + n // 100)
    assert store.sync() == 300
    store.truncate_from(280)
    store.begin_checkpoint(250).run()
    held = store.view(10).body
    content = bytes(held)
    store.drop_before(store.locate(200).position)
    fill(store, 200, 300, term=9)
    assert bytes(held) == content
    expected = dump(store)
    store.close()
    folder.close()

    folder = DataFolder.open(disk, path, group="g", node_id="n0", config=CONFIG, joining=False)
    store = open_store(disk, CONFIG, path)
    assert dump(store) == expected
    check_agreement(store)
    store.reset_to(store.point_at(300))
    append(store, bytes(SEGMENT - 56), term=9)
    check_agreement(store)
    store.close()
    folder.close()


def test_how_full_the_disk_is_is_what_the_system_says(tmp_path):
    usage = OsDisk().disk_usage(str(tmp_path))
    total, _, free = shutil.disk_usage(tmp_path)

    assert 0 < usage.used <= total
    assert abs(usage.available - free) < 1 << 30, "others write meanwhile"
    assert 0 < usage.percent < 100


@pytest.mark.parametrize("through_map", [False, True])
def test_what_is_written_in_place_is_seen_by_everybody_at_once(disk, path, through_map):
    """A process that is killed now leaves it in the page cache, whichever way it was written."""
    disk.write_file_atomic(path, bytes(8192))
    file, other = disk.open_file(path, through_map=through_map), disk.open_file(path)

    file.write_at(4096, b"first")
    file.write_at(8187, b"last!")

    assert file.read_at(4096, 5) == other.read_at(4096, 5) == b"first"
    assert other.read_all() == disk.read_file(path) == file.read_all()
    assert disk.read_file(path)[8187:] == b"last!"
    file.sync()
    file.close()
    file.close()
    other.close()
    assert os.stat(path).st_size == 8192


def test_a_write_through_a_map_cannot_make_a_file_longer(disk, path):
    disk.write_file_atomic(path, bytes(512))
    file = disk.open_file(path, through_map=True)
    with pytest.raises(IndexError):
        file.write_at(510, b"too long")
    file.close()


def _is_read_at_random(path: str, offset: int) -> bool:
    """Whether what is mapped of *path* at *offset* is not read ahead."""
    mapped = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            begin, end = (int(place, 16) for place in words[0].split("-"))
            is_here = int(words[2], 16) <= offset < int(words[2], 16) + end - begin
            mapped = words[-1] if is_here else None
        elif words[0] == "VmFlags:" and mapped == path:
            return "rr" in words
    raise AssertionError(f"{path} is not mapped")


def test_what_is_not_written_yet_is_not_read_ahead(tmp_path):
    """The system would fill megabytes with zeros while whoever reads the last entry waits."""
    size = 1 << 20
    queue = MappedFileQueue.open(OsDisk(), str(tmp_path), size, start=0, zeroes=False)
    queue.reset(0)
    first = queue.last
    first.write(3 * mmap.PAGESIZE + 7, [b"x"], through_map=False)
    assert first.view(3 * mmap.PAGESIZE + 7, 1) == b"x"
    assert not _is_read_at_random(first.path, 2 * mmap.PAGESIZE)
    assert _is_read_at_random(first.path, 3 * mmap.PAGESIZE)
    assert _is_read_at_random(first.path, size - 1)

    second = queue.roll()
    second.write(size, [b"y"], through_map=True)
    first.write(size - 100, [bytes(100)], through_map=False)  # a filler comes last
    assert not _is_read_at_random(first.path, size - 1)
    assert _is_read_at_random(second.path, 0)
    queue.close()


def test_a_system_that_takes_no_advice_stops_nobody(tmp_path):
    """A sandbox may forbid it, and it is a hint."""

    class Map:
        def __init__(self, stock):
            self.stock = stock
            self.asked = 0

        def madvise(self, *_):
            self.asked += 1
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        def __getattr__(self, name):
            return getattr(self.stock, name)

    region = OsDisk().allocate(str(tmp_path / "file"), 1 << 20, zero_size=0)
    region._map = asked = Map(region._map)

    region.read_ahead(False)
    region.read_ahead(True)

    assert asked.asked == (2 if hasattr(mmap, "MADV_RANDOM") else 0)
    region.close()


def test_full_files_that_recovery_writes_once_more_are_read_ahead(tmp_path):
    size = 1 << 20
    queue = MappedFileQueue.open(OsDisk(), str(tmp_path), size, start=0, zeroes=False)
    queue.reset(0)
    queue.roll()
    queue.close()
    queue = MappedFileQueue.open(OsDisk(), str(tmp_path), size, start=0, zeroes=False)
    queue.rewrite(100, size + 100)
    assert not _is_read_at_random(queue.first.path, size - 1)
    assert _is_read_at_random(queue.last.path, size - 1)
    queue.close()


@pytest.mark.parametrize("first", ["checkpoint", "log"])
def test_a_checkpoint_and_a_sync_of_the_log_both_hear_of_a_failed_write(
    tmp_path, monkeypatch, first
):
    """Linux tells of it once per open file, and the sync of the log had it taken from it.

    It is under way by io_uring, so that what the store remembers of a failure comes too late.
    """
    store = open_store(OsDisk(), folder=str(tmp_path))
    fill(store, 1)
    store.sync()
    fill(store, 1)
    told = set()

    def tell_once(fd):
        is_log = os.readlink(f"/proc/self/fd/{fd}").startswith(f"{tmp_path}/commitlog/")
        if is_log and fd not in told:
            told.add(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", tell_once)
    ticket = store.begin_sync()
    fd = ticket.begin()
    checkpoint = store.begin_checkpoint(1)

    def sync_log():
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.fdatasync(fd)

    def write_checkpoint():
        with pytest.raises(StorageFailedError, match=os.strerror(errno.EIO)):
            checkpoint.run()

    for step in (sync_log, write_checkpoint) if first == "log" else (write_checkpoint, sync_log):
        step()


def test_a_file_that_a_checkpoint_covers_has_no_descriptor_for_checkpoints(tmp_path):
    """A node keeps all it has read or written open: its limit reckons with two for each."""
    store = open_store(OsDisk(), folder=str(tmp_path))

    def counts(room):
        counted = Counter(map(os.path.realpath, Path("/proc/self/fd").iterdir()))
        return [counted[str(path)] for path in sorted((tmp_path / room).glob("[0-9]*"))]

    units = CONFIG.index_file_units
    while len(store._log) < 4 or store.end_index < 2 * units:
        fill(store, units // 2, size=8)
    segments, files = len(store._log), len(store._index.files)
    assert segments >= 4
    assert files >= 3
    assert counts("commitlog") == segments * [3]
    assert counts("index") == files * [3]

    halfway = units + 1
    store.sync()
    store.begin_checkpoint(halfway).run()
    covered = sum(file.end <= store.point_at(halfway).position for file in store._log._files)
    assert counts("commitlog") == covered * [2] + (segments - covered) * [3]
    assert counts("index") == [2] + (files - 1) * [3]

    store.begin_checkpoint(store.end_index).run()
    assert counts("commitlog") == (segments - 1) * [2] + [3]
    assert counts("index") == (files - 1) * [2] + [3]

    append(store)
    store.sync()
    store.begin_checkpoint(store.end_index).run()
    store.close()
    assert not any(str(tmp_path) in os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir())


def test_a_region_that_was_written_to_leaves_no_descriptor_behind(disk, path):
    before = len(os.listdir("/proc/self/fd"))
    region = disk.allocate(path, 8192, zero_size=0)
    region.write(0, [b"x"], through_map=False)
    region.sync(beside=True)
    assert region.close()
    assert len(os.listdir("/proc/self/fd")) == before
