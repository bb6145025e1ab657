"""The power of one machine fails: what it had proven in memory alone counts no longer."""

from __future__ import annotations

from dledger.config import FlushDiskType, StoreConfig
from dledger.core import Role
from tests.fakes.led_group import group, others
from tests.fakes.lone_core import Log, LoneCore
from tests.scenarios.test_levels import Waiter, heard, tell

ASYNC = FlushDiskType.ASYNC_FLUSH
STORE = StoreConfig(segment_size=64 * 1024, index_file_units=512, flush_disk_type=ASYNC)


class NothingKept:
    """What was not synced is gone, all of it."""

    def choice(self, options):
        return options[0]

    def random(self):
        return 1.0


def test_a_member_without_its_disk_votes_again_by_what_is_on_the_new_one():
    """That it may vote was there at once, and its entries were not: they had been on two disks."""
    node = LoneCore(joining=True, store=STORE)
    node.connect("n2", last_index=3)
    log = Log(1, 1, 1)
    node.hear("n2", {**log.append_message(1, after=0), "admit_index": 3})
    node.sync_votes()
    assert node.core.role is Role.JOINING
    node.disk.power_loss(NothingKept())
    node.start()
    assert (node.core.role, node.store.end_index) == (Role.JOINING, 0)

    node.connect("n2", last_index=3)
    node.hear("n2", {**log.append_message(1, after=0), "admit_index": 3})
    node.sync_log()
    node.hear("n2", {**log.append_message(1, after=3), "admit_index": 3})
    node.sync_votes()
    assert node.core.role is Role.FOLLOWER


def test_a_follower_whose_cut_is_lost_with_the_power_catches_up():
    """Its leader took the old end that came back for what it had, and asked behind it for ever."""
    cluster = group(seed=5, flush=ASYNC)
    old = cluster.leader
    cluster.partition((old.node_id,), tuple(others(cluster, old)))
    for number in range(5):  # nobody else gets them
        cluster.propose(b"tail %d" % number, old.node_id)
    cluster.run(0.05)
    tail_end = old.store.end_index
    assert old.store.synced_index == tail_end
    assert cluster.run_until(lambda: cluster.leader not in (None, old), 5.0)
    leader = cluster.leader
    for number in range(20):
        cluster.propose(b"new %d" % number, leader.node_id)
        cluster.run(0.005)
    old.syncing = True  # the next sync of its log is not due yet
    cluster.heal()
    assert cluster.run_until(lambda: old.store.end_index == leader.store.end_index, 2.0)
    cluster.run(0.1)

    cluster.crash(old.node_id)
    old.disk.power_loss(NothingKept())
    cluster.start(old.node_id)
    assert old.store.end_index == tail_end
    assert old.store.end_term < leader.core.engine.term
    before = cluster.sent["append_entries"]
    assert cluster.run_until(lambda: old.core.committed_index >= leader.core.committed_index, 3.0)
    assert cluster.sent["append_entries"] - before < 100


def test_an_older_end_that_came_back_is_not_counted_for_a_commit():
    leader = LoneCore(5, store=STORE)
    leader.lead()
    first, *_ = [leader.propose() for _ in range(5)]  # 2 to 6
    leader.answer("n2", 6)
    leader.core.peer_lost("n2")
    leader.connect("n2", last_index=4, promises_synced=False)  # of another leader's, and it says so
    leader.answer("n2", 1, success=False)
    leader.answer("n3", 4)

    assert first.outcome == "pending", "two of five have it"


def test_nor_for_copies_in_memory_where_a_commit_needs_disks():
    leader = LoneCore(5)
    leader.lead()
    first, *_ = [leader.propose() for _ in range(5)]
    deadline = leader.clock.seconds + 9
    waiter = Waiter(leader.core, first.index, "majority/async", deadline=deadline)
    tell(leader, "n2", 1, written=6, synced=1)
    leader.core.peer_lost("n2")
    leader.connect("n2", last_index=4)
    leader.answer("n2", 1, success=False)
    tell(leader, "n3", 1, written=4, synced=1)

    assert heard([waiter]) == [""]
