"""Who leads, by which votes, and to whom it is handed: raft-engine flaws c to f, l and q."""

from __future__ import annotations

import pytest

from dledger.config import RaftConfig
from dledger.errors import NotLeaderError, OutcomeUnknownError
from tests.fakes.cluster import SimCluster, TestProposal
from tests.fakes.led_group import group, others
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.mutants import against

# -- votes ---------------------------------------------------------------------------------------


@against("every_vote_counts")
def test_duplicate_vote():
    """Two votes of one peer are one vote."""
    candidate = LoneCore(5)
    candidate.connect()
    candidate.stand()
    candidate.sync()
    term = candidate.engine.term

    candidate.hear("n2", "response_vote", term=term)
    candidate.hear("n2", "response_vote", term=term)
    assert not candidate.engine.is_leader

    candidate.hear("n3", "response_vote", term=term)
    assert candidate.engine.is_leader


@against("votes_are_not_held")
def test_vote_durable_before_reply():
    """Neither a vote nor the request for one leaves before it is on the disk."""
    voter = LoneCore(log=Log(1), term=1)
    voter.connect()
    voter.hear("n2", "request_vote", term=5, last_log_index=1, last_log_term=1)
    assert not voter.take("response_vote")
    voter.sync_votes()
    assert voter.take("response_vote", to="n2")

    candidate = LoneCore(log=Log(1), term=1)
    candidate.connect()
    candidate.stand()
    assert not candidate.take("request_vote")
    candidate.sync_votes()
    assert len(candidate.take("request_vote")) == 2


@against("votes_are_not_held", "votes_are_not_synced")
def test_a_vote_given_is_not_given_again_after_a_power_loss():
    for seed in range(20):
        voter = LoneCore(log=Log(1), term=1)
        voter.connect()
        voter.hear("n2", "request_vote", term=5, last_log_index=1, last_log_term=1)
        if seed % 2:
            voter.sync_votes()
        given = len(voter.take("response_vote"))

        voter.restart(power=True, seed=seed)
        voter.connect()
        voter.hear("n3", "request_vote", term=5, last_log_index=1, last_log_term=1)
        voter.sync_votes()
        given += len(voter.take("response_vote"))

        assert given <= 1, f"two votes in term 5 (seed {seed})"


@against("votes_are_not_held")
def test_a_vote_held_back_does_not_leave_in_a_later_term():
    voter = LoneCore(log=Log(1), term=1)
    voter.connect()
    voter.hear("n2", "request_vote", term=5, last_log_index=1, last_log_term=1)
    voter.hear("n3", "append_answer", term=6, id=1, next_index=1, success=False, reset=False,
               joining=False)  # fmt: skip

    voter.sync_votes()

    assert not voter.take("response_vote")


@against("promises_in_a_term_not_synced")
def test_an_answer_waits_for_its_term_to_be_on_disk():
    """Forgetting the term after the promise, it could help an older leader to commit."""
    follower = LoneCore(log=Log(1), term=1)
    follower.connect("n2")
    follower.hear("n2", Log(1, 4).append_message(4, after=1))
    follower.sync_log()
    assert not [answer for answer in follower.take("append_answer") if answer["success"]]

    follower.sync_votes()

    assert follower.take("append_answer")[-1]["next_index"] == 3


# -- terms ---------------------------------------------------------------------------------------


@against("old_leaders_hear_nothing")
def test_stale_leader_steps_down():
    """Whoever hears from a leader of an older term tells it so."""
    follower = LoneCore(log=Log(1), term=5)
    follower.connect("n2")

    follower.hear("n2", Log(1).append_message(4, after=1))

    answers = follower.take("append_answer", to="n2")
    assert [answer["term"] for answer in answers] == [5]
    answer = answers[0]
    assert not answer["success"]
    leader = LoneCore()
    leader.lead()
    leader.hear("n2", {**answer, "term": 9})
    assert not leader.engine.is_leader
    assert leader.engine.term == 9


def test_a_deposed_leader_follows_as_soon_as_it_is_reachable():
    cluster = group(seed=3)
    old = cluster.leader
    cluster.pause(old.node_id)
    assert cluster.run_until(
        lambda: cluster.leader is not None and cluster.leader is not old and
        not cluster.leader.paused, 3.0
    )  # fmt: skip

    cluster.resume(old.node_id)

    assert cluster.run_until(lambda: not old.core.engine.is_leader, 0.1)
    cluster.converge()


