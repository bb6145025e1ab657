"""Consumer groups over the wire: created, used, switched off, described, deleted, reset."""

import json

import pytest

from broker.protocol.descriptions import GroupDescription, OffsetReset, decode_body
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.subscription_group import (
    SubscriptionGroupConfig,
    decode_group_table,
    encode_group,
)
from tests.fakes.nodes import until
from tests.handlers.test_delayed import back, until_there
from tests.handlers.test_stock_sends import send
from tests.handlers.test_topics import answered, pull

CREATE = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP
QUEUE = {"topic": "t", "queueId": 0}
READER = {"consumerGroup": "readers", **QUEUE}


async def put(caller, **fields):
    config = SubscriptionGroupConfig(**{"group": "readers", **fields})
    return await caller.ok(CREATE, {}, encode_group(config))


async def groups(caller):
    answer = await caller.ok(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
    return {config.group: config for config in decode_group_table(answer.body)}


async def commit(caller, offset, **fields):
    return await caller.ask(
        RequestCode.UPDATE_CONSUMER_OFFSET, {**READER, "commitOffset": offset, **fields}
    )


async def committed(caller, **fields):
    answer = await caller.ask(RequestCode.QUERY_CONSUMER_OFFSET, {**READER, **fields})
    return answer.ext_fields.get("offset"), answer.ext_fields.get("offsetEpoch")


async def reset(caller, to, value=0, **fields):
    answer = await caller.ok(
        RequestCode.RESET_CONSUMER_OFFSETS,
        {"consumerGroup": "readers", "topic": "t", "to": to, "value": value, **fields},
    )
    return decode_body(answer.body, OffsetReset)


async def describe(caller, group="readers"):
    answer = await caller.ok(RequestCode.DESCRIBE_CONSUMER_GROUP, {"consumerGroup": group})
    return decode_body(answer.body, GroupDescription)


@pytest.mark.parametrize("group", ["CID_RMQ_SYS_SCHEDULE", "CID_RMQ_SYS_X"])
async def test_nobody_moves_or_makes_the_broker_s_own_groups(
    autojump_clock, brokers, caller, group
):
    """How far delayed messages are delivered is an offset of one: moved on, they would be lost."""
    await send(caller, b"x", properties="DELAY\x011\x02")
    await until_there(caller)
    files = brokers._files["n1"]
    await until("it is known as delivered", lambda: files.offsets.topics_of("CID_RMQ_SYS_SCHEDULE"))
    before = files.offsets.snapshot()
    waits = {"topic": "SCHEDULE_TOPIC_XXXX", "queueId": 1}
    config = encode_group(SubscriptionGroupConfig(group=group))
    heartbeat = b'{"clientID": "c", "consumerDataSet": [{"groupName": "%s"}]}' % group.encode()
    where = {"topic": waits["topic"], "timestamp": 0, "isForce": True}
    place = {"queueOffset": 0, "maxMsgNums": 1, "suspendTimeoutMillis": 0}
    for code, fields, body in (
        (RequestCode.UPDATE_CONSUMER_OFFSET, {**waits, "commitOffset": 1000}, b""),
        (RequestCode.PULL_MESSAGE, {**QUEUE, **place, "sysFlag": 3, "commitOffset": 1000}, b""),
        (RequestCode.RESET_CONSUMER_OFFSETS, {**waits, "to": "latest", "value": 0}, b""),
        (RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, {**where, "group": group}, b""),
        (RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": group}, b""),
        (CREATE, {}, config),
        (CREATE, {"onlyIfMissing": True}, config),
        (RequestCode.HEART_BEAT, {}, heartbeat),
        (
            RequestCode.LOCK_BATCH_MQ,
            {},
            b'{"clientId": "c", "consumerGroup": "%s"}' % group.encode(),
        ),
    ):
        answer = await caller.ask(code, {"consumerGroup": group, **fields}, body)
        assert answer.code == ResponseCode.MESSAGE_ILLEGAL, code.name
        assert "one of the broker's own names" in answer.remark, code.name

    assert files.offsets.snapshot() == before
    assert not any("SYS" in name for name in await groups(caller))
    assert group not in files.groups
    answer = await caller.ok(RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, {"topic": waits["topic"]})
    assert json.loads(bytes(answer.body)) == {"groupList": []}


# -- groups ---------------------------------------------------------------------------------------


async def test_a_group_is_created_altered_listed_and_deleted(autojump_clock, caller):
    await put(caller)
    await put(caller, retry_times_max=3, retry_delays_ms=(1000, 5000))
    assert (await groups(caller))["readers"] == SubscriptionGroupConfig(
        group="readers", retry_times_max=3, retry_delays_ms=(1000, 5000)
    )
    plain = encode_group(SubscriptionGroupConfig(group="readers"))
    await caller.ok(CREATE, {"onlyIfMissing": True}, plain)
    assert (await groups(caller))["readers"].retry_times_max == 3

    await commit(caller, 0)
    await caller.ok(RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": "readers"})

    assert await groups(caller) == {}
    assert await committed(caller) == (None, None)
    await caller.ok(RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": "readers"})


async def test_a_body_as_rocketmq_s_tool_sends_it(autojump_clock, caller):
    body = (
        b'{"brokerId":0,"consumeBroadcastEnable":false,"consumeEnable":true,'
        b'"consumeFromMinEnable":false,"groupName":"CGn2","notifyConsumerIdsChangedEnable":true,'
        b'"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}'
    )
    await caller.ok(CREATE, {}, body)

    answer = await caller.ok(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
    table = json.loads(bytes(answer.body))["subscriptionGroupTable"]
    assert table == {"CGn2": json.loads(body)}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", ResponseCode.SYSTEM_ERROR),
        (b"{}", ResponseCode.SYSTEM_ERROR),
        (b'{"groupName":"a b"}', ResponseCode.MESSAGE_ILLEGAL),
        (b'{"groupName":"g","retryMaxTimes":"3"}', ResponseCode.SYSTEM_ERROR),
        (b'{"groupName":"g","retryMaxTimes":-5}', ResponseCode.MESSAGE_ILLEGAL),
    ],
)
async def test_a_body_that_is_no_group_is_refused(autojump_clock, caller, body, code):
    answer = await caller.ask(CREATE, {}, body)

    assert answer.code == code
    assert await groups(caller) == {}


async def test_a_group_comes_to_be_by_its_first_pull_on_any_node(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    follower = next(member for member in group.alive if member is not leader)
    async with group.caller(leader) as caller, group.caller(follower) as other:
        await caller.create_topic("t")
        await group.equal()
        pull(other, consumerGroup="over-there", sysFlag=0)
        pull(caller, consumerGroup="here", sysFlag=0)
        other.flush()
        caller.flush()
        created = group["n1"].running._files.groups
        await until("both groups are there", lambda: len(created) == 2)
        await group.equal()
        for caller_of in (caller, other):
            assert list(await groups(caller_of)) == ["here", "over-there"]


async def test_a_group_that_is_switched_off_may_not_pull(autojump_clock, caller):
    await caller.sent(b"a")
    await put(caller, consume_enable=False)
    answers = pull(caller)
    caller.flush()

    answer = await answered(answers, "refused")
    assert answer.code == ResponseCode.NO_PERMISSION
    assert "dledger group alter readers --consume" in answer.remark

    await put(caller)
    answers = pull(caller)
    caller.flush()
    assert (await answered(answers, "served")).code == ResponseCode.SUCCESS


async def test_without_auto_creation_an_unknown_group_is_told_so(autojump_clock, make_brokers):
    group = make_brokers(1, broker={"auto_create_group": False, "groups_max": 2})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        answers = pull(caller)
        caller.flush()
        answer = await answered(answers, "refused")
        assert answer.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
        assert "dledger group create readers" in answer.remark
        assert (await commit(caller, 1)).code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST

        await put(caller)
        await put(caller, group="others")
        assert (await commit(caller, 0)).code == ResponseCode.SUCCESS
        full = await caller.ask(CREATE, {}, encode_group(SubscriptionGroupConfig(group="third")))
        assert full.code == ResponseCode.MESSAGE_ILLEGAL
        assert "groups_max is 2" in full.remark


@pytest.mark.parametrize("auto_create", [True, False])
async def test_who_only_looks_makes_no_group(autojump_clock, make_brokers, auto_create):
    """mqadmin and `dledger message get` pull as TOOLS_CONSUMER, and were refused, or listed."""
    group = make_brokers(1, broker={"auto_create_group": auto_create})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        await caller.sent(b"a")
        answer = await caller.pull(consumerGroup="TOOLS_CONSUMER")
        assert answer.code == ResponseCode.SUCCESS
        await caller.sent(b"b")
        assert [config.group for config in group._files["n1"].groups] == []


async def test_how_far_a_group_has_come(autojump_clock, caller):
    await caller.sent(b"a", b"b", b"c")
    await caller.sent(b"d", queue_id=1)
    await commit(caller, 2)

    found = await describe(caller)

    (topic,) = found.topics
    assert (topic.topic, topic.epoch, topic.lag, found.lag) == ("t", 0, 2, 2)
    assert topic.committed_ms > 0
    first, second = topic.queues
    assert (first.committed, first.min_offset, first.max_offset, first.lag) == (2, 0, 3, 1)
    assert first.consumed_ms > 0
    assert (second.committed, second.lag, second.consumed_ms) == (-1, 1, -1)
    missing = await caller.ask(RequestCode.DESCRIBE_CONSUMER_GROUP, {"consumerGroup": "nobody"})
    assert missing.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST


async def test_what_waits_to_come_again_counts_before_anything_of_it_is_committed(
    autojump_clock, caller
):
    await send(caller, b"x")
    (message,) = await until_there(caller)
    await commit(caller, 1)
    assert [topic.topic for topic in (await describe(caller)).topics] == ["t"]
    await back(caller, message)
    await until_there(caller, topic="%RETRY%readers")

    found = await describe(caller)
    stats = await caller.ok(RequestCode.GET_CONSUME_STATS, {"consumerGroup": "readers"})
    assert [(topic.topic, topic.lag) for topic in found.topics] == [("%RETRY%readers", 1), ("t", 0)]
    assert found.lag == 1
    assert b'"topic":"%RETRY%readers"' in bytes(stats.body)

    retried = {"topic": "%RETRY%readers", "queueId": 0, "consumerGroup": "readers"}
    await caller.ok(RequestCode.UPDATE_CONSUMER_OFFSET, {**retried, "commitOffset": 1})
    assert (await describe(caller)).lag == 0


async def test_consume_stats_are_as_rocketmq_s_tools_read_them(autojump_clock, caller):
    await caller.sent(b"a", b"b", b"c")
    await commit(caller, 2)

    answer = await caller.ok(RequestCode.GET_CONSUME_STATS, {"consumerGroup": "readers"})

    text = bytes(answer.body).decode()
    assert text.startswith(
        '{"consumeTps":0.0,"offsetTable":{{"brokerName":"g","queueId":0,"topic":"t"}:'
        '{"brokerOffset":3,"consumerOffset":2,"lastTimestamp":1'
    )
    assert '{"brokerOffset":0,"consumerOffset":0,"lastTimestamp":0}}}' in text
    who = await caller.ok(RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, {"topic": "t"})
    assert bytes(who.body) == b'{"groupList":["readers"]}'


# -- resets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "value", "after"),
    [
        ("earliest", 0, [0, 0]),
        ("latest", 0, [5, 1]),
        ("offset", 3, [3, 1]),
        ("offset", 99, [5, 1]),
        ("shift", -1, [1, 0]),
        ("shift", 2, [4, 1]),
        ("time", 1, [0, 0]),
        ("time", 1 << 60, [5, 1]),
    ],
)
async def test_a_group_is_put_elsewhere_in_all_queues_at_once(
    autojump_clock, caller, to, value, after
):
    await caller.sent(b"a", b"b", b"c", b"d", b"e")
    await caller.sent(b"f", queue_id=1)
    await commit(caller, 2)
    planned = await reset(caller, to, value, dryRun=True)
    assert await committed(caller) == (2, None)

    done = await reset(caller, to, value)

    assert planned.queues == done.queues
    assert [(item.before, item.after) for item in done.queues] == [(2, after[0]), (-1, after[1])]
    assert (planned.is_dry_run, planned.epoch) == (True, 0)
    assert (done.is_dry_run, done.epoch) == (False, 1)
    assert await committed(caller) == (after[0], 1)
    assert await committed(caller, queueId=1) == (after[1], 1)


async def test_a_reset_asked_for_again_is_done_once_and_told_as_it_was_done(autojump_clock, caller):
    """The second attempt was answered with the end of the queue as it was by then."""
    await caller.sent(b"a")
    first = await reset(caller, "latest", requestId=7)
    await caller.sent(b"b", b"c")
    await commit(caller, 2)

    again = await reset(caller, "latest", requestId=7)

    assert [item.after for item in first.queues] == [item.after for item in again.queues] == [1, 0]
    assert (first.epoch, again.epoch) == (1, 1)
    assert await committed(caller) == (2, 1)


async def test_a_reset_asked_for_again_after_a_later_one_is_told_as_it_was_done(
    autojump_clock, caller
):
    """It was answered with the end of the queue as it was by then, where nothing had been put."""
    await caller.sent(b"a")
    first = await reset(caller, "latest", requestId=7)
    await caller.sent(b"b", b"c")
    later = await reset(caller, "latest", requestId=8)

    again = await reset(caller, "latest", requestId=7)

    assert [item.after for item in later.queues] == [3, 0]
    assert [item.after for item in first.queues] == [item.after for item in again.queues] == [1, 0]
    assert (again.epoch, await committed(caller)) == (1, (3, 2))


async def test_a_reset_of_one_queue_leaves_the_others(autojump_clock, caller):
    await caller.sent(b"a")
    await caller.sent(b"b", queue_id=1)
    await commit(caller, 1)

    done = await reset(caller, "latest", queueId=1)

    assert [item.queue_id for item in done.queues] == [1]
    assert (await committed(caller))[0] == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "nowhere"}, ResponseCode.SYSTEM_ERROR),
        ({"topic": "nowhere"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queueId": 2}, ResponseCode.TOPIC_NOT_EXIST),
        ({"consumerGroup": ""}, ResponseCode.MESSAGE_ILLEGAL),
    ],
)
async def test_a_reset_to_nowhere_is_refused(autojump_clock, caller, fields, code):
    whole = {"consumerGroup": "readers", "topic": "t", "to": "earliest", **fields}
    answer = await caller.ask(RequestCode.RESET_CONSUMER_OFFSETS, whole)

    assert answer.code == code
    assert await groups(caller) == {}


async def test_a_commit_that_began_before_a_reset_does_not_undo_it(autojump_clock, caller):
    await caller.sent(b"a", b"b", b"c")
    await commit(caller, 1, offsetEpoch=0)
    await reset(caller, "earliest")

    late = await commit(caller, 3, offsetEpoch=0)

    assert late.code == ResponseCode.OFFSETS_RESET
    assert late.ext_fields["offsetEpoch"] == 1
    assert await committed(caller) == (0, 1)
    assert (await commit(caller, 2, offsetEpoch=1)).code == ResponseCode.SUCCESS
    assert await committed(caller) == (2, 1)


async def test_a_held_pull_hears_of_a_reset_at_once(autojump_clock, caller):
    await caller.sent(b"a")
    await commit(caller, 1, offsetEpoch=0)
    knowing = pull(caller, 1, offsetEpoch=0)
    unknowing = pull(caller, 1)
    other = pull(caller, 1, consumerGroup="others", offsetEpoch=0)
    caller.flush()
    await reset(caller, "earliest")

    answer = await answered(knowing, "told")
    assert (answer.code, answer.ext_fields["offsetEpoch"]) == (ResponseCode.OFFSETS_RESET, 1)
    assert not unknowing
    assert not other
    again = pull(caller, 0, offsetEpoch=1)
    caller.flush()
    assert (await answered(again, "served")).code == ResponseCode.SUCCESS


async def test_rocketmq_s_reset_goes_by_time_and_needs_nobody_online(autojump_clock, caller):
    await caller.sent(b"a", b"b", b"c")
    await commit(caller, 2)
    fields = {"topic": "t", "group": "readers", "timestamp": "-1", "isForce": "false"}

    answer = await caller.ok(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, fields)
    # Forwards only with force; the queue that has nothing committed is put at its end.
    assert bytes(answer.body) == (b'{"offsetTable":{{"brokerName":"g","queueId":1,"topic":"t"}:0}}')
    assert (await committed(caller))[0] == 2
    answer = await caller.ok(
        RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, {**fields, "isForce": "true"}
    )
    assert b'"queueId":0,"topic":"t"}:3,' in bytes(answer.body)
    assert (await committed(caller))[0] == 3
    await caller.ok(
        RequestCode.INVOKE_BROKER_TO_RESET_OFFSET,
        {**fields, "timestamp": "-1", "offset": 1, "queueId": 0},
    )
    assert (await committed(caller))[0] == 1


async def test_a_reset_holds_when_the_leader_dies(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await caller.sent(b"a", b"b", b"c")
        await commit(caller, 3, offsetEpoch=0)
        await reset(caller, "offset", 1)
    await leader.kill()
    async with group.caller(await group.leader()) as caller:
        assert await committed(caller) == (1, 1)
        assert (await commit(caller, 3, offsetEpoch=0)).code == ResponseCode.OFFSETS_RESET
        assert await committed(caller) == (1, 1)
