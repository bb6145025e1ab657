"""Topics created, altered and deleted, over the wire and on every node."""

import json

import pytest

from broker.protocol.bodies import decode_topic_table
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from tests.fakes.nodes import until

CREATE = RequestCode.UPDATE_AND_CREATE_TOPIC
DELETE = RequestCode.DELETE_TOPIC_IN_BROKER
QUEUE = {"topic": "t", "queueId": 0}


async def table(caller):
    answer = await caller.ok(RequestCode.GET_ALL_TOPIC_CONFIG)
    return {entry.topic: entry for entry in decode_topic_table(answer.body)}


async def ends(caller, topic="t", queue_id=0):
    fields = {"topic": topic, "queueId": queue_id}
    return tuple(
        [
            (await caller.ok(code, fields)).ext_fields["offset"]
            for code in (RequestCode.GET_MIN_OFFSET, RequestCode.GET_MAX_OFFSET)
        ]
    )


def pull(caller, offset=0, **fields):
    return caller.submit(
        RequestCode.PULL_MESSAGE,
        {
            "consumerGroup": "readers", "topic": "t", "queueId": 0, "queueOffset": offset,
            "maxMsgNums": 32, "sysFlag": 2, "suspendTimeoutMillis": 20_000, **fields,
        },
    )  # fmt: skip


async def answered(answers, what):
    await until(what, lambda: answers)
    return answers[0]


# -- altering -------------------------------------------------------------------------------------


async def test_what_is_given_changes_and_nothing_else(autojump_clock, caller):
    await caller.create_topic("orders", queues=3, attributes="+acks=all")
    await caller.ok(CREATE, {"topic": "orders", "perm": 4, "onlyIfThere": True})
    await caller.ok(
        CREATE,
        {"topic": "orders", "writeQueueNums": 1, "onlyIfThere": True, "attributes": "+flush=sync"},
    )

    entry = (await table(caller))["orders"]
    assert (entry.read_queue_count, entry.write_queue_count, entry.perm) == (3, 1, 4)
    assert (entry.acks, entry.flush) == ("all", "sync")


async def test_a_topic_that_is_not_there_is_not_altered(autojump_clock, caller):
    answer = await caller.ask(CREATE, {"topic": "nowhere", "perm": 4, "onlyIfThere": True})

    assert answer.code == ResponseCode.TOPIC_NOT_EXIST
    assert "nowhere" not in await table(caller)


async def test_a_topic_deleted_just_before_is_not_altered_either(autojump_clock, caller):
    """The deletion is in the log and not taken in when the change is looked at."""
    deleted = caller.submit(DELETE, {"topic": "t"})
    altered = caller.submit(CREATE, {"topic": "t", "perm": 4, "onlyIfThere": True})
    caller.flush()

    assert (await answered(deleted, "deleted")).code == ResponseCode.SUCCESS
    assert (await answered(altered, "altered")).code == ResponseCode.TOPIC_NOT_EXIST
    assert "t" not in await table(caller)


@pytest.mark.parametrize(
    "fields", [{"readQueueNums": 1}, {"readQueueNums": 1, "onlyIfThere": True}]
)
async def test_fewer_readable_queues_are_refused_with_the_reason(autojump_clock, caller, fields):
    answer = await caller.ask(CREATE, {"topic": "t", **fields})

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert "could not be read any more" in answer.remark
    assert "writeQueueNums may be less" in answer.remark


@pytest.mark.parametrize("code", [CREATE, DELETE])
@pytest.mark.parametrize("name", ["TBW102", "SCHEDULE_TOPIC_XXXX", "rmq_sys_anything"])
async def test_the_brokers_own_names_are_refused(autojump_clock, caller, code, name):
    answer = await caller.ask(code, {"topic": name})

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert "the broker's own names" in answer.remark


async def test_there_are_not_more_topics_and_queues_than_allowed(autojump_clock, make_brokers):
    group = make_brokers(1, broker={"topics_max": 3, "queues_max": 6})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("a", queues=2)
        await caller.create_topic("b", queues=2)
        wide = await caller.ask(CREATE, {"topic": "c", "readQueueNums": 3})
        assert (wide.code, "queues_max" in wide.remark) == (ResponseCode.MESSAGE_ILLEGAL, True)
        await caller.create_topic("c", queues=1)
        # What is there may be put again, and give up what it has not; more of it may not be had.
        await caller.create_topic("c", queues=1)
        wide = await caller.ask(CREATE, {"topic": "c", "writeQueueNums": 4, "onlyIfThere": True})
        assert "queues_max" in wide.remark
        one_more = await caller.ask(CREATE, {"topic": "d", "readQueueNums": 1, "writeQueueNums": 1})
        assert "topics_max is 3; delete one" in one_more.remark
        sent = await caller.sent(b"x", topic="d")
        assert (sent.code, "topics_max" in sent.remark) == (ResponseCode.MESSAGE_ILLEGAL, True)

        await caller.ok(DELETE, {"topic": "a"})
        await caller.create_topic("d", queues=1)


