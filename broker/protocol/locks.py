"""The bodies of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ.

Source: RocketMQ ``LockBatchRequestBody``, ``LockBatchResponseBody``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from broker.errors import HeaderError
from broker.protocol.heartbeat import CLIENT_ID_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

QUEUES_MAX = 4096  # in one request


class LockedQueue(NamedTuple):
    """One queue as a client names it; the broker's name means nothing and goes back as it came."""

    broker_name: str
    topic: str
    queue_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRequest:
    """Which queues a client wants to have alone, or no longer."""

    client_id: str
    group: str
    queues: tuple[LockedQueue, ...]


class _Queue(msgspec.Struct, gc=False):
    topic: str
    queueId: int  # noqa: N815 - the wire's, as below
    brokerName: str = ""  # noqa: N815


class _Request(msgspec.Struct, gc=False):
    clientId: str  # noqa: N815
    consumerGroup: str  # noqa: N815
    mqSet: list[_Queue] = []  # noqa: N815


_decode = msgspec.json.Decoder(_Request, strict=False).decode  # C++ writes numbers as strings, too


def decode_lock_request(body: bytes | bytearray | memoryview) -> LockRequest:
    """Return what *body* asks for.

    Raises:
        HeaderError: it asks for nothing, or for too much; names the field.
    """
    try:
        found = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise HeaderError(f"no request for locks: {error}", field="body") from error
    if not 1 <= len(found.clientId) <= CLIENT_ID_SIZE_MAX:
        raise HeaderError(
            f"{len(found.clientId)} characters; allowed are 1 to {CLIENT_ID_SIZE_MAX}",
            field="clientId",
        )
    if len(found.mqSet) > QUEUES_MAX:
        raise HeaderError(f"{len(found.mqSet)} queues; at most {QUEUES_MAX}", field="mqSet")
    return LockRequest(
        client_id=found.clientId,
        group=found.consumerGroup,
        queues=tuple(
            LockedQueue(item.brokerName, item.topic, item.queueId) for item in found.mqSet
        ),
    )


def encode_lock_request(request: LockRequest) -> bytes:
    """Return the body that asks for it.

    >>> decode_lock_request(
    ...     encode_lock_request(LockRequest(client_id="me", group="g", queues=()))
    ... ).group
    'g'
    """
    return msgspec.json.encode(
        {
            "clientId": request.client_id,
            "consumerGroup": request.group,
            "mqSet": [
                {"brokerName": queue.broker_name, "queueId": queue.queue_id, "topic": queue.topic}
                for queue in request.queues
            ],
            "onlyThisBroker": False,
        }
    )


class _Locked(msgspec.Struct, gc=False):
    lockOKMQSet: list[_Queue] = []  # noqa: N815


_decode_locked = msgspec.json.Decoder(_Locked).decode


def decode_locked(body: bytes | bytearray | memoryview) -> list[LockedQueue]:
    """Return the queues that an answer to LOCK_BATCH_MQ names.

    Raises:
        HeaderError: it is no such answer.
    """
    try:
        found = _decode_locked(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise HeaderError(f"no answer about locks: {error}", field="body") from error
    return [LockedQueue(item.brokerName, item.topic, item.queueId) for item in found.lockOKMQSet]


def encode_locked(queues: Iterable[LockedQueue]) -> bytes:
    """Return the answer to LOCK_BATCH_MQ."""
    held = [
        {"brokerName": queue.broker_name, "queueId": queue.queue_id, "topic": queue.topic}
        for queue in queues
    ]
    return json.dumps({"lockOKMQSet": held}, separators=(",", ":")).encode()
