"""Members that start with an empty folder: new ones, and ones that lost their disk.

Who lost a disk has forgotten what it promised.  These are the schedules in which that would cost an
acknowledged entry, each with one disk lost at a time.
"""

from __future__ import annotations

from dledger.core import Role
from tests.fakes.cluster import SimCluster
from tests.fakes.led_group import group, others
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.mutants import against


def roles(cluster):
    return {node.core.role for node in cluster.nodes.values() if node.alive}


# -- a new group ---------------------------------------------------------------------------------


def test_a_new_group_elects_once_all_have_seen_that_all_are_empty():
    cluster = SimCluster(3, seed=1)
    cluster.start("n1", "n2")
    cluster.run(3.0)
    assert roles(cluster) == {Role.JOINING}

    cluster.start("n3")
    cluster.await_leader(2.0)
    cluster.run(1.0)

    assert roles(cluster) == {Role.LEADER, Role.FOLLOWER}


def test_that_a_group_is_new_is_remembered():
    cluster = SimCluster(3, seed=1)
    cluster.start()
    cluster.await_leader()
    cluster.run(0.5)
    for node_id in cluster.ids:
        cluster.crash(node_id, power=True)
    cluster.start("n1", "n2")
    cluster.await_leader(3.0)


def test_a_member_with_entries_keeps_the_empty_from_thinking_the_group_is_new():
    node = LoneCore(joining=True)
    node.connect("n2", last_index=0, joining=True)
    node.connect("n3", last_index=7)
    assert node.core.role is Role.JOINING
    node.step(5.0)
    node.step(5.0)
    assert not node.take("pre_vote")


@against("no_joining")
def test_a_joining_member_grants_nothing_and_stands_for_nothing():
    node = LoneCore(joining=True)
    node.connect("n2", last_index=3)
    node.hear("n2", "pre_vote", term=4, round=1, last_log_index=3, last_log_term=4)
    node.hear("n2", "request_vote", term=5, last_log_index=3, last_log_term=4)
    node.hear("n2", "timeout_now", term=5)
    node.step(5.0)
    node.sync()

    assert [answer["granted"] for answer in node.take("pre_vote_answer")] in ([False], [])
    assert not node.take("response_vote")
    assert node.engine.term == 5
    assert node.votes.voted_for is None


# -- a lost disk ---------------------------------------------------------------------------------


def test_a_wiped_member_is_filled_and_admitted():
    cluster = group(seed=2)
    leader = cluster.leader
    for n in range(20):
        cluster.propose(b"%d" % n)
    cluster.run(0.3)
    wiped = others(cluster, leader)[0]
    cluster.crash(wiped)
    cluster.wipe(wiped)
    cluster.start(wiped)

    assert cluster.nodes[wiped].core.role is Role.JOINING
    assert cluster.run_until(lambda: cluster.nodes[wiped].core.role is Role.FOLLOWER, 1.0)
    assert cluster.nodes[wiped].store.synced_index >= 20

    cluster.crash(leader.node_id)
    cluster.await_leader()
    cluster.converge()


@against("no_joining")
def test_wiped_member_and_leader_crash_keep_what_was_acknowledged():
    """n2 acknowledges, loses its disk, and the leader dies: n3, which lacks the entry, asks n2.

    With n2's vote n3 would lead without an acknowledged entry.
    """
    cluster = group(seed=3)
    leader = cluster.leader
    wiped, lagging = others(cluster, leader)
    cluster.partition((leader.node_id, wiped), (lagging,))
    precious = cluster.propose(b"precious")
    cluster.run(0.2)
    assert precious.outcome == "acked"
    cluster.crash(wiped)
    cluster.wipe(wiped)
    cluster.crash(leader.node_id)
    cluster.cut.clear()
    cluster.start(wiped)
    cluster.run(5.0)
    assert cluster.leader is None, "nobody alive has the entry, so nobody may lead"

    cluster.converge()
    assert precious.index in cluster.committed


@against("no_joining")
def test_a_wiped_voter_does_not_elect_a_second_leader_of_the_term():
    """It voted, lost its disk, and is asked for its vote in the same term by another."""
    for joining in (False, True):
        node = LoneCore(joining=joining)
        node.connect(last_index=1)
        node.hear("n2", "request_vote", term=5, last_log_index=0, last_log_term=0)
        node.sync_votes()
        first = node.take("response_vote")
        assert bool(first) is not joining
        if first:
            continue
        node.hear("n3", "request_vote", term=5, last_log_index=0, last_log_term=0)
        node.sync_votes()
        assert not node.take("response_vote")