# -- deleting -------------------------------------------------------------------------------------


async def test_a_deleted_topic_is_gone_with_its_messages_and_offsets(autojump_clock, caller):
    await caller.sent(b"a", b"b")
    commit = {"consumerGroup": "readers", **QUEUE, "commitOffset": 1}
    await caller.ok(RequestCode.UPDATE_CONSUMER_OFFSET, commit)

    await caller.ok(DELETE, {"topic": "t"})

    assert "t" not in await table(caller)
    for answers in (pull(caller), caller.submit(RequestCode.GET_MAX_OFFSET, QUEUE)):
        caller.flush()
        assert (await answered(answers, "gone")).code == ResponseCode.TOPIC_NOT_EXIST
    route = await caller.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "t"})
    assert route.code == ResponseCode.TOPIC_NOT_EXIST
    await caller.ok(DELETE, {"topic": "t"})  # asked again, it is done

    await caller.create_topic("t")
    offset = await caller.ask(
        RequestCode.QUERY_CONSUMER_OFFSET, {"consumerGroup": "readers", **QUEUE}
    )
    assert offset.code == ResponseCode.QUERY_NOT_FOUND


async def test_a_topic_created_again_goes_on_where_it_ended(autojump_clock, caller):
    await caller.sent(b"a", b"b")
    await caller.ok(DELETE, {"topic": "t"})
    await caller.create_topic("t")

    assert await ends(caller) == (2, 2)
    assert (await caller.sent(b"c")).ext_fields["queueOffset"] == 2
    answers = pull(caller, 0)
    caller.flush()
    answer = await answered(answers, "moved")
    assert answer.code == ResponseCode.PULL_OFFSET_MOVED
    assert answer.ext_fields["nextBeginOffset"] == 2


async def test_sends_behind_a_deletion_on_its_way_hear_that_the_topic_goes(autojump_clock, caller):
    before = caller.send(b"before")
    deleted = caller.submit(DELETE, {"topic": "t"})
    behind = [caller.send(b"behind %d" % n) for n in range(8)]  # so many go the way of runs
    caller.flush()

    # What came before is acknowledged, and then gone with the topic; nothing stands behind it.
    assert (await answered(before, "before")).code == ResponseCode.SUCCESS
    assert (await answered(deleted, "deleted")).code == ResponseCode.SUCCESS
    for answers in behind:
        answer = await answered(answers, "behind")
        assert answer.code == ResponseCode.TOPIC_NOT_EXIST
    await caller.create_topic("t")
    assert await ends(caller) == (1, 1)


async def test_a_producer_goes_on_with_its_numbers_in_a_topic_created_again(autojump_clock, caller):
    first = await caller.sent(b"a", producer_id=7, sequence=0)
    await caller.ok(DELETE, {"topic": "t"})
    await caller.create_topic("t")

    again = await caller.sent(b"a", producer_id=7, sequence=0)  # its answer was lost, say
    following = await caller.sent(b"b", producer_id=7, sequence=1)

    assert again.ext_fields["queueOffset"] == first.ext_fields["queueOffset"] == 0
    assert following.ext_fields["queueOffset"] == 1
    assert await ends(caller) == (1, 2)


async def test_pulls_held_for_a_deleted_topic_are_answered_at_once(autojump_clock, caller):
    await caller.create_topic("other")
    held = [pull(caller, 0, queueId=n) for n in (0, 1)]
    others = pull(caller, 0, topic="other")
    caller.flush()
    await caller.ok(DELETE, {"topic": "t"})

    for answers in held:
        assert (await answered(answers, "told")).code == ResponseCode.TOPIC_NOT_EXIST
    assert not others


async def test_every_node_deletes_and_stays_in_step_when_the_leader_dies(
    autojump_clock, make_brokers
):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await caller.sent(b"a", b"b")
        await caller.ok(DELETE, {"topic": "t"})
        await caller.create_topic("u")
    await group.equal()
    await leader.kill()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        assert list(await table(caller)) == ["u"]
        await caller.create_topic("t")
        assert (await caller.sent(b"c")).ext_fields["queueOffset"] == 2
    await group.equal()
    states = [member.running._files.derived._parts.metadata.snapshot() for member in group.alive]
    floors = [list(member.running._files.derived.queues.floors()) for member in group.alive]
    assert states[0] == states[1]
    assert floors == [[("t", 0, 2)]] * 2


async def test_the_route_and_the_table_say_the_same(autojump_clock, caller):
    await caller.ok(CREATE, {"topic": "t", "writeQueueNums": 1, "onlyIfThere": True})
    answer = await caller.ok(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "t"})
    (queues,) = json.loads(bytes(answer.body))["queueDatas"]
    entry = (await table(caller))["t"]

    assert (queues["readQueueNums"], queues["writeQueueNums"], queues["perm"]) == (
        entry.read_queue_count,
        entry.write_queue_count,
        entry.perm,
    )
