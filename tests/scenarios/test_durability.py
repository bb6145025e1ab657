"""What is promised and what is on the disk: flaws c and k; disks that are full, fail or hang."""

from __future__ import annotations

import functools
import random

import pytest

from dledger.config import StoreConfig
from dledger.entry import LogPoint
from dledger.errors import CorruptStoreError, LedgerFullError, StorageFailedError
from dledger.raft.journal import LedgerJournal
from dledger.store.checkpoint import Checkpoint, CheckpointFile
from tests.fakes import led_group
from tests.fakes.cluster import TestProposal
from tests.fakes.disk import FakeDisk
from tests.fakes.led_group import others
from tests.fakes.lone_core import Log, LoneCore
from tests.fakes.mutants import against

SEGMENT = 16 * 1024
STORE = StoreConfig(segment_size=SEGMENT, index_file_units=87_400)
group = functools.partial(led_group.group, message_count_max=40_000)


# -- power ---------------------------------------------------------------------------------------


@against("promises_what_is_not_synced")
def test_power_loss_all():
    """The whole group loses its power in the middle of its work, again and again.

    Stock lost data in 56 of 60 seeds of this.
    """
    acked_count = 0
    for seed in (0, 2, 11, 20, 37, 44):  # three acknowledge most, three meet mutants
        dice = random.Random(seed)
        cluster = group(seed=seed, store=STORE)
        for node in cluster.nodes.values():
            node.sync_seconds = dice.choice([0.001, 0.005, 0.100])
        for n in range(3):
            for k in range(dice.randrange(5, 30)):
                cluster.propose(b"%d.%d" % (n, k) + bytes(dice.randrange(300)))
                cluster.run(dice.choice([0.0, 0.001, 0.004]))
            for node_id in cluster.ids:
                cluster.crash(node_id, power=True)
            # Two come back first and may elect one of them; what only the third has would be lost.
            for node_id in dice.sample(cluster.ids, 3):
                cluster.start(node_id)
                cluster.run(dice.choice([0.0, 1.2]))
            cluster.await_leader()
        for node in cluster.nodes.values():
            node.sync_seconds = 0.001
        cluster.converge()
        acked_count += sum(proposal.outcome == "acked" for proposal in cluster.proposals)
    assert acked_count > 100


@against("leader_counts_what_it_has_not_synced")
def test_power_loss_leader_unsynced():
    """What the leader has not synced is not committed, whoever else has it.

    Were it, one power loss here and one wrong vote there would lose it.
    """
    leader = LoneCore()
    leader.lead()
    proposal = leader.propose()
    leader.answer("n2", proposal.index)
    leader.answer("n3", proposal.index)

    assert proposal.outcome == "pending"
    assert leader.core.committed_index == 1

    leader.sync()
    assert proposal.outcome == "acked"


@against("leader_counts_what_it_has_not_synced")
def test_an_entry_that_only_one_follower_has_on_disk_is_not_acknowledged():
    """The leader loses its power and, with the member that lagged, elects without the third."""
    cluster = group(seed=8)
    leader = cluster.leader
    holder, lagging = others(cluster, leader)
    cluster.partition((leader.node_id, holder), (lagging,))
    leader.hold_syncs = True
    precious = cluster.propose(b"precious", leader.node_id)
    cluster.run(0.3)
    cluster.crash(leader.node_id, power=True)
    cluster.crash(holder)
    cluster.cut.clear()
    cluster.start(leader.node_id)
    cluster.await_leader()
    cluster.propose(b"in its place")
    cluster.run(0.3)

    cluster.converge()
    assert precious.outcome == "pending"  # its process died before it could say


def test_followers_sync_while_the_leader_does():
    """The leader's sync and the followers' overlap: an entry costs the longer of them, not both."""
    cluster = group(seed=1, latency=(0.001, 0.001))
    for node in cluster.nodes.values():
        node.sync_seconds = 0.010
    started = cluster.clock.now()
    proposal = cluster.propose(b"x")
    assert cluster.run_until(lambda: proposal.outcome == "acked", 1.0)
    assert cluster.clock.now() - started < 0.015


