"""What a follower keeps, what a leader sends: raft-engine flaws a, b, i and the livelock."""

from __future__ import annotations

import functools

from dledger.config import RaftConfig, StoreConfig
from tests.fakes import led_group
from tests.fakes.led_group import others
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.mutants import against

STORE = StoreConfig(segment_size=256 * 1024, index_file_units=1024)
SMALL_APPENDS = RaftConfig(append_size_max=4096, append_window=4)
group = functools.partial(
    led_group.group, message_count_max=10_000, store=STORE, raft=SMALL_APPENDS
)


@against("cuts_what_matches")
def test_truncate_acked():
    """An append message that starts below the end of the log cuts nothing that matches it.

    Stock loses acknowledged entries here: 20 commands acknowledged, 8 of them gone.
    """
    log = Log(1, 1, 1)
    follower = LoneCore()
    follower.follow("n2", 1, log)
    assert follower.take("append_answer")[-1]["next_index"] == 4

    follower.hear("n2", log.append_message(1, after=0, upto=1, id=2))

    assert follower.store.end_index == 3
    assert follower.take("append_answer")[-1]["next_index"] == 4


@against("cuts_what_matches")
def test_a_heartbeat_below_the_end_cuts_nothing():
    """Stock sends heartbeats from ``next_node_idx``, which lies below what is on its way."""
    log = Log(1, 1, 1)
    follower = LoneCore()
    follower.follow("n2", 1, log)

    follower.hear("n2", log.append_message(1, after=1, upto=1, commit=1, id=2))

    assert follower.store.end_index == 3
    assert follower.engine.commit_index == 1


def test_a_conflict_cuts_from_the_conflict_on_and_nothing_before():
    log = Log(1, 1, 1, 1)
    follower = LoneCore()
    follower.follow("n2", 1, log)

    follower.connect("n3")
    follower.hear("n3", Log(1, 1, 3).append_message(3, after=0))
    follower.sync()

    assert [follower.store.term_at(index) for index in range(1, 4)] == [1, 1, 3]
    assert follower.store.end_index == 3
    assert follower.take("append_answer")[-1]["next_index"] == 4


@against("success_moves_next_back", "has_no_window")
def test_slow_no_faults():
    """Links of 50 to 120 ms and nothing else: nobody cuts, and each entry travels once.

    Stock dropped committed entries in 60 of 60 seeds of this.
    """
    cluster = group(seed=4, latency=(0.050, 0.120))
    before = cluster.sent_entry_bytes
    leader = cluster.await_leader()
    start = leader.store.end_position
    for n in range(60):
        cluster.propose(b"%04d" % n + bytes(500))
        cluster.run(0.020)
    cluster.run(2.0)

    cluster.converge()
    assert all(proposal.outcome == "acked" for proposal in cluster.proposals)
    assert all(node.store.stats.truncation_count == 0 for node in cluster.nodes.values())
    needed = 2 * (leader.store.end_position - start)
    assert cluster.sent_entry_bytes - before < 1.05 * needed


def diverged(cluster, *, backlog, divergent=1):
    """Leave one member with entries of its own, and the others with *backlog* newer ones."""
    old = cluster.await_leader()
    rest = others(cluster, old)
    cluster.partition((old.node_id,), tuple(rest))
    for n in range(divergent):
        cluster.propose(b"lost %d" % n, old.node_id)
    assert old.store.stats.truncation_count == 0
    assert cluster.run_until(lambda: cluster.leader is not None and cluster.leader is not old, 5.0)
    for n in range(backlog):
        cluster.propose(b"%04d" % n + bytes(900))
        if n % 20 == 0:
            cluster.run(0.01)
    cluster.run(0.5)
    assert sum(p.outcome == "acked" for p in cluster.proposals) >= backlog
    return old


@against("sends_on_while_searching")
def test_livelock_divergent():
    """A member with one entry of its own and many messages of backlog comes back, at once.

    On stock the refusals of the later messages undo what the refusal of the first has found, and
    it never rejoins: 200 kB of backlog were enough.
    """
    cluster = group(seed=2, latency=(0.005, 0.010))
    old = diverged(cluster, backlog=150)
    backlog_size = cluster.await_leader().store.end_position - old.store.end_position
    cluster.sent.clear()
    before = cluster.sent_entry_bytes
    cluster.heal()

    assert cluster.run_until(
        lambda: old.core.committed_index == cluster.leader.core.committed_index, 2.0
    )
    assert old.store.stats.truncation_count == 1
    assert cluster.sent_entry_bytes - before < 1.3 * backlog_size
    cluster.converge()


@against("backs_off_one_by_one")
def test_slow_backoff():
    """500 entries that disagree are passed in two rounds, not in 500.

    Source: Raft paper, end of section 5.3; stock took 1003 heartbeats for this.
    """
    follower = LoneCore(log=Log(1, *[2] * 500), term=2)
    follower.connect("n2")
    leader_log = Log(1, *[3] * 500)
    rounds, next_index = 0, leader_log.end + 1
    while True:
        rounds += 1
        assert rounds <= 5, "too many rounds"
        follower.hear(
            "n2",
            leader_log.append_message(
                3, after=next_index - 1, upto=min(next_index + 99, leader_log.end), id=rounds
            ),
        )
        follower.sync()
        answer = follower.take("append_answer")[-1]
        if answer["success"]:
            break
        next_index = answer["next_index"]
    assert rounds == 2