def scripted_admission():
    """Return (leader, floor): n1 leads, n2's answer to an old message is still to be read."""
    leader = LoneCore()
    leader.lead()
    leader.step(0.1)  # a heartbeat, which n2 answers; the answer is on its way
    old_id = leader.engine.leading.progress["n2"].append_id
    leader.take()
    # n1 is frozen here.  n2 is elected with n3's vote, and both acknowledge an entry.
    # n3 loses its disk, comes back, and n1 goes on.
    leader.core.peer_lost("n3")
    leader.connect("n3", joining=True, last_index=0)
    return leader, old_id


@against("admits_on_old_answers", "admits_at_once")
def test_answers_older_than_a_members_coming_do_not_admit_it():
    """A leader that was frozen may be deposed long since; what it reads first says nothing of now.

    n1 leads and is frozen.  n2 is elected with n3's vote, and the two acknowledge an entry; n3
    loses its disk and comes back to n1, which has gone on and reads an answer that n2 gave long
    ago.  Admitted now, n3 would vote for n1, and the entry would be gone.
    """
    leader, old_id = scripted_admission()

    leader.answer("n2", 1, id=old_id)
    leader.answer("n3", 0, success=False, joining=True)
    leader.step(0.1)

    admitted = [m["admit_index"] for m in leader.take("append_entries", to="n3")]
    assert set(admitted) == {-1}

    leader.answer("n2", 1)
    leader.step(0.1)
    admitted = [m["admit_index"] for m in leader.take("append_entries", to="n3")]
    assert admitted[-1] == 1


@against("joining_members_count")
def test_a_member_that_is_not_admitted_yet_does_not_help_to_commit():
    """It may have acknowledged another entry at this place to the leader of a later term."""
    leader, _ = scripted_admission()
    proposal = leader.propose()
    leader.sync()

    leader.answer("n3", proposal.index, joining=True)
    leader.step()
    assert proposal.outcome == "pending"

    leader.answer("n2", proposal.index)
    leader.step()
    assert proposal.outcome == "acked"


@against("joining_members_count")
def test_a_member_that_is_not_admitted_yet_does_not_confirm_a_read():
    leader, _ = scripted_admission()
    answers = []
    leader.core.request_barrier(answers.append)
    leader.step()
    leader.answer("n3", 0, success=False, joining=True)
    assert answers == []

    leader.answer("n2", 1)
    assert answers == [True]


@against("joining_members_count")
def test_a_leader_that_only_joining_members_answer_steps_down():
    leader, _ = scripted_admission()
    for _ in range(30):
        leader.step(0.02)
        leader.answer("n3", 0, success=False, joining=True)
    assert not leader.engine.is_leader


@against("joining_members_count", "no_joining")
def test_a_frozen_leader_and_a_wiped_member_do_not_acknowledge_a_second_history():
    """The whole of it in a group: one frozen, one wiped, one cut off, and nothing is lost."""
    cluster = group(seed=11)
    frozen = cluster.leader
    cluster.propose(b"its answers wait in the sockets of the frozen leader")
    cluster.pause(frozen.node_id)
    cluster.run(0.010)
    for peer_id in others(cluster, frozen):
        cluster.cut |= {(frozen.node_id, peer_id), (peer_id, frozen.node_id)}
    assert cluster.run_until(lambda: cluster.leader not in (None, frozen), 5.0)
    holder = cluster.leader.node_id
    (wiped,) = set(others(cluster, frozen)) - {holder}
    precious = cluster.propose(b"precious", holder)
    assert cluster.run_until(lambda: precious.outcome == "acked", 1.0)

    cluster.crash(wiped)
    cluster.wipe(wiped)
    cluster.cut = {(holder, peer_id) for peer_id in (wiped, frozen.node_id)}
    cluster.start(wiped)
    cluster.resume(frozen.node_id)
    assert frozen.core.engine.is_leader, "it knows no better yet"
    for n in range(20):
        cluster.propose(b"second history %d" % n, frozen.node_id)
        cluster.run(0.05)

    cluster.converge()
    assert cluster.committed[precious.index][0] == precious.term


@against("no_joining")
def test_what_is_on_disk_admits_and_nothing_else():
    """An admission counts once everything it speaks of is synced here."""
    node = LoneCore(joining=True)
    node.connect("n2", last_index=3)
    log = Log(1, 1, 1)
    node.hear("n2", {**log.append_message(1, after=0), "admit_index": 3})
    node.sync_votes()
    assert node.core.role is Role.JOINING
    node.hear("n2", {**log.append_message(1, after=3, id=2), "admit_index": 3})
    assert node.core.role is Role.JOINING

    node.sync_log()
    node.hear("n2", {**log.append_message(1, after=3, id=3), "admit_index": -1})
    assert node.core.role is Role.JOINING
    node.hear("n2", {**log.append_message(1, after=3, id=4), "admit_index": 3})

    assert node.core.role is Role.FOLLOWER
    assert not node.take("append_answer")[-1]["joining"] or not node.engine.vote_is_durable
