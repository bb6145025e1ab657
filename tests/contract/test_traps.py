"""What RocketMQ's clients were seen to do or to need, each trap on the wire as they send it.

P is PyPI's rocketmq 0.4.4 (C++, version 63), N npm's ali-ons 3.12.0 (says JAVA, version 121), J
Java 4.9.8 (version 409), G the Go client v2 (version 317).
"""

import json
import re

import pytest
import trio

from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from tests.contract.wire import StockConnection
from tests.fakes.brokers import Brokers

FORMS = ["JSON", "ROCKETMQ"]
SEND = {
    "producerGroup": "p",
    "topic": "t",
    "defaultTopic": "TBW102",
    "defaultTopicQueueNums": 4,
    "queueId": 0,
    "sysFlag": 0,
    "bornTimestamp": "1795346771693",
    "flag": 0,
    "properties": "KEYS\x01k1\x02TAGS\x01A\x02WAIT\x01true\x02",
    "reconsumeTimes": "0",
    "unitMode": "0",
    "batch": "0",
}
# P signs everything, with an empty access key where the user has none.
SIGNED = {"AccessKey": "", "OnsChannel": "ALIYUN", "Signature": "Sf55A+YZN21izFtJZ+36oINzoLw="}
PULL = {
    "consumerGroup": "g",
    "topic": "t",
    "queueId": 0,
    "queueOffset": 0,
    "maxMsgNums": 32,
    "sysFlag": 4,
    "commitOffset": 0,
    "suspendTimeoutMillis": 15000,
    "subscription": "*",
    "subVersion": "1795346771693",
}
OF_QUEUE = {"topic": "t", "queueId": 0}
OF_GROUP = {**OF_QUEUE, "consumerGroup": "g"}
BROKER = {"brokerName": "b", "brokerAddr": "h:1", "clusterName": "c", "brokerId": 0}


@pytest.fixture
async def group(autojump_clock):
    async with trio.open_nursery() as nursery:
        group = Brokers(nursery, 1)
        await group.start()
        async with group.caller(await group.leader()) as caller:
            await caller.create_topic("t", queues=2)
        yield group
        nursery.cancel_scope.cancel()


@pytest.fixture
def connect(group):
    """Return what makes a connection: ``await connect("JSON", version=121)``."""

    async def make(form="JSON", *, version=63, language="CPP"):
        port = group.config("n1").listen_broker_port
        stream = await group.wires.of("a client").connect("n1-host", port)
        connection = StockConnection(stream, form)
        connection.version, connection.language = version, language
        group.nursery.start_soon(connection.listen)
        return connection

    return make


# -- 1, 2, 8: how answers are written -------------------------------------------------------------

