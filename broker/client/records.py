"""The two hot loops of a client: messages into records, and records into messages.

`broker.message.codec` says what a record is and reads every kind of one.  The code here does the
same for the common kind (version 1, IPv4 hosts) at half the cost, and leaves the rest to it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.client.compression import unpack
from broker.client.delays import delay_as_ms
from broker.client.progress import DEAD, Again
from broker.errors import CorruptRecordError, InvalidMessageError
from broker.message import properties as names
from broker.message.codec import (
    BODY_OFFSET,
    CRC_MASK,
    FLAG_BORN_HOST_V6,
    FLAG_COMPRESSED,
    FLAG_COMPRESSION_MASK,
    FLAG_STORE_HOST_V6,
    MAGIC_V1,
    RECORD_SIZE_MIN,
    SYSTEM_FLAG_OFFSET,
    decode_record,
)
from broker.message.limits import PROPERTIES_SIZE_MAX, MessageLimits
from broker.message.message_id import encode_offset_id
from broker.message.model import HostAddress
from dledger.checksum import crc32

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from types import TracebackType

    from broker.client.progress import QueueProgress
    from broker.message.codec import Buffer
    from broker.message.model import StoredMessage

# What of the head changes from message to message; the rest is zero, for the broker to stamp.
#   total_size magic body_crc queue_id | flag .. system_flag | born_timestamp, ip of born_host |
#   its port .. prepared_position | body_size
ENCODE_HEAD = struct.Struct(">iIii24xq4s32xi")
# "UNIQ_KEY", a separator, 32 digits and another separator stand in front of all other properties.
_NAMED_LIMITS = MessageLimits(properties_size_max=PROPERTIES_SIZE_MAX - 42)
PROPERTIES_SIZE_COMMON = 1024  # bytes; far below every limit
_SEPARATOR = re.compile("[ \x01\x02\ud800-\udfff]")
# What every message is checked by, and where it is:
#   total_size magic body_crc queue_id | queue_offset | system_flag | body_size
_CHECKED = struct.Struct(">iIIi4xq8xi44xi")
# The rest, read when it is asked for:
#   flag | position | born_timestamp | store_timestamp | store_host | reconsume_times
_OTHERS = struct.Struct(">16xi8xq4xq8xq4sii12x")
_TWO_BYTES = struct.Struct(">H")
_ODD_KIND = FLAG_BORN_HOST_V6 | FLAG_STORE_HOST_V6 | FLAG_COMPRESSED | FLAG_COMPRESSION_MASK

assert ENCODE_HEAD.size == BODY_OFFSET
assert _CHECKED.size == BODY_OFFSET
assert _OTHERS.size == BODY_OFFSET


class Message:
    """One message as a consumer hands it out. What is rarely asked for is parsed when it is."""

    __slots__ = (
        "_encoded_properties",
        "_head",
        "_properties",
        "begin",
        "body",
        "progress",
        "queue_id",
        "queue_offset",
        "topic",
    )

    topic: str
    queue_id: int
    queue_offset: int  # messages, inside its queue
    body: bytes
    _head: bytes  # the record up to its body, with IPv4 hosts
    _encoded_properties: bytes
    _properties: dict[str, str] | None  # None: not parsed yet
    # Set when a consumer hands it out, and not before:
    progress: QueueProgress | None  # of its queue in that consumer
    begin: int  # offset of the first message before it that a filter passed over; often not set

    @property
    def properties(self) -> dict[str, str]:
        """All properties, reserved names included."""
        if self._properties is None:
            self._properties = names.decode_properties(self._encoded_properties)
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
    def key(self) -> str | None:
        """The first of the keys the sender gave, if any."""
        keys = self.keys
        return keys[0] if keys else None

    @property
    def unique_id(self) -> str | None:
        """The id the sender's client gave; equal to `SendResult.unique_id`."""
        return self.properties.get(names.UNIQUE_KEY)

    @property
    def flag(self) -> int:
        """32 bits of the application's."""
        return int(_OTHERS.unpack(self._head)[0])

    @property
    def position(self) -> int:
        """Where the record lies in the commit log, in bytes."""
        return int(_OTHERS.unpack(self._head)[1])

    @property
    def born_timestamp_ms(self) -> int:
        """When it was sent by the sender's clock, in milliseconds since 1970."""
        return int(_OTHERS.unpack(self._head)[2])

    @property
    def store_timestamp_ms(self) -> int:
        """When it was stored by the leader's clock, in milliseconds since 1970."""
        return int(_OTHERS.unpack(self._head)[3])

    @property
    def store_host(self) -> HostAddress:
        """The node that stored it."""
        return HostAddress(*_OTHERS.unpack(self._head)[4:6])

    @property
    def reconsume_times(self) -> int:
        """How often it was handed out and given back before."""
        return int(_OTHERS.unpack(self._head)[6])

    def count_once_more(self) -> None:
        """Take note that it is handed out once more by the consumer that has it."""
        times_at = BODY_OFFSET - 16  # in front of the prepared position and the body's size
        times = self.reconsume_times + 1
        self._head = b"%b%b%b" % (
            self._head[:times_at],
            times.to_bytes(4, "big"),
            self._head[times_at + 4 :],
        )

    @property
    def message_id(self) -> str:
        """The offset id. Source: RocketMQ ``MessageDecoder.createMessageId``."""
        return encode_offset_id(self.store_host, self.position)

    @property
    def begin_or_offset(self) -> int:
        """Where the stretch of the queue begins that this message stands for."""
        begin: int = getattr(self, "begin", self.queue_offset)
        return begin

    # --- dealing with it ----------------------------------------------------------------------

    def ack(self) -> None:
        """Say that the message is done: its consumer may commit it, once those before are done.

        Raises:
            RuntimeError: no consumer has handed it out.
        """
        self._from_consumer().ack(self)

    def retry(self, delay: float | timedelta | None = None, *, level: int = 0) -> None:
        """Have the message come again, to some member of the group, and be done with it here.

        It comes with `reconsume_times` one higher, and after as many times as the group allows goes
        to its dead letters instead. Nothing is waited for: the consumer sees to it, and commits
        nothing behind the message before it is sure. With ``ordered`` it comes again right here,
        and its queue waits for it.

        Args:
            delay: seconds until then; None: as the group has it, 10 s the first time and longer
                each time.
            level: RocketMQ's delay level instead, 1 (1 s) to 18 (2 h).

        Raises:
            RuntimeError: no member of a group has handed it out.
        """
        self._from_consumer().take_back(self, Again(level, delay_as_ms(delay)))

    def dead_letter(self) -> None:
        """Give the message up: it goes to the dead letters of the group, and is done with here.

        Raises:
            RuntimeError: no member of a group has handed it out.
        """
        self._from_consumer().take_back(self, Again(DEAD))

    def __enter__(self) -> Message:
        """Begin to deal with the message: it is done when the block ends, and not before.

        After an error in the block it comes again, as after `retry`, where a member of a group has
        handed it out.  Otherwise, and when the block is cancelled, it is *left*: neither it nor
        what lies behind it in its queue is committed, so that it comes again to the next consumer
        of the group.
        """
        self._from_consumer().enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        progress = self._from_consumer()
        if kind is None:
            progress.ack(self)
        elif issubclass(kind, Exception):
            progress.fail(self)
        else:
            progress.leave(self)

    async def __aenter__(self) -> Message:
        """As ``with message:``; nothing is waited for."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _from_consumer(self) -> QueueProgress:
        progress: QueueProgress | None = getattr(self, "progress", None)
        if progress is None:
            raise RuntimeError(f"{self!r} was not handed out by a consumer: nobody waits to hear")
        return progress

    def __repr__(self) -> str:
        return (
            f"Message(topic={self.topic!r}, queue_id={self.queue_id}, "
            f"queue_offset={self.queue_offset}, body=<{len(self.body)} bytes>)"
        )


class _RareMessage(Message):
    """A message whose record is laid out otherwise; its head is made up from what was read."""

    __slots__ = ("_store_host",)

    _store_host: HostAddress

    @property
    def store_host(self) -> HostAddress:
        """The node that stored it."""
        return self._store_host


class _CompressedMessage(_RareMessage):
    """A message whose body is compressed, and unpacked when it is first asked for.

    So a body that cannot be unpacked spoils no other message, and one that would grow without
    measure grows in nobody's memory before somebody wants it.
    """

    __slots__ = ("_packed", "_system_flag", "_unpacked")

    _packed: bytes
    _system_flag: int
    _unpacked: bytes | None

    @property
    def body(self) -> bytes:  # type: ignore[override] # read only, as a body should be
        if self._unpacked is None:
            what = f"topic {self.topic} queue {self.queue_id} offset {self.queue_offset}"
            self._unpacked = unpack(self._packed, self._system_flag, what=what)
        return self._unpacked

    def __repr__(self) -> str:
        return (
            f"Message(topic={self.topic!r}, queue_id={self.queue_id}, "
            f"queue_offset={self.queue_offset}, body=<{len(self._packed)} bytes compressed>)"
        )


def with_system_flag(head: bytes, system_flag: int) -> bytes:
    """Return *head*, the part of a record before its body, with that flag in it."""
    return b"%b%b%b" % (
        head[:SYSTEM_FLAG_OFFSET],
        system_flag.to_bytes(4, "big"),
        head[SYSTEM_FLAG_OFFSET + 4 :],
    )


def encode_named_properties(
    key: str | Iterable[str] | None, tag: str | None, own: Mapping[str, str] | None
) -> bytes:
    """Return what follows the unique id in the properties of a message, separator first.

    Raises:
        InvalidMessageError: a name is reserved or empty, a key holds a blank, the tag what no
            filter can name, anything a separator, or the whole is too long.
        TypeError: a key, the tag, a name or a value is no string.
    """
    if not own and type(key) is str and tag is None and not _SEPARATOR.search(key) and key:
        encoded = b"\x02KEYS\x01" + key.encode()  # by far the most common case
        if len(encoded) <= PROPERTIES_SIZE_COMMON:
            return encoded
    fields: dict[str, str] = {}
    if own:
        for name, value in own.items():
            _check_text(f"property {name!r}", name)
            _check_text(f"the value of property {name!r}", value)
            if name in names.RESERVED:
                raise InvalidMessageError(
                    f"property {name}: the name is the broker's own; use key= or tag=, or rename it"
                )
        fields.update(own)
    if key is not None:
        if not isinstance(key, Iterable):
            raise TypeError(f"key is a {type(key).__name__}; give a str, or several")
        keys = (key,) if isinstance(key, str) else tuple(key)
        for each in keys:
            _check_text("a key", each)
        if keys:
            fields[names.KEYS] = names.join_keys(keys)
    if tag is not None:
        _check_text("the tag", tag)
        if "||" in tag or tag != tag.strip():
            raise InvalidMessageError(
                f"tag {tag[:80]!r}: no filter would find it; leave out '||' and blanks around it"
            )
        if tag:
            fields[names.TAGS] = tag
    encoded = names.encode_properties(fields, _NAMED_LIMITS)
    return b"\x02" + encoded if encoded else b""


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} is a {type(value).__name__}; write it as a string")


def decode_messages(
    buffer: Buffer,
    *,
    topic: str,
    queue_id: int,
    first_offset: int,
    tags: frozenset[bytes] | None = None,
) -> list[Message]:
    """Return the messages of one queue whose records lie back to back in *buffer*, in order.

    Records before *first_offset* are passed over.  Every body is compared with its checksum.

    Args:
        buffer: the body of a pull's answer.
        topic: what the records must belong to.
        queue_id: likewise.
        first_offset: queue offset of the first message wanted; the others must follow densely.
        tags: only messages with one of these tags; offsets may be missing then. None for all.

    Raises:
        CorruptRecordError: a record is none, fails its checksum, belongs to another queue, or a
            queue offset is missing before it.
    """
    result: list[Message] = []
    data = bytes(buffer)  # one copy, and its slices cost half of a view's
    encoded_topic = topic.encode()
    topic_field = bytes((len(encoded_topic),)) + encoded_topic if len(encoded_topic) < 256 else b""
    end = len(data)
    at = 0
    expected = first_offset
    unpack = _CHECKED.unpack_from
    new = Message.__new__
    number = 0
    while at < end:
        if end - at < RECORD_SIZE_MIN:
            raise _corrupt(number, "total_size", f"{end - at} bytes are left, a record has 91")
        total, magic, crc, found_queue, queue_offset, system_flag, body_size = unpack(data, at)
        body_at = at + BODY_OFFSET
        topic_at = body_at + body_size
        properties_at = topic_at + len(topic_field) + 2
        next_at = at + total
        if (
            magic == MAGIC_V1
            and not system_flag & _ODD_KIND
            and body_size >= 0
            and properties_at <= next_at <= end
            and found_queue == queue_id
            and data.startswith(topic_field, topic_at)
            and data[properties_at - 2] << 8 | data[properties_at - 1] == next_at - properties_at
        ):
            body = data[body_at:topic_at]
            if crc32(body) & CRC_MASK != crc:
                raise _corrupt(number, "body_crc", f"{crc:#x} is not the checksum of the body")
            message = new(Message)
            message.topic = topic
            message.queue_id = queue_id
            message.queue_offset = queue_offset
            message.body = body
            message._head = data[at:body_at]  # noqa: SLF001 - the constructor, inlined for speed
            message._encoded_properties = data[properties_at:next_at]  # noqa: SLF001
            message._properties = None  # noqa: SLF001
        else:
            # A rare kind of record, or none of ours: the codec tells which.
            stored = decode_record(data, at, record=number)
            if stored.topic != topic or stored.queue_id != queue_id:
                raise _corrupt(
                    number,
                    "topic",
                    f"{stored.topic!r} queue {stored.queue_id} was not asked for",
                )
            message = _rare_message(stored)
            next_at = at + stored.size
        at = next_at
        number += 1
        if queue_offset < expected:
            continue
        if tags is not None:
            expected = queue_offset + 1
            # The node compared hashes only, and one of an older version nothing at all.
            if names.find_property(message._encoded_properties, b"TAGS") not in tags:  # noqa: SLF001
                continue
        elif queue_offset > expected:
            raise _corrupt(number - 1, "queue_offset", f"{queue_offset} where {expected} follows")
        else:
            expected += 1
        result.append(message)
    return result


def _rare_message(stored: StoredMessage) -> Message:
    is_compressed = bool(stored.system_flag & FLAG_COMPRESSED)
    message = _CompressedMessage() if is_compressed else _RareMessage()
    message.topic = stored.topic
    message.queue_id = stored.queue_id
    message.queue_offset = stored.queue_offset
    if isinstance(message, _CompressedMessage):
        message._packed = stored.body  # noqa: SLF001 - it has no other constructor
        message._system_flag = stored.system_flag  # noqa: SLF001
        message._unpacked = None  # noqa: SLF001
    else:
        message.body = stored.body
    message._head = _OTHERS.pack(  # noqa: SLF001 - it has no other constructor
        stored.flag,
        stored.position,
        stored.born_timestamp_ms,
        stored.store_timestamp_ms,
        b"",
        0,
        stored.reconsume_times,
    )
    message._encoded_properties = stored.encoded_properties  # noqa: SLF001
    message._properties = None  # noqa: SLF001
    message._store_host = stored.store_host  # noqa: SLF001
    return message


def _corrupt(record: int, field: str, message: str) -> CorruptRecordError:
    return CorruptRecordError(message, record=record, field=field)
