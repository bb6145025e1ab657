"""A name server of its own: groups register with it, and clients find their way by it."""

import json

import pytest
import trio

from broker.config import RouteMode
from broker.nameserver.registrar import REGISTER_SECONDS
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import SerializeType
from tests.fakes.brokers import messages_of
from tests.fakes.name_server import ADDRESS, PORT, Asker
from tests.fakes.nodes import until, until_async
from tests.nameserver.routed import addresses, create, names, routed


async def test_a_new_topic_is_told_at_once(autojump_clock, place):
    group, server = place
    async with server.asker() as asker:
        assert await asker.route("news") is None
        await create(group, "news")
        begun = trio.current_time()
        route = await routed(asker, "news")
        topics = await asker.json(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)

    assert trio.current_time() - begun < 1.0
    assert names(route, 2) == ["orders-n1", "orders-n2", "orders-n3"]
    assert topics == {"topicList": ["news"]}


async def test_a_deleted_topic_is_gone_at_once(autojump_clock, place):
    group, server = place
    async with server.asker() as asker, group.caller(await group.leader()) as caller:
        await caller.create_topic("news")
        await routed(asker, "news")
        await caller.ok(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "news"})
        await asker.ok(RequestCode.DELETE_TOPIC_IN_NAMESRV, {"topic": "news"})

        async def is_gone():
            return await asker.route("news") is None

        begun = trio.current_time()
        await until_async("the topic is gone", is_gone)
    assert trio.current_time() - begun < 1.0


async def test_a_killed_leader_is_replaced_in_the_route_within_a_second(autojump_clock, place):
    group, server = place
    await create(group, "t")
    leader = await group.leader()
    async with server.asker() as asker:
        await routed(asker, "t")
        begun = trio.current_time()
        await leader.kill()
        new = await group.leader(other_than=leader)
        address = group.address(new)
        (follower,) = group.others(leader, new)
        # The dead member's name leads to who is left: who orders by key counts the names.
        route = await routed(
            asker, "t", lambda route: set(addresses(route).values()) == {group.address(follower)}
        )
        cluster = await asker.json(RequestCode.GET_BROKER_CLUSTER_INFO)

    assert trio.current_time() - begun < 2.0
    assert len(addresses(route)) == 4
    assert cluster["brokerAddrTable"]["orders"]["brokerAddrs"] == {"0": address}


async def test_the_single_form_follows_the_leader(autojump_clock, make_group, make_name_server):
    group = make_group(nameserver={"route": RouteMode.SINGLE})
    server = make_name_server(group)
    await server.start()
    await group.start()
    leader = await group.leader()
    await create(group, "t")
    async with server.asker() as asker:
        at = group.address(leader)
        route = await routed(asker, "t", lambda route: addresses(route) == {"orders": at})
        assert len(route["brokerDatas"][0]["brokerAddrs"]) == 3
        await leader.kill()
        at = group.address(await group.leader(other_than=leader))
        route = await routed(
            asker,
            "t",
            lambda route: route["brokerDatas"][0]["brokerAddrs"].get("0") == at,
        )
    assert names(route, 4) == names(route, 2) == ["orders"]


async def test_a_name_server_that_comes_back_knows_all_within_seconds(autojump_clock, place):
    group, server = place
    await create(group, "t")
    await server.kill()
    await trio.sleep(5)
    await server.start()
    begun = trio.current_time()
    await server.until_registered(3)
    async with server.asker() as asker:
        assert await asker.route("t") is not None
    assert trio.current_time() - begun < 3.0


async def test_all_name_servers_are_told(autojump_clock, make_group, make_name_server):
    both = f"{ADDRESS};ns-host:{PORT + 1}"
    group = make_group(nameserver={"addresses": both})
    servers = [make_name_server(group, port=PORT + number) for number in range(2)]
    await servers[0].start()
    await group.start()
    await servers[0].until_registered(3)
    leader = await group.leader()
    registrar = leader.running.names.registrar
    assert registrar.counts() == (1, 1)
    await servers[1].start()
    await servers[1].until_registered(3)
    await until("both are registered with", lambda: registrar.counts() == (2, 0))
    (told,) = [
        family
        for family in await leader.running.gatherer.families()
        if family.name == "dledger_name_servers"
    ]
    assert told.rows == [(("true",), 2), (("false",), 0)]


async def test_a_node_registers_every_half_minute(autojump_clock, make_group, make_name_server):
    group = make_group(count=1)
    server = make_name_server(group)
    await server.start()
    await group.start()
    await group.leader()
    await server.until_registered(1)
    await trio.sleep(5)
    found = server.running.registrations.find("orders", group.addresses[0])
    before = found.seen_at
    await trio.sleep(REGISTER_SECONDS + 1)
    found = server.running.registrations.find("orders", group.addresses[0])
    assert found.seen_at - before == pytest.approx(REGISTER_SECONDS, abs=1.0)


async def test_a_node_that_stops_says_so(autojump_clock, place):
    group, server = place
    stopping = group.others(await group.leader())[0]
    await stopping.running.step_back()
    assert server.brokers == 2
    assert server.running.registrations.find("orders", group.address(stopping)) is None


