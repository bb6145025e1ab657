"""The key index: RocketMQ's bytes, however they came about, and the same ones again."""

from __future__ import annotations

import random
import shutil
import struct
import time
from datetime import UTC, datetime

import msgpack
import pytest

from broker.message.codec import decode_records
from broker.store.derived import DerivedState
from broker.store.index_folder import IndexSnapshot, file_name, name_ms_of
from broker.store.index_keys import key_hash, keys_of
from broker.store.key_index import shape_for
from broker.store.state_file import decode_state, encode_state
from dledger.store.os_disk import OsDisk
from tests.broker_store.derived_node import (
    SEGMENT,
    CountingMachine,
    Node,
    drop_first_segments,
    fill,
)
from tests.broker_store.growing_disk import GrowingDisk
from tests.broker_store.helpers import (
    FixedClock,
    MemoryLog,
)
from tests.broker_store.test_derived_lives import everything, live, run, start
from tests.fakes.disk import SimulatedCrash


class RocketFile:
    """RocketMQ's ``IndexFile.putKey``, one key at a time, as its source has it."""

    def __init__(self, slot_count, entry_count):
        self.slot_count, self.entry_count = slot_count, entry_count
        self.slots = [0] * slot_count
        self.entries = []
        self.begin_timestamp = self.end_timestamp = 0
        self.begin_position = self.end_position = 0
        self.used = 0

    @property
    def is_full(self):
        return len(self.entries) == self.entry_count

    def put(self, hashed, position, timestamp):
        slot = hashed % self.slot_count
        previous = self.slots[slot]
        seconds = (timestamp - self.begin_timestamp) // 1000 if self.entries else 0
        self.entries.append((hashed, position, min(max(seconds, 0), 2**31 - 1), previous))
        self.slots[slot] = len(self.entries)
        if len(self.entries) == 1:
            self.begin_position, self.begin_timestamp = position, timestamp
        self.used += previous == 0
        self.end_position = position
        self.end_timestamp = max(self.end_timestamp, timestamp)

    @property
    def bytes(self):
        header = struct.pack(
            ">qqqqii",
            self.begin_timestamp,
            self.end_timestamp,
            self.begin_position,
            self.end_position,
            self.used,
            len(self.entries) + 1,
        )
        slots = struct.pack(f">{self.slot_count}i", *self.slots)
        return header + slots + bytes(20) + b"".join(struct.pack(">iqii", *e) for e in self.entries)


def rocket_files(log, shape):
    """What the files have to be: name and bytes of each, by the definition."""
    files, names, segment = [], [], None
    for entry in log.entries(log.base.index + 1, log.end_index):
        if entry.channel or not entry.body:
            continue
        for message in decode_records(_without_marks(bytes(entry.body))):
            properties = message.encoded_properties
            for key in keys_of(bytes(properties)):
                of = message.position // log.segment_size
                if of != segment or files[-1].is_full:
                    files.append(RocketFile(shape.slot_count, shape.entry_count))
                    names.append(max(message.store_timestamp_ms, (names or [0])[-1] + 1))
                    segment = of
                hashed = key_hash(message.topic, key.decode("utf-8", "replace"))
                files[-1].put(hashed, message.position, message.store_timestamp_ms)
    return {file_name(name): file.bytes for name, file in zip(names, files, strict=True)}


def _without_marks(body):
    records, at = [], 0
    while at < len(body):
        size, magic = struct.unpack_from(">iI", body, at)
        if magic != 0x44504D31:
            records.append(body[at : at + size])
        at += size
    return b"".join(records)


def index_of(node):
    return {path.name: path.read_bytes() for path in (node.folder / "keyindex").iterdir()}


# -- bytes --------------------------------------------------------------------------------------


def test_the_files_are_rocketmq_s_byte_for_byte(node, log):
    node.catch_up()
    node.run_jobs(with_state=True)

    expected = rocket_files(log, shape_for(SEGMENT))
    assert len(expected) > 8, "several files for some segments"
    assert index_of(node) == expected


