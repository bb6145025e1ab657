"""States on the disk, restarts and rebuilds: the same log, the same bytes."""

from __future__ import annotations

import logging
import shutil
import zlib

import msgpack
import pytest

from broker.store.append_state import AppendState
from broker.store.state_file import CorruptStateError, decode_state
from dledger.errors import CorruptStoreError
from tests.broker_store.derived_node import SEGMENT, Node, drop_first_segments, fill
from tests.broker_store.helpers import (
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    new_group,
)


def test_a_deleted_folder_comes_back_byte_for_byte(node):
    node.catch_up()
    expected = node.everything()
    node.derived.close()
    before = node.files()
    shutil.rmtree(node.folder)

    node.start()
    node.catch_up()

    assert node.everything() == expected
    assert node.files() == before


def test_a_restart_goes_on_from_the_newest_state(node, log):
    node.catch_up(40)
    node.run_jobs(with_state=True)
    node.catch_up(50)

    derived = node.start()

    assert derived.dispatched_index == 40
    node.catch_up()
    assert len(derived.producers) == 8


def test_a_state_beyond_the_commit_index_is_left_aside(node):
    for index in (37, 38):
        node.catch_up(index)
        node.run_jobs(with_state=True)

    assert node.start(commit_index=37).dispatched_index == 37


def test_only_two_periodic_states_are_kept(node):
    for index in range(31, 37):
        node.catch_up(index)
        node.run_jobs(with_state=True)

    states = sorted(int(name[6:]) for name in node.files() if name.startswith("state"))
    boundaries = node.derived.boundary_indexes
    periodic = [index for index in states if index not in boundaries]
    assert periodic[-2:] == [n for n in range(31, 37) if n not in boundaries][-2:]
    # The third goes with the job after the one that made it superfluous.
    assert len(periodic) <= 3


def test_a_damaged_state_is_passed_over_for_an_older_one(node, caplog):
    node.catch_up()
    expected = node.everything()
    newest = node.folder / f"state-{node.derived.dispatched_index:020d}"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)

    with caplog.at_level(logging.WARNING):
        derived = node.start()

    assert derived.dispatched_index == derived.boundary_indexes[-1]
    assert "checksum" in caplog.text
    assert str(newest) in caplog.text
    node.catch_up()
    assert node.everything() == expected


@pytest.mark.parametrize("damage", ["unlink", "truncate", "zero", "last unit", "first"])
def test_queue_files_that_hold_less_than_the_state_are_built_again(node, damage):
    node.catch_up()
    expected = node.everything()
    paths = sorted((node.folder / "consumequeue" / "a" / "0").iterdir())
    assert len(paths) > 2
    path = paths[0] if damage == "first" else paths[-1]
    node.derived.close()
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "last unit":
        path.write_bytes(content[:-20] + content[-40:-20])
    elif damage == "zero":
        path.write_bytes(bytes(len(content)))
    else:
        path.unlink()

    derived = node.start()

    assert derived.dispatched_index < node.log.end_index
    node.catch_up()
    assert node.everything() == expected


def test_a_state_of_another_log_is_not_taken(node, tmp_path, caplog):
    node.catch_up(20)
    node.run_jobs(with_state=True)
    other = MemoryLog(segment_size=SEGMENT)
    fill(other, seed=2)
    node.log = other

    with caplog.at_level(logging.WARNING):
        derived = node.start()

    assert derived.dispatched_index == 0
    assert "another log" in caplog.text
    node.catch_up()
    fresh = Node(tmp_path / "fresh", other)
    fresh.start()
    fresh.catch_up()
    assert node.everything() == fresh.everything()
    fresh.derived.close()


def test_retention_takes_units_and_states_along(node):
    node.catch_up()
    ends = list(node.derived.queues.snapshot())
    drop_first_segments(node)

    assert node.derived.boundary_indexes[0] == node.log.base.index
    assert list(node.derived.queues.snapshot()) == ends
    for topic, queue_id, end in ends:
        queue = node.derived.queues.get(topic, queue_id)
        assert 0 < queue.min_offset < end
        assert queue.position_at(queue.min_offset) >= node.log.base.position
    first = min(path.name for path in (node.folder / "consumequeue" / "a" / "0").iterdir())
    assert first > "0" * 20


def test_a_restart_after_retention_finds_the_same(node):
    drop_first_segments(node)
    expected = node.everything()

    derived = node.start()

    assert derived.dispatched_index == node.log.end_index
    assert node.everything() == expected


def test_a_rebuild_after_retention_finds_the_same(node):
    drop_first_segments(node)
    expected = node.everything()
    node.derived.close()
    shutil.rmtree(node.folder / "consumequeue")

    derived = node.start()

    assert derived.dispatched_index == node.log.base.index
    node.catch_up()
    assert node.everything() == expected
    # And a second start finds what the first one built.
    node.start()
    assert node.derived.dispatched_index == node.log.end_index
    assert node.everything() == expected


