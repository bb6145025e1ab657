"""Followers that no commit needs are sent small entries later: when, to whom, and when not.

A lone leader with scripted peers: n2 is in front at first, n3 the reserve.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from dledger.config import HoldBack, LedgerConfig, Member, RaftConfig, StoreConfig
from dledger.durability import Copies, Durability
from dledger.raft.reserve import (
    HOLD_SECONDS,
    HOLD_SIZE_MAX,
    PATIENCE_SECONDS,
    RACE_EACH,
    REST_SECONDS_MAX,
    REST_SECONDS_MIN,
    Reserve,
)
from tests.fakes.cluster import SimCluster, TestProposal
from tests.fakes.lone_core import LoneCore
from tests.fakes.mutants import against

HOLDS = RaftConfig(append_size_max=16 * 1024, hold_back=HoldBack.ALWAYS)


def leading(node_count=3, raft=HOLDS) -> LoneCore:
    """A leader whose peers have all it has, with nothing to be said."""
    leader = LoneCore(node_count, raft=raft)
    leader.lead()
    agree(leader, *leader.peers)
    leader.step(0.010)
    agree(leader, *leader.peers)
    assert leader.engine.commit_index == leader.store.end_index
    leader.take()
    return leader


def agree(leader, *peers):
    for peer_id in peers:
        leader.answer(peer_id, leader.engine.leading.progress[peer_id].next_index - 1)


def pass_time(leader, seconds):
    """Let time pass while the peers answer."""
    leader.step(seconds)
    agree(leader, *leader.peers)
    leader.take()


def commit(leader, *peers, late=0.0):
    """Propose an entry that *peers* and the leader's own disk commit; return what was sent."""
    proposal = leader.propose()
    leader.sync_log()
    leader.clock.seconds += late
    agree(leader, *peers)
    assert proposal.outcome == "acked"
    return sent_to(leader)


def sent_to(leader):
    """Return (peer, last index) of the messages with entries since the last call."""
    sent, leader.sent = leader.sent, []
    return [
        (peer_id, message["last_index"])
        for peer_id, message in sent
        if message["type"] == "append_entries" and len(message["entries"])
    ]


def test_the_reserve_is_sent_in_one_message_what_front_and_leader_have_committed():
    leader = leading()
    first = leader.store.end_index + 1

    assert [commit(leader, "n2") for _ in range(3)] == [
        [("n2", first)],
        [("n2", first + 1)],
        [("n2", first + 2)],
    ]
    leader.step(HOLD_SECONDS + 0.0005)

    ((peer_id, message),) = leader.sent
    assert (peer_id, message["prev_index"], message["last_index"]) == ("n3", first - 1, first + 2)
    assert message["commit_index"] == first + 2, "it tells of the commits, too"


@against("forgets_the_reserve")
def test_one_in_front_that_stalls_holds_an_entry_up_for_milliseconds_and_once():
    """The reserve has it in time though nothing is committed and nothing else happens."""
    leader = leading()
    proposal = leader.propose()
    leader.sync_log()
    index = leader.store.end_index
    assert sent_to(leader) == [("n2", index)]

    wait = leader.core.next_deadline() - leader.clock.seconds
    assert wait == pytest.approx(HOLD_SECONDS)
    leader.step(wait + 0.0001)
    assert sent_to(leader) == [("n3", index)]
    agree(leader, "n3")

    assert proposal.outcome == "acked"
    # n3 was quicker: from now on it is in front. But nobody waits for a while.
    assert leader.engine.reserve.front == ("n3",)
    agree(leader, "n2")
    assert commit(leader, "n3") == [("n2", index + 1), ("n3", index + 1)]
    agree(leader, "n2")
    leader.step(REST_SECONDS_MIN)
    leader.take()
    assert commit(leader, "n3") == [("n3", index + 2)]


