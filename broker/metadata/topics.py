"""Topics: their names, queues and permissions.

topic.put     {topic, read, write, perm}   create the topic, or change it
topic.create  {topic, read, write, perm}   create it, unless it is there: no change then
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from broker.errors import InvalidTopicError
from broker.message.limits import check_topic
from broker.metadata.state_machine import MetadataCommand
from broker.protocol.headers import PERM_READ, PERM_WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

QUEUE_COUNT_MAX = 1024  # a queue costs memory on every node and a poll of every consumer

TOPIC_PUT = "topic.put"
TOPIC_CREATE = "topic.create"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """One topic. Source: RocketMQ ``TopicConfig``."""

    topic: str
    read_queue_count: int = 4
    write_queue_count: int = 4
    perm: int = PERM_READ | PERM_WRITE

    @property
    def is_readable(self) -> bool:
        """Whether consumers may pull."""
        return bool(self.perm & PERM_READ)

    @property
    def is_writable(self) -> bool:
        """Whether producers may send."""
        return bool(self.perm & PERM_WRITE)

    def check(self) -> None:
        """Raise `InvalidTopicError` unless the topic may exist; before a command is proposed."""
        check_topic(self.topic)
        for what, count in (
            ("read", self.read_queue_count),
            ("write", self.write_queue_count),
        ):
            if not 1 <= count <= QUEUE_COUNT_MAX:
                raise InvalidTopicError(
                    f"topic {self.topic}: {count} {what} queues; allowed are 1 to {QUEUE_COUNT_MAX}"
                )
        if not 0 <= self.perm <= 7:
            raise InvalidTopicError(
                f"topic {self.topic}: perm {self.perm}; read is 4, write is 2, inherit is 1"
            )


def put_topic(config: TopicConfig) -> MetadataCommand:
    """Return the command that creates or changes a topic.

    Raises:
        InvalidTopicError: such a topic may not exist.
    """
    config.check()
    return MetadataCommand(TOPIC_PUT, _args(config))


def create_topic(config: TopicConfig) -> MetadataCommand:
    """Return the command that creates a topic unless it is there, for topics made on first use.

    Raises:
        InvalidTopicError: such a topic may not exist.
    """
    config.check()
    return MetadataCommand(TOPIC_CREATE, _args(config))


class Topics:
    """All topics of the group, on this node."""

    name = "topics"

    def __init__(self) -> None:
        self._topics: dict[str, TopicConfig] = {}
        self._version = 0

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[TopicConfig]:
        """Yield all topics by name."""
        return (self._topics[name] for name in sorted(self._topics))

    @property
    def version(self) -> int:
        """How often any topic changed; the same on every node at the same entry."""
        return self._version

    def get(self, topic: str) -> TopicConfig | None:
        """Return a topic; None when there is none of that name."""
        return self._topics.get(topic)

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], str]]:
        """What applies each kind of command; the result is "created", "changed" or "exists"."""
        return {TOPIC_PUT: self._put, TOPIC_CREATE: self._create}

    def snapshot(self) -> list[Any]:
        """Return the version and a row for each topic, sorted by name."""
        return [
            self._version,
            [[t.topic, t.read_queue_count, t.write_queue_count, t.perm] for t in self],
        ]

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: no topics.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        version, rows = snapshot or (0, [])
        for row in rows:
            _check_row(row)
        self._version = int(version)
        self._topics = {
            topic: TopicConfig(
                topic=topic, read_queue_count=read, write_queue_count=write, perm=perm
            )
            for topic, read, write, perm in rows
        }

    def _put(self, args: Mapping[str, Any]) -> str:
        config = _config(args)
        before = self._topics.get(config.topic)
        if before is not None and config.read_queue_count < before.read_queue_count:
            # Whoever proposed it did not know of a change that came first: nothing that is
            # stored may get out of reach.
            config = replace(config, read_queue_count=before.read_queue_count)
        if before == config:
            return "exists"
        self._topics[config.topic] = config
        self._version += 1
        return "created" if before is None else "changed"

    def _create(self, args: Mapping[str, Any]) -> str:
        return "exists" if args["topic"] in self._topics else self._put(args)


def _args(config: TopicConfig) -> dict[str, Any]:
    return {
        "topic": config.topic,
        "read": config.read_queue_count,
        "write": config.write_queue_count,
        "perm": config.perm,
    }


def _config(args: Mapping[str, Any]) -> TopicConfig:
    row = [args["topic"], args["read"], args["write"], args["perm"]]
    _check_row(row)
    topic, read, write, perm = row
    return TopicConfig(topic=topic, read_queue_count=read, write_queue_count=write, perm=perm)


def _check_row(row: list[Any]) -> None:
    if list(map(type, row)) != [str, int, int, int]:
        raise ValueError(f"{row!r:.200} is no topic")
