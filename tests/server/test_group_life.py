"""Members that elect, append, die and come back, with the real links between them."""

import pytest
import trio

from dledger.config import RaftConfig
from dledger.core import Role
from dledger.errors import LedgerError, NotLeaderError, OutcomeUnknownError
from tests.fakes.nodes import until
from tests.server.conftest import Wish

ELECTION_SECONDS = RaftConfig().election_timeout_max_ms / 1000


async def test_a_new_group_elects_a_leader_and_appends(autojump_clock, ledgers):
    wish = await ledgers.put(b"first")

    assert wish.committed == [(2, 1)]  # behind the no-op of the leader
    await ledgers.equal()
    for member in ledgers:
        assert bytes(member.running.store.view(2).body) == b"first"


async def test_watchers_hear_every_commit_rising_and_every_role(autojump_clock, ledgers):
    for _ in range(10):
        await ledgers.put()
    await ledgers.equal()

    leader = await ledgers.leader()
    for member in ledgers:
        heard = ledgers.commits[member.name]
        assert heard == sorted(set(heard))
        assert heard[-1] == member.running.committed_index == 11
        role = Role.LEADER if member is leader else Role.FOLLOWER
        assert ledgers.roles[member.name][-1] == (role, 1, leader.name)


async def test_a_group_of_one_leads_at_once(autojump_clock, make_ledgers):
    alone = make_ledgers(1)
    began = trio.current_time()
    await alone.start()

    wish = await alone.put()

    assert wish.committed
    assert trio.current_time() - began < 0.1


@pytest.mark.parametrize("count", [3, 5])
async def test_a_dead_leader_is_replaced_before_any_timeout(autojump_clock, make_ledgers, count):
    """The connections of a dead process break, and that is as good as a letter."""
    group = make_ledgers(count)
    await group.start()
    await group.put()
    dead = await group.leader()
    began = trio.current_time()

    await dead.kill()
    await group.leader()

    assert trio.current_time() - began < 0.150
    assert (await group.put()).committed


async def test_a_leader_that_falls_silent_is_replaced_after_a_timeout(autojump_clock, ledgers):
    await ledgers.put()
    silent = await ledgers.leader()
    began = trio.current_time()
    for other in ledgers.others(silent):
        ledgers.wires.silence(silent.name, other.name)
        ledgers.wires.cut_pairs.add(frozenset((silent.name, other.name)))

    successor = await ledgers.leader(other_than=silent)

    assert trio.current_time() - began < 2 * ELECTION_SECONDS
    assert (await ledgers.put(member=successor)).committed


async def test_a_leader_without_a_majority_steps_down_and_says_the_outcome_is_unknown(
    autojump_clock, ledgers
):
    leader = await ledgers.leader()
    ledgers.wires.isolate(leader.name)
    wish = Wish(b"lost?")

    leader.running.propose(wish)
    await until("its end", lambda: wish.is_over, seconds=ELECTION_SECONDS + 0.1)

    assert isinstance(wish.errors[0], OutcomeUnknownError)
    assert "may still be" in str(wish.errors[0])
    assert leader.running.core.role is not Role.LEADER


async def test_what_a_cut_off_leader_appended_alone_is_taken_back(autojump_clock, ledgers):
    await ledgers.put(b"before")
    old = await ledgers.leader()
    ledgers.wires.isolate(old.name)
    lone = Wish(b"alone")
    old.running.propose(lone)

    new = await ledgers.leader(other_than=old)
    await ledgers.put(b"after", new)
    ledgers.wires.rejoin(old.name)
    await ledgers.equal()

    assert lone.errors
    for member in ledgers:
        store = member.running.store
        bodies = [bytes(store.view(index).body) for index in range(1, store.end_index + 1)]
        assert b"alone" not in bodies
        assert b"before" in bodies
        assert b"after" in bodies


async def test_a_member_that_restarts_catches_up(autojump_clock, ledgers):
    leader = await ledgers.leader()
    late = ledgers.others(leader)[0]
    await late.kill()
    for number in range(50):
        await ledgers.put(b"%d" % number)

    await late.start()

    await ledgers.equal()
    assert late.running.store.end_index == 51


async def test_a_wiped_member_may_not_vote_until_the_leader_admits_it(autojump_clock, ledgers):
    await ledgers.put()
    leader = await ledgers.leader()
    wiped = ledgers.others(leader)[0]
    await wiped.kill()
    wiped.disk = type(wiped.disk)()
    await wiped.start()

    assert wiped.running.core.role is Role.JOINING
    await until("it is admitted", lambda: wiped.running.core.role is Role.FOLLOWER)
    await ledgers.equal()


