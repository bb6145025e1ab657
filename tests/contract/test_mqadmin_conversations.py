"""What mqadmin 4.9.8 said to RocketMQ 4.9.8, said to a node of ours: the answers compared.

``conversations/mqadmin/`` holds one file for each command, and one of all of them in a row.  What
RocketMQ had when the capture began follows from its answers, and is put there first: topics with
as many messages, groups with as much committed.
"""

import json
import re

import pytest
import trio

from broker.message.codec import decode_records
from broker.protocol.request_code import RequestCode
from tests.contract import captured

FOLDER = captured.FOLDER / "mqadmin"
BROKER, CLUSTER = "broker-a", "DefaultCluster"  # there; here both are g

# Maps whose keys are names or queues: what all their values have in common counts.
TABLES = {
    "offsetTable", "brokerAddrs", "brokerAddrTable", "clusterAddrTable", "table",
    "filterServerTable",
}  # fmt: skip


def conversations():
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def rows_of(name):
    return captured.rows_of(FOLDER / f"{name}.jsonl")


def read(text):
    """Return what a body says: JSON, or fastjson's with numbers and whole objects for keys."""
    text = re.sub(r"([{,])(\d+):", r'\1"\2":', text)
    text = re.sub(
        r'\{"brokerName":"([^"]*)","queueId":(\d+),"topic":"([^"]*)"\}:', r'"\3/\2":', text
    )
    return json.loads(text)