REQUESTS = [
    (RequestCode.SEND_MESSAGE, SEND, b"hello"),
    (RequestCode.SEND_MESSAGE, {**SEND, "topic": "not there!"}, b"hello"),
    (RequestCode.SEND_MESSAGE_V2, dict(zip("abcdefghijk", SEND.values(), strict=False)), b"x"),
    (RequestCode.PULL_MESSAGE, PULL, b""),
    (RequestCode.PULL_MESSAGE, {**PULL, "queueOffset": 900}, b""),
    (RequestCode.PULL_MESSAGE, {**PULL, "topic": "none"}, b""),
    (RequestCode.QUERY_CONSUMER_OFFSET, OF_GROUP, b""),
    (RequestCode.UPDATE_CONSUMER_OFFSET, {**OF_GROUP, "commitOffset": 1}, b""),
    (RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, {**OF_QUEUE, "timestamp": 0}, b""),
    (RequestCode.GET_MAX_OFFSET, OF_QUEUE, b""),
    (RequestCode.GET_MIN_OFFSET, OF_QUEUE, b""),
    (RequestCode.GET_EARLIEST_MSG_STORETIME, OF_QUEUE, b""),
    (RequestCode.QUERY_MESSAGE, {"topic": "t", "key": "k1", "maxNum": 8, "beginTimestamp": 0,
                                 "endTimestamp": 1 << 50}, b""),
    (RequestCode.HEART_BEAT, None, b'{"clientID":"c","producerDataSet":[{"groupName":"p"}]}'),
    (RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "nobody"}, b""),
    (RequestCode.LOCK_BATCH_MQ, None, b'{"clientId":"c","consumerGroup":"g","mqSet":[]}'),
    (RequestCode.UNREGISTER_CLIENT, {"clientID": "c", "producerGroup": "p"}, b""),
    (RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "t"}, b""),
    (RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "none"}, b""),
    (RequestCode.GET_BROKER_CLUSTER_INFO, None, b""),
    (RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER, None, b""),
    (RequestCode.PUT_KV_CONFIG, {"namespace": "n", "key": "k", "value": "v"}, b""),
    (RequestCode.GET_KV_CONFIG, {"namespace": "n", "key": "k"}, b""),
    (RequestCode.GET_KVLIST_BY_NAMESPACE, {"namespace": "n"}, b""),
    (RequestCode.WIPE_WRITE_PERM_OF_BROKER, {"brokerName": "g"}, b""),
    (RequestCode.ADD_WRITE_PERM_OF_BROKER, {"brokerName": "g"}, b""),
    (RequestCode.REGISTER_BROKER, BROKER, b""),
    (RequestCode.QUERY_DATA_VERSION, BROKER, b'{"counter":1,"timestamp":2}'),
    (RequestCode.UNREGISTER_BROKER, BROKER, b""),
    (RequestCode.GET_TOPICS_BY_CLUSTER, {"cluster": "g"}, b""),
    (RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS, None, b""),
    (RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER, None, b""),
    (RequestCode.GET_NAMESRV_CONFIG, None, b""),
    (RequestCode.GET_BROKER_RUNTIME_INFO, None, b""),
    (RequestCode.GET_TOPIC_STATS_INFO, {"topic": "t"}, b""),
    (RequestCode.VIEW_MESSAGE_BY_ID, {"offset": 0}, b""),
    (37, {"commitLogOffset": 0}, b""),
    (9999, {"x": 1}, b""),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_every_answer_is_written_as_its_request_with_strings_only(
    autojump_clock, connect, form
):
    """P asks for the route again and again when it is answered in binary, and loses numbers."""
    connection = await connect(form)
    for code, ext, body in REQUESTS:
        answer = await connection.ask(code, ext, body)

        assert answer.form == form, code
        assert all(isinstance(value, str) for value in answer.ext.values()), (code, answer.ext)
        assert answer.header["flag"] == 1
        if form == "JSON":
            without_texts = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", answer.raw)
            assert b" " not in without_texts, code
            assert answer.header["serializeTypeCurrentRPC"] == "JSON"
        if answer.code != ResponseCode.SUCCESS and answer.code not in (19, 20, 21):
            assert answer.remark, (code, answer.header)


async def test_one_connection_may_write_its_headers_either_way(autojump_clock, connect):
    connection = await connect()
    forms = []
    for form in [*FORMS, "JSON"]:
        connection.form = form
        forms.append((await connection.ask(RequestCode.GET_MAX_OFFSET, OF_QUEUE)).form)

    assert forms == [*FORMS, "JSON"]


# -- 3, 4, 6, 7: how requests are written -----------------------------------------------------


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), ("true", "false"), (True, False), (1, 0)], ids=repr
)
async def test_numbers_and_booleans_come_in_any_clothes(autojump_clock, connect, yes, no):
    connection = await connect()
    fields = {**SEND, **SIGNED, "unitMode": no, "batch": no, "queueId": "1", "sysFlag": "0"}
    answer = await connection.ask(RequestCode.SEND_MESSAGE, fields, b"hello")
    batch = await connection.ask(
        RequestCode.SEND_MESSAGE,
        {**SEND, "batch": yes, "properties": "WAIT=true"},
        # total, magic, crc, flag, body length, body, properties length
        b"\0\0\0\x17\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01x\0\0",
    )

    assert (answer.code, answer.ext["queueId"], answer.ext["queueOffset"]) == (0, "1", "0")
    assert batch.code == ResponseCode.SUCCESS


@pytest.mark.parametrize(
    ("language", "version"), [("CPP", 63), ("JAVA", 409), ("KOTLIN", 9999), (3, 0), (None, 0)]
)
async def test_whoever_it_is_is_answered(autojump_clock, connect, language, version):
    connection = await connect(version=version, language=language)
    answer = await connection.ask(RequestCode.GET_MAX_OFFSET, OF_QUEUE, remark="", unknown=[1])

    assert answer.ext["offset"] == "0"


