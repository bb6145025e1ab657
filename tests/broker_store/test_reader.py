"""Pulls: statuses, limits, and views that are not copied."""

from __future__ import annotations

import struct

import pytest

from broker.message.codec import decode_records
from broker.message.tags import tags_code
from broker.store.append_state import AppendState
from broker.store.derived import DerivedState
from broker.store.reader import VIEWS_MAX, PullStatus, Reader
from dledger.errors import CorruptStoreError
from dledger.store.os_disk import OsDisk
from tests.broker_store.derived_node import CountingMachine
from tests.broker_store.helpers import (
    MemoryLog,
    NothingDispatched,
    append_group,
    damage_units,
    make_chunk,
    new_group,
)


class World:
    def __init__(self, folder):
        self.log = MemoryLog(segment_size=1 << 16)
        self.state = AppendState(NothingDispatched(), self.log)
        self.derived = DerivedState.open(
            OsDisk(),
            str(folder),
            self.log,
            commit_index=0,
            segment_size=1 << 16,
            metadata=CountingMachine(),
            units_per_file=40,
        )
        self.reader = Reader(self.log, self.derived.queues)

    def put(self, *bodies, topic="orders", queue_id=0, tag=None):
        group = new_group(self.state)
        properties = {"TAGS": tag} if tag else None
        group.add_chunk(make_chunk(bodies, topic=topic, queue_id=queue_id, properties=properties))
        append_group(self.log, group)

    def dispatch(self):
        while self.derived.dispatched_index < self.log.end_index:
            self.derived.dispatch_up_to(self.log.end_index)
        for job in self.derived.begin_jobs(with_state=True):
            job.run()
            job.finish()

    def pull(self, offset, *, count_max=32, size_max=1 << 20, tags_codes=None, queue_id=0):
        return self.reader.get_messages(
            "orders",
            queue_id,
            offset,
            count_max=count_max,
            size_max=size_max,
            tags_codes=tags_codes,
        )


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "derived")
    yield world
    world.derived.close()


def bodies(result):
    return [message.body for message in decode_records(b"".join(result.views))]


def test_messages_of_one_entry_come_in_one_view_over_the_log(world):
    world.put(b"a", b"b", b"c")
    world.dispatch()

    result = world.pull(0)

    assert result.status is PullStatus.FOUND
    assert bodies(result) == [b"a", b"b", b"c"]
    assert (result.next_offset, result.min_offset, result.max_offset) == (3, 0, 3)
    assert (result.message_count, result.size) == (3, sum(map(len, result.views)))
    assert len(result.views) == 1
    assert result.views[0].obj is world.log.bytes_at(0, 1).obj


def test_what_lies_apart_comes_in_several_views(world):
    world.put(b"a", b"b")
    world.put(b"c")
    world.put(b"other", queue_id=1)
    world.put(b"d")
    world.dispatch()

    result = world.pull(1)

    assert bodies(result) == [b"b", b"c", b"d"]
    assert len(result.views) == 3


def test_many_small_views_are_joined(world):
    for n in range(VIEWS_MAX + 1):
        world.put(b"%d" % n)
    world.dispatch()

    assert len(world.pull(0, count_max=VIEWS_MAX).views) == VIEWS_MAX
    joined = world.pull(0, count_max=VIEWS_MAX + 1)
    assert len(joined.views) == 1
    assert bodies(joined) == [b"%d" % n for n in range(VIEWS_MAX + 1)]


def test_a_message_is_seen_only_when_dispatched(world):
    world.put(b"a")

    assert world.pull(0).status is PullStatus.NO_MESSAGE_IN_QUEUE
    world.dispatch()
    assert world.pull(0).status is PullStatus.FOUND


@pytest.mark.parametrize(
    ("offset", "status", "next_offset"),
    [
        (3, PullStatus.NO_NEW_MESSAGE, 3),
        (4, PullStatus.OFFSET_TOO_LARGE, 3),
        (-1, PullStatus.OFFSET_TOO_SMALL, 0),
    ],
)
def test_an_offset_without_a_message_says_why(world, offset, status, next_offset):
    world.put(b"a", b"b", b"c")
    world.dispatch()

    result = world.pull(offset)

    assert (result.status, result.next_offset, result.views) == (status, next_offset, [])
    assert (result.min_offset, result.max_offset) == (0, 3)


