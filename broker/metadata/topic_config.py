"""What one topic is: its queues, permissions, and what it wants otherwise than the broker."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from broker.errors import InvalidTopicError
from broker.message.limits import check_topic
from broker.protocol.headers import PERM_READ, PERM_WRITE
from broker.protocol.topic_attributes import (
    ACKS,
    FLUSH,
    RETENTION_BYTES,
    RETENTION_MS,
    parse_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

QUEUE_COUNT_MAX = 1024  # a queue costs memory on every node and a poll of every consumer
RETENTION_MS_MAX = 100 * 366 * 24 * 3600 * 1000
RETENTION_BYTES_MAX = 1 << 60

ACKS_CHOICES = ("leader", "majority", "all")
FLUSH_CHOICES = ("sync", "async")
FILTER_TYPES = ("SINGLE_TAG", "MULTI_TAG")  # Source: RocketMQ ``TopicFilterType``


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """One topic. Source: RocketMQ ``TopicConfig``."""

    topic: str
    read_queue_count: int = 4
    write_queue_count: int = 4
    perm: int = PERM_READ | PERM_WRITE  # bits: read 4, write 2, inherit 1
    order: bool = False  # kept for RocketMQ's clients; changes nothing here
    filter_type: str = "SINGLE_TAG"  # the same
    system_flag: int = 0  # the same. Source: RocketMQ ``TopicSysFlag``
    retention_ms: int = 0  # how long messages are kept; 0: as the broker has it
    retention_bytes: int = 0  # how many bytes of messages are kept; 0: no bound of its own
    acks: str = ""  # whose copies an ack stands on: "leader", "majority", "all"; "": the broker's
    flush: str = ""  # whether on their disks: "sync", "async"; "": the broker's

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
                raise self._wrong(f"{count} {what} queues; allowed are 1 to {QUEUE_COUNT_MAX}")
        if not 0 <= self.perm <= 7:
            raise self._wrong(f"perm {self.perm}; read is 4, write is 2, inherit is 1")
        if self.filter_type not in FILTER_TYPES:
            raise self._wrong(f"{self.filter_type[:40]!r} is no filter type; use SINGLE_TAG")
        for what, number, most in (
            (RETENTION_MS, self.retention_ms, RETENTION_MS_MAX),
            (RETENTION_BYTES, self.retention_bytes, RETENTION_BYTES_MAX),
        ):
            if not 0 <= number <= most:
                raise self._wrong(f"{what} = {number}; allowed are 0 (the broker's) to {most}")
        for what, value, choices in (
            (ACKS, self.acks, ACKS_CHOICES),
            (FLUSH, self.flush, FLUSH_CHOICES),
        ):
            if value and value not in choices:
                raise self._wrong(f"{what} = {value[:40]!r}; use {', '.join(choices)}")

    def _wrong(self, what: str) -> InvalidTopicError:
        return InvalidTopicError(f"topic {self.topic}: {what}")


# How args and rows name what a topic may have besides its queues and perm.
EXTRA_NAMES = {
    "order": "order",
    "filter": "filter_type",
    "sys_flag": "system_flag",
    "retention_ms": "retention_ms",
    "retention_bytes": "retention_bytes",
    "acks": "acks",
    "flush": "flush",
}
FIELD_NAMES = {"read": "read_queue_count", "write": "write_queue_count", "perm": "perm"}

_ALL_NAMES = {"topic": "topic", **FIELD_NAMES, **EXTRA_NAMES}
_DEFAULTS = {item.name: item.default for item in fields(TopicConfig) if item.name != "topic"}
_ATTRIBUTE_FIELDS = {
    RETENTION_MS: "retention_ms",
    RETENTION_BYTES: "retention_bytes",
    ACKS: "acks",
    FLUSH: "flush",
}
ATTRIBUTE_FIELDS = tuple(_ATTRIBUTE_FIELDS.values())


def attribute_values(text: str) -> dict[str, Any]:
    """Return the fields of a `TopicConfig` that the *text* of attributes sets.

    Raises:
        InvalidTopicError: it is none; see `parse_attributes`.
    """
    values: dict[str, Any] = {}
    for name, value in parse_attributes(text).items():
        field = _ATTRIBUTE_FIELDS[name]
        default = _DEFAULTS[field]
        if value is None:
            values[field] = default
        elif isinstance(default, int):
            if not (value.isascii() and value.isdecimal() and len(value) <= 19):
                raise InvalidTopicError(f"attribute {name} = {value[:40]!r} is no whole number")
            values[field] = int(value)
        else:
            values[field] = value
    return values


def extras_of(config: TopicConfig) -> dict[str, Any]:
    """Return what *config* has otherwise than by default besides its queues and perm."""
    return {
        name: getattr(config, field)
        for name, field in sorted(EXTRA_NAMES.items())
        if getattr(config, field) != _DEFAULTS[field]
    }


def fields_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `TopicConfig` that the args of a command, or a row, give.

    Raises:
        ValueError: a name is of a newer version, or a value of the wrong kind.
    """
    result: dict[str, Any] = {}
    for name, value in args.items():
        field = _ALL_NAMES.get(name)
        wanted = str if field == "topic" else type(_DEFAULTS.get(field or ""))
        if field is None or type(value) is not wanted:
            raise ValueError(f"{name!r:.80} = {value!r:.80} is nothing that a topic has")
        result[field] = value
    return result
