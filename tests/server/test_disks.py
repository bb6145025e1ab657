"""Disks that are slow, full or broken, and the housekeeping on them."""

import pytest
import trio

from dledger.config import KIB, FlushDiskType, RaftConfig
from dledger.errors import LedgerFullError, StorageFailedError
from dledger.store.ledger_store import LedgerStore
from tests.fakes.nodes import until
from tests.server.conftest import Wish

ELECTION_SECONDS = RaftConfig().election_timeout_max_ms / 1000


# -- slow ---------------------------------------------------------------------------------------


async def test_entries_waiting_on_a_sync_share_the_next_one(autojump_clock, make_ledgers):
    """Group commit: 100 entries cost two syncs, not a hundred."""
    alone = make_ledgers(1)
    alone["n1"].sync_seconds = 0.010
    await alone.start()
    await alone.put()
    worker = alone["n1"].workers["sync"]
    before = worker.job_count

    wishes = [Wish(b"%d" % number) for number in range(100)]
    for wish in wishes:
        alone["n1"].running.propose(wish)
    await until("all are committed", lambda: all(wish.committed for wish in wishes))

    assert worker.job_count - before == 2


async def test_a_leader_whose_disk_has_stalled_hands_the_lead_to_the_others(
    autojump_clock, ledgers, caplog
):
    await ledgers.put()
    stalled = await ledgers.leader()
    stalled.workers["sync"].stall()
    wish = Wish(b"x")
    stalled.running.propose(wish)

    began = trio.current_time()
    successor = await until(
        "another leads",
        lambda: ledgers.leader_now if ledgers.leader_now is not stalled else None,
    )

    assert trio.current_time() - began < 3 * ELECTION_SECONDS
    assert wish.is_over
    assert "a sync of the log has been running for more than" in caplog.text
    assert (await ledgers.put(member=successor)).committed

    stalled.workers["sync"].go_on()
    await ledgers.equal()


async def test_a_follower_whose_disk_has_stalled_does_not_stand_for_election(
    autojump_clock, ledgers
):
    await ledgers.put()
    leader = await ledgers.leader()
    stalled, healthy = ledgers.others(leader)
    stalled.workers["sync"].stall()
    await ledgers.put()
    await trio.sleep(2 * ELECTION_SECONDS)

    await leader.kill()
    ledgers.wires.cut(stalled.name, healthy.name)
    await trio.sleep(3)

    assert stalled.running.core.role.value == "follower"
    assert stalled.running.term == 1


async def test_a_stalled_disk_of_a_follower_holds_nobody_up(autojump_clock, ledgers):
    leader = await ledgers.leader()
    ledgers.others(leader)[0].workers["sync"].stall()

    for _ in range(20):
        assert (await ledgers.put()).committed
    assert ledgers.leader_now is leader


async def test_nothing_is_acknowledged_that_no_majority_has_synced(autojump_clock, ledgers):
    leader = await ledgers.leader()
    for other in ledgers.others(leader):
        other.workers["sync"].stall()
    wish = Wish(b"x")

    leader.running.propose(wish)
    await trio.sleep(0.3)
    assert not wish.is_over

    for other in ledgers.others(leader):
        other.workers["sync"].go_on()
    await until("it is committed", lambda: wish.is_over)


async def test_a_vote_leaves_only_when_it_is_on_the_disk(autojump_clock, make_ledgers):
    group = make_ledgers()
    await group.start()
    await group.put()
    leader = await group.leader()
    for other in group.others(leader):
        other.workers["vote"].stall()
    await leader.kill()

    await trio.sleep(3)
    assert group.leader_now is None

    for other in group.others(leader):
        other.workers["vote"].go_on()
    await group.leader()


# -- broken -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["write", "sync"])
async def test_a_failed_write_or_sync_ends_the_node_with_a_last_word(autojump_clock, ledgers, verb):
    leader = await ledgers.leader()
    leader.disk.failing["commitlog"] = verb
    wish = Wish(b"x")

    try:
        leader.running.propose(wish)
    except StorageFailedError:
        assert verb == "write", "a sync fails beside the loop"
    word = await leader.ended()

    assert isinstance(word, StorageFailedError)
    assert "commitlog" in str(word)
    await ledgers.leader()