def test_a_queue_without_messages_says_so(world):
    assert world.pull(0, queue_id=9).status is PullStatus.NO_MESSAGE_IN_QUEUE
    assert world.pull(5, queue_id=9).status is PullStatus.OFFSET_TOO_LARGE
    assert world.reader.min_offset("orders", 9) == world.reader.max_offset("orders", 9) == 0


def test_what_retention_took_is_told_with_where_to_go_on(world):
    while world.log.end.position < 3 << 16:
        world.put(*[bytes(100)] * 50)
    world.dispatch()
    world.log.drop_before(1 << 16)
    world.derived.begin_drop([].append)

    result = world.pull(0)

    assert result.status is PullStatus.OFFSET_TOO_SMALL
    assert result.next_offset == result.min_offset == world.reader.min_offset("orders", 0) > 0
    assert world.pull(result.next_offset).status is PullStatus.FOUND


@pytest.mark.parametrize("count", [5, 100])
def test_limits_of_count_and_size_hold(world, count):
    world.put(*[bytes(100)] * count)
    world.dispatch()
    size = world.pull(0, count_max=1).size

    assert world.pull(0, count_max=3).message_count == 3
    assert world.pull(0, count_max=count, size_max=3 * size).message_count == 3
    assert world.pull(0, count_max=count, size_max=3 * size - 1).message_count == 2
    assert world.pull(0, count_max=count, size_max=3 * size - 1).next_offset == 2
    assert world.pull(0, count_max=count, size_max=1).message_count == 1
    assert world.pull(0, count_max=count, size_max=1 << 30).message_count == count


def test_reading_on_and_on_finds_every_message_once(world):
    expected = []
    for n in range(200):
        some = [b"%d/%d" % (n, k) for k in range(n % 4 + 1)]
        world.put(*some)
        expected += some
    world.dispatch()

    found, offset = [], 0
    while (result := world.pull(offset, count_max=7)).status is PullStatus.FOUND:
        found += bodies(result)
        offset = result.next_offset

    assert found == expected
    assert result.status is PullStatus.NO_NEW_MESSAGE


def test_tags_are_filtered_by_their_hash(world):
    for n in range(30):
        world.put(b"%d" % n, tag="even" if n % 2 == 0 else "odd")
    world.dispatch()
    even = frozenset({tags_code("even")})

    result = world.pull(0, count_max=5, tags_codes=even)

    assert bodies(result) == [b"0", b"2", b"4", b"6", b"8"]
    assert result.next_offset == 10
    cut = world.pull(0, count_max=10, size_max=result.size // 5 * 2, tags_codes=even)
    assert bodies(cut) == [b"0", b"2"]
    assert cut.next_offset == 4
    none = world.pull(0, count_max=10, tags_codes=frozenset({5}))
    assert (none.status, none.next_offset) == (PullStatus.NO_MATCHED_MESSAGE, 30)
    last = world.pull(20, count_max=10, tags_codes=even)
    assert (len(bodies(last)), last.next_offset) == (5, 30)


@pytest.mark.parametrize("position", [-8, 1 << 40, (1 << 16) - 4])
def test_units_that_lead_nowhere_are_told_with_what_to_do(world, position):
    """A flipped bit in a consume queue: once an assertion in a pull, and with it the node's end."""
    world.put(b"a", b"b", b"c")
    while world.log.end.position < 1 << 17:
        world.put(*[bytes(1000)] * 10)
    world.dispatch()
    queue = world.derived.queues.get("orders", 0)
    damage_units(queue, 20, struct.pack(">q", position))

    with pytest.raises(CorruptStoreError, match=r"queue 0 is damaged at offset 0 .*consumequeue"):
        world.pull(0, count_max=3)
    assert bodies(world.pull(2, count_max=1)) == [b"c"]


@pytest.mark.parametrize("size", [0, 1, 90, -1])
def test_units_of_no_size_are_no_messages(world, size):
    """A pull that finds ten and brings none would send its consumer on behind all of them."""
    world.put(b"a", b"b", b"c")
    world.dispatch()
    queue = world.derived.queues.get("orders", 0)
    for unit in range(3):
        damage_units(queue, 20 * unit + 8, struct.pack(">i", size))

    with pytest.raises(CorruptStoreError, match="is damaged at offset 0"):
        world.pull(0, count_max=3)
