"""Members behind retention, and restarts with a log that begins late: flaws n1 to n4."""

from __future__ import annotations

import functools

import pytest

from dledger.config import RaftConfig, StoreConfig
from dledger.entry import LogPoint
from dledger.errors import LedgerFullError
from dledger.raft.snapshot import SnapshotReceiver, chunk_message
from tests.fakes import led_group
from tests.fakes.disk import FakeDisk, SimulatedCrash
from tests.fakes.led_group import others
from tests.fakes.lone_core import SMALL, Log, LoneCore
from tests.fakes.mutants import against

STORE = StoreConfig(segment_size=8 * 1024, index_file_units=512)
RAFT = RaftConfig(append_size_max=4096)
group = functools.partial(led_group.group, message_count_max=40_000, store=STORE, raft=RAFT)


def propose_many(cluster, count):
    for n in range(count):
        cluster.propose(b"%06d" % n + bytes(500))
        cluster.run(0.002)
    cluster.run(0.3)


def install_message(base, state=b"state", *, term, id=1, offset=0, chunk_size=1 << 20):
    return chunk_message(
        term=term, message_id=id, base=base, snapshot=state, offset=offset, chunk_size=chunk_size
    )


@against("commits_what_is_not_verified")
def test_snapshot_never_commits_unverified():
    """A commit index is taken over only as far as the log is known to be this leader's.

    Stock took it over with snapshot messages, and with appends, for whatever the log held:
    five commands that no other member ever had were called back as SUCCESS.
    """
    follower = LoneCore(log=Log(1, 2, 2, 2), term=2)
    follower.connect("n2")
    leaders = Log(1, 3, 3, 3, 3)

    follower.hear("n2", leaders.append_message(3, after=0, upto=1, commit=5))
    assert follower.engine.commit_index == 1
    assert follower.store.end_index == 4

    follower.hear("n2", leaders.append_message(3, after=3, upto=3, commit=5, id=2))
    assert follower.engine.commit_index == 1

    follower.hear("n2", install_message(leaders.store.point_at(1), term=3, id=3))
    assert follower.engine.commit_index == 1


@against("installs_what_is_known")
def test_stale_install_ignored():
    """A snapshot of what is here already changes nothing; entries behind it stay."""
    for base_index in (2, 4):
        log = Log(1, 1, 1, 1, 1)
        follower = LoneCore()
        follower.follow("n2", 1, log, commit=3)
        assert follower.core.committed_index == 3

        follower.hear("n2", install_message(log.store.point_at(base_index), term=1, id=9))

        assert follower.installed == []
        assert follower.store.end_index == 5
        assert follower.core.committed_index == max(3, base_index)
        (answer,) = follower.take("install_answer")
        assert answer["done"]
        assert answer["base_index"] == base_index


def test_an_install_replaces_a_log_that_is_not_the_leaders():
    follower = LoneCore(log=Log(1, 2, 2, 2), term=2)
    follower.connect("n2")
    base = Log(1, 3, 3, 3, 3).store.point_at(4)

    follower.hear("n2", install_message(base, term=3))
    follower.sync()

    assert follower.installed == [(base, b"state")]
    assert follower.store.base == follower.store.end == base
    assert follower.core.committed_index == 4
    follower.restart(power=True)
    assert follower.store.base == base
    assert follower.core.committed_index == 4


def test_a_member_behind_retention_gets_the_state_and_then_the_entries():
    cluster = group(seed=1)
    leader = cluster.leader
    behind = others(cluster, leader)[0]
    cluster.crash(behind)
    propose_many(cluster, 60)
    base = cluster.drop(leader.node_id, 50)
    assert base > 20
    propose_many(cluster, 10)

    cluster.start(behind)

    assert cluster.run_until(
        lambda: cluster.nodes[behind].core.committed_index == leader.core.committed_index, 2.0
    )
    assert cluster.installed == [(behind, base)]
    assert cluster.nodes[behind].store.base.index == base
    cluster.converge()


def test_a_new_disk_behind_retention_is_filled_admitted_and_votes():
    cluster = group(seed=2)
    leader = cluster.leader
    propose_many(cluster, 60)
    cluster.drop(leader.node_id, 50)
    wiped = others(cluster, leader)[0]
    cluster.crash(wiped)
    cluster.wipe(wiped)
    cluster.start(wiped)
    assert cluster.run_until(lambda: not cluster.nodes[wiped].core.engine.joining, 2.0)
    assert [node_id for node_id, _ in cluster.installed] == [wiped]

    cluster.crash(leader.node_id)
    cluster.await_leader()
    cluster.converge()


def test_retention_may_go_on_while_a_state_is_on_its_way():
    cluster = group(seed=3, latency=(0.020, 0.030))
    leader = cluster.await_leader()
    behind = others(cluster, leader)[0]
    cluster.crash(behind)
    propose_many(cluster, 60)
    cluster.drop(leader.node_id, 20)
    cluster.start(behind)
    cluster.run(0.080)
    second = cluster.drop(leader.node_id, 45)
    cluster.run(2.0)

    assert cluster.nodes[behind].store.base.index <= second
    cluster.converge()


