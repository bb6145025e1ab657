"""Consume queues and their files."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest

from broker.errors import OffsetTooSmallError
from broker.store.consume_queue import TAIL_UNITS_KEPT, ConsumeQueue
from broker.store.consume_queues import TAILS_SIZE_MAX, ConsumeQueues
from broker.store.queue_files import QueueFiles, folder_name
from broker.store.runs import RecordRun
from dledger.store.os_disk import OsDisk

KEY = ("orders", 3)


def unit(n: int) -> tuple[int, int, int]:
    return 1000 + 100 * n, 91 + n % 7, n % 3 - 1


def units(first: int, end: int) -> bytes:
    return b"".join(struct.pack(">qiq", *unit(n)) for n in range(first, end))


@pytest.fixture
def files(tmp_path):
    files = QueueFiles(OsDisk(), str(tmp_path / "cq"), units_per_file=100, open_files_max=2)
    yield files
    files.close()


def write(files, first, data):
    files.write(files.pieces(KEY, first, data), size=len(data))


def in_memory(queue):
    return sum(map(len, (queue._kept, *queue._handed, queue._tail)))


def flush(files, queue):
    end = queue.max_offset
    write(files, *queue.begin_flush())
    files.sync()
    queue.finish_flush(end)


def test_units_are_laid_out_as_rocketmqs(files):
    queue = ConsumeQueue(files, KEY)

    queue.append(0x0102, 91, -1)

    assert bytes(queue.units_from(0, unit_count_max=9)).hex() == (
        "00000000000001020000005bffffffffffffffff"
    )


def test_files_are_named_by_the_byte_offset_of_their_first_unit(files, tmp_path):
    queue = ConsumeQueue(files, KEY)
    queue.append_units(units(0, 250))
    flush(files, queue)

    folder = tmp_path / "cq" / "orders" / "3"
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        "00000000000000000000": 2000,
        "00000000000000002000": 2000,
        "00000000000000004000": 1000,
    }
    assert b"".join(path.read_bytes() for path in sorted(folder.iterdir())) == units(0, 250)


@pytest.mark.parametrize("seed", range(10))
def test_units_come_back_from_memory_and_files_alike(files, seed):
    chance = random.Random(seed)
    queue = ConsumeQueue(files, KEY)
    count = 0
    for _ in range(60):
        more = chance.choice([1, 7, 90, 300])
        queue.append_units(units(count, count + more))
        count += more
        if chance.random() < 0.5:
            flush(files, queue)
        first = chance.randrange(count + 1)
        wanted = chance.choice([1, 30, 250, 2000])

        found = queue.units_from(first, unit_count_max=wanted)

        assert found == units(first, min(first + wanted, count))
    assert files.open_file_count <= 2


def test_what_is_written_leaves_the_memory_but_for_the_latest(files):
    queue = ConsumeQueue(files, KEY)
    queue.append_units(units(0, 5000))
    assert queue.unwritten_size == 100_000
    flush(files, queue)

    assert queue.unwritten_size == 0
    assert in_memory(queue) == TAIL_UNITS_KEPT * 20
    assert queue.units_from(0, unit_count_max=5000) == units(0, 5000)


def test_thousands_of_queues_that_grow_alike_keep_little_in_memory(tmp_path):
    """20 KiB for each of 8,000 busy queues were 160 MiB."""
    files = QueueFiles(OsDisk(), str(tmp_path / "many"))
    queues = ConsumeQueues(files)
    count = 2 * TAILS_SIZE_MAX // (20 * TAIL_UNITS_KEPT)
    of_each = units(0, TAIL_UNITS_KEPT)
    first = RecordRun("t", 0, TAIL_UNITS_KEPT, 0, 0, 0, of_each, None, 1, 1, (), ())
    queues.put_runs([first._replace(queue_id=nth) for nth in range(count)], [])
    flush_job = queues.begin_flush()
    flush_job.run()
    flush_job.finish()

    kept = [in_memory(queues.get("t", nth)) for nth in range(count)]
    assert sum(kept) <= TAILS_SIZE_MAX
    assert min(kept) > 0
    found = queues.get("t", 7).units_from(0, unit_count_max=TAIL_UNITS_KEPT)
    assert found == units(0, TAIL_UNITS_KEPT)
    queues.close()


def test_units_stay_readable_while_a_job_writes_them(files):
    queue = ConsumeQueue(files, KEY)
    queue.append_units(units(0, 30))
    handed = queue.begin_flush()
    queue.append_units(units(30, 50))

    assert queue.units_from(20, unit_count_max=99) == units(20, 50)
    write(files, *handed)
    assert queue.units_from(20, unit_count_max=99) == units(20, 50)
    queue.finish_flush(30)
    flush(files, queue)
    assert files.read(KEY, 0, unit_count=50) == units(0, 50)


def test_units_lie_in_memory_once_while_a_job_writes_them(tmp_path):
    """Copied twice for the job, once of them for good, 24 MiB of units were 48."""
    files = QueueFiles(OsDisk(), str(tmp_path / "once"))
    queue = ConsumeQueue(files, KEY)
    queue.append_units(units(0, 50_000))
    tracemalloc.start()
    try:
        first, handed = queue.begin_flush()
        write(files, first, handed)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 100_000 < len(handed)
    assert files.read(KEY, 0, unit_count=50_000) == handed


@pytest.mark.parametrize("seed", range(10))
def test_jobs_that_wait_for_one_another_write_what_each_was_given(files, seed):
    chance = random.Random(seed)
    queue = ConsumeQueue(files, KEY)
    jobs, count, written = [], 0, 0
    for _ in range(200):
        what = chance.random()
        if what < 0.4:
            more = chance.choice([1, 7, 90, 300])
            queue.append_units(units(count, count + more))
            count += more
        elif what < 0.6:
            jobs.append((*queue.begin_flush(), count))
            assert queue.uncaptured_size == 0
        elif jobs:
            first, handed, written = jobs.pop(0)
            assert bytes(handed) == units(first, written)
            write(files, first, handed)
            queue.finish_flush(written, kept_count=chance.choice([0, 5, 200]))
        begin = chance.randrange(count + 1)

        found = queue.units_from(begin, unit_count_max=250)

        assert found == units(begin, min(begin + 250, count))
        assert queue.unwritten_size == (count - written) * 20
        assert in_memory(queue) <= queue.unwritten_size + 200 * 20


def test_units_that_came_during_a_write_stay_in_memory_until_they_are_written(files):
    queue = ConsumeQueue(files, KEY)
    queue.append_units(units(0, 10))
    write(files, *queue.begin_flush())
    queue.append_units(units(10, 10 + 3 * TAIL_UNITS_KEPT))
    queue.finish_flush(10)

    assert queue.units_from(0, unit_count_max=9999) == units(0, 10 + 3 * TAIL_UNITS_KEPT)


def test_a_file_that_has_grown_is_mapped_anew(files):
    write(files, 0, units(0, 10))
    first = files.read(KEY, 0, unit_count=10)
    write(files, 10, units(10, 60))

    assert files.read(KEY, 5, unit_count=50) == units(5, 55)
    assert first == units(0, 10)


def test_the_end_is_empty_and_what_retention_took_is_told(files):
    queue = ConsumeQueue(files, KEY)
    queue.append_units(units(0, 10))

    assert queue.units_from(10, unit_count_max=1) == b""
    assert queue.drop_below_position(unit(4)[0])
    assert queue.drop_below_position(unit(4)[0]) is None
    assert queue.min_offset == 4
    with pytest.raises(OffsetTooSmallError, match="begins at offset 4; 3 was removed") as caught:
        queue.units_from(3, unit_count_max=1)
    assert caught.value.min_offset == 4
    assert queue.drop_below_position(1 << 60)
    assert queue.min_offset == queue.max_offset == 10


def test_views_of_a_removed_file_stay_readable(files):
    queue = ConsumeQueue(files, KEY)
    queue.append_units(units(0, 3000))
    flush(files, queue)
    view = queue.units_from(0, unit_count_max=50)

    paths = files.paths_before(KEY, 250)
    files.unlink(paths)
    for path in paths:
        files.forget(path)

    assert len(paths) == 2
    assert view == units(0, 50)
    assert files.file_begins(KEY)[0] == 200


@pytest.mark.parametrize(
    ("topic", "name"),
    [("orders", "orders"), ("%RETRY%g", "%25RETRY%25g"), ("a|b", "a%7Cb"), ("%25", "%2525")],
)
def test_topics_have_safe_folders(topic, name):
    assert folder_name(topic) == name


def test_long_topics_have_folders_that_differ_and_fit():
    names = {folder_name("%DLQ%" + "g" * 249 + last) for last in "ab"}

    assert len(names) == 2
    assert max(map(len, names)) <= 200
