"""Brokers of RocketMQ at our name server, and what their operators ask of it."""

import json

import trio

from broker.nameserver.registrations import EXPIRY_SECONDS, SCAN_SECONDS
from broker.protocol.request_code import RequestCode
from tests.fakes.name_server import PORT
from tests.fakes.nodes import until

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