@against("leads_on_without_a_majority")
def test_a_leader_without_a_majority_steps_down_within_an_election_timeout():
    """Its clients learn within a second that they have to look elsewhere; stock takes thirty."""
    cluster = group(seed=1)
    old = cluster.leader
    cluster.partition((old.node_id,), tuple(others(cluster, old)))
    proposal = cluster.propose(b"nobody else hears of this", old.node_id)

    assert cluster.run_until(lambda: proposal.outcome != "pending", 0.5)

    assert proposal.outcome == "unknown"
    assert isinstance(proposal.error, OutcomeUnknownError)
    assert not old.core.engine.is_leader
    assert cluster.propose(b"x", old.node_id).outcome == "refused"


def test_a_leader_with_a_slow_majority_leads_on():
    cluster = group(seed=1, latency=(0.1, 0.12))
    leader = cluster.await_leader()
    term = leader.core.engine.term
    cluster.run(10.0)
    assert (cluster.leader, leader.core.engine.term) == (leader, term)


# -- readiness -----------------------------------------------------------------------------------


@against("leader_is_always_ready")
def test_leader_not_ready():
    """A leader serves nobody before its own first entry is committed.

    Until then it does not know what its predecessors have committed: stock was found leading at
    entry 2 with 12 acknowledged.
    """
    leader = LoneCore(log=Log(1, 1, 1), term=1)
    leader.connect()
    leader.lead(ready=False)
    answers = []
    leader.core.request_barrier(answers.append)
    with pytest.raises(NotLeaderError, match="not ready"):
        leader.core.propose(TestProposal(b"x"))
    assert answers == [False]
    assert leader.core.committed_index == 0

    leader.answer("n2", 4)

    assert leader.core.committed_index == 4
    leader.core.propose(TestProposal(b"x"))


# -- groups of other sizes -----------------------------------------------------------------------


def test_a_group_of_one_leads_at_once_and_acknowledges_what_is_synced():
    cluster = SimCluster(1)
    cluster.start()
    assert cluster.run_until(lambda: cluster.leader is not None, 0.05)
    cluster.nodes["n1"].hold_syncs = True
    proposal = cluster.propose(b"alone")
    cluster.run(1.0)
    assert proposal.outcome == "pending"

    cluster.release_syncs("n1")
    cluster.run(0.1)

    assert proposal.outcome == "acked"
    cluster.crash("n1", power=True)
    cluster.converge()


def test_a_group_of_five_survives_two_and_not_three():
    cluster = group(5, seed=1)
    leader = cluster.leader
    rest = others(cluster, leader)
    cluster.crash(leader.node_id, power=True)
    cluster.crash(rest[0], power=True)
    cluster.await_leader()
    assert cluster.propose(b"three are enough").outcome == "pending"
    cluster.run(0.2)
    assert cluster.proposals[-1].outcome == "acked"

    third = next(node_id for node_id in rest if cluster.nodes[node_id].alive)
    cluster.crash(third, power=True)
    cluster.run(2.0)
    assert cluster.leader is None

    cluster.converge()


# -- handing over --------------------------------------------------------------------------------


@against("transfers_without_a_fence")
def test_transfer_under_load():
    """Whatever was proposed before or during a transfer is acknowledged, or was never written."""
    for seed in range(3):
        cluster = group(seed=seed, latency=(0.005, 0.020))
        old = cluster.await_leader()
        target = others(cluster, old)[0]
        outcome = []
        for n in range(30):
            cluster.propose(b"%d" % n)
            if n == 10:
                old.core.transfer(target, outcome.append)
            cluster.run(0.002)
        assert cluster.run_until(lambda outcome=outcome: bool(outcome), 3.0)
        assert outcome == [None]
        assert cluster.await_leader().node_id == target
        cluster.run(0.2)
        ends = {proposal.outcome for proposal in cluster.proposals}
        assert ends <= {"acked", "not written", "refused"}, f"seed {seed}: {ends}"
        assert sum(p.outcome == "acked" for p in cluster.proposals) >= 11
        cluster.converge()


def test_a_transfer_to_a_member_that_does_not_answer_ends_and_the_leader_leads_on():
    cluster = group(seed=1, raft=RaftConfig(transfer_timeout_ms=300))
    leader = cluster.leader
    target = others(cluster, leader)[0]
    cluster.pause(target)
    outcome = []
    cluster.propose(b"before")
    leader.core.transfer(target, outcome.append)
    during = cluster.propose(b"during")
    cluster.run(0.2)
    assert during.outcome == "pending"

    cluster.run(0.3)

    assert "did not take over in time" in str(outcome[0])
    assert during.outcome == "acked"
    assert cluster.leader is leader


def test_a_member_asked_to_take_over_by_somebody_else_than_its_leader_stays():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n2", Log(1, 2).append_message(2, after=1))
    node.sync()

    node.hear("n3", "timeout_now", term=2)
    node.step(0.01)

    assert node.engine.term == 2
    assert not node.engine.is_candidate
