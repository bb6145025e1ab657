"""What a proposer is told, and who may read: raft-engine flaws j, l and the queue of commands."""

from __future__ import annotations

import contextlib

import pytest

from dledger.config import RaftConfig
from dledger.errors import (
    LedgerBusyError,
    NotLeaderError,
    OutcomeUnknownError,
    SafetyViolationError,
)
from dledger.raft.journal import LedgerJournal
from tests.fakes.cluster import TestProposal
from tests.fakes.led_group import group, others
from tests.fakes.lone_core import SMALL, Log, LoneCore
from tests.fakes.mutants import against

# -- acknowledged means written ------------------------------------------------------------------


@against("proposals_may_stay_in_the_queue")
def test_a_pause_in_the_middle_of_a_proposal_acknowledges_nothing_else():
    """PySyncObj empties its queue for 75 ms by its clock, and the process may sleep right there.

    The proposal then stayed in the queue, its proposer was told of the entry before it, which was
    committed already, and acknowledged what was not in the log.
    """
    leader = LoneCore()
    leader.lead()
    real, looks = leader.clock.now, 0

    def now():
        nonlocal looks
        looks += 1
        if looks == 2:
            leader.clock.seconds += 0.2
        return real()

    leader.clock.now = now
    proposal = TestProposal(b"precious")
    leader.core.propose(proposal)
    leader.clock.now = real
    leader.step()

    assert proposal.outcome == "pending"
    assert (proposal.index, leader.store.end_index) == (2, 2)
    leader.sync()
    leader.answer("n2", 2)
    assert proposal.outcome == "acked"
    assert bytes(leader.store.view(2).body) == b"precious"


@against("whatever_has_the_index_is_acknowledged")
def test_what_was_replaced_is_not_acknowledged():
    """A leader that was deposed and follows again sees another entry at its proposal's index."""
    leader = LoneCore()
    leader.lead()
    proposal = leader.propose()
    term = leader.engine.term
    other = Log(term, term + 1)
    # The no-ops differ from `Log`'s entries, so let the newer leader have this log's first entry.
    other.store.truncate_from(1)
    raw, _ = leader.store.raw_range(1, size_max=1)
    other.store.append_raw(memoryview(bytes(raw)))
    other.extend(term + 1)

    leader.hear("n2", other.append_message(term + 1, after=1, commit=2))
    leader.sync()

    assert leader.core.committed_index == 2
    assert proposal.outcome == "unknown"
    assert isinstance(proposal.error, OutcomeUnknownError)


@against("nobody_hears_of_a_lost_lead")
def test_lost_callback():
    """Every proposal hears its end, whatever becomes of the leader; stock lost such callbacks."""
    for seed in range(4):
        cluster = group(seed=seed)
        old = cluster.leader
        proposals = [cluster.propose(b"%d" % n) for n in range(3)]
        cluster.run(0.05)
        cluster.partition((old.node_id,), tuple(others(cluster, old)))
        proposals += [cluster.propose(b"%d" % n, old.node_id) for n in range(3)]
        cluster.run(1.0)
        cluster.heal()
        cluster.run(2.0)

        assert [p.outcome for p in proposals] == ["acked"] * 3 + ["unknown"] * 3
        assert old.core.unfinished_count == 0
        assert old.core.pending_size == 0
        cluster.converge()


def test_a_proposal_that_an_install_passed_over_hears_that_nobody_knows():
    """Its index lies below the new base, so that what became of it cannot be told any more."""
    leader = LoneCore()
    leader.lead()
    proposal = leader.propose()
    log = Log(*[5] * 9)
    leader.hear("n2", {
        "type": "install", "term": 5, "id": 1, "base": log.store.point_at(9),
        "offset": 0, "total": 0, "crc": 0, "data": b"",
    })  # fmt: skip

    assert leader.core.committed_index == 9
    assert proposal.outcome == "unknown"


@against("a_callback_that_raises_is_called_again")
def test_raising_callback():
    """A callback that raises stops the node, and is not called a second time.

    On stock it was, and the entry was applied twice.
    """

    class Raising(TestProposal):
        calls = 0

        def on_committed(self, index, term):
            self.calls += 1
            raise RuntimeError("the client is gone")

    leader = LoneCore()
    leader.lead()
    proposal = Raising(b"x")
    leader.core.propose(proposal)
    leader.step()
    leader.sync()
    with pytest.raises(RuntimeError, match="the client is gone"):
        leader.answer("n2", 2)
    with contextlib.suppress(RuntimeError):
        leader.step()
        leader.answer("n2", 2)

    assert proposal.calls == 1
    assert leader.core.inflight_count == 0


def test_poison_entry_fail_stop():
    """The engine never applies an entry, so none can stop it; what breaks a rule stops the node.

    Dispatching is the broker's work, and `PoisonEntryError` its word for an entry it cannot take.
    Here: a leader that would replace a committed entry is not obeyed, and nothing is cut.
    """
    follower = LoneCore()
    follower.follow("n2", 2, Log(1, 2, 2), commit=3)
    assert follower.core.committed_index == 3
    follower.connect("n3")

    with pytest.raises(SafetyViolationError, match=r"entry 2, which is committed here.*keep"):
        follower.hear("n3", Log(1, 4, 4).append_message(4, after=1))
    with pytest.raises(SafetyViolationError, match=r"disagrees with entry 3.*stop this node"):
        follower.hear("n3", Log(1, 4, 4, 4).append_message(4, after=3, upto=3))

    assert follower.store.end_index == 3
    assert follower.store.term_at(2) == 2