async def test_no_sync_is_begun_by_a_node_that_has_failed(autojump_clock, ledgers):
    """One was running then: the next would speak for an entry that could not be written."""
    await ledgers.put()
    leader = await ledgers.leader()
    worker = leader.workers["sync"]
    worker.stall()
    leader.running.propose(Wish(b"its sync is running"))
    begun = worker.job_count
    leader.disk.failing["commitlog"] = "write"
    with pytest.raises(StorageFailedError):
        leader.running.propose(Wish(b"x"))

    leader.disk.failing.clear()
    worker.drain()
    worker.tell()

    is_syncing = leader.running.syncs.ticket is not None
    assert isinstance(await leader.ended(), StorageFailedError)
    assert (is_syncing, worker.job_count) == (False, begun)


async def test_a_failed_vote_ends_the_node(autojump_clock, ledgers):
    await ledgers.put()
    leader = await ledgers.leader()
    broken, healthy = ledgers.others(leader)
    broken.disk.failing["vote"] = "sync"
    healthy.disk.failing["vote"] = "sync"

    await leader.kill()

    word = await broken.ended()
    assert isinstance(word, StorageFailedError)
    assert "/data/vote" in str(word)


# -- full ---------------------------------------------------------------------------------------


async def test_a_full_disk_refuses_and_goes_on_when_there_is_room(autojump_clock, make_ledgers):
    alone = make_ledgers(1)
    await alone.start()
    await alone.put()
    member = alone["n1"]
    member.disk.capacity -= member.disk.free_bytes("/data")  # not a byte more

    refused = None
    with trio.fail_after(30):
        while refused is None:
            try:
                wish = await alone.put(bytes(10 * KIB))
            except LedgerFullError as error:
                refused = error
            else:
                refused = next(iter(wish.errors), None)
    assert isinstance(refused, LedgerFullError)
    assert "no room" in str(refused)
    assert member.running.is_leader, "reads and heartbeats go on"

    member.disk.capacity += 10 * 64 * KIB
    await until("there is room again", lambda: member.running.core.disk_full is None, seconds=2)
    assert (await alone.put(bytes(10 * KIB))).committed


async def test_a_follower_with_a_full_disk_catches_up_when_there_is_room(autojump_clock, ledgers):
    leader = await ledgers.leader()
    full = ledgers.others(leader)[0]
    full.disk.capacity -= full.disk.free_bytes("/data")

    for _ in range(30):
        assert (await ledgers.put(bytes(10 * KIB))).committed
    assert full.running.store.end_index < leader.running.store.end_index

    full.disk.capacity += 100 * 64 * KIB
    await ledgers.equal()


# -- housekeeping -------------------------------------------------------------------------------


async def test_a_checkpoint_is_written_when_its_time_has_come(autojump_clock, make_ledgers):
    alone = make_ledgers(1, store={"checkpoint_interval_ms": 1000})
    await alone.start()
    for _ in range(10):
        await alone.put()
    store = alone["n1"].running.store
    assert store.checkpoint_commit_index < store.end_index

    await trio.sleep(1.1)

    assert store.checkpoint_commit_index == store.end_index


async def test_a_checkpoint_is_written_when_much_has_been_appended(autojump_clock, make_ledgers):
    alone = make_ledgers(1, store={"checkpoint_interval_ms": 600_000, "checkpoint_size": 16 * KIB})
    await alone.start()
    for _ in range(10):
        await alone.put(bytes(4 * KIB))
    await trio.sleep(0.1)

    assert alone["n1"].running.store.checkpoint_commit_index > 1


async def test_a_restart_scans_only_behind_the_checkpoint(autojump_clock, make_ledgers):
    alone = make_ledgers(1, store={"checkpoint_interval_ms": 1000})
    await alone.start()
    for _ in range(100):
        await alone.put()
    await trio.sleep(1.5)
    await alone.put()
    await alone["n1"].kill()

    await alone.start()

    assert alone["n1"].running.store.scanned_count <= 2
    assert alone["n1"].running.store.end_index >= 102