HEARTBEATS = {
    "P": {  # integers for enums, a string for a number, no codeSet
        "clientID": "127.0.0.1@1",
        "consumerDataSet": [
            {
                "consumeFromWhere": 0,
                "consumeType": 1,
                "groupName": "g",
                "messageModel": 1,
                "subscriptionDataSet": [
                    {"subString": "A", "subVersion": "1795346771693", "tagsSet": ["A"],
                     "topic": "t"}
                ],
                "unitMode": False,
            }
        ],
        "producerDataSet": [],
    },
    "N": {
        "clientID": "127.0.0.1@1",
        "consumerDataSet": [
            {
                "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
                "consumeType": "CONSUME_PASSIVELY",
                "groupName": "g",
                "messageModel": "CLUSTERING",
                "subscriptionDataSet": [
                    {"classFilterMode": False, "codeSet": [65], "subString": "A",
                     "subVersion": 1795346771693, "tagsSet": ["A"], "topic": "t"}
                ],
                "unitMode": False,
            }
        ],
        "producerDataSet": [{"groupName": "p"}],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("who", HEARTBEATS)
async def test_a_heartbeat_is_understood_and_a_second_member_is_told_of(
    autojump_clock, connect, who, form
):
    one, other = await connect(form), await connect(form)
    first = HEARTBEATS[who]
    assert (await one.ask(RequestCode.HEART_BEAT, None, json.dumps(first).encode())).code == 0
    second = first | {"clientID": "127.0.0.1@2"}
    assert (await other.ask(RequestCode.HEART_BEAT, None, json.dumps(second).encode())).code == 0
    listed = await one.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "g"})
    assert json.loads(listed.body) == {"consumerIdList": ["127.0.0.1@1", "127.0.0.1@2"]}
    await trio.sleep(0.1)

    pushed = one.pushed[-1]
    assert (pushed.code, pushed.form) == (40, form)
    assert pushed.header["flag"] & 2, "nobody answers it"
    assert pushed.ext == {"consumerGroup": "g"}


async def test_the_filter_of_a_pull_is_its_text(autojump_clock, connect):
    """P sends no hash codes with its subscription."""
    connection = await connect()
    await connection.ask(RequestCode.SEND_MESSAGE, SEND, b"with tag A")
    untagged = {**SEND, "properties": "TAGS\x01B\x02"}
    await connection.ask(RequestCode.SEND_MESSAGE, untagged, b"with tag B")
    answer = await connection.ask(RequestCode.PULL_MESSAGE, {**PULL, "subscription": "B"})

    assert b"with tag B" in answer.body
    assert b"with tag A" not in answer.body


async def test_a_commit_that_is_called_one_way_is_answered_and_one_that_is_is_not(
    autojump_clock, connect
):
    """P's oneway commit has flag 0 on the wire, and waits."""
    connection = await connect()
    fields = {**OF_GROUP, "commitOffset": "3"}
    assert (await connection.ask(RequestCode.UPDATE_CONSUMER_OFFSET, fields, flag=0)).code == 0
    silent = connection.send(
        RequestCode.UPDATE_CONSUMER_OFFSET, {**fields, "commitOffset": 4}, flag=2
    )
    unknown = connection.send(9999, {}, flag=2)
    await trio.sleep(1)
    found = await connection.ask(RequestCode.QUERY_CONSUMER_OFFSET, OF_GROUP)

    assert found.ext["offset"] == "4"
    assert not connection.answers.keys() & {silent, unknown}


async def test_a_commit_of_minus_one_changes_nothing(autojump_clock, connect):
    """N commits -1 for the queues that it never read."""
    connection = await connect()
    for offset in (3, -1):
        fields = {**OF_GROUP, "commitOffset": offset}
        assert (await connection.ask(RequestCode.UPDATE_CONSUMER_OFFSET, fields)).code == 0
    found = await connection.ask(RequestCode.QUERY_CONSUMER_OFFSET, OF_GROUP)

    assert found.ext["offset"] == "3"


async def test_an_answer_to_what_was_pushed_is_not_answered(autojump_clock, connect):
    connection = await connect()
    opaque = connection.send(0, {}, flag=1)
    await trio.sleep(1)

    assert opaque not in connection.answers
    assert (await connection.ask(RequestCode.GET_MAX_OFFSET, OF_QUEUE)).code == 0


