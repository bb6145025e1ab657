"""Deleted topics: their ends stay, their files go."""

from __future__ import annotations

import pytest

from broker.store.append_state import AppendState
from broker.store.derived import DELETION_STATES_SIZE_MAX
from broker.store.dispatch import DISPATCH_SIZE_MAX
from tests.broker_store.derived_node import (
    SEGMENT,
    Node,
    drop_first_segments,
    files_of,
    fill,
    put,
    queue_of,
)
from tests.broker_store.helpers import MemoryLog, NothingDispatched


@pytest.fixture
def deleted(tmp_path):
    """A node with 120 messages of topic "a", deleted again, and 5 of topic "b"."""
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    put(log, state, [b"old"] * 120)
    put(log, state, [b"other"] * 5, topic="b")
    node = Node(tmp_path / "derived", log)
    node.append_state = state
    node.start()
    node.catch_up()
    node.run_jobs(with_state=True)
    assert "consumequeue/a/0/" + "0" * 20 in node.files()
    log.append(b"delete a", channel=1)
    yield node
    node.derived.close()


def test_a_deleted_topic_leaves_its_ends_and_no_file(deleted):
    heard = []
    deleted.derived.on_deleted = heard.append

    deleted.catch_up()
    assert queue_of(deleted) == (120, 120)
    assert heard == ["a"]
    assert deleted.derived.needs_flush
    deleted.run_jobs()
    # A start may yet begin before the deletion: the log's checkpoint comes from time to time only.
    assert files_of(deleted)
    for _ in range(2):
        deleted.run_jobs(with_state=True)  # nothing has changed, and time goes by

    assert files_of(deleted) == []
    assert len(files_of(deleted, "b")) == 1
    assert queue_of(deleted, "b") == (0, 5)


def test_a_topic_created_again_goes_on_at_its_old_end(deleted):
    put(deleted.log, deleted.append_state, [b"new"] * 3)

    deleted.catch_up()
    found = deleted.everything()

    assert queue_of(deleted) == (120, 123)
    assert [name[-20:] for name in files_of(deleted)] == [f"{100 * 20:020d}"]
    for _ in range(2):
        deleted.start()
        assert deleted.derived.dispatched_index == deleted.log.end_index
        assert queue_of(deleted) == (120, 123)
        assert deleted.everything() == found


def test_a_start_from_before_a_deletion_builds_nothing_anew(deleted):
    """The files were gone at once: a crash in the next seconds cost a walk through all the log."""
    before = deleted.log.end_index - 1
    deleted.catch_up()
    deleted.run_jobs(with_state=True)

    derived = deleted.start(commit_index=before)

    assert derived.dispatched_index == before
    assert queue_of(deleted) == (0, 120)
    deleted.catch_up()
    assert queue_of(deleted) == (120, 120)


def test_units_that_no_job_had_been_given_go_too(tmp_path):
    log = MemoryLog(segment_size=SEGMENT)
    state = AppendState(NothingDispatched(), log)
    put(log, state, [b"old"] * 7)
    log.append(b"delete a", channel=1)
    log.append(b"delete a", channel=1)  # once more: nothing came since
    put(log, state, [b"new"])
    node = Node(tmp_path / "derived", log)
    node.start()
    node.catch_up()

    assert queue_of(node) == (7, 8)
    assert node.derived.queues.unflushed_size == 20
    node.run_jobs()
    node.derived.close()


def test_states_for_deletions_count_in_a_go_and_wait_for_the_jobs(tmp_path):
    """Sixty deletions, each with a message behind it, took 2 s of the event loop and 70 MB."""
    log = MemoryLog(segment_size=1 << 20)  # no boundary comes in between
    state = AppendState(NothingDispatched(), log)
    for _ in range(60):
        put(log, state, [b"x"])
        log.append(b"delete a", channel=1)
    node = Node(tmp_path / "derived", log)
    derived = node.start()
    state_size = 2 * 1024 * 1024
    assert state_size > DISPATCH_SIZE_MAX
    node.machine.snapshot = lambda: {"count": 1, "pad": "x" * state_size}

    waits = 0
    while derived.dispatched_index < log.end_index:
        before, waiting = derived.dispatched_index, len(derived._jobs)
        derived.dispatch_up_to(log.end_index)
        assert len(derived._jobs) <= waiting + 1  # one state is a go
        assert len(derived._jobs) * state_size <= DELETION_STATES_SIZE_MAX
        if derived.dispatched_index == before:
            assert next(log.entries(before, before)).channel == 1  # no message behind it yet
            assert derived.needs_flush
            node.run_jobs()
            waits += 1

    assert waits > 10
    node.run_jobs()
    assert queue_of(node) == (60, 60)
    derived.close()


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_node_that_ended_before_the_files_were_gone_removes_them(deleted, is_made_again):
    if is_made_again:
        put(deleted.log, deleted.append_state, [b"new"] * 3)
    deleted.catch_up()
    jobs = deleted.derived.begin_jobs()
    jobs[0].run()  # the state that knows, and then the end
    assert files_of(deleted)

    derived = deleted.start()

    assert derived.dispatched_index >= 3
    assert files_of(deleted) == []
    deleted.catch_up()
    assert queue_of(deleted) == ((120, 123) if is_made_again else (120, 120))


@pytest.mark.parametrize("deletes_at_once", [False, True])
def test_a_log_with_deletions_is_derived_to_the_same_bytes(tmp_path, deletes_at_once):
    log = MemoryLog(segment_size=SEGMENT)
    fill(log, seed=5, entries=80, deletes=True)
    whole, stepwise = (Node(tmp_path / name, log) for name in ("whole", "stepwise"))
    whole.start()
    whole.catch_up()
    expected = whole.everything()
    stepwise.start()
    for index in range(1, log.end_index + 1):
        stepwise.catch_up(index)
        if deletes_at_once or index % 7 == 0:
            stepwise.run_jobs(with_state=index % 5 == 0)
        if index % 11 == 0:
            stepwise.start(commit_index=index)

    assert stepwise.everything() == expected
    assert list(stepwise.derived.queues.floors())
    names = [name for name in whole.files() if name.startswith("consumequeue")]
    assert {name: stepwise.files().get(name) for name in names} == {
        name: whole.files()[name] for name in names
    }
    whole.derived.close()
    stepwise.derived.close()


def test_a_peer_gets_the_ends_of_deleted_topics_with_the_state(deleted, tmp_path):
    log = deleted.log
    while log.end.position < 5 * SEGMENT:
        put(log, deleted.append_state, [b"y"] * 20, topic="b")
    deleted.catch_up()
    deleted.run_jobs(with_state=True)
    drop_first_segments(deleted)
    peer = Node(tmp_path / "peer", log)
    peer.folder.mkdir()
    base = log.base.index
    (peer.folder / f"state-{base:020d}").write_bytes(deleted.derived.read_state(base))

    peer.start()
    peer.catch_up()

    assert queue_of(peer) == (120, 120)
    assert peer.everything() == deleted.everything()
    peer.start()
    assert peer.derived.dispatched_index == log.end_index
    peer.derived.close()