@pytest.mark.parametrize("step", [1, 7000, 100_000])
def test_the_bytes_do_not_depend_on_when_they_are_written(node, log, step):
    chance = random.Random(step)
    while node.derived.dispatched_index < log.end_index:
        node.derived.dispatch_up_to(log.end_index, size_max=step)
        if chance.random() < 0.5:
            node.derived.key_index.settle()
        if chance.random() < 0.5:
            node.run_jobs(with_state=chance.random() < 0.5)
    node.run_jobs(with_state=True)

    assert index_of(node) == rocket_files(log, shape_for(SEGMENT))


def test_a_file_is_named_by_the_time_of_its_first_record():
    ms = int(datetime(2026, 11, 25, 21, 5, 7, 42000, UTC).timestamp() * 1000)

    assert file_name(ms) == "20261125210507042"
    for each in (0, 1, 999, ms, 253_402_300_799_999):
        assert name_ms_of(file_name(each)) == each
    for name in ("", "2026112521050704", "20261325210507042", "2026112521050704x", "0" * 17):
        assert name_ms_of(name) is None


def test_names_ascend_where_clocks_fall_or_stand(tmp_path):
    log = MemoryLog(segment_size=SEGMENT)
    state, clock = None, FixedClock()
    for seed in range(6):
        state = fill(log, seed, entries=15, clock=clock, state=state)
        clock.ms -= 60_000
    node = Node(tmp_path / "derived", log)
    node.start()
    node.catch_up()
    node.run_jobs(with_state=True)

    files = index_of(node)
    assert files == rocket_files(log, shape_for(SEGMENT))
    headers = [struct.unpack_from(">qqqq", files[name]) for name in sorted(files)]
    times, _, positions, _ = zip(*headers, strict=True)
    assert list(positions) == sorted(positions)
    assert list(times) != sorted(times)
    node.derived.close()


# -- again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["folder", "first file", "last file", "cut", "empty", "entry"])
def test_whatever_is_deleted_or_damaged_the_same_bytes_come_back(node, log, what):
    node.catch_up()
    node.run_jobs(with_state=True)
    expected = node.files()
    node.derived.close()
    folder = node.folder / "keyindex"
    files = sorted(folder.iterdir())
    if what == "folder":
        shutil.rmtree(folder)
    elif what == "first file":
        files[0].unlink()
    elif what == "last file":
        files[-1].unlink()
    elif what == "cut":
        files[-1].write_bytes(files[-1].read_bytes()[:-1])
    elif what == "empty":
        files[1].write_bytes(b"")
    else:
        damaged = bytearray(files[-1].read_bytes())
        damaged[-17] ^= 1  # the last entry's hash: it would be in another slot
        files[-1].write_bytes(damaged)

    node.start()
    assert node.derived.dispatched_index < log.end_index
    node.catch_up()
    node.run_jobs(with_state=True)

    found = node.files()
    assert {path for path in found if "state" not in path} == {
        path for path in expected if "state" not in path
    }
    assert all(found[path] == expected[path] for path in found if path in expected)


def test_what_is_there_is_taken_up_and_not_made_again(node, log):
    node.catch_up()
    node.run_jobs(with_state=True)
    before = {path: path.stat().st_mtime_ns for path in (node.folder / "keyindex").iterdir()}
    time.sleep(0.01)

    node.start()

    assert node.derived.dispatched_index == log.end_index
    node.run_jobs()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_torn_slots_are_mended_by_the_next_write(node, log):
    """A power loss may leave slots of any age; what counts are the entries."""
    node.catch_up()
    node.run_jobs(with_state=True)
    expected = index_of(node)
    last = sorted((node.folder / "keyindex").iterdir())[-1]
    node.derived.close()
    torn = bytearray(last.read_bytes())
    torn[32:200] = bytes(168)
    last.write_bytes(torn)

    node.start()
    assert node.derived.dispatched_index == log.end_index
    log.append(b"command", channel=1)
    node.catch_up()
    node.run_jobs(with_state=True)

    assert index_of(node) == expected