async def test_all_killed_and_started_again_go_on_with_the_same_log(autojump_clock, ledgers):
    for number in range(20):
        await ledgers.put(b"%d" % number)
    for member in ledgers:
        await member.kill()

    await ledgers.start()

    assert (await ledgers.put(b"more")).committed
    await ledgers.equal()
    store = ledgers["n1"].running.store
    assert [bytes(store.view(n).body) for n in range(2, 22)] == [b"%d" % n for n in range(20)]


async def test_a_follower_refuses_and_names_the_leader(autojump_clock, ledgers):
    leader = await ledgers.leader()
    follower = ledgers.others(leader)[0]

    with pytest.raises(NotLeaderError, match=f"{leader.name} is") as caught:
        follower.running.propose(Wish(b"x"))

    assert caught.value.leader_id == leader.name


# -- proof of leadership ------------------------------------------------------------------------


async def test_a_barrier_is_confirmed_by_a_leader_with_a_majority_only(autojump_clock, ledgers):
    leader = await ledgers.leader()
    follower = ledgers.others(leader)[0]
    answers = []

    leader.running.request_barrier(answers.append)
    assert not answers, "nobody has confirmed it yet"
    await until("an answer", lambda: answers)
    follower.running.request_barrier(answers.append)

    assert answers == [True, False]


async def test_a_barrier_asked_of_a_cut_off_leader_is_never_confirmed(autojump_clock, ledgers):
    leader = await ledgers.leader()
    ledgers.wires.isolate(leader.name)
    answers = []

    leader.running.request_barrier(answers.append)
    await until("an answer", lambda: answers)

    assert answers == [False]


# -- handing over -------------------------------------------------------------------------------


async def test_the_lead_is_handed_to_the_member_named(autojump_clock, ledgers):
    await ledgers.put()
    leader = await ledgers.leader()
    for target in ledgers.others(leader):
        server = ledgers.leader_now.running
        assert await server.transfer(target.name) == target.name
        assert (await ledgers.leader()) is target


async def test_proposals_wait_behind_the_fence_and_fail_unwritten(autojump_clock, ledgers):
    """They can be sent to the successor as they are: nothing of them is in the log."""
    leader = await ledgers.leader()
    before, behind = Wish(b"before"), Wish(b"behind")
    outcome = []

    leader.running.propose(before)
    leader.running.begin_transfer(None, outcome.append)
    leader.running.propose(behind)
    await until("it is over", lambda: outcome and before.is_over and behind.is_over)

    assert outcome == [None]
    assert before.committed
    assert isinstance(behind.errors[0], NotLeaderError)
    await ledgers.leader()
    await ledgers.equal()
    store = leader.running.store
    assert b"behind" not in [
        bytes(store.view(index).body) for index in range(1, store.end_index + 1)
    ]


@pytest.mark.parametrize(("target", "reason"), [("n9", "n9 is no member"), ("gone", "connected")])
async def test_a_lead_that_cannot_be_handed_over_stays(autojump_clock, ledgers, target, reason):
    await ledgers.put()
    leader = await ledgers.leader()
    if target == "gone":
        target = ledgers.others(leader)[0].name
        await ledgers[target].kill()
        await trio.sleep(0.1)

    with pytest.raises(LedgerError, match=reason):
        await leader.running.transfer(target)

    assert ledgers.leader_now is leader
    assert (await ledgers.put()).committed


async def test_a_successor_that_does_not_take_over_costs_only_time(autojump_clock, ledgers):
    """Its vote file hangs: the old leader leads on, and what waited is appended."""
    await ledgers.put()
    leader = await ledgers.leader()
    target = ledgers.others(leader)[0]
    target.workers["sync"].stall()
    wish = Wish(b"waits")
    outcome = []

    leader.running.propose(Wish(b"never acknowledged by the target"))
    leader.running.begin_transfer(target.name, outcome.append)
    leader.running.propose(wish)
    await until("the transfer is over", lambda: outcome)

    assert "did not take over in time" in str(outcome[0])
    await until("what waited is committed", lambda: wish.is_over)
    assert wish.committed


async def test_only_the_leader_hands_over(autojump_clock, ledgers):
    leader = await ledgers.leader()
    follower = ledgers.others(leader)[0]

    with pytest.raises(NotLeaderError) as caught:
        await follower.running.transfer()

    assert caught.value.leader_id == leader.name
