"""The name server in every node: what is kept is equal on all, and other groups may register."""

import json

import pytest

from broker.config import BrokerConfig, MemberConfig, NameserverConfig, NodeConfig
from broker.metadata.name_config import NameConfig
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import ConfigError
from tests.fakes.brokers import BROKER_PORT
from tests.fakes.nodes import until_async

KEY = {"namespace": "ns", "key": "k"}


async def stock_route(caller, topic):
    from dledger.remoting.command import SerializeType

    answer = await caller.ask(
        RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic}, serialization=SerializeType.JSON
    )
    return json.loads(bytes(answer.body)) if answer.code == ResponseCode.SUCCESS else None


def written(route):
    return [item["brokerName"] for item in route["queueDatas"] if item["perm"] & 2]


async def test_what_is_set_at_one_node_is_answered_by_all(autojump_clock, make_group):
    group = make_group(nameserver={"addresses": ""})
    await group.start()
    leader = await group.leader()
    follower, other = group.others(leader)
    async with group.caller(follower) as caller:
        await caller.create_topic("t")
        await caller.ok(RequestCode.PUT_KV_CONFIG, {**KEY, "value": "v"})
        await caller.ok(RequestCode.WIPE_WRITE_PERM_OF_BROKER, {"brokerName": "orders-n1"})
    await group.equal()
    states = [member.running._files.names.snapshot() for member in group]
    assert states == [[[["ns", "k", "v"]], ["orders-n1"]]] * 3
    async with group.caller(other) as caller:
        value = (await caller.ok(RequestCode.GET_KV_CONFIG, KEY)).ext_fields["value"]
        assert written(await stock_route(caller, "t")) == ["orders-n2", "orders-n3"]
        await caller.ok(RequestCode.ADD_WRITE_PERM_OF_BROKER, {"brokerName": "orders-n1"})
        await caller.ok(RequestCode.DELETE_KV_CONFIG, KEY)
    await group.equal()
    assert value == "v"
    assert all(member.running._files.names.snapshot() is None for member in group)


async def test_it_is_there_after_a_restart(autojump_clock, make_group):
    group = make_group(count=1, nameserver={"addresses": ""})
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.ok(RequestCode.PUT_KV_CONFIG, {**KEY, "value": "v"})
    await member.kill()
    await member.start()
    await group.leader()
    async with group.caller(member) as caller:
        table = await caller.ok(RequestCode.GET_KVLIST_BY_NAMESPACE, {"namespace": "ns"})
    assert json.loads(bytes(table.body)) == {"table": {"k": "v"}}


async def test_groups_that_register_with_one_another_are_one_cluster(autojump_clock, make_group):
    """No name server of its own: the nodes of one group are the other's."""
    at = f"n1-host.my-group:{BROKER_PORT}"
    one = make_group("one", count=1, nameserver={"addresses": ""})
    other = make_group("other", count=1, nameserver={"addresses": at})
    for group in (one, other):
        await group.start()
        await group.leader()
        async with group.caller(group["n1"]) as caller:
            await caller.create_topic("t")
    async with one.caller(one["n1"]) as caller:

        async def both():
            route = await stock_route(caller, "t")
            return written(route) == ["one-n1", "other-n1"]

        await until_async("both groups are in the route", both)
        info = await caller.ok(RequestCode.GET_BROKER_CLUSTER_INFO)
    assert json.loads(bytes(info.body))["clusterAddrTable"] == {"shop": ["one", "other"]}


async def test_a_node_that_is_its_own_name_server_is_told_once(autojump_clock, make_group):
    at = f"n1-host.my-group:{BROKER_PORT}"
    group = make_group("one", count=1, nameserver={"addresses": at})
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.create_topic("t")
        registrar = member.running.names.registrar

        async def is_registered():
            return registrar.counts()[0]

        await until_async("it is registered", is_registered)
        assert written(await stock_route(caller, "t")) == ["one-n1"]


async def test_the_names_that_nobody_may_have_are_told(autojump_clock, make_group):
    group = make_group(count=1, nameserver={"addresses": ""})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        told = await caller.ok(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER)
        config = await caller.ok(RequestCode.GET_NAMESRV_CONFIG)
    assert "SCHEDULE_TOPIC_XXXX" in json.loads(bytes(told.body))["topicList"]
    assert b"nameserver.route=per-node\n" in bytes(config.body)


async def test_what_would_not_fit_is_refused(autojump_clock, make_group, monkeypatch):
    monkeypatch.setattr("broker.metadata.name_config.SIZE_MAX", 200)
    group = make_group(count=1, nameserver={"addresses": ""})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.ok(RequestCode.PUT_KV_CONFIG, {**KEY, "value": "v" * 100})
        await caller.ok(RequestCode.PUT_KV_CONFIG, {**KEY, "value": "w" * 100})
        answer = await caller.ask(
            RequestCode.PUT_KV_CONFIG, {"namespace": "ns", "key": "x", "value": "v" * 100}
        )
    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert "the limit is 200" in answer.remark


@pytest.mark.parametrize("snapshot", [[[["ns", "k", 7]], []], [[], [7]], [[["ns", "k"]], []], [1]])
def test_a_piece_of_state_that_is_none_is_refused(snapshot):
    with pytest.raises((ValueError, TypeError)):
        NameConfig().restore(snapshot)


# -- ports --------------------------------------------------------------------------------------


async def test_the_vip_channel_answers_the_same(autojump_clock, make_group):
    group = make_group(count=1, nameserver={"addresses": ""}, broker={"vip_channel": True})
    await group.start()
    member = await group.leader()
    async with group.caller(member, port=BROKER_PORT - 2) as caller:
        await caller.create_topic("t")
        sent = await caller.sent(b"hello")
    assert sent.code == ResponseCode.SUCCESS


def config(*, vip_channel=True, distance=3, peer_port=7000, **settings):
    return NodeConfig(
        group="g",
        node_id="n1",
        members=tuple(
            MemberConfig(
                node_id=f"n{number}",
                host="127.0.0.1",
                peer_port=peer_port + number,
                broker_port=9000 + distance * number,
            )
            for number in (1, 2, 3)
        ),
        data_folder="/data",
        broker=BrokerConfig(vip_channel=vip_channel),
        **settings,
    )


@pytest.mark.parametrize("distance", [1, 2])
def test_vip_ports_that_others_have_are_refused(distance):
    with pytest.raises(ConfigError, match="vip_channel"):
        config(distance=distance)


def test_a_vip_port_that_the_node_has_is_refused():
    with pytest.raises(ConfigError, match="vip_channel"):
        config(nameserver=NameserverConfig(port=9001))
    assert config().more_ports == [9001]
    assert config(vip_channel=False).more_ports == []


@pytest.mark.parametrize("addresses", ["a:1;a:1", "a:99999", "a b", "[::1"])
def test_addresses_that_are_none_are_refused(addresses):
    with pytest.raises(ConfigError):
        NameserverConfig(addresses=addresses)


def test_addresses_are_written_as_rocketmq_s():
    found = NameserverConfig(addresses=" ns1 ; ns2:9877;[::1]:1;").servers
    assert found == [("ns1", 9876), ("ns2", 9877), ("::1", 1)]
