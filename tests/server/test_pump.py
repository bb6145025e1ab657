"""The pump: one place where everything takes effect, entered by nobody twice."""

import pytest
import trio

from dledger.config import FlushDiskType
from dledger.errors import LedgerBusyError, LedgerError
from tests.fakes.nodes import until
from tests.server.conftest import Wish


async def test_what_a_callback_proposes_is_appended_without_entering_the_pump_again(
    autojump_clock, ledgers
):
    leader = await ledgers.leader()
    server = leader.running
    depth = 0
    deepest = 0
    step = server.core.step

    def counted_step():
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        step()
        depth -= 1

    server.core.step = counted_step
    last = Wish(b"last")
    middle = Wish(b"middle", then=lambda: server.propose(last))
    first = Wish(b"first", then=lambda: server.propose(middle))

    server.propose(first)
    await until("all are committed", lambda: last.committed)

    assert deepest == 1


async def test_a_thousand_proposals_from_one_callback_do_not_dig_a_stack(autojump_clock, ledgers):
    server = (await ledgers.leader()).running
    wishes = [Wish(b"%d" % number) for number in range(1000)]

    def propose_all():
        for wish in wishes:
            server.propose(wish)

    server.propose(Wish(b"first", then=propose_all))
    await until("all are committed", lambda: all(wish.committed for wish in wishes))

    indexes = [wish.committed[0][0] for wish in wishes]
    assert indexes == list(range(indexes[0], indexes[0] + 1000))


async def test_an_error_out_of_a_watcher_ends_the_node(autojump_clock, ledgers):
    """A bug above is not swallowed, and the pump does not run on with half its work done."""
    leader = await ledgers.leader()

    def fall_over(index):
        raise LedgerError("a watcher fell over")

    leader.running.watch_commits(fall_over)
    leader.running.propose(Wish(b"x"))
    word = await leader.ended()

    assert "a watcher fell over" in str(word)
    await ledgers.leader()


async def test_too_much_waiting_is_refused_until_some_of_it_is_committed(
    autojump_clock, make_ledgers
):
    group = make_ledgers(raft={"pending_size_max": 1024 * 1024}, store={"segment_size": 1 << 20})
    await group.start()
    leader = await group.leader()
    for other in group.others(leader):
        other.workers["sync"].stall()
    wishes = [Wish(bytes(300_000)) for _ in range(3)]
    for wish in wishes:
        leader.running.propose(wish)

    with pytest.raises(LedgerBusyError, match="pending_size_max = 1048576; send again later"):
        leader.running.propose(Wish(bytes(300_000)))

    for other in group.others(leader):
        other.workers["sync"].go_on()
    await until("they are committed", lambda: all(wish.committed for wish in wishes))
    assert (await group.put(bytes(300_000))).committed


async def test_a_commit_is_told_to_followers_within_milliseconds(autojump_clock, ledgers):
    """Not only with the next heartbeat: consumers read from followers, too."""
    wish = await ledgers.put()
    leader = await ledgers.leader()
    began = trio.current_time()

    index = wish.committed[0][0]
    others = ledgers.others(leader)
    await until(
        "followers know", lambda: all(other.running.committed_index >= index for other in others)
    )

    assert trio.current_time() - began < 0.020


async def test_a_second_connection_of_a_peer_takes_the_place_of_the_first(autojump_clock, ledgers):
    """As after a route was lost and found: the peer dials again before the old link is dead."""
    await ledgers.put()
    leader = await ledgers.leader()
    follower = ledgers.others(leader)[0]
    ends = ledgers.wires.streams(leader.name, follower.name)
    for end in ends:
        ledgers.wires.silence(leader.name, follower.name)
        del end
    dialler = min(leader, follower, key=lambda member: member.name)
    ledgers.nursery.start_soon(dialler.running._peers._dial, _member(ledgers, leader, follower))

    await trio.sleep(0.2)
    assert (await ledgers.put()).committed
    await ledgers.equal()
    assert follower.name in leader.running.core.connected_peers


def _member(ledgers, one, other):
    target = max(one.name, other.name)
    return next(m for m in ledgers.config("n1").members if m.node_id == target)


async def test_a_follower_tells_later_of_commits_that_nobody_waits_for(autojump_clock, ledgers):
    """Its answer is what the leader waits for; who asks for what is committed has it told first."""
    leader = await ledgers.leader()
    follower = ledgers.others(leader)[0]
    commits = ledgers.commits[follower.name]
    put_off: list[int] = []

    def may_wait(index):
        put_off.append(index)
        return True

    follower.running.let_commits_wait(may_wait)
    leader.running.propose(Wish(b"x"))
    await until("the follower has been told of a commit", lambda: put_off)
    index = put_off[-1]
    assert index not in commits
    assert follower.running.committed_index < index

    follower.running.publish_commits()

    assert follower.running.committed_index == commits[-1] == index


async def test_what_is_put_off_is_told_within_milliseconds(autojump_clock, ledgers):
    leader = await ledgers.leader()
    follower = ledgers.others(leader)[0]
    follower.running.let_commits_wait(lambda _: True)
    began = trio.current_time()

    index = (await ledgers.put()).committed[0][0]
    await until("the follower has told it", lambda: ledgers.commits[follower.name][-1] >= index)

    assert trio.current_time() - began < 0.025


async def test_nothing_is_put_off_that_somebody_waits_for(autojump_clock, ledgers):
    """A pull that is held, for instance: it is answered with the commit."""
    leader = await ledgers.leader()
    follower = ledgers.others(leader)[0]
    commits = ledgers.commits[follower.name]
    late: list[int] = []

    def may_wait(index):
        trio.lowlevel.current_trio_token().run_sync_soon(
            lambda: None if commits[-1] >= index else late.append(index)
        )
        return False

    follower.running.let_commits_wait(may_wait)
    for _ in range(3):
        await ledgers.put()
    await ledgers.equal()

    assert not late


async def test_what_came_during_a_sync_is_synced_in_time_without_a_word_of_the_leader(
    autojump_clock, make_ledgers
):
    """With ASYNC_FLUSH; the next sync is not due yet when that one ends."""
    group = make_ledgers(
        store={"flush_disk_type": FlushDiskType.ASYNC_FLUSH, "flush_interval_ms": 500},
        raft={
            "heartbeat_interval_ms": 5_000,
            "election_timeout_min_ms": 20_000,
            "election_timeout_max_ms": 30_000,
        },
    )
    await group.start()
    leader = await group.leader()
    follower = group.others(leader)[0]
    store, worker = follower.running.store, follower.workers["sync"]
    await until("all is synced", lambda: store.synced_index == store.end_index)
    worker.stall()
    await group.put()
    await until("a sync is under way", lambda: follower.running.syncs.ticket is not None)
    began = trio.current_time()
    index = (await group.put()).committed[0][0]
    await until("the follower knows it committed", lambda: store_knows(follower.running, index))
    for other in group.others(follower):
        group.wires.silence(follower.name, other.name)

    worker.go_on()
    await until("it is synced, too", lambda: store.synced_index >= index, seconds=60)

    assert trio.current_time() - began < 0.6


def store_knows(server, index):
    return server.committed_index >= index == server.store.end_index
