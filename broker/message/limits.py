"""What a message may be at most, and the names a topic may have.

Source: RocketMQ ``TopicValidator``, ``MessageStoreConfig.maxMessageSize``, and ``Short.MAX_VALUE``
for the two-byte length of the properties.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from broker.errors import InvalidMessageError, InvalidTopicError

TOPIC_SIZE_MAX = 127  # bytes; a record of version 1 has one signed byte for the length
INTERNAL_TOPIC_SIZE_MAX = 255  # %RETRY% and %DLQ% topics of a group with a long name
BODY_SIZE_MAX = 4 * 1024 * 1024  # bytes
PROPERTIES_SIZE_MAX = 32_767  # bytes, encoded
# Messages in RocketMQ's batch body: each takes some 8 us, and nobody else is served meanwhile.
BATCH_COUNT_MAX = 20_000
GROUP_SIZE_MAX = 255  # characters. Source: RocketMQ ``Validators.CHARACTER_MAX_LENGTH``

RETRY_PREFIX = "%RETRY%"
DLQ_PREFIX = "%DLQ%"

# Names that RocketMQ keeps to itself; messages to them are its own business.
# Source: RocketMQ ``TopicValidator.SYSTEM_TOPIC_SET``. BenchmarkTest is one of them there, and is
# left out: here it means nothing.
RESERVED_TOPICS = frozenset(
    {
        "TBW102", "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRACE_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC", "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
    }
)  # fmt: skip
RESERVED_PREFIX = "rmq_sys_"  # Source: RocketMQ ``TopicValidator.SYSTEM_TOPIC_PREFIX``

RESERVED_GROUP_PREFIX = "CID_RMQ_SYS_"  # Source: RocketMQ ``MixAll.CID_RMQ_SYS_PREFIX``

_TOPIC = re.compile(r"[%|a-zA-Z0-9_-]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLimits:
    """Largest sizes one broker takes, in bytes."""

    body_size_max: int = BODY_SIZE_MAX
    properties_size_max: int = PROPERTIES_SIZE_MAX

    def __post_init__(self) -> None:
        assert self.body_size_max >= 1
        assert 0 <= self.properties_size_max <= PROPERTIES_SIZE_MAX


DEFAULT_LIMITS = MessageLimits()


def is_internal_topic(topic: str) -> bool:
    """Whether the broker made the topic's name from a group's name."""
    return topic.startswith((RETRY_PREFIX, DLQ_PREFIX))


def check_topic(topic: str) -> None:
    """Raise `InvalidTopicError` unless *topic* can be the name of one.

    Source: RocketMQ ``TopicValidator.validateTopic`` (``^[%|a-zA-Z0-9_-]+$``, 127 characters).
    """
    if not topic:
        raise InvalidTopicError("the topic's name is empty; give it 1 to 127 characters")
    if not _TOPIC.match(topic):
        raise InvalidTopicError(
            f"topic {topic[:160]!r}: only letters, digits and the characters % | _ - are allowed"
        )
    size_max = INTERNAL_TOPIC_SIZE_MAX if is_internal_topic(topic) else TOPIC_SIZE_MAX
    if len(topic) > size_max:
        raise InvalidTopicError(
            f"topic {topic[:40]!r}... has {len(topic)} characters; at most {size_max} are allowed"
        )


def check_not_reserved(topic: str) -> None:
    """Raise `InvalidTopicError` for a name that users may not create, alter or delete.

    Source: RocketMQ ``TopicValidator.isSystemTopic``.
    """
    if topic in RESERVED_TOPICS or topic.startswith(RESERVED_PREFIX):
        raise InvalidTopicError(
            f"topic {topic!r} is one of the broker's own names; take another one"
        )


def check_group(group: str) -> None:
    """Raise `InvalidMessageError` unless *group* can be the name of a consumer group.

    Its offsets stay in memory on every node, for ever, and the name with them.
    """
    if not 1 <= len(group) <= GROUP_SIZE_MAX:
        raise InvalidMessageError(
            f"consumer group {group[:40]!r}... has {len(group)} characters; give it 1 to "
            f"{GROUP_SIZE_MAX}"
        )


def check_group_characters(group: str) -> None:
    """Raise `InvalidMessageError` unless *group* is a name that a group may be created by.

    Source: RocketMQ ``Validators.checkGroup`` (``^[%|a-zA-Z0-9_-]+$``).
    """
    if not _TOPIC.match(group):
        raise InvalidMessageError(
            f"consumer group {group[:160]!r}: only letters, digits and the characters % | _ - are "
            "allowed"
        )


def is_reserved_group(group: str) -> bool:
    """Whether *group* is the broker's own, as that which delivers delayed messages.

    Source: RocketMQ ``MixAll.isSysConsumerGroup``.
    """
    return group.startswith(RESERVED_GROUP_PREFIX)


def check_group_not_reserved(group: str) -> None:
    """Raise `InvalidMessageError` for a group that clients may not use, create or delete."""
    if is_reserved_group(group):
        raise InvalidMessageError(
            f"consumer group {group[:160]!r} is one of the broker's own names; take another one"
        )


def check_body_size(size: int, limits: MessageLimits = DEFAULT_LIMITS) -> None:
    """Raise `InvalidMessageError` when a body of *size* bytes is larger than allowed."""
    if size > limits.body_size_max:
        raise InvalidMessageError(
            f"the message body has {size} bytes; at most {limits.body_size_max} are allowed: "
            "compress it, split it, or raise body_size_max on every node"
        )


def check_properties_size(size: int, limits: MessageLimits = DEFAULT_LIMITS) -> None:
    """Raise `InvalidMessageError` when encoded properties of *size* bytes are too many."""
    if size > limits.properties_size_max:
        raise InvalidMessageError(
            f"the message properties have {size} bytes encoded; at most "
            f"{limits.properties_size_max} are allowed: move data into the body"
        )