def test_a_queue_whose_messages_are_all_gone_keeps_counting(tmp_path):
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    group = new_group(state)
    group.add_chunk(make_chunk([b"x"] * 50, topic="gone"))
    append_group(log, group)
    while log.end.position < 5 * SEGMENT:
        group = new_group(state)
        group.add_chunk(make_chunk([b"y"] * 20, topic="busy"))
        append_group(log, group)
    node = Node(tmp_path / "derived", log)
    node.start()
    drop_first_segments(node)
    assert node.derived.queues.get("gone", 0).min_offset == 50

    for _ in range(2):
        node.start()
        queue = node.derived.queues.get("gone", 0)
        assert (queue.min_offset, queue.max_offset) == (50, 50)
        assert node.derived.dispatched_index == log.end_index
    node.derived.close()
    shutil.rmtree(node.folder / "consumequeue")
    for dispatched_index in (log.base.index, log.end_index):
        node.start()
        assert node.derived.dispatched_index == dispatched_index
        node.catch_up()
        node.run_jobs(with_state=True)
        queue = node.derived.queues.get("gone", 0)
        assert (queue.min_offset, queue.max_offset) == (50, 50)
    node.derived.close()


def test_a_log_that_begins_late_without_a_state_is_refused_with_the_remedy(node):
    drop_first_segments(node)
    node.derived.close()
    shutil.rmtree(node.folder)

    with pytest.raises(CorruptStoreError, match="filled from its peers") as caught:
        node.start()

    assert str(node.folder) in str(caught.value)


def test_a_peer_behind_retention_goes_on_from_the_state_it_gets(node, tmp_path):
    drop_first_segments(node)
    log = node.log
    behind = MemoryLog(segment_size=SEGMENT)
    fill(behind, entries=5)
    peer = Node(tmp_path / "peer", behind)
    peer.start()
    peer.catch_up()
    peer.run_jobs(with_state=True)

    data = node.derived.read_state(log.base.index)
    point = peer.derived.save_state_of_peer(data)
    assert (point.index, point.chain_crc) == (log.base.index, log.base.chain_crc)
    behind.__dict__.update(log.__dict__)  # the ledger's part: the log now begins at that point
    peer.derived.reopen(log.base.index)

    assert peer.derived.dispatched_index == log.base.index
    peer.catch_up()
    assert peer.everything() == node.everything()
    peer.derived.close()


def test_building_anew_leaves_nothing_of_what_was(node):
    node.catch_up()
    expected = node.everything()
    for path in node.folder.glob("state-*"):
        path.unlink()
    stray = node.folder / "consumequeue" / "stray" / "0" / ("0" * 20)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(bytes(20))

    node.derived.reopen(node.log.end_index)

    assert node.derived.dispatched_index == node.machine.count == 0
    assert len(node.derived.producers) == len(node.derived.queues) == 0
    assert not stray.exists()
    node.catch_up()
    assert node.everything() == expected


def test_what_a_peer_sends_is_checked(node):
    with pytest.raises(CorruptStateError, match="the state that the leader sent: "):
        node.derived.save_state_of_peer(b"DLS1 and so on")


@pytest.mark.parametrize(
    "content",
    [
        [[1, 1, 1, -1], [], [0, []], {}],
        [[1, "1", 1, 1], [], [0, []], {}],
        [[1, 1, 1, 1], [[b"t", 0, 1]], [0, []], {}],
        [[1, 1, 1, 1], [["t", -1, 1]], [0, []], {}],
        [[1, 1, 1, 1], [["t", 0, 0]], [0, []], {}],
        [[1, 1, 1, 1], [["t", 0, "1"]], [0, []], {}],
        b"\x94\x81\x90\x01\x90\x90\x80",
    ],
    ids=["crc", "term", "topic", "queue", "offset", "text", "a list as a key"],
)
def test_a_sound_state_with_what_nobody_writes_is_refused(content):
    """The last of these raised from within msgpack, the others from wherever they were used."""
    payload = content if isinstance(content, bytes) else msgpack.packb(content)
    data = b"DLS1" + zlib.crc32(payload).to_bytes(4, "big") + payload

    with pytest.raises(CorruptStateError):
        decode_state(data)


def test_a_damaged_state_is_not_sent_to_a_peer(node):
    """It would have stopped every member that it was sent to, and nobody said whose fault it is."""
    drop_first_segments(node)
    index = node.log.base.index
    assert node.derived.read_state(index)
    path = node.folder / f"state-{index:020d}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptStoreError, match=f"state-{index:020d}: .* filled from its peers"):
        node.derived.read_state(index)


def test_states_are_read_only_when_whole(node):
    node.catch_up()
    data, *_ = node.everything()
    assert decode_state(data).point.index == node.derived.dispatched_index

    for cut in (0, 5, 8, len(data) - 1):
        with pytest.raises(CorruptStateError):
            decode_state(data[:cut])
    for at in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        with pytest.raises(CorruptStateError):
            decode_state(flipped)


def test_a_state_with_a_right_checksum_and_wrong_content_is_refused():
    for payload in (b"", msgpack.packb(5), msgpack.packb([1, 2, 3, 4]), msgpack.packb([[1]] * 4)):
        with pytest.raises(CorruptStateError):
            decode_state(b"DLS1" + zlib.crc32(payload).to_bytes(4, "big") + payload)
