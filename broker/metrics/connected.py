"""Producers and consumers that are connected to a node, by language and version.

Versions are ordinals of RocketMQ's ``MQVersion``, as clients send them.

Source: RocketMQ 5 ``BrokerMetricsManager.initConnectionMetrics``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from broker.metrics.families import gauge
from broker.metrics.traffic import OTHER, PAIRS_MAX
from dledger.remoting.command import LanguageCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.metrics.families import Family

# RocketMQ ``ConsumeType.getTypeCN``, in lower case.
_MODES = {"CONSUME_ACTIVELY": "pull", "CONSUME_PASSIVELY": "push", "CONSUME_POP": "pop"}


class ConnectedClient(NamedTuple):
    """What one connection has said of its client."""

    language: int
    version: int
    producer_groups: Sequence[str]
    consumer_groups: Sequence[tuple[str, str]]  # and how they consume: RocketMQ ``ConsumeType``


def connection_families(clients: Iterable[ConnectedClient]) -> list[Family]:
    """Return how many connections produce and how many consume."""
    producing: Counter[tuple[str, str]] = Counter()
    consuming: Counter[tuple[str, str, str, str]] = Counter()
    for client in clients:
        spoken = (_language(client.language), str(client.version))
        producing[spoken] += len(client.producer_groups)
        for group, consume_type in client.consumer_groups:
            row = (group, *spoken, _MODES.get(consume_type, consume_type.lower()))
            if row not in consuming and len(consuming) >= PAIRS_MAX:
                row = (OTHER, *row[1:])
            consuming[row] += 1
    producers = gauge(
        "rocketmq_producer_connections",
        "Connections of producers, for each of their groups.",
        "language", "version", "protocol_type",
    )  # fmt: skip
    for spoken, count in producing.items():
        if count:
            producers.add(count, *spoken, "remoting")
    consumers = gauge(
        "rocketmq_consumer_connections",
        "Connections of consumers, for each of their groups.",
        "consumer_group", "language", "version", "consume_mode", "protocol_type", "is_system",
    )  # fmt: skip
    for row, count in consuming.items():
        consumers.add(count, *row, "remoting", "false")
    return [producers, consumers]


def _language(code: int) -> str:
    try:
        return LanguageCode(code).name.lower()
    except ValueError:
        return "other"
