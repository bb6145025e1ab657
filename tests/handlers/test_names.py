"""What nodes answer to those who take them for a name server."""

import json

import pytest

from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import SerializeType

STOCK = [SerializeType.JSON, SerializeType.ROCKETMQ]


async def route(caller, topic, serialization):
    answer = await caller.ask(
        RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic}, serialization=serialization
    )
    return answer.code, json.loads(bytes(answer.body)) if answer.body else None


@pytest.mark.parametrize("serialization", STOCK, ids=lambda kind: kind.name)
async def test_a_stock_client_is_told_more_names_than_ours(autojump_clock, caller, serialization):
    _, stock = await route(caller, "t", serialization)
    _, ours = await route(caller, "t", SerializeType.MSGPACK)

    assert [item["brokerName"] for item in stock["queueDatas"]] == ["g", "g-n1"]
    assert [item["brokerName"] for item in ours["queueDatas"]] == ["g"]


async def test_tbw102_has_a_route_for_stock_clients(autojump_clock, caller):
    code, found = await route(caller, "TBW102", SerializeType.JSON)
    ours, _ = await route(caller, "TBW102", SerializeType.MSGPACK)

    assert code == ResponseCode.SUCCESS
    assert {item["perm"] for item in found["queueDatas"]} == {5, 3}
    assert ours == ResponseCode.TOPIC_NOT_EXIST


async def test_tbw102_has_none_where_topics_are_not_created_on_use(autojump_clock, make_brokers):
    group = make_brokers(broker={"auto_create_topic": False})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        code, _ = await route(caller, "TBW102", SerializeType.JSON)

    assert code == ResponseCode.TOPIC_NOT_EXIST


async def test_a_retry_topic_has_a_route_before_it_exists(autojump_clock, caller):
    code, found = await route(caller, "%RETRY%readers", SerializeType.JSON)
    unnamed, _ = await route(caller, "%RETRY%", SerializeType.JSON)
    impossible, _ = await route(caller, "%RETRY%a b", SerializeType.JSON)

    assert code == ResponseCode.SUCCESS
    assert found["queueDatas"][0]["readQueueNums"] == 1
    assert unnamed == impossible == ResponseCode.TOPIC_NOT_EXIST


async def test_a_stock_client_asks_a_node_that_lags_and_gets_its_form_of_route(
    autojump_clock, make_brokers
):
    """The question is handed on with a MSGPACK header, which is our own client's sign."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    follower = group.others(leader)[0]
    async with group.caller(leader) as writer, group.caller(follower) as asker:
        await writer.create_topic("news")
        group._files[follower.name].topics.restore(None)  # as before it took that entry in
        _, found = await route(asker, "news", SerializeType.JSON)

    assert len(found["queueDatas"]) == 4


async def test_lists_and_what_there_is_none_of(autojump_clock, caller):
    topics = await caller.ok(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)
    cluster = await caller.ok(RequestCode.GET_BROKER_CLUSTER_INFO)
    config = await caller.ask(
        RequestCode.GET_KV_CONFIG, {"namespace": "ORDER_TOPIC_CONFIG", "key": "t"}
    )
    await caller.ok(RequestCode.DELETE_TOPIC_IN_NAMESRV, {"topic": "t"})

    assert json.loads(bytes(topics.body)) == {"topicList": ["t"]}
    assert json.loads(bytes(cluster.body))["clusterAddrTable"] == {"g": ["g"]}
    assert config.code == ResponseCode.QUERY_NOT_FOUND
    assert "ORDER_TOPIC_CONFIG" in config.remark


async def test_a_port_of_its_own_answers_the_same(autojump_clock, make_brokers):
    group = make_brokers(nameserver={"port": 9876})
    await group.start()
    member = await group.leader()
    async with group.caller(member, port=9876) as caller:
        await caller.create_topic("t")
        code, _ = await route(caller, "t", SerializeType.JSON)

    assert code == ResponseCode.SUCCESS
