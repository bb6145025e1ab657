"""A message broker group on one replicated log: topics, queues, producers and consumers.

    async with broker.connect("127.0.0.1:9876") as client:
        async with client.producer("orders-service") as producer:
            await producer.send("orders", b"hello", key="k1")
        async with client.consumer("billing", "orders") as consumer:
            async for message in consumer:
                ...

The names below come from `broker.client` and `broker.errors` and are loaded when first used, so
that a broker node does not load the client, nor a client any server code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.client import (
        Admin,
        Client,
        ClientError,
        ClosedError,
        Consumer,
        CorruptAnswerError,
        CorruptBodyError,
        DeadLetters,
        LessDurableError,
        Lookup,
        MemberTimes,
        Message,
        MessageRefusedError,
        MissingExtraError,
        NoBrokerError,
        NotWrittenError,
        OffsetFileError,
        OutcomeUnknownError,
        OutMessage,
        Producer,
        ProducerStats,
        RequestFailedError,
        SendManyError,
        SendResult,
        SeveralGroupsError,
        connect,
    )
    from broker.errors import (
        BrokerError,
        GroupNotFoundError,
        InvalidFilterError,
        InvalidMessageError,
        InvalidTopicError,
        NoPermissionError,
        TopicNotFoundError,
    )

__all__ = [
    "Admin",
    "BrokerError",
    "Client",
    "ClientError",
    "ClosedError",
    "Consumer",
    "CorruptAnswerError",
    "CorruptBodyError",
    "DeadLetters",
    "GroupNotFoundError",
    "InvalidFilterError",
    "InvalidMessageError",
    "InvalidTopicError",
    "LessDurableError",
    "Lookup",
    "MemberTimes",
    "Message",
    "MessageRefusedError",
    "MissingExtraError",
    "NoBrokerError",
    "NoPermissionError",
    "NotWrittenError",
    "OffsetFileError",
    "OutMessage",
    "OutcomeUnknownError",
    "Producer",
    "ProducerStats",
    "RequestFailedError",
    "SendManyError",
    "SendResult",
    "SeveralGroupsError",
    "TopicNotFoundError",
    "connect",
]

_FROM_ERRORS = frozenset(
    {
        "BrokerError",
        "GroupNotFoundError",
        "InvalidFilterError",
        "InvalidMessageError",
        "InvalidTopicError",
        "NoPermissionError",
        "TopicNotFoundError",
    }
)


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'broker' has no attribute {name!r}")
    module = importlib.import_module("broker.errors" if name in _FROM_ERRORS else "broker.client")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
