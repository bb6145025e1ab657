"""Questions for the group's status that wait until a node knows a leader that is news."""

from __future__ import annotations

import contextlib

import pytest
import trio

from broker.handlers.until_leader import ANSWERS_AT_ONCE, LOOK_SECONDS, SECONDS_MAX
from broker.protocol.bodies import GroupStatus
from broker.protocol.request_code import RequestCode
from tests.fakes.nodes import until

SOON = 0.005  # seconds: the network's way to and back


def question(newer_than: int, seconds: float) -> dict[str, int]:
    return {"newerThan": newer_than, "suspendTimeoutMillis": int(seconds * 1000)}


async def asked(caller, newer_than: int, seconds: float) -> tuple[GroupStatus, float]:
    """Ask; return the answer, and how long it took."""
    began = trio.current_time()
    answer = await caller.ok(RequestCode.GET_GROUP_STATUS, question(newer_than, seconds))
    return GroupStatus.decode(answer.body), trio.current_time() - began


@pytest.fixture
async def follower(three):
    leader = await three.leader()
    return three.others(leader)[0]


@pytest.fixture
async def caller(three, follower):
    async with three.caller(follower) as caller:
        yield caller


@pytest.fixture
def term(follower) -> int:
    return follower.running.ledger.term


async def test_a_leader_that_is_news_is_told_at_once(autojump_clock, caller, term):
    status, seconds = await asked(caller, term - 1, 5)
    assert (status.term, status.leader_id is None) == (term, False)
    assert seconds < SOON


async def test_who_leads_says_so_at_once(autojump_clock, three, term):
    leader = await three.leader()
    async with three.caller(leader) as caller:
        status, seconds = await asked(caller, term, 5)
    assert status.leader_id == leader.name
    assert seconds < SOON


async def test_a_leader_that_is_known_is_told_when_the_time_is_up(autojump_clock, caller, term):
    status, seconds = await asked(caller, term, 0.3)
    assert (status.term, status.leader_id is None) == (term, False)
    assert 0.3 <= seconds < 0.3 + LOOK_SECONDS + SOON


async def test_the_next_leader_is_told_when_the_node_knows_it(
    autojump_clock, three, follower, caller, term
):
    led = []

    def note(role, term, leader_id) -> None:
        led.append((trio.current_time(), term, leader_id))

    follower.running.ledger.watch_role(note)
    leader = await three.leader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leader.kill)
        status, _ = await asked(caller, term, 20)
    known_at = next(at for at, term, leader_id in led if term == status.term and leader_id)
    assert status.term > term
    assert status.leader_id not in (None, leader.name)
    assert trio.current_time() - known_at < SOON


async def test_without_a_majority_nobody_is_told_before_the_time_is_up(
    autojump_clock, three, follower, caller, term
):
    for other in three.others(follower):
        await other.kill()
    await until("the leader is lost", lambda: follower.running.ledger.leader_id is None)
    status, seconds = await asked(caller, -1, 2)
    assert status.leader_id is None
    assert 2 <= seconds < 2 + LOOK_SECONDS + SOON


async def test_who_asks_once_more_is_answered_both(autojump_clock, follower, caller, term):
    first = caller.submit(RequestCode.GET_GROUP_STATUS, question(term, 10))
    caller.flush()
    await trio.sleep(0.1)
    assert not first
    second = caller.submit(RequestCode.GET_GROUP_STATUS, question(term, 1))
    caller.flush()
    await trio.sleep(SOON)
    assert len(first) == 1
    assert len(follower.running.group.until_leader) == 1
    await trio.sleep(1 + LOOK_SECONDS + SOON)
    assert len(second) == 1
    assert len(follower.running.group.until_leader) == 0


async def test_who_is_gone_is_forgotten(autojump_clock, three, follower, term):
    async with three.caller(follower) as caller:
        caller.submit(RequestCode.GET_GROUP_STATUS, question(term, 10))
        caller.flush()
        await until("it waits", lambda: len(follower.running.group.until_leader) == 1)
    await until("it is forgotten", lambda: len(follower.running.group.until_leader) == 0)


async def test_nobody_waits_for_ever(autojump_clock, caller, term):
    answers = caller.submit(RequestCode.GET_GROUP_STATUS, question(term, 10_000_000))
    caller.flush()
    await trio.sleep(SECONDS_MAX - 1)
    assert not answers
    await trio.sleep(1 + LOOK_SECONDS + SOON)
    assert len(answers) == 1


async def test_what_waits_counts_as_memory_of_its_connection(
    autojump_clock, follower, caller, term
):
    caller.submit(RequestCode.GET_GROUP_STATUS, question(term, 1), b"x" * 100_000)
    caller.flush()
    await until("it waits", lambda: len(follower.running.group.until_leader) == 1)
    (session,) = follower.running.group.until_leader._waiting
    assert session.inflight_size > 100_000
    await trio.sleep(1 + LOOK_SECONDS + SOON)
    assert session.inflight_size == 0


async def test_a_thousand_that_wait_are_told_by_one_status(
    autojump_clock, three, follower, term, monkeypatch
):
    """They all lost the leader at one moment, and it is the one at which the next is elected."""
    group = follower.running.group
    count = 3 * ANSWERS_AT_ONCE
    made = []
    current_status = group.current_status
    monkeypatch.setattr(group, "current_status", lambda: made.append(1) or current_status())
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(three.caller(follower)) for _ in range(count)]
        answers = [
            caller.submit(RequestCode.GET_GROUP_STATUS, question(term, 20)) for caller in callers
        ]
        for caller in callers:
            caller.flush()
        await until("all wait", lambda: len(group.until_leader) == count)
        await (await three.leader()).kill()
        await until("all are told", lambda: all(answers))
    told = {GroupStatus.decode(found.body).leader_id for (found,) in answers}
    assert told == {(await three.leader()).name}
    assert len(made) == 3
