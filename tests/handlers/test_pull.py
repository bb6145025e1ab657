"""Pulls: at once, held, woken, late, and never sent back by a node that lags."""

import pytest
import trio

from broker.protocol.headers import PULL_FLAG_COMMIT_OFFSET
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import KIB
from tests.fakes.brokers import bodies_of, pull_fields
from tests.fakes.nodes import until

PULL = RequestCode.PULL_MESSAGE


async def test_a_pull_brings_what_is_there_and_says_where_to_go_on(autojump_clock, caller):
    await caller.sent(b"a", b"b", b"c")

    answer = await caller.pull(1)

    assert bodies_of(answer) == [b"b", b"c"]
    assert answer.ext_fields == {
        "suggestWhichBrokerId": 0, "nextBeginOffset": 3, "minOffset": 0, "maxOffset": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("count", "found"), [(1, 1), (2, 2), (0, 1), (-5, 1), (10**6, 3)])
async def test_a_pull_brings_no_more_than_asked_for_and_at_least_one(
    autojump_clock, caller, count, found
):
    await caller.sent(b"a", b"b", b"c")

    answer = await caller.pull(0, count=count)

    assert len(bodies_of(answer)) == found
    assert answer.ext_fields["nextBeginOffset"] == found


async def test_a_pull_brings_no_more_bytes_than_asked_for_and_at_least_one_record(
    autojump_clock, caller
):
    await caller.sent(*[bytes(1000)] * 10)

    some = await caller.pull(0, maxMsgBytes=3500)
    one = await caller.pull(0, maxMsgBytes=1)

    assert len(bodies_of(some)) == 3
    assert len(bodies_of(one)) == 1


async def test_a_pull_at_the_end_finds_nothing_new(autojump_clock, caller):
    await caller.sent(b"a")

    answer = await caller.pull(1)

    assert answer.code == ResponseCode.PULL_NOT_FOUND
    assert answer.ext_fields["nextBeginOffset"] == 1


@pytest.mark.parametrize(("offset", "following"), [(99, 1), (2, 1), (-1, 0)])
async def test_an_offset_outside_the_queue_is_corrected(autojump_clock, caller, offset, following):
    await caller.sent(b"a")

    answer = await caller.pull(offset, wait_ms=1000)

    assert answer.code == ResponseCode.PULL_OFFSET_MOVED
    assert answer.ext_fields["nextBeginOffset"] == following
    assert "offset lies" in answer.remark


async def test_an_offset_that_retention_has_removed_is_corrected(autojump_clock, make_brokers):
    group = make_brokers(
        store={"segment_size": 64 * KIB, "log_size_max": 128 * KIB, "checkpoint_interval_ms": 100}
    )
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        for _ in range(60):
            await caller.sent(bytes(8 * KIB))
        store = group["n1"].running.ledger.store
        await until("retention", lambda: store.base.index > 0)
        await trio.sleep(0.5)

        answer = await caller.pull(0)

        assert answer.code == ResponseCode.PULL_OFFSET_MOVED
        first = answer.ext_fields["nextBeginOffset"]
        assert first == answer.ext_fields["minOffset"] > 0
        assert len(bodies_of(await caller.pull(first))) > 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"topic": "nowhere"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queueId": 2}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queueId": -1}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queueId": "x"}, ResponseCode.SYSTEM_ERROR),
        ({"queueOffset": None}, ResponseCode.SYSTEM_ERROR),
    ],
)
async def test_a_pull_of_what_is_not_there_is_refused(autojump_clock, caller, fields, code):
    answer = await caller.ask(PULL, {**pull_fields(wait_ms=1000), **fields})

    assert answer.code == code, answer.remark
    assert answer.remark


@pytest.mark.parametrize(
    "name", ["consumerGroup", "topic", "queueId", "queueOffset", "maxMsgNums", "sysFlag"]
)
async def test_a_missing_field_is_named(autojump_clock, caller, name):
    fields = {key: value for key, value in pull_fields().items() if key != name}

    answer = await caller.ask(PULL, fields)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert name in answer.remark


async def test_a_topic_that_may_not_be_read_is_refused(autojump_clock, caller):
    await caller.create_topic("sealed", perm=2)

    assert (await caller.pull(topic="sealed")).code == ResponseCode.NO_PERMISSION