def paths(value, at=""):
    """Yield the place of everything in a body: ``offsetTable.*.maxOffset``, say."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from paths(item, f"{at}.*" if at.rpartition(".")[2] in TABLES else f"{at}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from paths(item, f"{at}[]")
    else:
        yield at, type(value).__name__


class Before:
    """What there has to be before a conversation."""

    def __init__(self, rows):
        self.topics = {}  # name: queues
        self.ends = {}  # (topic, queue): messages
        self.records = []  # those that are looked for
        self.committed = {}  # (group, topic, queue): offset
        self.readers = []  # of which nothing more is known: the same keys
        for row in rows:
            if row["answer"]["code"] == 0 and row["answer"]["body"] is not None:
                self._note(row, row["ext"] or {}, row["answer"]["body"])

    def _note(self, row, ext, body):
        if row["code"] == RequestCode.GET_ROUTEINFO_BY_TOPIC and ext["topic"] != "TBW102":
            queues = read(body)["queueDatas"][0]["writeQueueNums"]
            self.topics[ext["topic"]] = max(self.topics.get(ext["topic"], 1), queues)
        elif row["code"] in (RequestCode.GET_TOPIC_STATS_INFO, RequestCode.GET_CONSUME_STATS):
            for place, found in read(body)["offsetTable"].items():
                topic, _, queue = place.rpartition("/")
                self.ends[topic, int(queue)] = found.get("maxOffset", found.get("brokerOffset"))
                self.topics[topic] = max(self.topics.get(topic, 1), int(queue) + 1)
                if "consumerOffset" in found:
                    key = ext["consumerGroup"], topic, int(queue)
                    self.committed.setdefault(key, found["consumerOffset"])
        elif row["code"] == RequestCode.QUERY_TOPIC_CONSUME_BY_WHO:
            for group in read(body)["groupList"]:
                self.readers.append((group, ext["topic"], 0))
        elif row["code"] == RequestCode.QUERY_MESSAGE:
            self.records += decode_records(body.encode("latin-1"))

    def note_offsets(self, rows):
        for row in rows:
            ext, answer = row["ext"], row["answer"]["ext"]
            if row["code"] == RequestCode.GET_MAX_OFFSET:
                self.ends.setdefault((ext["topic"], int(ext["queueId"])), int(answer["offset"]))
            elif row["code"] == RequestCode.SEND_MESSAGE_V2:
                self.ends.setdefault((ext["b"], int(ext["e"])), int(answer["queueOffset"]))

    async def put(self, caller):
        for topic, queues in self.topics.items():
            await caller.create_topic(topic, queues=queues)
        for record in {record.position: record for record in self.records}.values():
            named = record.properties.items()
            properties = "\x02".join(f"{name}\x01{text}" for name, text in named)
            fields = {"a": "g", "b": record.topic, "e": record.queue_id, "i": properties}
            await caller.ok(RequestCode.SEND_MESSAGE_V2, fields, bytes(record.body))
        for (topic, queue), end in self.ends.items():
            there = await caller.ok(RequestCode.GET_MAX_OFFSET, {"topic": topic, "queueId": queue})
            for _ in range(end - there.ext_fields["offset"]):
                await caller.sent(b"x", topic=topic, queue_id=queue)
        committed = dict.fromkeys(self.readers, 0) | self.committed
        for (group, topic, queue), offset in committed.items():
            fields = {
                "consumerGroup": group, "topic": topic, "queueId": queue, "commitOffset": offset,
            }  # fmt: skip
            await caller.ok(RequestCode.UPDATE_CONSUMER_OFFSET, fields)


@pytest.mark.parametrize("name", conversations())
async def test_what_mqadmin_asks_is_answered_as_rocketmq_did(autojump_clock, group, name):
    member = group["n1"]
    rows = rows_of(name)
    before = Before(rows)
    before.note_offsets(rows)
    async with group.caller(member) as caller, trio.open_nursery() as nursery:
        await before.put(caller)
        connections = {}
        for row in rows:
            if row["connection"] not in connections:
                port = group.config(member.name).listen_broker_port
                stream = await group.wires.of("a client").connect(f"{member.name}-host", port)
                connections[row["connection"]] = captured.Connection(stream)
                nursery.start_soon(connections[row["connection"]].listen)
            connection = connections[row["connection"]]
            found = await connection.answer(connection.send(row), 10.0)
            assert found is not None, f"no answer to {said(row)}"
            compare(row, *found)
        nursery.cancel_scope.cancel()


def said(row):
    return f"{RequestCode(row['code']).name} {row['ext']}"


def compare(row, header, body):
    expected = row["answer"]
    code = row["code"]
    if code == RequestCode.INVOKE_BROKER_TO_RESET_OFFSET and expected["code"] == 206:
        assert header["code"] == 0, "a group may be reset while nobody consumes for it"
        return
    assert header["code"] == expected["code"], f"{said(row)}: {header}"
    if expected["code"]:
        assert expected["remark"] in header["remark"]
        return
    ours, theirs = header.get("extFields") or {}, expected["ext"] or {}
    assert all(isinstance(value, str) for value in ours.values()), ours
    assert theirs.keys() <= ours.keys() | {"TRACE_ON", "MSG_REGION"}, said(row)
    for field in ("queueId", "offset", "queueOffset", "nextBeginOffset", "minOffset", "maxOffset"):
        if field in theirs:
            assert ours[field] == theirs[field], f"{said(row)}: {field}"
    if expected["body"] is None:  # so long that its end was not captured
        assert body
    elif code in (RequestCode.QUERY_MESSAGE, RequestCode.PULL_MESSAGE):
        compare_records(code, expected["body"].encode("latin-1"), body)
    elif expected["body"]:
        compare_bodies(row, read(expected["body"]), read(body.decode()))
    else:
        assert not body


def compare_records(code, theirs, ours):
    expected, found = decode_records(theirs), decode_records(ours)
    assert len(found) == len(expected)
    if code == RequestCode.QUERY_MESSAGE:
        assert [record.properties.get("UNIQ_KEY") for record in found] == [
            record.properties.get("UNIQ_KEY") for record in expected
        ]


def compare_bodies(row, theirs, ours):
    if row["code"] == RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER:
        assert theirs.keys() == ours.keys()
        return
    missing = set(paths(theirs)) - set(paths(ours))
    assert not missing, f"{said(row)}: {missing} are missing in {ours}"
    if "offsetTable" in theirs:
        times = {"lastTimestamp", "lastUpdateTimestamp"}  # of other messages than there
        for place, values in theirs["offsetTable"].items():
            for name, value in values.items():
                if name not in times:
                    assert ours["offsetTable"][place][name] == value, f"{said(row)}: {place}"
    if row["code"] == RequestCode.QUERY_TOPIC_CONSUME_BY_WHO:
        assert set(theirs["groupList"]) <= set(ours["groupList"])


def test_a_conversation_is_there_for_each_command():
    assert len(conversations()) == 15
    codes = {row["code"] for name in conversations() for row in rows_of(name)}
    assert codes == {
        11, 12, 15, 17, 26, 28, 30, 31, 34, 35, 105, 106, 200, 202, 203, 204, 206, 208, 215, 216,
        222, 300, 310, 315,
    }  # fmt: skip
