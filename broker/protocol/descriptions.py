"""What our own requests tell of topics, consumer groups and a reset: JSON bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from broker.errors import HeaderError
from broker.protocol.subscription_group import SubscriptionGroupConfig  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What came, or went, in the last minute, for each second of it."""

    messages_per_second: float = 0.0
    bytes_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDescription:
    """One queue of a topic, on the node that answers."""

    queue_id: int
    min_offset: int  # of the oldest message kept; the end when there is none
    max_offset: int  # of the message that comes next
    size: int  # bytes of the messages kept
    is_size_estimated: bool  # very many messages: from a sample of them
    oldest_ms: int  # when the oldest one was stored, milliseconds since 1970; -1: there is none
    newest_ms: int  # the same of the newest

    @property
    def message_count(self) -> int:
        """Messages kept."""
        return self.max_offset - self.min_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    """The answer to DESCRIBE_TOPIC."""

    topic: str
    node_id: str  # who answers
    read_queue_count: int
    write_queue_count: int
    perm: int
    order: bool
    attributes: dict[str, str]  # what it has otherwise than the broker
    queues: tuple[QueueDescription, ...]
    in_rate: Rate  # by the times messages were stored: the same on every node
    out_rate: Rate  # pulled from this node

    @property
    def message_count(self) -> int:
        """Messages kept, in all queues."""
        return sum(queue.message_count for queue in self.queues)

    @property
    def size(self) -> int:
        """Bytes of the messages kept, in all queues."""
        return sum(queue.size for queue in self.queues)

    @property
    def is_size_estimated(self) -> bool:
        """Whether `size` is from a sample."""
        return any(queue.is_size_estimated for queue in self.queues)

    @property
    def oldest_ms(self) -> int:
        """When the oldest message was stored; -1: there is none."""
        return min((queue.oldest_ms for queue in self.queues if queue.oldest_ms >= 0), default=-1)

    @property
    def newest_ms(self) -> int:
        """When the newest message was stored; -1: there is none."""
        return max((queue.newest_ms for queue in self.queues), default=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupQueueDescription:
    """How far a group has come in one queue."""

    queue_id: int
    committed: int  # offset it goes on at; -1: it has committed none
    min_offset: int
    max_offset: int
    consumed_ms: int  # when the last message it committed was stored; -1: it is gone, or none

    @property
    def lag(self) -> int:
        """Messages that are kept and not committed."""
        return self.max_offset - max(self.committed, self.min_offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTopicDescription:
    """How far a group has come in one topic."""

    topic: str
    epoch: int  # begun by the last reset; 0: there was none
    committed_ms: int  # when it last committed, by the leader's clock; 0: nobody knows
    queues: tuple[GroupQueueDescription, ...]
    out_rate: Rate  # what it pulls from the node that answers

    @property
    def lag(self) -> int:
        """Messages that are kept and not committed, in all queues."""
        return sum(queue.lag for queue in self.queues)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    """One client that consumes for a group, as its heartbeats say."""

    client_id: str
    address: str  # host:port of the connection by which it came; "": nobody knows
    language: str  # RocketMQ's name of it, as JAVA or CPP; "": nobody knows
    version: int  # ordinal of RocketMQ's MQVersion
    message_model: str  # CLUSTERING or BROADCASTING
    subscriptions: dict[str, str]  # for each topic its filter, as "A || B"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDescription:
    """The answer to DESCRIBE_CONSUMER_GROUP."""

    group: str
    node_id: str  # who answers
    config: SubscriptionGroupConfig
    topics: tuple[GroupTopicDescription, ...]
    members: tuple[GroupMember, ...] = ()  # nodes of 0.1 do not tell

    @property
    def lag(self) -> int:
        """Messages that are kept and not committed, in all topics."""
        return sum(topic.lag for topic in self.topics)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReset:
    """Where a reset takes a group in one queue."""

    queue_id: int
    before: int  # -1: it had committed nothing
    after: int
    min_offset: int
    max_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetReset:
    """The answer to RESET_CONSUMER_OFFSETS."""

    group: str
    topic: str
    is_dry_run: bool  # nothing was changed
    epoch: int  # begun by the reset; of a dry run the one that is
    queues: tuple[QueueReset, ...]


def encode_body(value: object) -> bytes:
    """Return *value*, one of the classes here, as a body."""
    return msgspec.json.encode(value)


def decode_body(body: Buffer, kind: type[T]) -> T:
    """Return the *kind* in *body*; keys of later versions are passed over.

    Raises:
        HeaderError: the body is none.
    """
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HeaderError(f"no {kind.__name__}: {error}", field="body") from error