@against("answers_of_any_term_count")
def test_stale_success():
    """An answer given to a leader of an earlier term proves nothing to this one.

    On stock an entry was committed with two of five and then overwritten.
    """
    leader = LoneCore(5)
    leader.lead()
    proposal = leader.propose()
    leader.sync()
    leader.answer("n2", proposal.index)

    leader.answer("n3", proposal.index, term=leader.engine.term - 1)

    assert proposal.outcome == "pending"
    leader.answer("n3", proposal.index)
    assert proposal.outcome == "acked"


@against("cuts_what_matches", "old_refusals_count")
def test_late_old_connection():
    """What an older connection still delivers changes nothing, at either end.

    The links see to it that it is not delivered; this is the second line.
    """
    log = Log(1, 1, 1, 1)
    follower = LoneCore()
    follower.connect("n2")
    first = log.append_message(1, after=0, upto=2, id=1)
    follower.hear("n2", first)
    follower.hear("n2", log.append_message(1, after=2, id=2))
    follower.sync()
    follower.hear("n2", first)
    assert follower.store.end_index == 4
    assert follower.take("append_answer")[-1]["next_index"] == 5

    leader = LoneCore()
    leader.lead()
    old_id = leader.engine.leading.progress["n2"].append_id
    for _ in range(5):
        leader.propose()
    leader.connect("n2", last_index=leader.store.end_index)
    leader.answer("n2", leader.store.end_index)
    progress = leader.engine.leading.progress["n2"]
    leader.answer("n2", 0, id=old_id, success=False)
    assert progress.next_index == leader.store.end_index + 1
    assert not progress.probing


@against("success_moves_next_back")
def test_catch_up_linear():
    """A member that missed much is sent each entry once, in messages as large as allowed."""
    cluster = group(seed=6, latency=(0.002, 0.004))
    leader = cluster.await_leader()
    behind = others(cluster, leader)[0]
    end = cluster.nodes[behind].store.end_position
    cluster.crash(behind)
    for n in range(200):
        cluster.propose(b"%04d" % n + bytes(900))
        if n % 20 == 0:
            cluster.run(0.02)
    cluster.run(0.5)
    missing = leader.store.end_position - end
    before_bytes, before_count = cluster.sent_entry_bytes, cluster.sent["append_entries"]

    cluster.start(behind)
    assert cluster.run_until(
        lambda: cluster.nodes[behind].core.committed_index == leader.core.committed_index, 3.0
    )

    assert cluster.sent_entry_bytes - before_bytes < 1.05 * missing + 2 * 4096
    # A message of 4096 bytes holds four of these entries; the rest are heartbeats.
    assert cluster.sent["append_entries"] - before_count < 200 / 4 + 30


def test_an_empty_message_goes_only_to_whom_it_tells_something():
    """Under load each entry tells of the commit before it; a pause tells, and then keeps silent."""
    leader = LoneCore()
    leader.lead()
    for _ in range(8):
        leader.propose()
        leader.sync_log()
        for peer_id in leader.peers:
            leader.answer(peer_id, leader.store.end_index)
        leader.step(0.002)
    sent = leader.take("append_entries")
    assert len(sent) == 16
    assert all(len(message["entries"]) for message in sent)

    leader.step(0.004)
    told = leader.take("append_entries")
    assert [message["commit_index"] for message in told] == [leader.store.end_index] * 2
    assert not any(len(message["entries"]) for message in told)

    leader.step(0.050)
    assert leader.take("append_entries") == []
    leader.step(0.030)  # a heartbeat interval after that
    assert len(leader.take("append_entries")) == 2


@against("keeps_what_a_peer_had_proven")
def test_a_follower_that_lost_its_unsynced_end_is_sent_it_again():
    """With ASYNC_FLUSH a power loss takes back what was acknowledged; the leader must not insist.

    It asked for the entry behind what had once been acknowledged, was refused, and asked again,
    as fast as the link allowed, for as long as it led.
    """
    leader = LoneCore()
    leader.lead()
    for _ in range(5):
        leader.propose()
    leader.sync()
    leader.answer("n2", 6)

    leader.core.peer_lost("n2")
    leader.connect("n2", last_index=3)
    leader.take()
    leader.step(0.1)
    leader.answer("n2", 3, success=False)

    sent = leader.take("append_entries", to="n2")
    assert [message["prev_index"] for message in sent if message["entries"]] == [3]


@against("forgets_the_answer_due")
def test_a_heartbeat_does_not_swallow_the_answer_that_waits_for_a_sync():
    """The promise of what is being synced leaves when the sync is done, not 75 ms later."""
    follower = LoneCore(log=Log(1), term=1)
    follower.connect("n2")
    log = Log(1, 1)
    follower.hear("n2", log.append_message(1, after=1, id=1))
    follower.hear("n2", log.append_message(1, after=2, id=2))
    assert [answer["next_index"] for answer in follower.take("append_answer")] == [2]

    follower.sync_log()

    assert [answer["next_index"] for answer in follower.take("append_answer")] == [3]
