"""Topics: their names, queues and permissions.

topic.put     {topic, read, write, perm, ...}   create the topic, or change it
topic.create  {topic, read, write, perm, ...}   create it, unless it is there: no change then
topic.alter   {topic, ...}                      change what is named, unless it is not there
topic.delete  {topic}                           the topic, its messages, and what groups committed

What else a topic may have (`EXTRA_NAMES`) follows in all of them where it is given.  A topic that
exists keeps what a command does not name, a new one begins with the defaults.

A deleted topic leaves the ends of its queues behind: one created again by that name goes on where
they ended.  An offset, once given out, so never means another message: not to a consumer that was
away, not to a producer that sends again, not to an index built before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from broker.errors import TopicNotFoundError
from broker.metadata.state_machine import MetadataCommand
from broker.metadata.topic_config import (
    EXTRA_NAMES,
    FIELD_NAMES,
    QUEUE_COUNT_MAX,
    TopicConfig,
    extras_of,
    fields_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

__all__ = [
    "QUEUE_COUNT_MAX",
    "TOPIC_DELETE",
    "TopicConfig",
    "Topics",
    "alter_topic",
    "create_topic",
    "delete_topic",
    "put_topic",
]

TOPIC_PUT = "topic.put"
TOPIC_CREATE = "topic.create"
TOPIC_ALTER = "topic.alter"
TOPIC_DELETE = "topic.delete"

MISSING = "missing"  # the result of a command for a topic that is not there


def put_topic(config: TopicConfig, *, keep: Collection[str] = ()) -> MetadataCommand:
    """Return the command that creates or changes a topic.

    Args:
        config: what it is to be.
        keep: fields that a topic that exists keeps as they are.

    Raises:
        InvalidTopicError: such a topic may not exist.
    """
    config.check()
    extras = {
        name: getattr(config, field) for name, field in EXTRA_NAMES.items() if field not in keep
    }
    return MetadataCommand(TOPIC_PUT, _args(config) | extras)


def create_topic(config: TopicConfig) -> MetadataCommand:
    """Return the command that creates a topic unless it is there, for topics made on first use.

    Raises:
        InvalidTopicError: such a topic may not exist.
    """
    config.check()
    return MetadataCommand(TOPIC_CREATE, _args(config) | extras_of(config))


def alter_topic(config: TopicConfig, changes: Mapping[str, Any]) -> MetadataCommand:
    """Return the command that changes some of what a topic has.

    Args:
        config: the topic as far as it is known, to be checked together with the changes.
        changes: fields of a `TopicConfig` and their new values.

    Raises:
        InvalidTopicError: such a topic may not exist.
    """
    replace(config, **changes).check()
    names = {field: name for name, field in (FIELD_NAMES | EXTRA_NAMES).items()}
    args = {names[field]: value for field, value in changes.items()}
    return MetadataCommand(TOPIC_ALTER, {"topic": config.topic, **args})


def delete_topic(topic: str) -> MetadataCommand:
    """Return the command that removes a topic with all it has."""
    return MetadataCommand(TOPIC_DELETE, {"topic": topic})


class Topics:
    """All topics of the group, on this node."""

    name = "topics"

    def __init__(self) -> None:
        self._topics: dict[str, TopicConfig] = {}
        self._version = 0
        self._queue_count = 0
        self._deleted: list[str] = []

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[TopicConfig]:
        """Yield all topics by name."""
        return (self._topics[name] for name in sorted(self._topics))

    @property
    def version(self) -> int:
        """How often any topic changed; the same on every node at the same entry."""
        return self._version

    @property
    def queue_count(self) -> int:
        """Queues of all topics together."""
        return self._queue_count

    def __contains__(self, topic: object) -> bool:
        return topic in self._topics

    def get(self, topic: str) -> TopicConfig | None:
        """Return a topic; None when there is none of that name."""
        return self._topics.get(topic)

    def existing(self, topic: str) -> TopicConfig:
        """Return a topic.

        Raises:
            TopicNotFoundError: there is none of that name.
        """
        config = self._topics.get(topic)
        if config is None:
            raise TopicNotFoundError(f"topic {topic!r} does not exist")
        return config

    def check_queue(self, topic: str, queue_id: int) -> None:
        """Let a queue pass that may be written to or read.

        Raises:
            TopicNotFoundError: there is no such topic, or it has no such queue.
        """
        config = self.existing(topic)
        if not 0 <= queue_id < max(config.read_queue_count, config.write_queue_count):
            raise TopicNotFoundError(f"topic {topic!r} has no queue {queue_id}")

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], str]]:
        """What applies each kind of command.

        The result is "created", "changed", "exists", "deleted" or "missing".
        """
        return {
            TOPIC_PUT: self._put,
            TOPIC_CREATE: self._create,
            TOPIC_ALTER: self._alter,
            TOPIC_DELETE: self._delete,
        }

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """See `StatePart`: nothing that others have happen changes a topic."""
        return {}

    def take_deleted(self) -> list[str]:
        """Return the topics deleted since the last call, whose messages are to go."""
        deleted, self._deleted = self._deleted, []
        return deleted

    def snapshot(self) -> list[Any]:
        """Return the version and a row for each topic, sorted by name.

        A row has a fifth column only for a topic that has more than queues and permissions.
        """
        rows = []
        for config in self:
            row: list[Any] = [
                config.topic,
                config.read_queue_count,
                config.write_queue_count,
                config.perm,
            ]
            if extras := extras_of(config):
                row.append(extras)
            rows.append(row)
        return [self._version, rows]

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: no topics.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        version, rows = snapshot or (0, [])
        configs = [_config_of(row) for row in rows]
        self._version = int(version)
        self._topics = {config.topic: config for config in configs}
        self._queue_count = sum(map(queue_count_of, configs))
        self._deleted = []

    def _put(self, args: Mapping[str, Any]) -> str:
        return self._change(fields_of(_required(args)))

    def _change(self, given: dict[str, Any]) -> str:
        before = self._topics.get(given["topic"])
        config = replace(before, **given) if before is not None else TopicConfig(**given)
        if before is not None and config.read_queue_count < before.read_queue_count:
            # Whoever proposed it did not know of a change that came first: nothing that is
            # stored may get out of reach.
            config = replace(config, read_queue_count=before.read_queue_count)
        if before == config:
            return "exists"
        self._topics[config.topic] = config
        self._queue_count += queue_count_of(config)
        if before is not None:
            self._queue_count -= queue_count_of(before)
        self._version += 1
        return "created" if before is None else "changed"

    def _create(self, args: Mapping[str, Any]) -> str:
        return "exists" if args["topic"] in self._topics else self._put(args)

    def _alter(self, args: Mapping[str, Any]) -> str:
        given = fields_of(args)
        return self._change(given) if given["topic"] in self._topics else MISSING

    def _delete(self, args: Mapping[str, Any]) -> str:
        config = self._topics.pop(fields_of(args)["topic"], None)
        if config is None:
            return MISSING
        self._queue_count -= queue_count_of(config)
        self._version += 1
        self._deleted.append(config.topic)
        return "deleted"


def queue_count_of(config: TopicConfig) -> int:
    """Return how many queues *config* makes, readable or writable."""
    return max(config.read_queue_count, config.write_queue_count)


def _args(config: TopicConfig) -> dict[str, Any]:
    return {
        "topic": config.topic,
        "read": config.read_queue_count,
        "write": config.write_queue_count,
        "perm": config.perm,
    }


def _required(args: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("topic", "read", "write", "perm"):
        args[name]  # a KeyError: not of this version
    return args


def _config_of(row: list[Any]) -> TopicConfig:
    topic, read, write, perm, *more = row
    extras = more[0] if more else {}
    if len(more) > 1 or not isinstance(extras, dict):
        raise ValueError(f"{row!r:.200} is no topic")
    given = {"topic": topic, "read": read, "write": write, "perm": perm}
    if not extras.keys() <= EXTRA_NAMES.keys():
        raise ValueError(f"{row!r:.200} is a topic of a newer version")
    return TopicConfig(**fields_of(given | extras))
