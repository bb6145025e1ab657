"""A name server of its own: groups register with it, and clients find their way by it."""

import json

import pytest
import trio

from broker.config import RouteMode
from broker.nameserver.names_file import NamesFile
from broker.nameserver.registrar import REGISTER_SECONDS
from broker.nameserver.registrations import EXPIRY_SECONDS, SCAN_SECONDS
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import StorageFailedError
from dledger.remoting.command import SerializeType
from tests.fakes.brokers import messages_of
from tests.fakes.name_server import ADDRESS, PORT, Asker
from tests.fakes.nodes import until, until_async


@pytest.fixture
async def place(make_group, make_name_server):
    """A group of three, and the name server that it has registered with."""
    group = make_group()
    server = make_name_server(group)
    await server.start()
    await group.start()
    await group.leader()
    await server.until_registered(3)
    return group, server


@pytest.fixture
async def lone(make_group, make_name_server):
    """A name server that nobody has registered with."""
    server = make_name_server(make_group())
    await server.start()
    return server


async def create(group, topic, queues=4):
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic(topic, queues=queues)


def names(route, perm):
    return [item["brokerName"] for item in route["queueDatas"] if item["perm"] & perm]


def addresses(route):
    return {broker["brokerName"]: broker["brokerAddrs"]["0"] for broker in route["brokerDatas"]}


async def routed(asker, topic, holds=bool):
    """Wait until the route of *topic* is as wanted."""

    async def found():
        route = await asker.route(topic)
        return route if route is not None and holds(route) else None

    return await until_async(f"a route of {topic}", found)


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


# -- what is kept -------------------------------------------------------------------------------


async def test_what_is_set_outlives_the_process(autojump_clock, place):
    _, server = place
    item = {"namespace": "ns", "key": "k"}
    async with server.asker() as asker:
        await asker.ok(RequestCode.PUT_KV_CONFIG, {**item, "value": "v1"})
        await asker.ok(RequestCode.PUT_KV_CONFIG, {"namespace": "ns", "key": "x", "value": "é"})
        await asker.ok(RequestCode.PUT_KV_CONFIG, {**item, "value": "v2"})
        await asker.ok(RequestCode.DELETE_KV_CONFIG, {"namespace": "ns", "key": "none"})
        wiped = await asker.ok(RequestCode.WIPE_WRITE_PERM_OF_BROKER, {"brokerName": "orders-n2"})
        nobody = await asker.ok(RequestCode.WIPE_WRITE_PERM_OF_BROKER, {"brokerName": "nobody"})
    assert (wiped.ext_fields, nobody.ext_fields) == (
        {"wipeTopicCount": "0"},
        {"wipeTopicCount": "0"},
    )
    await server.kill()
    content = json.loads(server.disk.read_file("/names/kvConfig.json"))
    assert content == {
        "configTable": {"ns": {"k": "v2", "x": "é"}},
        "wipedBrokers": ["orders-n2"],
    }
    await server.start()
    await server.until_registered(3)
    async with server.asker() as asker:
        value = (await asker.ok(RequestCode.GET_KV_CONFIG, item)).ext_fields["value"]
        table = await asker.json(RequestCode.GET_KVLIST_BY_NAMESPACE, {"namespace": "ns"})
        await asker.ok(RequestCode.DELETE_KV_CONFIG, item)
        gone = await asker.ask(RequestCode.GET_KV_CONFIG, item)

    assert value == "v2"
    assert table == {"table": {"k": "v2", "x": "é"}}
    assert gone.code == ResponseCode.QUERY_NOT_FOUND


async def test_changes_that_come_together_are_all_done(autojump_clock, lone):
    server = lone
    async with server.asker() as asker, trio.open_nursery() as nursery:
        for number in range(50):
            fields = {"namespace": "ns", "key": f"k{number}", "value": "v"}
            nursery.start_soon(asker.ok, RequestCode.PUT_KV_CONFIG, fields)
    async with server.asker() as asker:
        table = await asker.json(RequestCode.GET_KVLIST_BY_NAMESPACE, {"namespace": "ns"})
    assert len(table["table"]) == 50