@against("promises_what_is_not_synced")
def test_a_promise_is_what_a_power_loss_leaves():
    for seed in range(10):
        follower = LoneCore(log=Log(1), term=1)
        follower.connect("n2")
        log = Log(1, 1, 1, 1)
        follower.hear("n2", log.append_message(1, after=1, upto=3, id=1))
        if seed % 2:
            follower.sync_log()
        follower.hear("n2", log.append_message(1, after=3, id=2))
        follower.hear("n2", log.append_message(1, after=4, id=3))
        promised = max(a["next_index"] for a in follower.take("append_answer")) - 1

        follower.restart(power=True, seed=seed)

        assert follower.store.end_index >= promised, f"seed {seed}"


@against("believes_the_page_cache")
def test_crash_during_fsync_then_restart():
    """A process dies while it syncs; the next one promises what it found; then the power goes.

    What a dead process has written is in the page cache only, and not durable.
    """
    for seed in range(8):
        follower = LoneCore(log=Log(1), term=1)
        follower.connect("n2")
        log = Log(1, 1, 1)
        follower.hear("n2", log.append_message(1, after=1))
        assert follower.store.begin_sync() is not None  # and never comes back

        follower.restart()
        follower.connect("n2")
        follower.hear("n2", log.append_message(1, after=3, id=2))
        promised = follower.take("append_answer")[-1]["next_index"] - 1
        assert promised == 3
        follower.restart(power=True, seed=seed)

        assert follower.store.end_index >= promised, f"seed {seed}"


@against("a_cut_does_not_void_syncs")
def test_a_sync_speaks_for_what_stood_when_it_began():
    """Entries replaced while a sync runs are not promised by its end (RabbitMQ's ra, issue 516)."""
    follower = LoneCore(log=Log(1), term=1)
    follower.connect()
    follower.hear("n2", Log(1, 1, 1, 1).append_message(1, after=1))
    ticket = follower.store.begin_sync()
    ticket.run()
    follower.hear("n3", Log(1, 2, 2, 2).append_message(2, after=1))
    follower.sync_votes()
    follower.take()

    follower.store.finish_sync(ticket)
    follower.engine.log_synced()
    follower.step()

    assert follower.store.durable_index == 1
    assert all(answer["next_index"] <= 2 for answer in follower.take("append_answer"))
    follower.sync_log()
    assert follower.take("append_answer")[-1]["next_index"] == 5


# -- what is found at start ----------------------------------------------------------------------


@against("commit_index_is_not_clamped")
def test_commit_ahead_of_tail():
    """A commit index that lies behind the log's end commits nothing that comes there later.

    Stock called back SUCCESS for entries without a single replica.
    """
    node = LoneCore(log=Log(1, 1), term=1)
    journal = LedgerJournal(node.store, node.votes, commit_index=50)
    assert journal.getRaftCommitIndex() == 2

    journal = LedgerJournal(node.store, node.votes, commit_index=0)
    assert journal.getRaftCommitIndex() == 0


def test_checkpoint_ahead_of_log():
    """A checkpoint that speaks of more than the log holds: the disk lost something, so no start."""
    disk = FakeDisk()
    LoneCore(disk=disk, log=Log(1, 1), term=1, commit=2)
    checkpoints = CheckpointFile.open(disk, "/data/checkpoint")
    last = checkpoints.last
    checkpoints.write(
        Checkpoint(
            generation=last.generation + 1,
            base=last.base,
            synced=LogPoint(index=9, term=1, position=last.synced.position + 400, chain_crc=1),
        )
    )

    with pytest.raises(CorruptStoreError, match=r"/data/.*move the data folder aside"):
        LoneCore(disk=disk)


@pytest.mark.parametrize("offset", [0, 30, 4096, 4126])
def test_corrupt_checkpoint_fails_loudly(offset):
    """Stock applied nothing ever again with an unreadable dump, and said nothing."""
    disk = FakeDisk()
    LoneCore(disk=disk, log=Log(1, 1), term=1, commit=2)
    disk.overwrite("/data/checkpoint", offset, b"\xff\xfe\xfd")

    with pytest.raises(CorruptStoreError, match=r"/data/checkpoint.*damaged.*stop the node"):
        LoneCore(disk=disk)


