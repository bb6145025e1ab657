"""Who leads, and how soon: raft-engine flaws c, d, e, f and l, and leadership transfer (q)."""

from __future__ import annotations

import pytest

from dledger.config import RaftConfig
from dledger.errors import NotLeaderError, OutcomeUnknownError
from tests.fakes.cluster import SimCluster, TestProposal
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.mutants import against


def group(node_count=3, **options):
    cluster = SimCluster(node_count, **options)
    cluster.message_count_max = 30_000
    cluster.start()
    cluster.await_leader()
    cluster.run(0.5)
    return cluster


def others(cluster, leader):
    return [node_id for node_id in cluster.ids if node_id != leader.node_id]


def terms(cluster):
    return {node.core.engine.term for node in cluster.nodes.values() if node.alive}


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


# -- how soon ------------------------------------------------------------------------------------


@against("a_broken_connection_hastens_nothing")
def test_a_dead_leader_with_closed_connections_is_replaced_within_tens_of_milliseconds():
    for seed in range(5):
        cluster = group(seed=seed)
        old = cluster.leader
        cluster.crash(old.node_id)
        cluster.run(0.080)
        assert cluster.leader is not None, f"seed {seed}"


@against("nobody_gives_way")
def test_survivors_do_not_split_the_vote_over_long_links():
    """Links of 50 ms, longer than the survivors' turns lie apart: both ask at the same time.

    Each was told yes, stood, and voted for itself; a kill took up to 2.7 seconds and nine terms.
    """
    for seed in range(5):
        cluster = group(seed=seed, latency=(0.050, 0.052))
        old = cluster.leader
        term = old.core.engine.term
        cluster.crash(old.node_id)
        cluster.run(0.6)
        assert cluster.leader not in (None, old), f"seed {seed}"
        assert cluster.leader.core.engine.term == term + 1, f"seed {seed}"


@against("who_was_turned_away_waits")
def test_survivors_elect_as_soon_as_the_second_sees_the_leader_dead():
    """The first one asks while the second, busy, has not read yet that its connection broke.

    It was told no and waited for a timer: a kill took 200 to 500 ms on a busy machine.
    """
    for seed in range(6):
        cluster = group(seed=seed)
        old = cluster.leader
        late = others(cluster, old)[seed % 2]
        cluster.hears_late = {late: 0.060}
        cluster.crash(old.node_id)
        cluster.run(0.060)
        assert cluster.leader in (None, old), f"seed {seed}"
        cluster.run(0.017)  # less than a turn, and before any timer
        assert cluster.leader not in (None, old), f"seed {seed}"


@against("longer_logs_wait_for_their_turn")
def test_a_survivor_with_a_longer_log_stands_when_one_with_a_shorter_log_asks():
    """The longer log's first question was told no, as the leader seemed alive; then it is asked."""
    node = LoneCore(log=Log(1, 1), term=1)
    node.connect()
    node.hear("n2", Log(1, 1).append_message(1, after=2))
    node.core.peer_lost("n2")
    node.step(0.030)
    (asked,) = node.take("pre_vote", to="n3")
    node.hear("n3", "pre_vote_answer", term=1, round=asked["round"], granted=False)

    node.hear("n3", "pre_vote", term=1, round=1, last_log_index=1, last_log_term=1)

    assert [again["round"] for again in node.take("pre_vote", to="n3")] == [asked["round"] + 1]
    node.hear("n3", "pre_vote", term=1, round=2, last_log_index=1, last_log_term=1)
    assert not node.take("pre_vote"), "the answer to the last round is still to come"


@pytest.mark.parametrize("how", ["its connection broke", "it knows a newer term"])
def test_an_answer_that_will_not_come_holds_nobody_up(how):
    """Who has not answered yet is not stood against; but this one has, or never will."""
    node = LoneCore(log=Log(1, 1), term=1)
    node.connect()
    node.step(1.0)
    (asked,) = node.take("pre_vote", to="n3")
    term = 1
    if how == "its connection broke":
        node.core.peer_lost("n3")
        node.connect("n3", last_index=1)
    else:
        term = 2
        node.hear("n3", "pre_vote_answer", term=term, round=asked["round"], granted=False)
    node.take()

    node.hear("n3", "pre_vote", term=term, round=1, last_log_index=1, last_log_term=1)

    assert node.take("pre_vote", to="n3")


