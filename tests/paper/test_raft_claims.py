"""The claims of Raft that we rely on, one test each, named by its section.

Sources: D. Ongaro, J. Ousterhout, "In Search of an Understandable Consensus Algorithm (Extended
Version)", 2014 (sections 5 to 8), and D. Ongaro's dissertation, 2014 (3.10, 6.4, 9.6).
"""

from __future__ import annotations

import itertools
import random

import pytest

from dledger.config import RaftConfig, StoreConfig
from dledger.errors import SafetyViolationError
from tests.fakes.cluster import SimCluster
from tests.fakes.led_group import others
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.mutants import against

STORE = StoreConfig(segment_size=32 * 1024, index_file_units=512)
RAFT = RaftConfig(append_size_max=8 * 1024)


def group(node_count=3, **options):
    options.setdefault("store", STORE)
    options.setdefault("raft", RAFT)
    cluster = SimCluster(node_count, **options)
    cluster.message_count_max = 60_000
    cluster.start()
    cluster.await_leader()
    cluster.run(0.3)
    return cluster


def restless(seed, seconds=4.0):
    """Return a group that has lived through crashes and partitions under load."""
    dice = random.Random(seed)
    cluster = group(dice.choice([3, 5]), seed=seed, latency=(0.001, 0.008))
    end = cluster.clock.now() + seconds
    while cluster.clock.now() < end:
        for n in range(5):
            cluster.propose(b"%d" % n + bytes(dice.randrange(200)))
        victim = dice.choice(cluster.ids)
        if cluster.leader is not None and dice.random() < 0.6:
            victim = cluster.leader.node_id
        if dice.random() < 0.5:
            cluster.crash(victim, power=dice.random() < 0.5)
            cluster.run(dice.uniform(0.01, 0.4))
            cluster.start(victim)
        else:
            rest = [node_id for node_id in cluster.ids if node_id != victim]
            cluster.partition((victim,), tuple(rest))
            cluster.run(dice.uniform(0.01, 0.8))
            cluster.heal()
        cluster.run(dice.uniform(0.0, 0.3))
    return cluster


# -- 5.2 -----------------------------------------------------------------------------------------


def test_5_2_election_safety_at_most_one_leader_in_a_term():
    """Checked at each step of each node; here, that there was something to check."""
    cluster = restless(1)
    assert len(cluster.leaders) >= 3
    cluster.converge()


@against("votes_are_not_held")
def test_5_2_a_server_votes_for_at_most_one_candidate_in_a_term_first_come_first_served():
    voter = LoneCore(5, log=Log(1), term=1)
    voter.connect()
    for peer_id in ("n3", "n2", "n4"):
        voter.hear(peer_id, "request_vote", term=2, last_log_index=1, last_log_term=1)
    assert not voter.take("response_vote")
    voter.sync_votes()
    assert [peer_id for peer_id, m in voter.sent if m["type"] == "response_vote"] == ["n3"]
    assert voter.votes.voted_for == "n3"


def test_5_2_a_candidate_that_hears_from_a_leader_of_its_term_follows_it():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.stand()
    assert node.engine.is_candidate
    node.hear("n2", Log(1).append_message(node.engine.term, after=1))
    assert not node.engine.is_candidate
    assert node.engine.leader_id == "n2"


def test_5_1_a_larger_term_makes_everybody_a_follower():
    for kind, fields in (
        ("request_vote", {"last_log_index": 0, "last_log_term": 0}),
        ("append_answer", {"id": 1, "next_index": 1, "success": False, "reset": False,
                           "joining": False}),
        ("pre_vote_answer", {"round": 1, "granted": False}),
    ):  # fmt: skip
        leader = LoneCore()
        leader.lead()
        leader.hear("n2", kind, term=99, **fields)
        assert not leader.engine.is_leader
        assert leader.engine.term == 99


def test_5_1_a_request_of_a_smaller_term_is_refused():
    node = LoneCore(log=Log(1), term=5)
    node.connect()
    node.hear("n2", "request_vote", term=4, last_log_index=9, last_log_term=4)
    node.hear("n3", Log(1, 1).append_message(4, after=1))
    node.sync()
    assert node.votes.voted_for is None
    assert node.store.end_index == 1
    assert [m["success"] for m in node.take("append_answer")] == [False]


# -- 5.3 -----------------------------------------------------------------------------------------