# -- long polling -------------------------------------------------------------------------------


async def test_a_held_pull_is_woken_by_an_arrival(autojump_clock, caller, brokers):
    answers = caller.submit(PULL, pull_fields(wait_ms=10_000))
    caller.flush()
    await trio.sleep(1)
    assert not answers
    assert brokers["n1"].running.pulls.hold.count == 1

    began = trio.current_time()
    await caller.sent(b"a")
    await until("the pull is answered", lambda: answers)

    assert bodies_of(answers[0]) == [b"a"]
    assert trio.current_time() - began < 0.050
    assert brokers["n1"].running.pulls.hold.count == 0


async def test_an_arrival_in_another_queue_wakes_nobody(autojump_clock, caller):
    answers = caller.submit(PULL, pull_fields(wait_ms=10_000, queue_id=1))
    caller.flush()

    await caller.sent(b"a", queue_id=0)
    await trio.sleep(1)

    assert not answers


async def test_all_who_wait_for_a_queue_are_woken(autojump_clock, brokers):
    async with brokers.caller(brokers["n1"]) as one, brokers.caller(brokers["n1"]) as two:
        waiting = []
        for each in (one, two):
            waiting += [each.submit(PULL, pull_fields(wait_ms=10_000)) for _ in range(3)]
            each.flush()
        await trio.sleep(0.1)
        await one.sent(b"a")
        await until("all are answered", lambda: all(waiting))

    assert {tuple(bodies_of(answers[0])) for answers in waiting} == {(b"a",)}


async def test_a_pull_whose_time_is_up_is_told_that_nothing_came(autojump_clock, caller):
    began = trio.current_time()

    answer = await caller.pull(wait_ms=3000)

    assert answer.code == ResponseCode.PULL_NOT_FOUND
    assert answer.ext_fields["nextBeginOffset"] == 0
    assert 3.0 <= trio.current_time() - began < 3.1


async def test_nobody_is_held_longer_than_configured(autojump_clock, make_brokers):
    group = make_brokers(broker={"pull_hold_max_ms": 2000})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        began = trio.current_time()

        await caller.pull(wait_ms=15_000)

        assert 2.0 <= trio.current_time() - began < 2.1


async def test_without_the_suspend_flag_nobody_is_held(autojump_clock, caller):
    began = trio.current_time()

    answer = await caller.pull(suspendTimeoutMillis=5000)

    assert answer.code == ResponseCode.PULL_NOT_FOUND
    assert trio.current_time() - began < 0.1


async def test_more_than_the_limit_hear_that_the_node_is_busy(autojump_clock, make_brokers):
    group = make_brokers(broker={"pulls_held_max": 2})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        held = [caller.submit(PULL, pull_fields(wait_ms=10_000)) for _ in range(2)]
        third = caller.submit(PULL, pull_fields(wait_ms=10_000))
        caller.flush()
        await trio.sleep(0.1)

        assert not any(held)
        assert third[0].code == ResponseCode.SYSTEM_BUSY
        assert "2 pulls wait for messages, the limit is pulls_held_max = 2" in third[0].remark


async def test_a_client_that_is_gone_makes_room(autojump_clock, make_brokers):
    group = make_brokers(broker={"pulls_held_max": 1})
    await group.start()
    node = (await group.leader()).running
    async with group.caller(group["n1"]) as gone:
        await gone.create_topic("t")
        gone.submit(PULL, pull_fields(wait_ms=10_000))
        gone.flush()
        await until("it is held", lambda: node.pulls.hold.count == 1)
    await until("it is forgotten", lambda: node.pulls.hold.count == 0)

    async with group.caller(group["n1"]) as caller:
        answers = caller.submit(PULL, pull_fields(wait_ms=10_000))
        caller.flush()
        await trio.sleep(0.1)
        assert not answers
        await caller.sent(b"a")
        await until("it is woken", lambda: answers)


async def test_a_pull_held_beyond_the_first_arrival_waits_on(autojump_clock, caller):
    """It asked for the second message, not for the first."""
    await caller.sent(b"0")
    answers = caller.submit(PULL, pull_fields(1, wait_ms=10_000))
    caller.flush()
    await trio.sleep(0.1)

    await caller.sent(b"1")
    await until("it is answered", lambda: answers)

    assert bodies_of(answers[0]) == [b"1"]