def test_who_has_asked_and_then_followed_gives_way_as_if_it_had_not_asked():
    """Its round was open for as long as the new leader led, and it stood beside its peer."""
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.step(1.0)
    assert node.take("pre_vote")
    node.hear("n3", Log(1).append_message(2, after=1))
    node.sync()
    node.step(0.3)
    node.core.peer_lost("n3")  # it is the turn of n1 within 5 ms
    node.take()

    node.hear("n2", "pre_vote", term=2, round=1, last_log_index=1, last_log_term=1)

    assert [answer["granted"] for answer in node.take("pre_vote_answer")] == [True]
    node.step(0.050)
    assert not node.take("pre_vote")


def test_a_pre_vote_that_was_won_counts_no_more_when_a_leader_has_been_heard_of():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.step(1.0)
    (asked,) = node.take("pre_vote", to="n2")
    # Both lie in one receive: there is no tick in between.
    node.core.receive("n2", {"type": "pre_vote_answer", "term": 1, "round": asked["round"],
                             "granted": True})  # fmt: skip
    node.hear("n3", Log(1).append_message(1, after=1))
    node.take()

    node.step(1.0)

    assert not node.engine.is_candidate
    assert node.take("pre_vote")


def test_a_survivor_with_a_shorter_log_does_not_hold_up_the_election():
    for seed in range(6):
        cluster = group(seed=seed)
        old = cluster.leader
        behind = others(cluster, old)[seed % 2]
        cluster.drop_message = lambda _, to, message, behind=behind: (
            to == behind and message["type"] == "append_entries" and message["entries"]
        )
        cluster.propose(b"one of them lacks this")
        cluster.run(0.020)
        assert cluster.proposals[-1].outcome == "acked"
        cluster.drop_message = None
        cluster.crash(old.node_id)
        cluster.run(0.060)
        assert cluster.leader not in (None, old), f"seed {seed}"


@against("who_grants_a_pre_vote_stands_too")
def test_who_has_granted_a_pre_vote_does_not_stand_at_the_same_time():
    """Two timers that run out a message apart split the vote, and the next try is a timer away."""
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n3", Log(1).append_message(1, after=1))
    node.core.peer_lost("n3")  # it is the turn of n1 within 5 ms
    node.take()
    node.hear("n2", "pre_vote", term=1, round=1, last_log_index=1, last_log_term=1)
    assert [answer["granted"] for answer in node.take("pre_vote_answer")] == [True]

    node.step(0.050)
    assert not node.take("pre_vote")
    node.step(0.250)
    assert node.take("pre_vote")


@against("silence_is_found_alone")
def test_a_leader_found_silent_by_one_is_given_up_by_the_other_at_the_least_timeout():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n3", Log(1).append_message(1, after=1))
    node.step(0.370)
    node.hear("n2", "pre_vote", term=1, round=1, last_log_index=1, last_log_term=1)
    assert [answer["granted"] for answer in node.take("pre_vote_answer")] == [False]
    node.step(0.025)
    assert not node.take("pre_vote")

    node.step(0.006)
    assert node.take("pre_vote", to="n2")


@against("silence_is_found_alone")
def test_a_leader_that_speaks_again_is_not_given_up_because_a_peer_thought_so():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n3", Log(1).append_message(1, after=1))
    before = node.engine.next_deadline()
    node.hear("n2", "pre_vote", term=1, round=1, last_log_index=1, last_log_term=1)
    assert node.engine.next_deadline() < before
    node.step(0.075)

    node.hear("n3", Log(1).append_message(1, after=1, id=2))

    assert node.engine.next_deadline() > node.clock.now() + 0.4
    assert not node.take("pre_vote")


@against("slow_votes_are_given_up")
def test_votes_that_take_the_disk_half_a_second_elect_in_one_round():
    """Each new try put another term before the disk, and made void what it had done."""
    for seed in range(4):
        cluster = group(seed=seed)
        old = cluster.leader
        term = old.core.engine.term
        for node_id in others(cluster, old):
            cluster.nodes[node_id].sync_seconds = 0.5
        cluster.crash(old.node_id)
        cluster.run(2.0)
        assert cluster.leader not in (None, old), f"seed {seed}"
        assert cluster.leader.core.engine.term == term + 1, f"seed {seed}"


def test_a_frozen_leader_is_replaced_after_an_election_timeout():
    for seed in range(3):
        cluster = group(seed=seed)
        old = cluster.leader
        cluster.pause(old.node_id)
        assert cluster.run_until(
            lambda old=old, cluster=cluster: cluster.leader not in (None, old), 2.5
        ), f"seed {seed}"