def test_late_answers_have_all_sent_everything_for_longer_and_longer():
    leader = leading()
    rests = []
    for _ in range(8):
        sent = commit(leader, "n2", late=PATIENCE_SECONDS + 0.001)
        assert sent[0] == ("n2", leader.store.end_index)
        agree(leader, "n3")
        began = leader.clock.seconds
        while True:
            pass_time(leader, 0.010)
            if len(commit(leader, "n2", "n3")) == 1:
                break
        rests.append(leader.clock.seconds - began)
        pass_time(leader, 0.010)

    for rest, doubled in itertools.pairwise(rests):
        assert doubled > 1.5 * rest or doubled > 0.9 * REST_SECONDS_MAX
    assert rests[0] <= REST_SECONDS_MIN + 0.010
    assert rests[-1] <= REST_SECONDS_MAX + 0.010


def test_nothing_waits_while_more_than_itself_is_uncommitted():
    leader = leading()
    leader.propose()
    leader.take()

    leader.propose()

    end = leader.store.end_index
    assert sent_to(leader) == [("n2", end), ("n3", end)]


@pytest.mark.parametrize("trouble", ["gone", "behind"])
def test_nothing_waits_for_a_front_that_is_not_there(trouble):
    leader = leading()
    proposal = leader.propose()
    leader.sync_log()
    index = leader.store.end_index
    assert sent_to(leader) == [("n2", index)]
    if trouble == "gone":
        leader.core.peer_lost("n2")
        leader.step()
        assert sent_to(leader) == [("n3", index)]
        agree(leader, "n3")
        assert proposal.outcome == "acked"
        leader.take()
    else:
        # The reserve commits it while n2 is silent, and n2 is no measure of anything then.
        leader.step(HOLD_SECONDS + 0.001)
        agree(leader, "n3")
        assert proposal.outcome == "acked"
        leader.engine.reserve._front = ("n2",)  # as it would be after a race
        leader.take()

    leader.propose()

    assert ("n3", index + 1) in sent_to(leader)


def test_nothing_waits_while_somebody_waits_for_every_copy():
    leader = leading()
    told = []

    class Asking(TestProposal):
        __test__ = False

        def on_appended(self, index, term):
            super().on_appended(index, term)
            level = Durability(Copies.ALL, synced=True)
            leader.core.await_level(index, level, deadline=1e9, done=told.append)

    leader.core.propose(Asking(b"body"))
    leader.step()

    end = leader.store.end_index
    assert sent_to(leader) == [("n2", end), ("n3", end)]
    leader.sync_log()
    agree(leader, "n2", "n3")
    assert told == [Durability(Copies.ALL, synced=True)]