@against("believes_any_snapshot")
def test_a_state_arrives_whole_or_not_at_all():
    """Pieces out of place, doubled, of another leader or damaged: never a broken state.

    Stock continued a dump in mid-file after a reconnect, and told the leader that it went well.
    """
    base = LogPoint(index=9, term=2, position=900, chain_crc=5)
    state = bytes(range(200))

    def piece(offset, *, term=3, of=state):
        return install_message(base, of, term=term, offset=offset, chunk_size=80)

    receiver = SnapshotReceiver()
    assert receiver.receive(piece(0)) is None
    assert receiver.receive(piece(160)) is None  # a gap
    assert receiver.offset == 80
    assert receiver.receive(piece(0)) is None  # again
    assert receiver.offset == 80
    assert receiver.receive(piece(80)) is None
    assert receiver.receive(piece(160)) == state

    assert receiver.receive(piece(0)) is None
    assert receiver.receive(piece(80, term=4)) is None  # another leader's: from the start
    assert receiver.offset == 0
    assert receiver.receive(piece(0)) is None
    assert receiver.receive(piece(80)) is None
    assert receiver.receive({**piece(160), "data": bytes(40)}) is None  # damaged
    assert receiver.offset == 0


@against("snapshot_follows_the_old_offset")
def test_a_state_starts_over_where_the_receiver_says():
    """The receiver was restarted in the middle: the leader sends from the first byte again."""
    cluster = group(seed=4, latency=(0.010, 0.010))
    cluster.state_size = 20_000
    leader = cluster.await_leader()
    behind = others(cluster, leader)[0]
    cluster.crash(behind)
    propose_many(cluster, 60)
    base = cluster.drop(leader.node_id, 50)
    cluster.start(behind)
    cluster.run(0.075)
    assert 0 < leader.core.engine.leading.progress[behind].install_offset < 20_000
    cluster.crash(behind)
    cluster.start(behind)
    cluster.run(2.0)

    assert cluster.installed == [(behind, base)]
    cluster.converge()


def test_a_state_that_finds_no_room_is_taken_later():
    """A full disk does not stop the node: nothing has changed, and the leader sends it again."""
    base = Log(1, 3, 3, 3, 3).store.point_at(4)
    follower = LoneCore()
    follower.connect("n2")
    full = True

    def install(base, state):
        if full:
            raise LedgerFullError("/data/commitlog: no room")
        LoneCore._install(follower, base, state)

    follower.engine._install = install
    follower.hear("n2", install_message(base, term=3))
    assert follower.installed == []
    assert not [answer for answer in follower.take("install_answer") if answer["done"]]

    full = False
    follower.hear("n2", install_message(base, term=3, id=2))
    follower.sync()

    assert follower.installed == [(base, b"state")]
    assert follower.core.committed_index == 4


# -- restarts ------------------------------------------------------------------------------------


def test_retained_log_survives_restart():
    """A log that no longer begins at 1 is whole after a restart of everybody.

    Stock cleared the journal unless its first two entries were those of the dump.
    """
    cluster = group(seed=5)
    propose_many(cluster, 60)
    for node_id in cluster.ids:
        cluster.checkpoint(node_id)
    bases = [cluster.drop(node_id, 40) for node_id in cluster.ids]
    ends = [node.store.end_index for node in cluster.nodes.values()]
    for node_id in cluster.ids:
        cluster.crash(node_id, power=True)
    cluster.start()

    assert [node.store.base.index for node in cluster.nodes.values()] == bases
    assert [node.store.end_index for node in cluster.nodes.values()] == ends
    cluster.converge()


def test_crash_between_checkpoint_and_trim():
    """Retention is killed at every step: the log is whole from the old base on, or from the new."""
    outcomes = set()
    for step in range(40):
        disk = FakeDisk()
        node = LoneCore(disk=disk, log=Log(*[1] * 60, size=500, store=STORE), term=1, commit=60,
                        store=STORE, raft=RAFT)  # fmt: skip
        end = node.store.end
        disk.crash_at_step = disk.step_count + step
        try:
            node.store.drop_before(node.store.locate(50).end)
            finished = True
        except SimulatedCrash:
            finished = False
        disk.crash_at_step = None
        node.restart(power=step % 2 == 0, seed=step)

        assert node.store.end == end
        assert node.core.committed_index == 60
        node.store.verify(node.store.begin_index, 60)
        outcomes.add(node.store.base.index)
        if finished:
            break
    else:
        pytest.fail("retention never finished")
    assert len(outcomes) == 2
    assert 0 in outcomes


def test_a_crash_at_every_step_of_an_install_leaves_the_old_log_or_the_new_base():
    outcomes = set()
    for step in range(60):
        disk = FakeDisk()
        follower = LoneCore(disk=disk, log=Log(1, 2, 2), term=2, commit=1, store=SMALL)
        follower.connect("n2")
        base = Log(1, 3, 3, 3, 3).store.point_at(4)
        disk.crash_at_step = disk.step_count + step
        try:
            follower.hear("n2", install_message(base, term=3))
            finished = True
        except SimulatedCrash:
            finished = False
        disk.crash_at_step = None
        follower.restart(power=step % 2 == 0, seed=step)

        assert follower.store.end_index in (3, 4)
        assert follower.core.committed_index == (4 if follower.store.base == base else 1)
        outcomes.add(follower.store.base.index)
        if finished:
            break
    else:
        pytest.fail("the install never finished")
    assert outcomes == {0, 4}
