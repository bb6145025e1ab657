"""Offsets, topics, the group's status, and the lead handed over."""

import json

import pytest
import trio

from broker.protocol.bodies import GroupStatus, decode_topic_table
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from tests.fakes.brokers import ext
from tests.fakes.nodes import until

QUEUE = {"topic": "t", "queueId": 0}
READER = {"consumerGroup": "readers", **QUEUE}


def commit(caller, offset, **fields):
    return caller.ask(
        RequestCode.UPDATE_CONSUMER_OFFSET, {**READER, "commitOffset": offset, **fields}
    )


async def committed(caller):
    answer = await caller.ask(RequestCode.QUERY_CONSUMER_OFFSET, READER)
    return answer.ext_fields["offset"] if answer.code == ResponseCode.SUCCESS else None


# -- offsets of queues --------------------------------------------------------------------------


async def test_the_ends_of_a_queue(autojump_clock, caller):
    empty = await caller.ok(RequestCode.GET_MAX_OFFSET, QUEUE)
    await caller.sent(b"a", b"b")
    most = await caller.ok(RequestCode.GET_MAX_OFFSET, QUEUE)
    least = await caller.ok(RequestCode.GET_MIN_OFFSET, QUEUE)

    assert [answer.ext_fields["offset"] for answer in (empty, most, least)] == [0, 2, 0]


async def test_what_was_acknowledged_is_below_the_end_asked_for_afterwards(
    autojump_clock, make_brokers
):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        for number in range(20):
            await caller.sent(b"x")
            answer = await caller.ok(RequestCode.GET_MAX_OFFSET, QUEUE)
            assert answer.ext_fields["offset"] == number + 1


@pytest.mark.parametrize("code", [RequestCode.GET_MAX_OFFSET, RequestCode.GET_MIN_OFFSET])
@pytest.mark.parametrize(
    ("fields", "expected", "said"),
    [
        ({"topic": "nowhere", "queueId": 0}, ResponseCode.TOPIC_NOT_EXIST, "nowhere"),
        ({"topic": "t", "queueId": 2}, ResponseCode.TOPIC_NOT_EXIST, "no queue 2"),
        ({"queueId": 0}, ResponseCode.SYSTEM_ERROR, "topic"),
        ({"topic": "t"}, ResponseCode.SYSTEM_ERROR, "queueId"),
        ({"topic": "t", "queueId": 1 << 40}, ResponseCode.SYSTEM_ERROR, "queueId"),
    ],
)
async def test_a_queue_that_is_not_there(autojump_clock, caller, code, fields, expected, said):
    answer = await caller.ask(code, fields)

    assert answer.code == expected
    assert said in answer.remark