async def test_stop_syncs_and_checkpoints(autojump_clock, make_ledgers):
    alone = make_ledgers(1, store={"checkpoint_interval_ms": 600_000})
    await alone.start()
    for _ in range(10):
        await alone.put()
    member = alone["n1"]

    member.running.stop()
    await member.kill()

    store = LedgerStore.open(member.disk, alone.store, "/data")
    assert store.checkpoint_commit_index == store.end_index == 11
    assert store.scanned_count == 0


async def test_stop_in_the_middle_of_a_sync_checkpoints_all_the_same(autojump_clock, make_ledgers):
    alone = make_ledgers(1, store={"checkpoint_interval_ms": 600_000})
    await alone.start()
    for _ in range(10):
        await alone.put()
    member = alone["n1"]
    member.running.propose(Wish(b"its sync is running"))

    member.workers["sync"].drain()
    member.running.stop()
    await member.kill()

    store = LedgerStore.open(member.disk, alone.store, "/data")
    assert store.checkpoint_commit_index == 11
    assert store.end_index == 12


async def test_stop_after_a_failed_sync_raises_it(autojump_clock, make_ledgers):
    """And does not try it again: the pages that failed may be dropped and look clean."""
    alone = make_ledgers(1)
    await alone.start()
    await alone.put()
    member = alone["n1"]
    member.disk.failing["commitlog"] = "sync"
    member.running.propose(Wish(b"x"))
    member.workers["sync"].drain()
    member.disk.failing.clear()

    with pytest.raises(StorageFailedError, match="commitlog"):
        member.running.stop()


async def test_async_flush_syncs_at_its_interval(autojump_clock, make_ledgers):
    alone = make_ledgers(
        1, store={"flush_disk_type": FlushDiskType.ASYNC_FLUSH, "flush_interval_ms": 200}
    )
    await alone.start()
    await trio.sleep(1)
    worker = alone["n1"].workers["sync"]
    before = worker.job_count
    store = alone["n1"].running.store

    for _ in range(50):
        assert (await alone.put()).committed
        await trio.sleep(0.02)
    await trio.sleep(0.3)

    assert worker.job_count - before <= 7
    assert store.synced_index == store.end_index


# -- retention ----------------------------------------------------------------------------------

RETENTION = {"log_size_max": 128 * KIB, "checkpoint_interval_ms": 100}


async def fill(group, count):
    for _ in range(count):
        await group.put(bytes(8 * KIB))


async def test_old_segments_are_dropped_whole(autojump_clock, make_ledgers):
    alone = make_ledgers(1, store=RETENTION)
    await alone.start()

    await fill(alone, 60)
    await trio.sleep(0.5)

    store = alone["n1"].running.store
    assert store.base.index > 0
    assert store.base.position % (64 * KIB) == 0
    assert store.end_position - store.base.position <= 3 * 64 * KIB
    assert alone.keepers["n1"].drops >= 1
    names = alone["n1"].disk.list_folder("/data/commitlog")
    assert min(int(name) for name in names if name.isdecimal()) == store.base.position


async def test_nothing_is_dropped_that_the_room_above_has_not_taken_in(
    autojump_clock, make_ledgers
):
    alone = make_ledgers(1, store=RETENTION)
    alone.keepers["n1"].applied = 10
    await alone.start()

    await fill(alone, 60)
    await trio.sleep(0.5)

    assert alone["n1"].running.store.base.index <= 10


async def test_nothing_is_dropped_without_a_state_to_begin_with(autojump_clock, make_ledgers):
    alone = make_ledgers(1, store=RETENTION)
    alone.keepers["n1"].states_kept = set()
    await alone.start()

    await fill(alone, 60)
    await trio.sleep(0.5)

    assert alone["n1"].running.store.base.index == 0


async def test_a_member_behind_retention_is_given_the_state(autojump_clock, make_ledgers):
    group = make_ledgers(store=RETENTION)
    await group.start()
    await group.put()
    leader = await group.leader()
    late = group.others(leader)[0]
    await late.kill()
    await fill(group, 60)
    await until("retention", lambda: leader.running.store.base.index > 2)

    await late.start()
    await group.equal()

    keeper = group.keepers[late.name]
    (index, state), *_ = keeper.installed
    assert state == b"state %d" % index
    assert keeper.replaced == [index for index, _ in keeper.installed]
    assert late.running.store.base.index >= index
    assert (await group.put()).committed
