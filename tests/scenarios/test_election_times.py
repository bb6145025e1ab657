"""How soon a group has a leader again, and who that is."""

from __future__ import annotations

import pytest

from tests.fakes.led_group import group, others, terms
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.mutants import against


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