def test_5_3_leader_append_only_a_leader_never_cuts_or_changes_its_log():
    """Watched over a life with faults: while a node leads, its log only grows."""
    cut_while_leading = []
    cluster = group(seed=5, latency=(0.001, 0.008))
    for node in cluster.nodes.values():
        stock = node.store.truncate_from

        def truncate_from(index, node=node, stock=stock):
            if node.core.engine.is_leader:
                cut_while_leading.append(node.node_id)
            stock(index)

        node.store.truncate_from = truncate_from
    for _ in range(6):
        leader = cluster.await_leader()
        cluster.partition((leader.node_id,), tuple(others(cluster, leader)))
        for n in range(3):
            cluster.propose(b"%d" % n, leader.node_id)
        assert cluster.run_until(lambda old=leader: cluster.leader not in (None, old), 5.0)
        cluster.propose(b"newer")
        cluster.run(0.1)
        cluster.heal()
        cluster.run(0.5)
    assert cut_while_leading == []
    assert sum(node.store.stats.truncation_count for node in cluster.nodes.values()) >= 6
    cluster.converge()


def test_5_3_log_matching_equal_index_and_term_mean_equal_logs_up_to_there():
    """Compared between every two members at many moments, committed or not."""
    compared = 0
    for seed in range(3):
        cluster = group(seed=seed, latency=(0.001, 0.008))
        dice = random.Random(seed)
        for _ in range(25):
            for n in range(3):
                cluster.propose(b"%d" % n, dice.choice(cluster.ids))
            victim = dice.choice(cluster.ids)
            cluster.partition(
                (victim,), tuple(node_id for node_id in cluster.ids if node_id != victim)
            )
            cluster.run(dice.uniform(0.0, 0.6))
            cluster.heal()
            cluster.run(dice.uniform(0.0, 0.1))
            for a, b in itertools.combinations(cluster.nodes.values(), 2):
                for index in range(min(a.store.end_index, b.store.end_index), 0, -1):
                    if a.store.term_at(index) == b.store.term_at(index):
                        assert a.store.point_at(index) == b.store.point_at(index)
                        compared += 1
                        break
        cluster.converge()
    assert compared > 100


def test_5_3_the_consistency_check_refuses_what_does_not_follow():
    follower = LoneCore(log=Log(1, 1), term=1)
    follower.connect()
    follower.hear("n2", Log(1, 1, 1, 1).append_message(1, after=3))  # a gap
    follower.hear("n2", Log(1, 2, 3).append_message(3, after=2, id=2))  # another term before it
    assert [m["success"] for m in follower.take("append_answer")] == [False, False]
    assert follower.store.end_index == 2


def test_5_3_a_leader_finds_the_last_entry_that_agrees_and_overwrites_the_rest():
    cluster = group(seed=4)
    old = cluster.leader
    cluster.partition((old.node_id,), tuple(others(cluster, old)))
    for n in range(20):
        cluster.propose(b"lost %d" % n, old.node_id)
    assert cluster.run_until(lambda: cluster.leader not in (None, old), 5.0)
    cluster.propose(b"kept")
    cluster.run(0.2)
    cluster.heal()
    cluster.converge()
    assert bytes(old.store.view(old.store.end_index).body) == b"kept"


# -- 5.4 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "granted"),
    [((1, 2), True), ((1, 2, 2), True), ((1, 3), True), ((1,), False), ((1, 1, 1, 1), False)],
)
def test_5_4_1_a_vote_goes_only_to_a_log_at_least_as_up_to_date(theirs, granted):
    voter = LoneCore(log=Log(1, 2), term=3)
    voter.connect()
    log = Log(*theirs)
    voter.hear("n2", "request_vote", term=4, last_log_index=log.end,
               last_log_term=log.store.end_term)  # fmt: skip
    voter.sync_votes()
    assert bool(voter.take("response_vote")) is granted
    assert voter.engine.term == 4


def test_5_4_3_leader_completeness_a_leader_has_every_entry_committed_before():
    """Checked as each leader appears; here, over many leaders."""
    for seed in (11, 12):
        cluster = restless(seed)
        assert len(cluster.leaders) >= 3
        assert len(cluster.committed) >= 10
        cluster.converge()


@against("commits_entries_of_older_terms")
def test_5_4_2_figure_8_an_entry_of_an_older_term_is_not_committed_by_counting():
    """S1 has entry 2, of term 2, on a majority; S5 may still overwrite it, so it is not committed.

    Only with an entry of S1's own term on a majority is all before it committed, too (e); without
    one, S5 comes with entry 2 of term 3, and S1 gives its own up (d).
    """
    for s5_comes_back in (True, False):
        leader = figure_8_c()
        assert leader.core.committed_index == 0, "committed by counting an older term's replicas"
        if s5_comes_back:
            leader.hear("n5", Log(1, 3).append_message(5, after=0, commit=2))
            leader.sync()
            assert [leader.store.term_at(index) for index in (1, 2)] == [1, 3]
            assert leader.store.end_index == leader.core.committed_index == 2
        else:
            leader.answer("n2", 3)
            assert leader.core.committed_index == 0
            leader.answer("n3", 3)
            assert leader.core.committed_index == 3


