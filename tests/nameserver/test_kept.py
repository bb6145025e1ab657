"""What a name server keeps over its end: settings, permissions taken away, where order is kept."""

import json

import pytest
import trio

from broker.nameserver.names_file import NamesFile
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import StorageFailedError
from tests.nameserver.routed import create, names, routed


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
