"""The process dies at every byte and at every step of a sequence of writes."""

import random

import pytest

from dledger.entry import LogPoint
from tests.fakes.disk import FakeDisk, SimulatedCrash, dying
from tests.store.model import (
    FOLDER,
    SEGMENT,
    append,
    check_agreement,
    dump,
    fill,
    open_store,
)


def written_log():
    """Return every prefix of a log that spans three segments, and the bytes of each entry."""
    store = open_store(FakeDisk())
    ends = [store.end]
    for size in (0, 1, 40, 700, 1500, 1200, 8, 2000, 333, 900, 1900, 64):
        append(store, bytes([size % 251]) * size, term=1 + store.end_index // 5)
        ends.append(store.end)
    return ends, dump(store)


def append_rest(store, held):
    for index in range(store.end_index + 1, len(held) + 1):
        term, _, _, kind, channel, body = held[index]
        append(store, body, term=term, kind=kind, channel=channel)


@pytest.mark.parametrize("garbage", [0x00, 0xFF], ids=["zeros", "ones"])
def test_a_log_torn_at_any_byte_ends_with_its_last_whole_entry(garbage):
    """Every byte boundary of the log, with other bytes behind it than the ones written."""
    ends, held = written_log()
    disk = FakeDisk()
    store = open_store(disk)
    append_rest(store, held)
    assert store.end == ends[-1]
    image = disk.files()
    del image[f"{FOLDER}/watermark"]  # it only knows of syncs, of which there was none
    names = [f"{FOLDER}/commitlog/{n * SEGMENT:020d}" for n in range(3)]
    log = b"".join(image[name] for name in names)
    for cut in range(store.end_position):
        if log[cut] == garbage:
            continue  # the log torn one byte further on is the same one
        torn_log = log[:cut] + bytes([garbage]) * (len(log) - cut)
        torn = FakeDisk()
        for folder in ("commitlog", "index"):
            torn.make_folder(f"{FOLDER}/{folder}")
        for name, content in image.items():
            torn.write_file_atomic(name, content)
        for n, name in enumerate(names):
            torn.overwrite(name, 0, torn_log[n * SEGMENT : (n + 1) * SEGMENT])
        found = open_store(torn)
        whole = max(index for index, end in enumerate(ends) if end.position <= cut)
        assert found.end == ends[whole]
        assert dump(found) == {index: held[index] for index in range(1, whole + 1)}


def test_a_crash_in_any_write_leaves_the_prefix_and_appending_goes_on():
    """Real writes cut short at each byte, then life goes on to the same bytes as without."""
    ends, held = written_log()
    total = 3 * SEGMENT
    for allowed in range(0, total, 7):
        disk = FakeDisk()
        store = open_store(disk)
        disk.crash_after_bytes = allowed
        with dying():
            append_rest(store, held)
        disk.process_crash()
        store = open_store(disk)
        assert store.end == ends[store.end_index]
        append_rest(store, held)
        assert dump(store) == held
        check_agreement(store)


def every_step(prepare, act, check, *, power: bool):
    """Let *act* die before each thing it does to the disk, restart, and *check*."""
    disk = FakeDisk()
    store = prepare(disk)
    before = disk.step_count
    act(store)
    steps = disk.step_count - before
    assert steps > 0
    for step in range(steps + 1):
        for seed in range(12 if power else 1):
            disk = FakeDisk()
            store = prepare(disk)
            assert disk.step_count == before
            disk.crash_at_step = before + step
            try:
                act(store)
                finished = True
            except SimulatedCrash:
                finished = False
            if power:
                disk.power_loss(random.Random(seed))
            else:
                disk.process_crash()
            reopened = open_store(disk)
            check_agreement(reopened)
            check(reopened, finished)


def _filled(disk):
    store = open_store(disk)
    fill(store, 60, 400, term=1)
    store.sync()
    return store


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
def test_retention_may_die_anywhere_between_checkpoint_and_unlink(power):
    reference = _filled(FakeDisk())
    held, end = dump(reference), reference.end

    def act(store):
        store.begin_checkpoint(40).run()
        store.drop_before(store.point_at(40).position)

    def check(store, finished):
        assert store.end == end
        assert dump(store).items() <= held.items()
        if finished:
            assert store.base.position == 4 * SEGMENT

    every_step(_filled, act, check, power=power)


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize(
    "base",
    [
        LogPoint(index=500, term=3, position=50 * SEGMENT, chain_crc=7),
        LogPoint(index=500, term=3, position=50 * SEGMENT + 123, chain_crc=7),
        LogPoint(index=60, term=1, position=3 * SEGMENT + 40, chain_crc=9),  # among our own files
        LogPoint(index=20, term=1, position=3 * SEGMENT + 40, chain_crc=9),  # below the watermark
    ],
    ids=["boundary", "mid-segment", "overlapping", "back"],
)
def test_a_snapshot_install_may_die_anywhere(base, power):
    reference = _filled(FakeDisk())
    held, end = dump(reference), reference.end

    def act(store):
        store.reset_to(base)

    def check(store, finished):
        if store.base == base:
            assert store.end == base
            assert store.durable_index == base.index
            append(store, b"after", term=4)
            assert store.end_index == base.index + 1
        else:
            assert not finished
            assert store.end == end
            assert dump(store) == held

    every_step(_filled, act, check, power=power)


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("size", [50, 400, 2500], ids=["shorter", "as long", "longer"])
def test_a_truncation_and_the_entries_behind_it_may_die_anywhere(size, power):
    """The log is the old one, the cut one, or the new one: never a mixture."""
    ends: dict[int, set[int]] = {}
    reference = _filled(FakeDisk())
    for index in range(61):
        ends.setdefault(index, set()).add(reference.point_at(index).chain_crc)

    def act(store):
        store.truncate_from(33)
        for _ in range(8):
            append(store, b"n" * size, term=2)
        store.sync()
        for _ in range(3):
            append(store, b"u" * size, term=2)

    reference.truncate_from(33)
    act_reference = open_store(FakeDisk())
    fill(act_reference, 60, 400, term=1)
    act(act_reference)
    for index in range(33, act_reference.end_index + 1):
        ends.setdefault(index, set()).add(act_reference.point_at(index).chain_crc)

    def check(store, finished):
        assert store.end_index >= 32
        assert store.last_chain_crc in ends[store.end_index]
        if finished:
            assert store.end_index >= 40
            assert store.term_at(40) == 2

    every_step(_filled, act, check, power=power)