def figure_8_c():
    """Return S1 in (c): elected again, in term 4, and entry 2 of term 2 copied to a majority."""
    leader = LoneCore(5, log=Log(1, 2), term=3)
    leader.lead(ready=False)
    assert leader.engine.term == 4
    assert leader.store.end_index == 3  # its own no-op

    leader.answer("n2", 2)
    leader.answer("n3", 2)
    leader.answer("n4", 2)
    return leader


# -- 5.4.3, 5.5 ----------------------------------------------------------------------------------


def test_5_4_3_state_machine_safety_no_two_members_apply_different_entries_at_an_index():
    """Checked at each step of each node; here, that members did apply after others had crashed."""
    cluster = restless(21)
    cluster.converge()
    applied = {node.core.committed_index for node in cluster.nodes.values()}
    assert len(applied) == 1
    assert applied.pop() == len(cluster.committed) + min(cluster.committed) - 1


def test_5_4_3_a_leader_that_would_change_a_committed_entry_is_not_obeyed():
    follower = LoneCore()
    follower.follow("n2", 2, Log(1, 2), commit=2)
    follower.connect("n3")
    with pytest.raises(SafetyViolationError):
        follower.hear("n3", Log(1, 3).append_message(3, after=1))


@against("cuts_what_matches")
def test_5_5_requests_may_be_repeated():
    """A follower that has the entries ignores them in the new request."""
    log = Log(1, 1, 1)
    follower = LoneCore()
    follower.connect("n2")
    message = log.append_message(1, after=0, upto=2)
    for _ in range(2):
        follower.hear("n2", message)
        follower.hear("n2", log.append_message(1, after=0))
        follower.hear("n2", message)
        assert follower.store.end_index == 3
    assert follower.store.stats.truncation_count == 0


def test_5_6_timing_a_leader_is_found_and_kept_while_links_are_faster_than_timeouts():
    for seed in range(3):
        cluster = group(seed=seed, latency=(0.010, 0.040))
        leader = cluster.await_leader(5.0)
        term = leader.core.engine.term
        cluster.run(5.0)
        assert cluster.leader is leader
        assert leader.core.engine.term == term


# -- dissertation --------------------------------------------------------------------------------


@against("transfers_without_a_fence")
def test_3_10_leadership_transfer_the_target_has_everything_before_it_is_asked():
    leader = LoneCore()
    leader.lead()
    proposal = leader.propose()
    outcome = []
    leader.core.transfer("n2", outcome.append)
    leader.step()
    assert not leader.take("timeout_now")
    leader.sync()
    leader.answer("n3", proposal.index)
    assert proposal.outcome == "acked"
    assert not leader.take("timeout_now"), "n2 does not have it yet"

    leader.answer("n2", proposal.index)
    leader.step()

    assert leader.take("timeout_now", to="n2")
    assert outcome == []


def test_3_10_the_target_stands_at_once_and_without_a_pre_vote():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n2", Log(1).append_message(1, after=1))
    node.hear("n2", "timeout_now", term=1)
    node.step(0.001)
    node.sync_votes()
    assert not node.take("pre_vote") or node.engine.is_candidate
    assert node.engine.is_candidate
    assert node.engine.term == 2


@against("reads_without_asking", "old_answers_confirm_reads")
def test_6_4_read_index_a_leader_confirms_its_lead_with_a_round_begun_after_the_question():
    leader = LoneCore()
    leader.lead()
    leader.step(0.1)
    before = leader.engine.leading.progress["n2"].append_id
    answers = []
    leader.core.request_barrier(answers.append)
    leader.step()
    leader.answer("n2", 1, id=before)
    assert answers == []
    leader.answer("n2", 1)
    assert answers == [True]


@against("leader_is_always_ready")
def test_6_4_read_index_waits_for_an_entry_of_the_leaders_own_term():
    leader = LoneCore(log=Log(1, 1), term=1)
    leader.connect()
    leader.lead(ready=False)
    answers = []
    leader.core.request_barrier(answers.append)
    leader.step()
    leader.answer("n2", 2)
    assert answers == [False]


@against("no_pre_vote")
def test_9_6_pre_vote_a_server_raises_its_term_only_when_it_could_win():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    for _ in range(10):
        node.step(1.0)
    assert node.engine.term == 1
    assert len(node.take("pre_vote")) >= 10
    assert not node.take("request_vote")


def test_9_6_pre_vote_a_server_that_hears_a_leader_does_not_grant_one():
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.hear("n2", Log(1).append_message(1, after=1))
    fields = {"term": 1, "round": 1, "last_log_index": 5, "last_log_term": 1}
    node.hear("n3", "pre_vote", **fields)
    node.step(0.41)
    node.hear("n3", "pre_vote", **fields)
    assert [m["granted"] for m in node.take("pre_vote_answer")] == [False, True]