def test_a_damaged_vote_file_fails_loudly():
    """Stock took any unreadable file for term 0 and no vote, and would vote again."""
    disk = FakeDisk()
    LoneCore(disk=disk, log=Log(1), term=4)
    disk.overwrite("/data/vote", 10, b"\xff")

    with pytest.raises(CorruptStoreError, match="/data/vote"):
        LoneCore(disk=disk)


def test_what_was_committed_is_known_after_a_restart_of_everybody():
    cluster = group(seed=2)
    for n in range(20):
        cluster.propose(b"%d" % n)
    cluster.run(0.3)
    committed = cluster.leader.core.committed_index
    for node_id in cluster.ids:
        cluster.checkpoint(node_id)
    for node_id in cluster.ids:
        cluster.crash(node_id, power=True)
    cluster.start()

    assert all(node.core.committed_index >= committed - 1 for node in cluster.nodes.values())
    cluster.converge()


# -- a disk that is full, fails or hangs ---------------------------------------------------------


def fill(cluster, node_id, *, left=0):
    """Let the disk have *left* bytes beyond what is used."""
    disk = cluster.nodes[node_id].disk
    disk.capacity = 1 << 40
    disk.capacity = (1 << 40) - disk.free_bytes("/data") + left


def propose_many(cluster, count, *, node_id=None):
    first = len(cluster.proposals)
    for n in range(count):
        cluster.propose(b"%06d" % n + bytes(900), node_id)
        cluster.run(0.002)
    cluster.run(0.5)
    return [proposal.outcome for proposal in cluster.proposals[first:]]


@against("forgets_what_it_turned_away")
def test_a_follower_with_a_full_disk_costs_nothing_and_resumes():
    cluster = group(seed=1, store=STORE)
    leader = cluster.leader
    full = others(cluster, leader)[0]
    fill(cluster, full)

    assert set(propose_many(cluster, 80)) == {"acked"}
    behind = cluster.nodes[full]
    assert behind.alive
    assert behind.store.end_index < leader.store.end_index
    assert cluster.leader is leader

    behind.disk.capacity = 1 << 40
    assert cluster.run_until(
        lambda: behind.core.committed_index == leader.core.committed_index, 2.0
    )
    cluster.converge()


@against("only_an_allocation_makes_room")
def test_retention_makes_room_for_a_follower_that_waits_for_it():
    """Old segments become new ones without an allocation; it waited on until a leader changed."""
    cluster = group(seed=1, store=STORE)
    leader = cluster.leader
    propose_many(cluster, 40)
    full = cluster.nodes[others(cluster, leader)[0]]
    fill(cluster, full.node_id)
    propose_many(cluster, 60)
    assert full.store.end_index < leader.store.end_index
    stuck = full.store.end_index

    cluster.drop(full.node_id, full.core.committed_index)
    cluster.run(0.5)

    assert full.store.end_index > stuck
    full.disk.capacity = 1 << 40
    cluster.converge()


@against("only_an_allocation_makes_room")
def test_retention_makes_room_for_a_leader_that_refuses():
    cluster = group(seed=1, store=STORE)
    leader = cluster.leader
    propose_many(cluster, 40)
    fill(cluster, leader.node_id)
    assert propose_many(cluster, 60)[-1] == "refused"

    cluster.drop(leader.node_id, leader.core.committed_index)
    cluster.run(0.2)

    assert propose_many(cluster, 3) == ["acked"] * 3
    leader.disk.capacity = 1 << 40
    cluster.converge()


def test_a_leader_with_a_full_disk_refuses_and_resumes():
    cluster = group(seed=1, store=STORE)
    leader = cluster.leader
    fill(cluster, leader.node_id)

    outcomes = propose_many(cluster, 80)

    assert set(outcomes) <= {"acked", "refused", "unknown"}
    refused = [p for p in cluster.proposals if p.error is not None]
    assert refused
    assert all(isinstance(proposal.error, LedgerFullError) for proposal in refused)
    assert "no room" in str(refused[-1].error)
    assert leader.alive

    leader.disk.capacity = 1 << 40
    cluster.run(0.5)
    assert propose_many(cluster, 5) == ["acked"] * 5
    cluster.converge()