async def test_a_change_that_cannot_be_written_is_not_made(autojump_clock, lone):
    server = lone
    item = {"namespace": "ns", "key": "k"}
    async with server.asker() as asker:
        await asker.ok(RequestCode.PUT_KV_CONFIG, {**item, "value": "v1"})
        server.disk.capacity = 0
        failed = await asker.ask(RequestCode.PUT_KV_CONFIG, {**item, "value": "v2"})
        kept = await asker.ok(RequestCode.GET_KV_CONFIG, item)
    assert failed.code != ResponseCode.SUCCESS
    assert kept.ext_fields == {"value": "v1"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"namespace": "", "key": "k", "value": "v"}, "namespace"),
        ({"namespace": "n", "key": "k" * 1025, "value": "v"}, "key"),
        ({"namespace": "n", "key": "k", "value": "v" * 70_000}, "value"),
        ({"namespace": "n", "key": "k"}, "value"),
    ],
)
async def test_what_cannot_be_kept_is_refused(autojump_clock, lone, fields, named):
    server = lone
    async with server.asker() as asker:
        answer = await asker.ask(RequestCode.PUT_KV_CONFIG, fields)
    assert answer.code in (ResponseCode.MESSAGE_ILLEGAL, ResponseCode.SYSTEM_ERROR)
    assert named in answer.remark


async def test_a_file_that_is_none_stops_the_start(autojump_clock, make_group, make_name_server):
    server = make_name_server(make_group())
    server.disk.make_folder("/names")
    server.disk.write_file_atomic("/names/kvConfig.json", b"[1]")
    with pytest.raises(StorageFailedError, match=r"kvConfig\.json"):
        NamesFile.open(server.disk, "/names")


async def test_wiping_a_broker_leads_writers_elsewhere(autojump_clock, place):
    group, server = place
    await create(group, "t")
    async with server.asker() as asker:
        await routed(asker, "t")
        answer = await asker.ok(RequestCode.WIPE_WRITE_PERM_OF_BROKER, {"brokerName": "orders-n2"})
        assert answer.ext_fields == {"wipeTopicCount": "1"}
        assert names(await asker.route("t"), 2) == ["orders-n1", "orders-n3"]
        await create(group, "another")  # every node registers anew
        await routed(asker, "another")
        assert names(await asker.route("t"), 2) == ["orders-n1", "orders-n3"]
        await asker.ok(RequestCode.WIPE_WRITE_PERM_OF_BROKER, {"brokerName": "orders"})
        assert names(await asker.route("t"), 2) == []
        assert names(await asker.route("t"), 4) == ["orders"]
        await asker.ok(RequestCode.ADD_WRITE_PERM_OF_BROKER, {"brokerName": "orders"})
        answer = await asker.ok(RequestCode.ADD_WRITE_PERM_OF_BROKER, {"brokerName": "orders-n2"})
        assert answer.ext_fields == {"addTopicCount": "2"}
        assert len(names(await asker.route("t"), 2)) == 3


async def test_where_order_is_kept_is_told_if_it_is_wanted(
    autojump_clock, make_group, make_name_server
):
    group = make_group(count=1)
    server = make_name_server(group, order_message_enable=True)
    await server.start()
    await group.start()
    await create(group, "t")
    async with server.asker() as asker:
        await routed(asker, "t")
        fields = {"namespace": "ORDER_TOPIC_CONFIG", "key": "t", "value": "orders:2"}
        await asker.ok(RequestCode.PUT_KV_CONFIG, fields)
        route = await asker.route("t")
    assert route["orderTopicConf"] == "orders:2"


# -- RocketMQ's brokers, and the rest ------------------------------------------------------------

BODY = json.dumps(
    {
        "filterServerList": [],
        "topicConfigSerializeWrapper": {
            "dataVersion": {"counter": 3, "timestamp": 5},
            "topicConfigTable": {
                "t": {
                    "order": False,
                    "perm": 6,
                    "readQueueNums": 8,
                    "topicFilterType": "SINGLE_TAG",
                    "topicName": "t",
                    "topicSysFlag": 1,
                    "writeQueueNums": 8,
                }
            },
        },
    }
).encode()
BROKER = {
    "brokerName": "broker-a",
    "brokerAddr": "10.0.0.1:10911",
    "clusterName": "DefaultCluster",
    "brokerId": "0",
}