def test_pysyncobj_never_gets_at_the_log():
    """Stock clears the journal, cuts it and applies from it; here each of these raises."""
    node = LoneCore(log=Log(1, 1), term=1)
    journal = LedgerJournal(node.store, node.votes, commit_index=0)
    for forbidden in (
        journal.clear,
        lambda: journal.deleteEntriesFrom(1),
        lambda: journal.deleteEntriesTo(1),
        lambda: node.engine._raft._SyncObj__doApplyCommand(b"\0anything"),
    ):
        with pytest.raises(AssertionError):
            forbidden()
    assert node.store.end_index == 2


# -- limits --------------------------------------------------------------------------------------


def test_what_waits_to_be_committed_has_a_limit_and_the_proposer_hears_of_it():
    raft = RaftConfig(append_size_max=16 * 1024, pending_size_max=1 << 20)
    leader = LoneCore(raft=raft, store=SMALL)
    leader.lead()
    size = 60_000
    for _ in range((1 << 20) // size):
        leader.store.prepare_next()
        leader.core.room_made()
        leader.propose(bytes(size))
    with pytest.raises(LedgerBusyError, match="pending_size_max = 1048576; send again later"):
        leader.propose(bytes(size))

    leader.sync()
    leader.answer("n2", leader.store.end_index)
    leader.step()
    assert leader.core.pending_size == 0
    leader.core.propose(TestProposal(bytes(size)))


def test_only_the_leader_takes_proposals_and_others_name_it():
    follower = LoneCore()
    follower.follow("n2", 1, Log(1))
    with pytest.raises(NotLeaderError, match="n2 is") as refused:
        follower.core.propose(TestProposal(b"x"))
    assert refused.value.leader_id == "n2"

    follower.core.peer_lost("n2")
    follower.step(3.0)
    follower.step(3.0)
    with pytest.raises(NotLeaderError):
        follower.core.propose(TestProposal(b"x"))


# -- reads ---------------------------------------------------------------------------------------


@against("reads_without_asking", "old_answers_confirm_reads")
def test_a_barrier_is_confirmed_by_a_majority_and_by_nothing_older_than_the_question():
    """Raft dissertation, 6.4."""
    leader = LoneCore(5)
    leader.lead()
    leader.step(0.1)
    old_id = leader.engine.leading.progress["n2"].append_id
    answers = []
    leader.core.request_barrier(answers.append)
    leader.step()
    leader.answer("n2", 1, id=old_id)
    leader.answer("n3", 1, id=old_id)
    leader.answer("n4", 1, id=old_id)
    assert answers == []

    leader.answer("n2", 1)
    leader.answer("n2", 1)
    assert answers == []
    leader.answer("n3", 1)
    assert answers == [True]


def test_a_barrier_asked_for_while_nobody_is_connected_is_confirmed_once_they_are_back():
    """Both followers restart within an election timeout: the leader leads on, and so do reads.

    It was confirmed by nobody for ever, and so were all that came after it.
    """
    leader = LoneCore()
    leader.lead()
    leader.core.peer_lost("n2")
    leader.core.peer_lost("n3")
    answers = []
    leader.core.request_barrier(answers.append)
    leader.step()
    assert leader.engine.is_leader
    assert answers == []

    leader.connect("n2", last_index=1)
    leader.answer("n2", 1)
    assert answers == [True]
    leader.core.request_barrier(answers.append)
    leader.step()
    leader.answer("n2", 1)
    assert answers == [True, True]


def test_a_peer_whose_snapshot_is_being_read_confirms_nothing_with_an_older_answer():
    log = Log(*[1] * 40, size=4000)  # over several segments
    leader = LoneCore(log=log, term=1, commit=40)
    leader.lead()
    leader.store.drop_before(leader.store.end_position)
    assert leader.store.base.index > 0
    leader.core.peer_lost("n3")
    leader.core.peer_lost("n2")
    leader.connect("n2", last_index=0)
    leader.answer("n2", 0, success=False)
    assert leader.engine.snapshot_wanted
    answers = []
    leader.core.request_barrier(answers.append)
    leader.step()

    leader.answer("n2", 0, success=False)  # to what was sent before the question

    assert answers == []


@against("reads_without_asking")
def test_a_barrier_never_confirms_a_deposed_leader():
    """It is frozen while another is elected, and asked to read as soon as it wakes up."""
    for seed in range(4):
        cluster = group(seed=seed)
        old = cluster.leader
        cluster.propose(b"answered while it is frozen")
        cluster.pause(old.node_id)
        cluster.run(0.010)
        for peer_id in others(cluster, old):
            cluster.cut |= {(old.node_id, peer_id), (peer_id, old.node_id)}
        assert cluster.run_until(lambda c=cluster, o=old: c.leader not in (None, o), 5.0)
        newer = cluster.propose(b"newer", cluster.leader.node_id)
        cluster.run(0.2)
        assert newer.outcome == "acked"

        cluster.resume(old.node_id)
        assert old.core.engine.is_leader
        answers = []
        for _ in range(10):
            old.core.request_barrier(answers.append)
            cluster.pump(old)
            cluster.run(0.1)
        cluster.converge()

        assert answers
        assert not any(answers)


def test_a_barrier_shows_what_was_committed_before_it_was_asked_for():
    cluster = group(seed=7, latency=(0.005, 0.020))
    leader = cluster.await_leader()
    for n in range(10):
        proposal = cluster.propose(b"%d" % n)
        assert cluster.run_until(lambda p=proposal: p.outcome == "acked", 1.0)
        seen = []
        leader.core.request_barrier(
            lambda is_leader, seen=seen: seen.append((is_leader, leader.core.committed_index))
        )
        assert cluster.run_until(lambda s=seen: bool(s), 1.0)
        assert seen[0][0]
        assert seen[0][1] >= proposal.index
