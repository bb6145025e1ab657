"""How often a message may come again, and where it goes after that.

A consumer that fails sends its message back (`broker.handlers.send_back`).  One that reads in order
writes it into its group's retry topic itself, and so do others whose request to send it back came
to nothing; what they write there once too often goes to the dead letters as well.

Source: RocketMQ ``SendMessageProcessor.handleRetryAndDLQ``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from broker.message.limits import DLQ_PREFIX, RETRY_PREFIX
from broker.message.properties import DELAY, decode_properties, encode_properties
from broker.protocol.subscription_group import SubscriptionGroupConfig

if TYPE_CHECKING:
    from broker.metadata.subscription_groups import SubscriptionGroups
    from broker.protocol.send_headers import SendMessageRequest

# From this version on clients say themselves how often. Source: RocketMQ ``MQVersion.V3_4_9``.
VERSION_WITH_TIMES_MAX = 121
QUEUE_COUNT = 1  # of a topic of dead letters. Source: RocketMQ ``DLQ_NUMS_PER_GROUP``


def times_max_of(config: SubscriptionGroupConfig, *, version: int, asked: int | None) -> int:
    """Return how often a message of a group may come again.

    Args:
        config: of the group.
        version: of the client that asks.
        asked: how often it wants it to; None: it does not say.
    """
    if version >= VERSION_WITH_TIMES_MAX and asked is not None:
        return asked
    return config.retry_times_max


def redirected(
    header: SendMessageRequest, *, version: int, groups: SubscriptionGroups
) -> SendMessageRequest:
    """Return *header*, or where its message goes that has come too often to a retry topic.

    A dead letter waits for nothing.
    """
    if not header.topic.startswith(RETRY_PREFIX):
        return header
    group = header.topic.removeprefix(RETRY_PREFIX)
    config = groups.get(group) or SubscriptionGroupConfig(group=group)
    times_max = times_max_of(config, version=version, asked=header.max_reconsume_times)
    if header.reconsume_times < times_max:
        return header
    properties = decode_properties(header.properties.encode())
    properties.pop(DELAY, None)
    return replace(
        header,
        topic=DLQ_PREFIX + group,
        queue_id=0,
        properties=encode_properties(properties).decode(),
    )