async def test_a_leader_that_cannot_prove_it_answers_nothing_old(autojump_clock, make_brokers):
    """Cut off from the others it holds the question, and gives up when nobody leads in time."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        group.wires.isolate(leader.name)

        answer = await caller.ask(RequestCode.GET_MAX_OFFSET, QUEUE)

    assert answer.code == ResponseCode.NOT_LEADER
    assert "majority" in answer.remark


# -- offsets of consumer groups -----------------------------------------------------------------


async def test_an_offset_is_kept_and_never_goes_backwards(autojump_clock, caller):
    assert await committed(caller) is None
    assert (await commit(caller, 5)).code == ResponseCode.SUCCESS
    assert (await commit(caller, 3)).code == ResponseCode.SUCCESS

    assert await committed(caller) == 5


async def test_an_offset_is_known_when_its_commit_is_answered(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        for offset in range(1, 20):
            await commit(caller, offset)
            assert await committed(caller) == offset


async def test_an_offset_below_zero_is_ignored(autojump_clock, caller):
    """ali-ons commits -1 for queues it has never consumed."""
    assert (await commit(caller, -1)).code == ResponseCode.SUCCESS
    assert await committed(caller) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"topic": "nowhere"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queueId": 7}, ResponseCode.TOPIC_NOT_EXIST),
        ({"commitOffset": "much"}, ResponseCode.SYSTEM_ERROR),
    ],
)
async def test_an_offset_of_what_is_not_there_is_refused(autojump_clock, caller, fields, expected):
    answer = await commit(caller, 1, **fields)

    assert answer.code == expected
    assert answer.remark


async def test_an_offset_outlives_leader_and_restart(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await commit(caller, 7)
    await leader.kill()
    async with group.caller(await group.leader()) as caller:
        assert await committed(caller) == 7


# -- topics -------------------------------------------------------------------------------------


async def test_a_topic_is_there_when_its_creation_is_answered(autojump_clock, caller):
    await caller.create_topic("fresh", queues=3)

    table = decode_topic_table((await caller.ok(RequestCode.GET_ALL_TOPIC_CONFIG)).body)
    assert {entry.topic: entry.write_queue_count for entry in table} == {"t": 2, "fresh": 3}


async def test_a_topic_can_be_altered(autojump_clock, caller):
    await caller.create_topic("t", queues=5)

    assert (await caller.sent(b"x", queue_id=4)).code == ResponseCode.SUCCESS


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": "no spaces"},
        {"topic": ""},
        {"topic": "x" * 128},
        {"topic": "t", "readQueueNums": 0},
        {"topic": "t", "writeQueueNums": -1},
        {"topic": "t", "writeQueueNums": "many"},
        {"topic": "t", "perm": 64},
        {},
    ],
)
async def test_a_bad_topic_is_refused_with_a_reason(autojump_clock, caller, fields):
    answer = await caller.ask(RequestCode.UPDATE_AND_CREATE_TOPIC, fields)

    assert answer.code not in (ResponseCode.SUCCESS, ResponseCode.NOT_LEADER)
    assert answer.remark


async def test_a_route_names_all_nodes_the_leader_first(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(group.others(leader)[0]) as caller:
        await caller.create_topic("t", queues=4)
        await group.equal()
        answer = await caller.ok(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "t"})

    route = json.loads(bytes(answer.body))
    (broker,) = route["brokerDatas"]
    (queues,) = route["queueDatas"]
    assert broker["brokerAddrs"]["0"] == group.address(leader)
    assert sorted(broker["brokerAddrs"].values()) == sorted(group.addresses)
    assert (queues["readQueueNums"], queues["writeQueueNums"], queues["perm"]) == (4, 4, 6)


async def test_the_route_of_an_unknown_topic(autojump_clock, caller):
    answer = await caller.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "nowhere"})

    assert answer.code == ResponseCode.TOPIC_NOT_EXIST
    assert "dledger topic create nowhere" in answer.remark


# -- the group ----------------------------------------------------------------------------------


async def test_every_node_tells_how_it_is(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    await group.equal()
    for member in group:
        async with group.caller(member) as caller:
            answer = await caller.ok(RequestCode.GET_GROUP_STATUS)
        status = GroupStatus.decode(answer.body)

        assert status.node_id == member.name
        assert status.role == ("LEADER" if member is leader else "FOLLOWER")
        assert status.is_ready
        assert status.leader_id == leader.name
        assert status.leader_address == group.address(leader)
        assert status.commit_index == status.end_index == status.dispatched_index
        assert [each.node_id for each in status.members] == ["n1", "n2", "n3"]
        assert all(each.is_connected for each in status.members)
        assert status.connection_count >= 1
        known = [each.match_index for each in status.members]
        assert known == ([status.end_index] * 3 if member is leader else [-1] * 3)


async def test_who_asks_often_how_a_node_is_does_not_make_it_read_files(
    autojump_clock, caller, monkeypatch
):
    sizes = iter(range(10, 100))
    monkeypatch.setattr("broker.handlers.group.resident_size", lambda: next(sizes))

    async def told() -> int:
        answer = await caller.ok(RequestCode.GET_GROUP_STATUS)
        return GroupStatus.decode(answer.body).rss_bytes

    assert [await told() for _ in range(5)] == [10] * 5
    await trio.sleep(0.3)
    assert [await told() for _ in range(2)] == [11, 11]


async def test_a_node_says_whom_it_does_not_reach(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    gone, left = group.others(leader)
    await gone.kill()
    await trio.sleep(0.5)
    async with group.caller(left) as caller:
        status = GroupStatus.decode((await caller.ok(RequestCode.GET_GROUP_STATUS)).body)

    reached = {each.node_id: each.is_connected for each in status.members}
    assert reached == {gone.name: False, left.name: True, leader.name: True}


@pytest.mark.parametrize("asked", ["the leader", "a follower"])
async def test_the_lead_is_handed_over_on_request(autojump_clock, make_brokers, asked):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    target, other = group.others(leader)
    async with group.caller(leader if asked == "the leader" else other) as caller:
        answer = await caller.ok(RequestCode.LEADERSHIP_TRANSFER, {"transfereeId": target.name})

    assert answer.ext_fields["leaderId"] == target.name
    assert (await group.leader()) is target


async def test_the_lead_is_not_handed_to_a_stranger(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        answer = await caller.ask(RequestCode.LEADERSHIP_TRANSFER, {"transfereeId": "n9"})

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "n9 is no member" in answer.remark
    assert (await group.leader()) is leader


async def test_no_send_fails_while_the_lead_is_handed_over(autojump_clock, make_brokers):
    """Sends that wait behind the fence are passed on to the successor and answered by it."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        before = [caller.send(b"%d" % n, producer_id=1, sequence=n) for n in range(5)]
        handing = caller.submit(RequestCode.LEADERSHIP_TRANSFER, {})
        behind = [caller.send(b"%d" % n, producer_id=1, sequence=n) for n in range(5, 10)]
        caller.flush()
        began = trio.current_time()
        await until("all are answered", lambda: all([handing, *before, *behind]))

        assert trio.current_time() - began < 0.5
        assert [ext(answers)["queueOffset"] for answers in before + behind] == list(range(10))
    assert ext(handing)["leaderId"] != leader.name