# -- committing along ---------------------------------------------------------------------------


async def test_an_offset_committed_with_a_pull_is_kept(autojump_clock, caller):
    await caller.sent(b"a", b"b")
    await caller.pull(0, sysFlag=PULL_FLAG_COMMIT_OFFSET, commitOffset=1)
    await trio.sleep(0.5)

    answer = await caller.ok(
        RequestCode.QUERY_CONSUMER_OFFSET, {"consumerGroup": "readers", "topic": "t", "queueId": 0}
    )

    assert answer.ext_fields["offset"] == 1


async def test_without_the_commit_flag_nothing_is_committed(autojump_clock, caller):
    await caller.sent(b"a", b"b")
    await caller.pull(0, sysFlag=0, commitOffset=1)
    await trio.sleep(0.5)

    answer = await caller.ask(
        RequestCode.QUERY_CONSUMER_OFFSET, {"consumerGroup": "readers", "topic": "t", "queueId": 0}
    )

    assert answer.code == ResponseCode.QUERY_NOT_FOUND


# -- on a follower ------------------------------------------------------------------------------


async def test_a_follower_serves_what_is_committed_and_wakes_who_waits(
    autojump_clock, make_brokers
):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with (
        group.caller(leader) as writer,
        group.caller(group.others(leader)[0]) as reader,
    ):
        await writer.create_topic("t")
        await group.equal()
        answers = reader.submit(PULL, pull_fields(wait_ms=10_000))
        reader.flush()
        await trio.sleep(0.1)

        began = trio.current_time()
        await writer.sent(b"a")
        await until("the reader is woken", lambda: answers)

        assert bodies_of(answers[0]) == [b"a"]
        assert trio.current_time() - began < 0.050


async def test_a_follower_that_lags_sends_no_consumer_back(autojump_clock, make_brokers):
    """Its queue ends before the consumer's offset: it waits, it does not say "go back"."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    lagging = group.others(leader)[0]
    async with group.caller(leader) as writer, group.caller(lagging) as reader:
        await writer.create_topic("t")
        await writer.sent(b"0", b"1")
        await group.equal()
        lagging.workers["sync"].stall()
        await writer.sent(b"2", b"3")

        at_once = await reader.pull(4)
        held = reader.submit(PULL, pull_fields(4, wait_ms=10_000))
        reader.flush()
        await trio.sleep(0.3)

        assert at_once.code == ResponseCode.PULL_NOT_FOUND
        assert at_once.ext_fields["nextBeginOffset"] == 4
        assert not held

        lagging.workers["sync"].go_on()
        await writer.sent(b"4")
        await until("the reader goes on", lambda: held)
        assert bodies_of(held[0]) == [b"4"]


async def test_what_is_not_committed_is_shown_by_nobody(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        for other in group.others(leader):
            other.workers["sync"].stall()
        caller.send(b"a")
        caller.flush()
        await trio.sleep(0.2)

        assert (await caller.pull()).code == ResponseCode.PULL_NOT_FOUND


async def test_an_offset_that_comes_with_a_pull_is_kept_wherever_it_is_sent(
    autojump_clock, make_brokers
):
    """Every node but the serving leader left it aside, and nobody was told."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    follower = next(member for member in group.members.values() if member is not leader)
    asked = {"consumerGroup": "readers", "topic": "t", "queueId": 0}
    async with group.caller(leader) as writer, group.caller(follower) as reader:
        await writer.create_topic("t")
        await writer.sent(b"a", b"b")
        await group.equal()
        await reader.ask(
            RequestCode.PULL_MESSAGE,
            {**asked, "queueOffset": 2, "maxMsgNums": 1, "sysFlag": 1, "commitOffset": 2},
        )
        for _ in range(500):
            answer = await writer.ask(RequestCode.QUERY_CONSUMER_OFFSET, asked)
            if answer.code == ResponseCode.SUCCESS:
                break
            await trio.sleep(0.01)

    assert answer.ext_fields["offset"] == 2
