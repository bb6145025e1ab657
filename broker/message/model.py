"""What a user sends, and what a reader gets back.

`Message` is the sender's view: a topic, a body and names for it.  `StoredMessage` is one record of
the commit log: the same and what the broker added, read field by field from the record's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from broker.message import properties as names
from broker.message.limits import DEFAULT_LIMITS, MessageLimits, check_body_size, check_topic

if TYPE_CHECKING:
    from collections.abc import Mapping


class HostAddress(NamedTuple):
    """An address inside a record: 4 or 16 raw bytes and a port."""

    ip: bytes
    port: int

    @property
    def is_ipv6(self) -> bool:
        """Whether the address takes 16 bytes."""
        return len(self.ip) == 16

    def __str__(self) -> str:
        if self.is_ipv6:
            groups = ":".join(f"{self.ip[n] << 8 | self.ip[n + 1]:x}" for n in range(0, 16, 2))
            return f"[{groups}]:{self.port}"
        return f"{'.'.join(map(str, self.ip))}:{self.port}"


NO_HOST = HostAddress(b"\0\0\0\0", 0)  # what a client leaves for the broker to fill in


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as its sender thinks of it.

    *properties* are the sender's own; *tag* and *keys* get the reserved names TAGS and KEYS.
    """

    topic: str
    body: bytes | bytearray | memoryview
    tag: str | None = None
    keys: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    flag: int = 0  # 32 bits for the application; the broker only keeps them

    def check(self, limits: MessageLimits = DEFAULT_LIMITS) -> None:
        """Raise `InvalidMessageError` when the broker would refuse the message for its content."""
        check_topic(self.topic)
        check_body_size(len(self.body), limits)

    def all_properties(self) -> dict[str, str]:
        """Return *properties* with tag and keys under their reserved names."""
        result = dict(self.properties)
        if self.keys:
            result[names.KEYS] = names.join_keys(self.keys)
        if self.tag:
            result[names.TAGS] = self.tag
        return result


class StoredMessage:
    """One record of the commit log, decoded. Properties are parsed when first asked for."""

    __slots__ = (
        "_properties",
        "body",
        "born_host",
        "born_timestamp_ms",
        "encoded_properties",
        "flag",
        "position",
        "prepared_position",
        "queue_id",
        "queue_offset",
        "reconsume_times",
        "size",
        "store_host",
        "store_timestamp_ms",
        "system_flag",
        "topic",
    )

    def __init__(
        self,
        *,
        topic: str,
        body: bytes,
        encoded_properties: bytes = b"",
        queue_id: int = 0,
        flag: int = 0,
        queue_offset: int = 0,
        position: int = 0,
        system_flag: int = 0,
        born_timestamp_ms: int = 0,
        born_host: HostAddress = NO_HOST,
        store_timestamp_ms: int = 0,
        store_host: HostAddress = NO_HOST,
        reconsume_times: int = 0,
        prepared_position: int = 0,
        size: int = 0,
    ) -> None:
        self.topic = topic
        self.body = body
        self.encoded_properties = encoded_properties
        self.queue_id = queue_id
        self.flag = flag
        self.queue_offset = queue_offset  # messages, inside its queue
        self.position = position  # bytes, of the record in the commit log
        self.system_flag = system_flag
        self.born_timestamp_ms = born_timestamp_ms  # sender's clock
        self.born_host = born_host
        self.store_timestamp_ms = store_timestamp_ms  # leader's clock
        self.store_host = store_host
        self.reconsume_times = reconsume_times
        self.prepared_position = prepared_position
        self.size = size  # bytes of the whole record
        self._properties: dict[str, str] | None = None

    @property
    def properties(self) -> dict[str, str]:
        """All properties, reserved names included."""
        if self._properties is None:
            self._properties = names.decode_properties(self.encoded_properties)
        return self._properties

    @property
    def tag(self) -> str | None:
        """The tag the sender gave, if any."""
        return self.properties.get(names.TAGS)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys the sender gave."""
        return tuple(self.properties.get(names.KEYS, "").split())

    @property
    def unique_key(self) -> str | None:
        """The id the sender's client gave, if any."""
        return self.properties.get(names.UNIQUE_KEY)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredMessage):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _COMPARED)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"StoredMessage(topic={self.topic!r}, queue_id={self.queue_id}, "
            f"queue_offset={self.queue_offset}, position={self.position}, "
            f"body=<{len(self.body)} bytes>)"
        )


_COMPARED = tuple(name for name in StoredMessage.__slots__ if name != "_properties")
