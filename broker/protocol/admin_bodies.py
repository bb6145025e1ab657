"""Bodies that RocketMQ's tools and clients read and write about groups and clients.

Where RocketMQ has a map whose keys are queues, fastjson writes objects as keys: no JSON, and what
fastjson reads.  `table` writes that, and `decode_table` reads it.

Source: RocketMQ ``org.apache.rocketmq.common.protocol.body``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.errors import HeaderError
from dledger.remoting.command import LanguageCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.protocol.heartbeat import ConsumerData

    Buffer = bytes | bytearray | memoryview


class QueuePlace(NamedTuple):
    """RocketMQ's ``MessageQueue``."""

    topic: str
    broker_name: str
    queue_id: int

    def to_json(self) -> dict[str, Any]:
        """Return it as RocketMQ writes it."""
        return {"brokerName": self.broker_name, "queueId": self.queue_id, "topic": self.topic}


class Connection(NamedTuple):
    """RocketMQ's ``Connection``: a client as tools are told of it."""

    client_id: str
    address: str  # host:port
    language: int  # RocketMQ's LanguageCode
    version: int

    def to_json(self) -> dict[str, Any]:
        """Return it as RocketMQ writes it."""
        return {
            "clientAddr": self.address,
            "clientId": self.client_id,
            "language": language_name(self.language),
            "version": self.version,
        }


def language_name(language: int) -> str:
    """Return RocketMQ's name of a language; OTHER for one that it does not have."""
    try:
        return LanguageCode(language).name
    except ValueError:
        return LanguageCode.OTHER.name


def compact(value: object) -> str:
    """Return *value* as JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


def table(rows: Iterable[tuple[QueuePlace, object]]) -> str:
    """Return a map whose keys are queues, as fastjson has it."""
    return "{" + ",".join(f"{compact(at.to_json())}:{compact(value)}" for at, value in rows) + "}"


def encode_reset(offsets: Mapping[QueuePlace, int]) -> bytes:
    """Return ``ResetOffsetBody``, which Java and Go read."""
    return f'{{"offsetTable":{table(offsets.items())}}}'.encode()


def encode_reset_for_c(offsets: Mapping[QueuePlace, int]) -> bytes:
    """Return ``ResetOffsetBodyForC``: a list, for those whose JSON has no such maps."""
    rows = [place.to_json() | {"offset": offset} for place, offset in offsets.items()]
    return compact({"offsetTable": rows}).encode()


def encode_consumer_connections(
    data: ConsumerData, subscriptions: Mapping[str, tuple[str, str]], found: Iterable[Connection]
) -> bytes:
    """Return ``ConsumerConnection``.

    Args:
        data: says how the group consumes.
        subscriptions: kind and text of the filter for each topic.
        found: its clients.
    """
    body = {
        "connectionSet": [connection.to_json() for connection in found],
        "consumeFromWhere": data.from_where,
        "consumeType": data.consume_type,
        "messageModel": data.message_model,
        "subscriptionTable": {
            topic: subscription_json(topic, kind, text)
            for topic, (kind, text) in subscriptions.items()
        },
    }
    return compact(body).encode()


def subscription_json(topic: str, kind: str, text: str) -> dict[str, Any]:
    """Return ``SubscriptionData``; its tags follow from the text."""
    tags = [] if kind != "TAG" or text == "*" else re.split(r"\s*\|\|\s*", text.strip())
    return {
        "classFilterMode": False,
        "codeSet": [],
        "expressionType": kind,
        "subString": text,
        "subVersion": 0,
        "tagsSet": tags,
        "topic": topic,
    }


def encode_producer_connections(found: Iterable[Connection]) -> bytes:
    """Return ``ProducerConnection``."""
    return compact({"connectionSet": [connection.to_json() for connection in found]}).encode()


def encode_producers(found: Iterable[tuple[str, Connection, int]]) -> bytes:
    """Return ``ProducerTableInfo`` of groups, their clients, and when each was last heard."""
    data: dict[str, list[dict[str, Any]]] = {}
    for group, connection, heard_ms in found:
        data.setdefault(group, []).append(
            {
                "clientId": connection.client_id,
                "language": language_name(connection.language),
                "lastUpdateTimestamp": heard_ms,
                "remoteIP": connection.address,
                "version": connection.version,
            }
        )
    return compact({"data": data}).encode()


def encode_consumer_status(tables: Mapping[str, Mapping[QueuePlace, int]]) -> bytes:
    """Return ``GetConsumerStatusBody``: how far each client says that it is."""
    rows = [f"{compact(name)}:{table(found.items())}" for name, found in tables.items()]
    return f'{{"consumerTable":{{{",".join(rows)}}},"messageQueueTable":{{}}}}'.encode()


def decode_consumer_status(body: Buffer) -> dict[QueuePlace, int]:
    """Return ``messageQueueTable`` of what a client says of itself.

    Raises:
        HeaderError: it says nothing that can be read.
    """
    try:
        text = bytes(body).decode()
        found = {}
        decoder = json.JSONDecoder()
        at = _behind(text, text.index('"messageQueueTable"') + len('"messageQueueTable"'), ":{")
        while text[at] != "}":
            key, at = decoder.raw_decode(text, at)
            value, at = decoder.raw_decode(text, _behind(text, at, ":"))
            place = QueuePlace(str(key["topic"]), str(key["brokerName"]), int(key["queueId"]))
            found[place] = int(value)
            at = _behind(text, at, "," if text[_blanks(text, at)] == "," else "")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise HeaderError(f"no offsets of queues: {type(error).__name__}", field="body") from error
    return found


def _behind(text: str, at: int, expected: str) -> int:
    """Return the place behind *expected*, blanks between passed over."""
    for letter in expected:
        at = _blanks(text, at)
        if text[at] != letter:
            raise ValueError(f"{letter!r} was expected at {at}")
        at += 1
    return _blanks(text, at)


def _blanks(text: str, at: int) -> int:
    while text[at].isspace():
        at += 1
    return at
