"""Queues that are trimmed: where they begin, and when their files go."""

from __future__ import annotations

import pytest

from broker.store.append_state import AppendState
from broker.store.state_file import decode_state
from tests.broker_store.derived_node import SEGMENT, Node, files_of, fill, put, queue_of
from tests.broker_store.helpers import MemoryLog, NothingDispatched


@pytest.fixture
def trimmed(tmp_path):
    """A node with 230 messages of topic "a" in files of 50 units."""
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    put(log, state, [b"old"] * 230)
    node = Node(tmp_path / "derived", log)
    node.append_state = state
    node.start()
    node.catch_up()
    node.run_jobs(with_state=True)
    yield node
    node.derived.close()


def trim(node, offset):
    node.log.append(f"trim a 0 {offset}".encode(), channel=1)
    node.catch_up()


def begins_of_files(node):
    return [int(name[-20:]) // 20 for name in sorted(files_of(node))]


def test_a_trimmed_queue_begins_later_and_never_again_earlier(trimmed):
    trim(trimmed, 120)
    assert queue_of(trimmed) == (120, 230)
    trim(trimmed, 60)
    assert queue_of(trimmed) == (120, 230)
    trim(trimmed, 999)
    assert queue_of(trimmed) == (230, 230)

    put(trimmed.log, trimmed.append_state, [b"new"] * 3)
    trimmed.catch_up()
    assert queue_of(trimmed) == (230, 233)


def test_a_queue_that_never_had_a_message_is_not_made_by_a_trim(trimmed):
    trimmed.log.append(b"trim nowhere 0 5", channel=1)
    trimmed.catch_up()

    assert trimmed.derived.queues.get("nowhere", 0) is None
    assert list(trimmed.derived.queues.floors()) == []


def test_files_wholly_below_go_when_two_states_know_of_it(trimmed):
    """A start may take the state before the last one, and needs what that one counts on."""
    trim(trimmed, 120)
    trimmed.run_jobs(with_state=True)
    assert begins_of_files(trimmed) == [0, 50, 100, 150, 200]
    put(trimmed.log, trimmed.append_state, [b"new"])
    trimmed.catch_up()
    trimmed.run_jobs(with_state=True)

    assert begins_of_files(trimmed) == [100, 150, 200]
    assert queue_of(trimmed) == (120, 231)


def test_a_start_from_the_state_before_the_last_finds_what_it_needs(trimmed, caplog):
    trim(trimmed, 120)
    trimmed.run_jobs(with_state=True)
    known = trimmed.log.end_index
    put(trimmed.log, trimmed.append_state, [b"new"])
    trimmed.catch_up()
    trimmed.run_jobs(with_state=True)

    derived = trimmed.start(commit_index=known)

    assert derived.dispatched_index == known
    assert queue_of(trimmed) == (120, 230)
    assert "hold less" not in caplog.text


def test_views_handed_out_before_a_trim_stay_as_they_were(trimmed):
    units = trimmed.derived.queues.get("a", 0).units_from(0, unit_count_max=50)
    before = bytes(units)
    trim(trimmed, 220)
    for _ in range(2):
        trimmed.run_jobs(with_state=True)
        put(trimmed.log, trimmed.append_state, [b"new"] * 60)
        trimmed.catch_up()
    trimmed.run_jobs(with_state=True)

    assert begins_of_files(trimmed)[0] == 200
    assert bytes(units) == before


def test_files_that_a_crash_left_below_a_floor_go_after_the_next_start(trimmed):
    trim(trimmed, 120)
    trimmed.run_jobs(with_state=True)
    trimmed.start()
    assert queue_of(trimmed) == (120, 230)
    put(trimmed.log, trimmed.append_state, [b"new"])
    trimmed.catch_up()

    trimmed.run_jobs(with_state=True)

    assert begins_of_files(trimmed) == [100, 150, 200]


def test_a_node_that_begins_with_a_peer_s_state_has_its_floors(trimmed, tmp_path):
    trim(trimmed, 120)
    put(trimmed.log, trimmed.append_state, [b"new"] * 20)
    trimmed.catch_up()
    data, *_ = trimmed.everything()
    trimmed.log.base = decode_state(data).point
    trimmed.log._entries.clear()
    put(trimmed.log, trimmed.append_state, [b"newer"] * 5)
    late = Node(tmp_path / "late", trimmed.log)
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / f"state-{trimmed.log.base.index:020d}").write_bytes(data)
    late.start()
    trimmed.catch_up()
    late.catch_up()

    assert list(late.derived.queues.floors()) == [("a", 0, 120)]
    assert late.everything()[0] == trimmed.everything()[0], "one state on all nodes"
    late.derived.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_log_with_trims_is_derived_to_the_same_bytes(tmp_path, seed):
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=seed, entries=80, trims=True, deletes=seed % 2 == 1)
    whole, stepwise = (Node(tmp_path / name, log) for name in ("whole", "stepwise"))
    whole.start()
    whole.catch_up()
    stepwise.start()
    for index in range(1, log.end_index + 1):
        stepwise.catch_up(index)
        stepwise.run_jobs(with_state=index % 3 == 0)
        if index % 10 == 0:
            stepwise.start(commit_index=index)
            stepwise.catch_up(index)

    assert stepwise.everything() == whole.everything()
    assert list(whole.derived.queues.floors())
    for node in (whole, stepwise):
        node.derived.close()