@against("no_pre_vote")
def test_partial_partition_no_elections():
    """One link of three is cut, not the leader's to everybody: it leads on.

    Stock held 3.6 elections a minute here and stood still for 2.3 seconds of it.
    """
    cluster = group(seed=2)
    leader = cluster.leader
    term = leader.core.engine.term
    cut_off = others(cluster, leader)[0]
    cluster.partition((leader.node_id, others(cluster, leader)[1]),
                      (cut_off, others(cluster, leader)[1]))  # fmt: skip
    cluster.run(20.0)

    assert terms(cluster) == {term}
    assert cluster.leader is leader
    assert cluster.propose(b"x").outcome == "pending"
    cluster.run(0.1)
    assert cluster.proposals[-1].outcome == "acked"


@against("a_replaced_connection_counts_as_lost")
def test_a_leader_that_connects_anew_is_not_deposed_by_a_member_that_is_cut_off():
    """The one it still reaches told the other, which had asked in vain, that it was gone."""
    for seed in range(4):
        cluster = group(seed=seed)
        leader = cluster.leader
        term = leader.core.engine.term
        reached, cut_off = others(cluster, leader)
        cluster.partition((leader.node_id, reached), (cut_off, reached))
        cluster.run(1.0)
        for _ in range(6):
            cluster.replace(leader.node_id, reached)
            cluster.run(0.7)

        assert terms(cluster) == {term}, f"seed {seed}"
        assert cluster.leader is leader


def test_a_leader_that_connects_anew_and_says_nothing_is_given_up_as_a_silent_one():
    """It has started anew, and nobody saw the end of its old connection."""
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n3", Log(1).append_message(1, after=1))
    node.step(0.100)
    node.connect("n3", last_index=1)
    node.step(0.299)
    assert not node.take("pre_vote")

    node.step(0.002)

    assert node.take("pre_vote", to="n2")


def test_a_leader_that_connects_anew_after_a_silence_has_time_to_speak():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n3", Log(1).append_message(1, after=1))
    assert node.engine.next_deadline() > node.clock.now() + 0.450
    node.step(0.401)
    node.connect("n3", last_index=1)
    node.step(0.040)
    assert not node.take("pre_vote")

    node.hear("n3", Log(1).append_message(1, after=1, id=2))

    assert node.engine.next_deadline() > node.clock.now() + 0.400


@against("no_pre_vote")
def test_a_member_that_was_cut_off_comes_back_without_an_election():
    cluster = group(seed=5)
    leader = cluster.leader
    term = leader.core.engine.term
    alone = others(cluster, leader)[0]
    cluster.partition((alone,), (leader.node_id, others(cluster, leader)[1]))
    cluster.run(10.0)
    cluster.heal()
    cluster.run(2.0)

    assert terms(cluster) == {term}
    assert cluster.leader is leader


@against("late_pre_votes_count")
def test_a_pre_vote_that_comes_after_a_leader_was_heard_of_elects_nobody():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.step(1.0)
    asked = node.take("pre_vote")[0]
    node.hear("n2", Log(1, 2).append_message(2, after=1))

    node.hear("n3", "pre_vote_answer", term=1, round=asked["round"], granted=True)
    node.step()

    assert not node.engine.is_candidate
    assert node.engine.term == 2


@pytest.mark.parametrize(
    ("term", "log", "heard", "granted"),
    [
        (2, (1, 2), False, True),
        (2, (1, 2), True, False),  # a leader is alive
        (1, (1, 2), False, False),  # an older term
        (2, (1,), False, False),  # a shorter log
        (2, (1, 1, 1), False, False),  # a longer log of an older term
    ],
)
def test_a_pre_vote_is_granted_as_a_vote_would_be(term, log, heard, granted):
    node = LoneCore(log=Log(1, 2), term=2)
    node.connect()
    if heard:
        node.hear("n3", Log(1, 2).append_message(2, after=2))
    theirs = Log(*log)
    node.hear("n2", "pre_vote", term=term, round=4, last_log_index=theirs.end,
              last_log_term=theirs.store.end_term)  # fmt: skip

    (answer,) = node.take("pre_vote_answer", to="n2")
    assert (answer["granted"], answer["round"]) == (granted, 4)
    assert node.engine.term == 2
    assert node.votes.voted_for is None


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