def test_much_does_not_wait():
    leader = leading()
    leader.propose(bytes(HOLD_SIZE_MAX))
    end = leader.store.end_index
    assert sent_to(leader) == [("n2", end), ("n3", end)]
    leader.sync_log()
    agree(leader, "n2", "n3")

    body = bytes(HOLD_SIZE_MAX // 3)
    sent = []
    for _ in range(3):
        leader.propose(body)
        leader.sync_log()
        agree(leader, "n2")
        sent += sent_to(leader)

    assert [peer_id for peer_id, _ in sent] == ["n2", "n2", "n2", "n3"]


def test_now_and_then_all_are_sent_an_entry_at_once_and_the_quickest_is_in_front():
    leader = leading()
    for _ in range(RACE_EACH - 1):
        assert [peer_id for peer_id, _ in commit(leader, "n2")] == ["n2"]
        leader.step(HOLD_SECONDS + 0.001)
        agree(leader, "n3")
        leader.take()

    leader.propose()
    end = leader.store.end_index
    assert sent_to(leader) == [("n2", end), ("n3", end)]
    agree(leader, "n3")
    agree(leader, "n2")
    leader.sync_log()  # the leader's own disk is the last: that makes nobody quicker

    assert leader.engine.reserve.front == ("n3",)
    assert [peer_id for peer_id, _ in commit(leader, "n3")] == ["n3"]


def test_a_follower_that_is_held_back_with_a_full_window_has_the_entry_in_time():
    """A heartbeat that fell due meanwhile forgot about it until the next one."""
    leader = leading()
    progress = leader.engine.leading.progress["n3"]
    while len(progress.inflight) < leader.engine.append_window:
        commit(leader, "n2")
        leader.step(HOLD_SECONDS + 0.0005)
    for _ in range(3):
        leader.step(0.006)
        agree(leader, "n2")
    leader.step(leader.core.next_deadline() - leader.clock.seconds - 0.001)
    leader.propose()
    leader.sync_log()
    leader.step(0.0012)
    leader.answer("n3", progress.inflight[0])
    leader.take()

    began = leader.clock.seconds
    while not any(peer == "n3" for peer, _ in sent_to(leader)):
        leader.step(max(leader.core.next_deadline() - leader.clock.seconds, 0) + 0.0001)
        assert leader.clock.seconds < began + 2 * HOLD_SECONDS


def test_of_several_that_are_held_back_each_has_its_turn_to_show_how_quick_it_is():
    leader = leading(5)
    front, raced = leader.engine.reserve.front, set()
    for _ in range(4 * RACE_EACH):
        raced |= {peer for peer, _ in commit(leader, *front)} - set(front)
        leader.step(HOLD_SECONDS + 0.0005)
        agree(leader, *leader.peers)
        leader.take()

    assert len(raced) == 2


def test_of_five_members_two_are_in_front():
    leader = leading(5)

    sent = commit(leader, "n2", "n3")

    assert [peer_id for peer_id, _ in sent] == ["n2", "n3"]
    leader.step(HOLD_SECONDS + 0.001)
    assert [peer_id for peer_id, _ in sent_to(leader)] == ["n4", "n5"]


@pytest.mark.parametrize(
    ("hold_back", "hosts", "held"),
    [
        (HoldBack.AUTO, ("a", "a", "a"), {"n2", "n3"}),
        (HoldBack.AUTO, ("a", "a", "b"), {"n2"}),
        (HoldBack.AUTO, ("a", "b", "b"), set()),
        (HoldBack.ALWAYS, ("a", "b", "c"), {"n2", "n3"}),
        (HoldBack.NEVER, ("a", "a", "a"), set()),
    ],
)
def test_who_may_be_held_back(hold_back, hosts, held):
    members = tuple(
        Member(node_id=f"n{n}", host=host, port=9000 + n) for n, host in enumerate(hosts, start=1)
    )
    config = LedgerConfig(
        group="g",
        node_id="n1",
        members=members,
        data_folder="/data",
        store=StoreConfig(segment_size=64 * 1024, index_file_units=2048),
        raft=RaftConfig(append_size_max=16 * 1024, hold_back=hold_back),
    )

    reserve = Reserve(SimpleNamespace(peer_ids=["n2", "n3"], majority=2), config)

    assert reserve._may_wait == held
    assert reserve.is_kept == bool(held)


def test_a_group_on_one_machine_commits_through_one_follower_and_the_other_has_it_soon():
    cluster = SimCluster(3, seed=3, latency=(0.00005, 0.0001))
    for node in cluster.nodes.values():
        node.sync_seconds = 0.0005
    cluster.start()
    leader = cluster.await_leader()
    cluster.run(0.5)
    before = cluster.sent["append_entries"]

    proposals = []
    for n in range(50):
        proposals.append(cluster.propose(b"%d" % n))
        assert cluster.run_until(lambda: proposals[-1].outcome == "acked", 1.0)
    sent = cluster.sent["append_entries"] - before
    cluster.run(0.020)

    assert sent < 1.6 * 50, "not two for each"
    ends = {node.store.end_index for node in cluster.nodes.values()}
    assert ends == {leader.store.end_index}