def test_retention_takes_whole_files_and_what_is_left_comes_back_the_same(node, log):
    node.catch_up()
    node.run_jobs(with_state=True)
    whole = index_of(node)
    drop_first_segments(node)
    kept = index_of(node)
    assert 0 < len(kept) < len(whole)
    assert kept == {name: whole[name] for name in kept}
    for data in kept.values():
        assert struct.unpack_from(">q", data, 16)[0] >= log.base.position

    for damage in (False, True):
        node.derived.close()
        if damage:
            shutil.rmtree(node.folder / "keyindex")
        node.start()
        assert (node.derived.dispatched_index == log.end_index) is not damage
        node.catch_up()
        node.run_jobs(with_state=True)
        assert index_of(node) == kept


def test_files_that_retention_left_behind_are_removed_by_a_start(node, log):
    node.catch_up()
    node.run_jobs(with_state=True)
    log.drop_before(3 * SEGMENT)
    node.derived.begin_drop([].append)  # and the node dies before the job runs
    node.start()

    assert node.derived.dispatched_index == log.end_index
    for data in index_of(node).values():
        assert struct.unpack_from(">q", data, 16)[0] >= log.base.position


def test_other_settings_make_other_files(tmp_path, log):
    node = Node(tmp_path / "derived", log)
    node.start()
    node.catch_up()
    node.run_jobs(with_state=True)
    node.derived.close()
    shape = shape_for(SEGMENT, slot_count=16, entry_count=100)

    derived = DerivedState.open(
        OsDisk(), str(node.folder), log, commit_index=log.end_index, segment_size=SEGMENT,
        metadata=CountingMachine(), units_per_file=50, index_shape=shape,
    )  # fmt: skip
    assert derived.dispatched_index == 0
    while derived.dispatched_index < log.end_index:
        derived.dispatch_up_to(log.end_index)
    run(derived.begin_jobs(with_state=True))

    assert index_of(node) == rocket_files(log, shape)
    derived.close()


def test_states_of_a_version_without_an_index_lead_to_a_new_one(node, log):
    node.catch_up()
    node.run_jobs(with_state=True)
    expected = index_of(node)
    node.derived.close()
    for path in node.folder.glob("state-*"):
        content = path.read_bytes()
        parts = msgpack.unpackb(content[8:], strict_map_key=False)
        state = decode_state(content)
        path.write_bytes(
            encode_state(
                state.point,
                queues=state.queues,
                producers=msgpack.packb(parts[2]),
                metadata=state.metadata,
                key_index=None,
            )
        )
        assert decode_state(path.read_bytes()).key_index is None
    shutil.rmtree(node.folder / "keyindex")

    node.start()
    node.catch_up()
    node.run_jobs(with_state=True)

    assert index_of(node) == expected


@pytest.mark.parametrize(
    "plain", [[], [1] * 6, [1] * 8, ["1"] * 7, [-1, 0, 0, 0, 0, 8, 32], [1, 1, 33, 0, 0, 8, 32],
              [1, 1, 1, 1, 1, 0, 32], 5, None],
)  # fmt: skip
def test_what_is_no_index_in_a_state_is_refused(plain):
    with pytest.raises((ValueError, TypeError)):
        IndexSnapshot.from_plain(plain)


def test_small_segments_have_small_files():
    assert shape_for(1 << 30).slot_count == 500_000
    assert shape_for(1 << 30).entry_count == 2_000_000
    assert shape_for(4096).slot_count == 8
    assert shape_for(1 << 30, slot_count=10, entry_count=20).slot_count == 10


# -- crashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [False, True], ids=["the process dies", "the power fails"])
def test_a_crash_at_every_step_ends_with_the_same_bytes(power):
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=5, entries=22)
    assert log.end.position > 2 * SEGMENT
    expected = everything(start(GrowingDisk(), log), log)
    assert expected[2] == {
        f"/derived/keyindex/{name}": data
        for name, data in rocket_files(log, shape_for(SEGMENT)).items()
    }
    disk = GrowingDisk()
    live(disk, log, random.Random(1))
    steps = disk.step_count
    assert steps > 60

    for step in range(steps):
        disk = GrowingDisk()
        disk.crash_at_step = step
        with pytest.raises(SimulatedCrash):
            live(disk, log, random.Random(1))
        if power:
            disk.power_loss(random.Random(step))
        else:
            disk.process_crash()

        assert everything(start(disk, log), log) == expected, f"step {step}"
