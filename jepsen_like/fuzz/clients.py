"""Requests in the forms that clients write: ours, and Java's, C++'s and Node's.

Forms, not content: which fields are there, which are strings and which are numbers.
"""

from __future__ import annotations

from typing import Any

from broker.message.batch import BatchMessage, encode_batch_body, encode_sizes
from broker.message.codec import encode_record
from broker.message.properties import encode_properties
from broker.protocol.send_headers import SendRecordsRequest
from dledger.remoting.command import FLAG_GROUPED, FLAG_ONEWAY, Command, SerializeType

_PROPERTIES = encode_properties({"KEYS": "k", "TAGS": "tag", "UNIQ_KEY": "0" * 32, "WAIT": "true"})


def requests(topic: str = "t") -> list[Command]:
    """Return one request of every kind that a client sends."""
    record = encode_record(topic=topic.encode(), queue_id=0, body=b"body", properties=_PROPERTIES)
    ours = SendRecordsRequest(
        producer_group="g",
        topic=topic,
        queue_id=0,
        record_format=1,
        sizes=encode_sizes([len(record)] * 2),
        producer_id=7,
        sequence=0,
    )
    batch = encode_batch_body([BatchMessage(0, b"a", _PROPERTIES), BatchMessage(0, b"", b"")])
    pull: dict[str, Any] = {
        "consumerGroup": "g", "topic": topic, "queueId": "0", "queueOffset": "0",
        "maxMsgNums": "32", "sysFlag": "2", "commitOffset": "0", "suspendTimeoutMillis": "1",
        "subVersion": "1700000000000", "expressionType": "TAG", "bname": "broker-a",
    }  # fmt: skip
    send: dict[str, Any] = {
        "a": "g", "b": topic, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": "1700000000000", "h": 0,
        "i": _PROPERTIES.decode(), "j": 0, "k": False,
    }  # fmt: skip
    long_send: dict[str, Any] = {
        "producerGroup": "g", "topic": topic, "queueId": -1, "sysFlag": "0", "batch": "0",
        "bornTimestamp": "1700000000000", "defaultTopic": "TBW102", "defaultTopicQueueNums": 4,
        "flag": 0, "properties": _PROPERTIES.decode(), "reconsumeTimes": "0", "unitMode": "false",
        "AccessKey": "", "OnsChannel": "ALIYUN", "Signature": "xudvkdo3PV2hMr/ED3ZC9SWk7EY=",
    }  # fmt: skip
    queue: dict[str, Any] = {"topic": topic, "queueId": 0}
    group = {"consumerGroup": "g", "commitOffset": "3"}
    broker = {"brokerName": "b", "brokerAddr": "h:1", "clusterName": "c", "brokerId": "0"}
    json, rocketmq = SerializeType.JSON, SerializeType.ROCKETMQ
    strings = {name: str(value) for name, value in pull.items()}
    return [
        Command(320, FLAG_GROUPED, 1, ext_fields=ours.encode(), body=record * 2),
        Command(320, 0, 2, ext_fields=send | {"m": True}, body=batch, serialization=json),
        Command(310, 0, 3, 0, ext_fields=send, body=b"hello", serialization=json),
        Command(10, 0, 4, 1, 63, "", ext_fields=long_send, body=b"hello", serialization=json),
        Command(10, 0, 5, ext_fields=long_send | {"batch": True}, body=batch),
        Command(11, 0, 6, 0, 409, ext_fields=pull, serialization=json),
        Command(11, 0, 7, ext_fields=strings, serialization=rocketmq),
        Command(11, 0, 8, ext_fields=pull | {"sysFlag": 7, "maxMsgBytes": 100}),
        Command(15, FLAG_ONEWAY, 9, ext_fields=queue | group, serialization=json),
        Command(14, 0, 10, ext_fields=queue | group),
        Command(17, 0, 11, ext_fields={"topic": topic, "readQueueNums": 4, "perm": "6"}),
        Command(21, 0, 12, serialization=json),
        Command(29, 0, 13, ext_fields=queue | {"timestamp": "1700000000000"}),
        Command(30, 0, 14, ext_fields=queue),
        Command(31, 0, 15, ext_fields=queue, serialization=json),
        Command(34, 0, 16, 0, body=b'{"clientID":"c","producerDataSet":[{"groupName":"g"}]}'),
        Command(105, 0, 17, ext_fields={"topic": topic}, serialization=rocketmq),
        Command(100, 0, 20, ext_fields={"namespace": "n", "key": "k", "value": "v"}),
        Command(103, 0, 21, 0, 409, ext_fields=broker | {"compressed": "false"}),
        Command(205, 0, 22, ext_fields={"brokerName": "b"}, serialization=json),
        Command(51005, 0, 18, ext_fields={"transfereeId": ""}),
        Command(60001, 0, 19),
    ]