async def test_a_broker_of_rocketmq_registers(autojump_clock, lone):
    async with lone.asker() as asker:
        master = await asker.ok(
            RequestCode.REGISTER_BROKER,
            {**BROKER, "haServerAddr": "10.0.0.1:10912", "compressed": "false", "bodyCrc32": "0"},
            BODY,
        )
        slave = await asker.ok(
            RequestCode.REGISTER_BROKER,
            {**BROKER, "brokerAddr": "10.0.0.2:10911", "brokerId": "1", "haServerAddr": ""},
            BODY,
        )
        route = await asker.route("t")
        units = await asker.json(RequestCode.GET_UNIT_TOPIC_LIST)
        subs = await asker.json(RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST)
        only = await asker.json(RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST)
        await asker.ok(RequestCode.DELETE_TOPIC_IN_NAMESRV, {"topic": "t"})
        assert await asker.route("t") is None
        await asker.ok(RequestCode.UNREGISTER_BROKER, BROKER)
        assert lone.brokers == 1
    await until("its connection's end is noticed", lambda: lone.brokers == 0)

    assert master.ext_fields == {}
    assert slave.ext_fields == {
        "haServerAddr": "10.0.0.1:10912",
        "masterAddr": "10.0.0.1:10911",
    }
    assert route["brokerDatas"][0]["brokerAddrs"] == {
        "0": "10.0.0.1:10911",
        "1": "10.0.0.2:10911",
    }
    assert route["queueDatas"][0]["writeQueueNums"] == 8
    assert [found["topicList"] for found in (units, subs, only)] == [["t"], [], []]


async def test_the_version_of_a_broker_s_topics_can_be_asked_for(autojump_clock, lone):
    version = b'{"counter":3,"timestamp":5}'
    async with lone.asker() as asker:
        unknown = await asker.ok(RequestCode.QUERY_DATA_VERSION, BROKER, version)
        await asker.ok(RequestCode.REGISTER_BROKER, BROKER, BODY)
        await trio.sleep(100)
        same = await asker.ok(RequestCode.QUERY_DATA_VERSION, BROKER, version)
        await trio.sleep(100)
        assert lone.brokers == 1, "asking is a sign of life"
        other = await asker.ok(RequestCode.QUERY_DATA_VERSION, BROKER, b'{"counter":4}')
        await asker.ok(RequestCode.BROKER_HEARTBEAT, BROKER)
        await trio.sleep(100)
        assert lone.brokers == 1, "so is a heartbeat"
        await trio.sleep(EXPIRY_SECONDS - 100 + SCAN_SECONDS + 1)
        assert lone.brokers == 0, "it was silent for two minutes"
        broken = await asker.ask(RequestCode.QUERY_DATA_VERSION, BROKER, b"{")

    assert [found.ext_fields["changed"] for found in (unknown, same, other)] == [
        "true",
        "false",
        "true",
    ]
    assert unknown.body == b""
    assert json.loads(bytes(other.body)) == {"counter": 3, "stateVersion": 0, "timestamp": 5}
    assert "data version" in broken.remark


async def test_every_broker_is_told_where_order_is_kept(autojump_clock, lone):
    async with lone.asker() as asker:
        fields = {"namespace": "ORDER_TOPIC_CONFIG", "key": "t", "value": "broker-a:4"}
        await asker.ok(RequestCode.PUT_KV_CONFIG, fields)
        answer = await asker.ok(RequestCode.REGISTER_BROKER, BROKER, BODY)
    assert json.loads(bytes(answer.body)) == {"table": {"t": "broker-a:4"}}


async def test_a_registration_that_arrived_broken_is_refused(autojump_clock, lone):
    async with lone.asker() as asker:
        answer = await asker.ask(RequestCode.REGISTER_BROKER, {**BROKER, "bodyCrc32": "7"}, BODY)
    assert "bodyCrc32" in answer.remark
    assert lone.brokers == 0


async def test_its_settings_are_told_and_one_can_change(autojump_clock, lone):
    levels = []
    lone.running.info.set_log_level = levels.append
    async with lone.asker() as asker:
        told = bytes((await asker.ok(RequestCode.GET_NAMESRV_CONFIG)).body).decode()
        await asker.ok(RequestCode.UPDATE_NAMESRV_CONFIG, body=b"logLevel=debug\n")
        refused = await asker.ask(RequestCode.UPDATE_NAMESRV_CONFIG, body=b"listenPort=1\n")
        again = bytes((await asker.ok(RequestCode.GET_NAMESRV_CONFIG)).body).decode()

    assert f"listenPort={PORT}\n" in told
    assert "logLevel=debug\n" in again
    assert levels == ["debug"]
    assert "listenPort" in refused.remark


async def test_how_it_stands_is_told(autojump_clock, lone):
    assert lone.running.readiness().to_json() == {
        "ready": False,
        "reason": "no broker has registered yet",
        "brokers": 0,
    }
    async with lone.asker() as asker:
        await asker.ok(RequestCode.REGISTER_BROKER, BROKER, BODY)
        families = {family.name: family.rows for family in await lone.running.families()}
        assert lone.running.readiness().is_ready
    assert families == {
        "nameserver_brokers": [(("DefaultCluster", "broker-a"), 1)],
        "nameserver_topics": [(("DefaultCluster", "broker-a"), 1)],
        "nameserver_connections": [((), 1)],
    }