def test_a_group_whose_disks_are_all_full_loses_nothing_and_can_still_elect():
    cluster = group(seed=3, store=STORE)
    for node_id in cluster.ids:
        fill(cluster, node_id)
    propose_many(cluster, 80)
    for _ in range(3):
        leader = cluster.await_leader()
        cluster.crash(leader.node_id)
        cluster.await_leader()
        cluster.start(leader.node_id)
        cluster.run(0.5)

    for node in cluster.nodes.values():
        node.disk.capacity = 1 << 40
    cluster.run(0.5)
    assert propose_many(cluster, 5) == ["acked"] * 5
    cluster.converge()


@pytest.mark.parametrize("verb", ["write", "sync"])
def test_a_failing_disk_stops_the_node_with_a_clear_last_word(verb):
    """Only the node: the group goes on, and what it acknowledged is elsewhere."""
    for of_leader in (False, True):
        cluster = group(seed=4)
        leader = cluster.leader
        victim = leader if of_leader else cluster.nodes[others(cluster, leader)[0]]
        victim.disk.failing["commitlog"] = verb
        for n in range(5):
            cluster.propose(b"%d" % n)
            cluster.run(0.01)
        cluster.run(3.0)

        assert not victim.alive
        assert isinstance(victim.last_word, StorageFailedError)
        assert "/data/commitlog" in str(victim.last_word)
        assert cluster.await_leader() is not victim
        victim.disk.failing.clear()
        victim.last_word = None
        cluster.converge()


def test_a_vote_that_cannot_be_synced_stops_the_node_before_it_leaves():
    cluster = group(seed=4)
    old = cluster.leader
    victim = cluster.nodes[others(cluster, old)[0]]
    victim.disk.failing["vote"] = "sync"
    cluster.crash(old.node_id)
    cluster.run(3.0)

    assert isinstance(victim.last_word, StorageFailedError)
    assert cluster.leader is None
    victim.disk.failing.clear()
    victim.last_word = None
    cluster.converge()


@against("never_abdicates")
def test_a_stalled_sync_costs_a_leader_the_lead():
    """Its heartbeats would keep a group that can acknowledge nothing."""
    cluster = group(seed=5)
    old = cluster.leader
    old.hold_syncs = True
    stuck = cluster.propose(b"stuck", old.node_id)
    assert cluster.run_until(lambda: cluster.leader not in (None, old), 3.0)
    assert stuck.outcome == "unknown"
    assert cluster.propose(b"goes on").outcome == "pending"
    cluster.run(0.1)
    assert cluster.proposals[-1].outcome == "acked"
    cluster.run(5.0)
    assert cluster.leader is not old, "it does not stand again before its disk answers"

    cluster.release_syncs(old.node_id)
    cluster.converge()


def test_a_stalled_sync_of_a_follower_costs_nothing():
    cluster = group(seed=5)
    leader, term = cluster.leader, cluster.leader.core.engine.term
    stalled = cluster.nodes[others(cluster, leader)[0]]
    stalled.hold_syncs = True
    for n in range(50):
        proposal = cluster.propose(b"%d" % n)
        cluster.run(0.1)
        assert proposal.outcome == "acked"
    assert (cluster.leader, leader.core.engine.term) == (leader, term)

    cluster.release_syncs(stalled.node_id)
    cluster.converge()


def test_a_proposal_that_cannot_be_encoded_leaves_no_trace():
    class Unwritable(TestProposal):
        def encode(self, body_position):
            raise ValueError("no such thing")

    leader = LoneCore()
    leader.lead()
    with pytest.raises(ValueError, match="no such thing"):
        leader.core.propose(Unwritable(b"x"))
    leader.step()

    assert leader.store.end_index == 1
    assert (leader.core.pending_size, leader.core.inflight_count) == (0, 0)
    proposal = leader.propose(b"next")
    leader.sync()
    leader.answer("n2", 2)
    assert proposal.outcome == "acked"
