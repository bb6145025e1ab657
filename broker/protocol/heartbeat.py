"""The body of HEART_BEAT: which groups a client produces and consumes for, and what it reads.

JSON, and each client writes it its own way: enums as names or as numbers, ``subVersion`` as a
number or a string, sets of tags and codes or none.  What is read here is what is used; the filter
is made from ``subString``, never from the codes that came along.

Source: RocketMQ ``HeartbeatData``, ``ConsumerData``, ``SubscriptionData``.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from broker.errors import HeaderError

CLIENT_ID_SIZE_MAX = 255  # characters; it stays in memory on every node
GROUPS_MAX = 64  # that one client consumes for
SUBSCRIPTIONS_MAX = 256  # topics that one group reads

BROADCASTING = "BROADCASTING"
CLUSTERING = "CLUSTERING"

# What the C++ client writes for the names. Source: RocketMQ ``ConsumeType``, ``MessageModel``,
# ``ConsumeFromWhere``.
_CONSUME_TYPES = ("CONSUME_ACTIVELY", "CONSUME_PASSIVELY", "CONSUME_POP")
_MESSAGE_MODELS = (BROADCASTING, CLUSTERING)
_FROM_WHERE = (
    "CONSUME_FROM_LAST_OFFSET",
    "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
    "CONSUME_FROM_MIN_OFFSET",
    "CONSUME_FROM_MAX_OFFSET",
    "CONSUME_FROM_FIRST_OFFSET",
    "CONSUME_FROM_TIMESTAMP",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a group reads of one topic."""

    topic: str
    expression: str = "*"
    expression_type: str = "TAG"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerData:
    """One group that a client consumes for."""

    group: str
    consume_type: str = "CONSUME_PASSIVELY"
    message_model: str = CLUSTERING
    from_where: str = "CONSUME_FROM_LAST_OFFSET"
    subscriptions: tuple[Subscription, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What one client says of itself."""

    client_id: str
    consumers: tuple[ConsumerData, ...] = ()
    producers: tuple[str, ...] = ()


class _Subscription(msgspec.Struct, gc=False):
    topic: str
    subString: str | None = None  # noqa: N815 - the wire's, as all below
    expressionType: str | None = None  # noqa: N815


class _Consumer(msgspec.Struct, gc=False):
    groupName: str  # noqa: N815
    consumeType: str | int = 1  # noqa: N815
    messageModel: str | int = 1  # noqa: N815
    consumeFromWhere: str | int = 0  # noqa: N815
    subscriptionDataSet: list[_Subscription] = []  # noqa: N815


class _Producer(msgspec.Struct, gc=False):
    groupName: str  # noqa: N815


class _Heartbeat(msgspec.Struct, gc=False):
    clientID: str  # noqa: N815
    consumerDataSet: list[_Consumer] | None = None  # noqa: N815
    producerDataSet: list[_Producer] | None = None  # noqa: N815


_decode = msgspec.json.Decoder(_Heartbeat).decode


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """Return the body that says so, as RocketMQ's clients of version 4 write it.

    >>> decode_heartbeat(encode_heartbeat(Heartbeat(client_id="me")))
    Heartbeat(client_id='me', consumers=(), producers=())
    """
    consumers = [
        {
            "groupName": data.group,
            "consumeType": data.consume_type,
            "messageModel": data.message_model,
            "consumeFromWhere": data.from_where,
            "subscriptionDataSet": [_subscription(item) for item in data.subscriptions],
            "unitMode": False,
        }
        for data in heartbeat.consumers
    ]
    return msgspec.json.encode(
        {
            "clientID": heartbeat.client_id,
            "consumerDataSet": consumers,
            "producerDataSet": [{"groupName": name} for name in heartbeat.producers],
        }
    )


def _subscription(item: Subscription) -> dict[str, object]:
    return {
        "classFilterMode": False,
        "codeSet": [],
        "expressionType": item.expression_type,
        "subString": item.expression,
        "subVersion": 0,
        "tagsSet": [],
        "topic": item.topic,
    }


def decode_heartbeat(body: bytes | bytearray | memoryview) -> Heartbeat:
    """Return what *body* says.

    Raises:
        HeaderError: it is no heartbeat; names the field.
    """
    try:
        found = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise HeaderError(f"no heartbeat: {error}", field="body") from error
    if not 1 <= len(found.clientID) <= CLIENT_ID_SIZE_MAX:
        raise HeaderError(
            f"{len(found.clientID)} characters; allowed are 1 to {CLIENT_ID_SIZE_MAX}",
            field="clientID",
        )
    consumers = found.consumerDataSet or []
    _check_count(len(consumers), GROUPS_MAX, "consumerDataSet")
    return Heartbeat(
        client_id=found.clientID,
        consumers=tuple(_consumer(data) for data in consumers),
        producers=tuple(data.groupName for data in (found.producerDataSet or [])[:GROUPS_MAX]),
    )


class _ClientConfig(msgspec.Struct, gc=False):
    subscriptionData: _Subscription  # noqa: N815


_decode_config = msgspec.json.Decoder(_ClientConfig).decode


def decode_client_config(body: bytes | bytearray | memoryview) -> Subscription:
    """Return the subscription in the body of CHECK_CLIENT_CONFIG.

    Source: RocketMQ ``CheckClientRequestBody``.

    Raises:
        HeaderError: there is none.
    """
    try:
        found = _decode_config(body).subscriptionData
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise HeaderError(f"no client config: {error}", field="body") from error
    return Subscription(
        topic=found.topic,
        expression=found.subString or "*",
        expression_type=found.expressionType or "TAG",
    )


def _consumer(data: _Consumer) -> ConsumerData:
    _check_count(len(data.subscriptionDataSet), SUBSCRIPTIONS_MAX, "subscriptionDataSet")
    subscriptions = {
        item.topic: Subscription(
            topic=item.topic,
            expression=item.subString or "*",
            expression_type=item.expressionType or "TAG",
        )
        for item in data.subscriptionDataSet
    }
    return ConsumerData(
        group=data.groupName,
        consume_type=_named(data.consumeType, _CONSUME_TYPES, "consumeType"),
        message_model=_named(data.messageModel, _MESSAGE_MODELS, "messageModel"),
        from_where=_named(data.consumeFromWhere, _FROM_WHERE, "consumeFromWhere"),
        subscriptions=tuple(subscriptions[topic] for topic in sorted(subscriptions)),
    )


def _named(value: str | int, names: tuple[str, ...], field: str) -> str:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if value in names:
        assert isinstance(value, str)
        return value
    raise HeaderError(f"{str(value)[:40]!r} is none of {', '.join(names)}", field=field)


def _check_count(count: int, most: int, field: str) -> None:
    if count > most:
        raise HeaderError(f"{count} items; at most {most} are allowed", field=field)