# -- 5: sent back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "place"), [(63, "%RETRY%g"), (120, "%RETRY%g"), (121, "%DLQ%g"), (409, "%DLQ%g")]
)
async def test_how_often_a_message_comes_again_is_the_client_s_word_from_3_4_9_on(
    autojump_clock, connect, group, version, place
):
    """P's 36 names offset, group and level alone; what an old client says of times is no word."""
    connection = await connect(version=version)
    await connection.ask(RequestCode.SEND_MESSAGE, SEND, b"hello")
    heartbeat = json.dumps(HEARTBEATS["P"]).encode()
    await connection.ask(RequestCode.HEART_BEAT, None, heartbeat)
    pulled = await connection.ask(RequestCode.PULL_MESSAGE, PULL)
    position = int.from_bytes(pulled.body[28:36], "big")
    answer = await connection.ask(
        RequestCode.CONSUMER_SEND_MSG_BACK,
        {"group": "g", "offset": position, "delayLevel": 0, "maxReconsumeTimes": 0},
    )
    assert answer.code == ResponseCode.SUCCESS, answer.remark
    await trio.sleep(15)  # level 3 is ten seconds
    found = await connection.ask(RequestCode.GET_MAX_OFFSET, {"topic": place, "queueId": 0})

    assert (found.code, found.ext.get("offset")) == (0, "1")


# -- routes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "more", "is_quoted"),
    [
        (63, {}, False),
        (121, {}, False),
        (317, {}, False),
        (400, {}, False),
        (401, {}, True),
        (409, {}, True),
        (0, {}, True),
        (317, {"acceptStandardJsonOnly": "true"}, True),
    ],
)
async def test_the_numbers_of_brokers_are_quoted_for_the_newer(
    autojump_clock, connect, version, more, is_quoted
):
    connection = await connect(version=version)
    answer = await connection.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "t", **more})

    assert (b'{"0":"' in answer.body) == is_quoted
    assert (b'{0:"' in answer.body) != is_quoted
    assert b" " not in answer.body


async def test_an_unknown_topic_is_17_and_tbw102_leads_to_it(autojump_clock, connect):
    connection = await connect(version=409)
    unknown = await connection.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "new"})
    default = await connection.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "TBW102"})
    sent = await connection.ask(RequestCode.SEND_MESSAGE, {**SEND, "topic": "new"}, b"first")
    known = await connection.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "new"})

    assert (unknown.code, unknown.body) == (ResponseCode.TOPIC_NOT_EXIST, b"")
    assert json.loads(default.body)["queueDatas"]
    assert (sent.code, known.code) == (0, 0)
    assert {item["writeQueueNums"] for item in json.loads(known.body)["queueDatas"]} == {4}


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("code", "name"),
    [(37, "END_TRANSACTION (37)"), (361, "LITE_PULL_MESSAGE (361)"), (9999, "9999")],
)
async def test_an_unknown_code_is_3_with_its_name(autojump_clock, connect, form, code, name):
    connection = await connect(form)
    answer = await connection.ask(code, {})

    assert answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
    assert f"request code {name} is not supported" in answer.remark


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("code", "ext", "field"),
    [
        (RequestCode.SEND_MESSAGE, {k: v for k, v in SEND.items() if k != "topic"}, "topic"),
        (RequestCode.SEND_MESSAGE, {**SEND, "queueId": "one"}, "queueId"),
        (RequestCode.PULL_MESSAGE, {**PULL, "queueOffset": "1e3"}, "queueOffset"),
        (RequestCode.GET_MAX_OFFSET, {"topic": "t"}, "queueId"),
        (RequestCode.GET_ROUTEINFO_BY_TOPIC, {}, "topic"),
        (RequestCode.REGISTER_BROKER, {**BROKER, "brokerId": "x"}, "brokerId"),
        (RequestCode.PUT_KV_CONFIG, {"namespace": "n", "key": "k"}, "value"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_field_that_is_missing_or_wrong_is_named(
    autojump_clock, connect, form, code, ext, field
):
    connection = await connect(form)
    answer = await connection.ask(code, ext, b"x")

    assert answer.code in (ResponseCode.SYSTEM_ERROR, ResponseCode.MESSAGE_ILLEGAL)
    assert field in answer.remark
    assert (await connection.ask(RequestCode.GET_MAX_OFFSET, OF_QUEUE)).code == 0


async def test_a_frame_that_is_none_ends_its_own_connection_alone(autojump_clock, connect):
    hostile, other = await connect(), await connect()
    assert not hostile.stream.send_now([b"\0\0\0\x10GET / HTTP/1.1\r\n\r\n"])
    await trio.sleep(2)

    assert hostile.has_ended
    assert not other.has_ended
    assert (await other.ask(RequestCode.GET_MAX_OFFSET, OF_QUEUE)).code == 0