async def test_a_topic_is_not_made_smaller_than_what_is_stored(autojump_clock, caller):
    await caller.create_topic("wide", queues=8)

    fields = {"topic": "wide", "readQueueNums": 4, "writeQueueNums": 4}
    refused = await caller.ask(RequestCode.UPDATE_AND_CREATE_TOPIC, fields)
    first_use = await caller.ask(
        RequestCode.UPDATE_AND_CREATE_TOPIC, {**fields, "onlyIfMissing": True}
    )
    route = await caller.ok(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "wide"})

    assert refused.code == ResponseCode.MESSAGE_ILLEGAL
    assert "8 queues" in refused.remark
    assert first_use.code == ResponseCode.SUCCESS
    assert json.loads(bytes(route.body))["queueDatas"][0]["readQueueNums"] == 8


async def test_a_node_that_lags_does_not_deny_a_topic_it_has_not_heard_of(
    autojump_clock, make_brokers
):
    """Told that there was none, clients created it anew with fewer queues."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    follower = next(member for member in group.members.values() if member is not leader)
    async with group.caller(leader) as writer, group.caller(follower) as asker:
        await writer.create_topic("news")
        group._files[follower.name].topics.restore(None)  # as before it took that entry in
        answer = await asker.ok(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "news"})

    assert json.loads(bytes(answer.body))["queueDatas"]


async def test_attributes_come_in_with_17_and_go_out_with_21(autojump_clock, caller):
    await caller.create_topic(
        "kept", attributes="+retention.ms=259200000,+acks=majority,+flush=sync"
    )
    await caller.create_topic("kept", attributes="-flush", order="true")

    answer = await caller.ok(RequestCode.GET_ALL_TOPIC_CONFIG, {})
    (entry,) = (item for item in decode_topic_table(answer.body) if item.topic == "kept")

    assert entry.attributes == {"retention.ms": "259200000", "acks": "majority"}
    assert (entry.retention_ms, entry.acks, entry.flush) == (259200000, "majority", "")
    assert entry.order


async def test_an_attribute_nobody_knows_is_refused(autojump_clock, caller):
    fields = {"topic": "t", "attributes": "+colour=red"}
    answer = await caller.ask(RequestCode.UPDATE_AND_CREATE_TOPIC, fields)

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert "known are" in answer.remark
