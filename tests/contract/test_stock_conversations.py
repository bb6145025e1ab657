"""What RocketMQ's clients said to RocketMQ 4.9.8, said to a node of ours: the answers compared.

``conversations/`` holds one file for each client: its requests as they were captured, in order, and
what RocketMQ answered.  They go out byte by byte as their clients write them, and what comes back
is read without any code of ours.
"""

import json
import re
import struct

import pytest
import trio

from broker.message.codec import decode_records
from broker.protocol.request_code import RequestCode
from tests.contract import captured

FOLDER = captured.FOLDER
PULL_SECONDS = 40.0  # virtual: longer than any client lets a pull be held

# What is answered otherwise than RocketMQ does, on purpose: docs/divergence.md says why.
RETRY_ROUTE = "%RETRY% topics have a route before they exist"


def rows_of(name):
    return captured.rows_of(FOLDER / name)


def conversations():
    return sorted(path.name for path in FOLDER.glob("*.jsonl"))


def there_before(rows):
    """Return the topics that RocketMQ had when the capture began."""
    first = {}
    for row in rows:
        if row["code"] == RequestCode.GET_ROUTEINFO_BY_TOPIC:
            first.setdefault(row["ext"]["topic"], row["answer"]["code"])
    return [
        topic
        for topic, code in first.items()
        if code == 0 and topic[0] not in "%" and topic != "TBW102"
    ]


def said(row):
    return f"{RequestCode(row['code']).name} {row['ext']}"


@pytest.mark.parametrize("name", conversations())
async def test_a_captured_conversation_is_answered_as_rocketmq_did(autojump_clock, group, name):
    member = group["n1"]
    rows = rows_of(name)
    async with group.caller(member) as caller, trio.open_nursery() as nursery:
        for topic in there_before(rows):
            await caller.create_topic(topic, queues=4)
            for queue in range(4):
                await caller.sent(*[b"before"] * 8, topic=topic, queue_id=queue)
        connections = {}
        pulls = []
        for row in rows:
            if row["connection"] not in connections:
                port = group.config(member.name).listen_broker_port
                stream = await group.wires.of("a client").connect(f"{member.name}-host", port)
                connections[row["connection"]] = captured.Connection(stream)
                nursery.start_soon(connections[row["connection"]].listen)
            connection = connections[row["connection"]]
            if row["code"] == RequestCode.CONSUMER_SEND_MSG_BACK:
                # A place in RocketMQ's log, which begins with a record; ours with an entry.
                first = decode_records((await caller.pull(topic=row["ext"]["originTopic"])).body)[0]
                row["ext"]["offset"] = first.position
            opaque = connection.send(row)
            if row["code"] == RequestCode.PULL_MESSAGE:
                pulls.append((row, connection, opaque))
            elif "answer" in row:
                found = await connection.answer(opaque, 10.0)
                assert found is not None, f"no answer to {said(row)}"
                compare(row, *found)
        for row, connection, opaque in pulls:
            found = await connection.answer(opaque, PULL_SECONDS)
            assert found is not None, f"no answer to {said(row)}"
            compare_pull(row, *found)
        if any(
            row["code"] == RequestCode.HEART_BEAT and "groupName" in row["body"] for row in rows
        ):
            told = [asked for one in connections.values() for asked in one.asked_of_it]
            assert {asked["code"] for asked in told} == {40}
        nursery.cancel_scope.cancel()


def compare(row, header, body):
    expected = row["answer"]
    if expected["code"] == 17 and str((row["ext"] or {}).get("topic", "")).startswith("%RETRY%"):
        assert header["code"] == 0, RETRY_ROUTE
        return
    assert header["code"] == expected["code"], f"{said(row)}: {header}"
    ours, theirs = header.get("extFields") or {}, expected["ext"] or {}
    assert all(isinstance(value, str) for value in ours.values()), ours
    missing = theirs.keys() - ours.keys() - {"TRACE_ON", "MSG_REGION"}
    assert not missing, f"{said(row)}: {missing} are missing in {ours}"
    for field in ("queueId", "offset"):
        if field in theirs and not (field == "offset" and int(theirs[field]) > 0):
            assert ours[field] == theirs[field], f"{said(row)}: {field}"
    if "msgId" in theirs:  # of a batch, one for each message
        assert len(ours["msgId"]) == len(theirs["msgId"])
    if expected["body"] is not None:
        assert keyed(json.loads(body)) == keyed(expected["body"]), said(row)
    if row["code"] == RequestCode.GET_ROUTEINFO_BY_TOPIC and header["code"] == 0:
        # Clients before 4.9.4 are told broker ids as RocketMQ told them: without quotes.
        assert (b"{0:" in body) == (row["version"] < 401), body
        route = json.loads(re.sub(rb'([{,])([0-9]+):"', rb'\1"\2":"', body))
        assert {queue["brokerName"] for queue in route["queueDatas"]} <= {
            broker["brokerName"] for broker in route["brokerDatas"]
        }


def keyed(body):
    """Order the lists of a body, which RocketMQ keeps in hash tables."""
    return {name: sorted(map(json.dumps, items)) for name, items in body.items()}


def compare_pull(row, header, body):
    assert header["code"] in (0, 19, 21), f"{said(row)}: {header}"
    ours = header["extFields"]
    assert ours.keys() >= {"suggestWhichBrokerId", "nextBeginOffset", "minOffset", "maxOffset"}
    assert all(isinstance(value, str) for value in ours.values()), ours
    asked = int(row["ext"]["queueOffset"])
    if header["code"] == 0:
        assert int(ours["nextBeginOffset"]) > asked
        assert struct.unpack_from(">i", body)[0] <= len(body)


def test_a_conversation_is_there_for_each_kind_of_client():
    assert len(conversations()) == 7
    codes = {row["code"] for name in conversations() for row in rows_of(name)}
    assert codes >= {10, 11, 14, 15, 34, 35, 36, 38, 41, 42, 105, 310, 320}