async def test_two_groups_share_a_topic(autojump_clock, make_group, make_name_server):
    """Scale-out as RocketMQ has it: written to both, read from both, each message once."""
    one, other = make_group("one"), make_group("other")
    server = make_name_server(one)
    await server.start()
    for group in (one, other):
        await group.start()
        await create(group, "t", queues=2)
    await server.until_registered(6)
    async with server.asker() as asker:
        route = await routed(asker, "t", lambda route: len(route["brokerDatas"]) == 8)
        cluster = await asker.json(RequestCode.GET_BROKER_CLUSTER_INFO)
        of_cluster = await asker.json(RequestCode.GET_TOPICS_BY_CLUSTER, {"cluster": "shop"})
        of_none = await asker.json(RequestCode.GET_TOPICS_BY_CLUSTER, {"cluster": "x"})
        system = await asker.json(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS)
    assert cluster["clusterAddrTable"] == {"shop": ["one", "other"]}
    assert (of_cluster["topicList"], of_none["topicList"]) == (["t"], [])
    assert system["topicList"] == ["shop", "one", "other"]
    assert system["brokerAddr"] in one.addresses

    # As a stock producer: queues of all names that may be written to, one after another.
    sent = set()
    places = [
        (addresses(route)[item["brokerName"]], queue)
        for item in route["queueDatas"]
        if item["perm"] & 2
        for queue in range(item["writeQueueNums"])
    ]
    for number, (address, queue) in enumerate(places):
        await send(one, address, queue, f"m{number}".encode())
        sent.add(f"m{number}".encode())
    # As a stock consumer: queues of all names that may be read.
    got = []
    for item in route["queueDatas"]:
        if item["perm"] & 4:
            for queue in range(item["readQueueNums"]):
                got += await pull(one, addresses(route)[item["brokerName"]], queue)

    assert len(places) == 2 * 3 * 2
    assert sorted(got) == sorted(sent)


async def asker_at(group, address):
    asker = Asker(group, int(address.rpartition(":")[2]))
    group.nursery.start_soon(asker.run)
    await until("it is connected", lambda: not asker.client.closed)
    return asker


async def send(group, address, queue, body):
    asker = await asker_at(group, address)
    fields = {
        "producerGroup": "writers",
        "topic": "t",
        "defaultTopic": "TBW102",
        "defaultTopicQueueNums": "4",
        "queueId": str(queue),
        "sysFlag": "0",
        "bornTimestamp": "0",
        "flag": "0",
    }
    await asker.ok(RequestCode.SEND_MESSAGE, fields, body)
    asker.client.close()


async def pull(group, address, queue):
    asker = await asker_at(group, address)
    fields = {
        "consumerGroup": "readers",
        "topic": "t",
        "queueId": queue,
        "queueOffset": 0,
        "maxMsgNums": 32,
        "sysFlag": 2,
        "commitOffset": 0,
        "suspendTimeoutMillis": 1000,
        "subscription": "*",
        "subVersion": 0,
    }
    answer = await asker.ask(RequestCode.PULL_MESSAGE, fields)
    asker.client.close()
    return [bytes(message.body) for message in messages_of(answer)] if answer.code == 0 else []


async def test_tbw102_is_of_the_groups_that_create_topics_on_use(
    autojump_clock, make_group, make_name_server
):
    one = make_group("one")
    other = make_group("other", broker={"auto_create_topic": False})
    server = make_name_server(one)
    await server.start()
    for group in (one, other):
        await group.start()
        await group.leader()
    await server.until_registered(6)
    async with server.asker() as asker:
        route = await routed(asker, "TBW102")
        retry = await asker.route("%RETRY%readers")
        topics = await asker.json(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)

    assert set(addresses(route)) == {"one", "one-n1", "one-n2", "one-n3"}
    assert len(retry["brokerDatas"]) == 8
    assert topics == {"topicList": []}


async def test_our_own_header_is_told_one_broker_for_each_group(autojump_clock, place):
    group, server = place
    await create(group, "t")
    async with server.asker() as asker:
        await routed(asker, "t")
        answer = await asker.ask(
            RequestCode.GET_ROUTEINFO_BY_TOPIC,
            {"topic": "t"},
            serialization=SerializeType.MSGPACK,
        )
    route = json.loads(bytes(answer.body))
    assert [broker["brokerName"] for broker in route["brokerDatas"]] == ["orders"]
    assert len(route["brokerDatas"][0]["brokerAddrs"]) == 3


async def test_codes_of_brokers_are_refused_by_name(autojump_clock, lone):
    server = lone
    async with server.asker() as asker:
        sent = await asker.ask(RequestCode.SEND_MESSAGE, {})
        unknown = await asker.ask(37)

    assert sent.code == unknown.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
    assert "SEND_MESSAGE (10)" in sent.remark
    assert "END_TRANSACTION (37)" in unknown.remark
    assert "name server" in sent.remark
