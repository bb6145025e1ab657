"""The two hot loops of a client: messages into records, and records into messages.

`broker.message.codec` says what a record is and reads every kind of one.  The code here does the
same for the common kind (version 1, IPv4 hosts) at half the cost, and leaves the rest to it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.client.message import Message, rare_message
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
from dledger.checksum import crc32

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.message.codec import Buffer

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
_CHECKED = struct.Struct(">iIIi4xq8xi44xI")  # a size below 0 is one that no buffer holds
_ODD_KIND = FLAG_BORN_HOST_V6 | FLAG_STORE_HOST_V6 | FLAG_COMPRESSED | FLAG_COMPRESSION_MASK

assert ENCODE_HEAD.size == BODY_OFFSET
assert _CHECKED.size == BODY_OFFSET


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


class MessageRun:
    """Messages of one queue, in order: checked, and made only when they are handed out.

    A message is an object that the interpreter's collector visits, and visits again while thousands
    wait for their turn: a quarter of what a consumer costs.  The bytes it is made of are none.
    """

    __slots__ = (
        "_bodies",
        "_heads",
        "_offsets",
        "_properties",
        "_queue_id",
        "_rare",
        "_topic",
        "at",
    )

    def __init__(self, topic: str, queue_id: int) -> None:
        """Begin with none; `decode_run` puts them in."""
        self._topic = topic
        self._queue_id = queue_id
        self.at = 0  # the next one's number
        # A message each:
        self._offsets: list[int] = []
        self._heads: list[bytes] = []
        self._bodies: list[bytes] = []
        self._properties: list[bytes] = []
        self._rare: dict[int, Message] = {}  # by number: those that are made already

    @classmethod
    def of(cls, messages: Sequence[Message]) -> MessageRun:
        """Return a run of *messages*, all of one queue."""
        run = cls("", 0)
        for message in messages:
            run.add(message)
        return run

    def __len__(self) -> int:
        """Return how many are left."""
        return len(self._offsets) - self.at

    @property
    def first_offset(self) -> int:
        """Queue offset of the first that is left; there must be one."""
        return self._offsets[self.at]

    @property
    def last_offset(self) -> int:
        """Queue offset of the last; there must have been one."""
        return self._offsets[-1]

    def add(self, message: Message) -> None:
        """Add one that is made already."""
        self._rare[len(self._offsets)] = message
        self._offsets.append(message.queue_offset)
        self._heads.append(b"")
        self._bodies.append(b"")
        self._properties.append(b"")

    def make(self, count_max: int) -> tuple[list[Message], int]:
        """Return so many from the front, or all that are left, and what `at` is behind them.

        They are taken once `at` is set to that: an error that comes out of nowhere, as that of a
        signal's handler, leaves the run as it was.
        """
        at = self.at
        end = min(at + count_max, len(self._offsets))
        topic, queue_id = self._topic, self._queue_id
        result: list[Message] = []
        for offset, head, body, properties in zip(
            self._offsets[at:end],
            self._heads[at:end],
            self._bodies[at:end],
            self._properties[at:end],
            strict=True,
        ):
            message = Message()
            message.topic = topic
            message.queue_id = queue_id
            message.queue_offset = offset
            message.body = body
            message._head = head  # noqa: SLF001 - it has no constructor
            message._encoded_properties = properties  # noqa: SLF001
            message._properties = None  # noqa: SLF001
            result.append(message)
        if rare := self._rare:
            for number in range(at, end):
                if number in rare:
                    result[number - at] = rare[number]
        return result, end

    def take(self, count_max: int) -> list[Message]:
        """Take so many from the front, or all that are left."""
        result, self.at = self.make(count_max)
        return result

    def take_all(self) -> list[Message]:
        """Take all that are left."""
        return self.take(len(self))


def decode_run(
    buffer: Buffer,
    *,
    topic: str,
    queue_id: int,
    first_offset: int,
    tags: frozenset[bytes] | None = None,
) -> MessageRun:
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
    run = MessageRun(topic, queue_id)
    add_offset = run._offsets.append  # noqa: SLF001 - the loop that fills it
    add_head = run._heads.append  # noqa: SLF001
    add_body = run._bodies.append  # noqa: SLF001
    add_properties = run._properties.append  # noqa: SLF001
    data = bytes(buffer)  # one copy, and its slices cost half of a view's
    encoded_topic = topic.encode()
    topic_field = bytes((len(encoded_topic),)) + encoded_topic if len(encoded_topic) < 256 else b""
    behind_body = len(topic_field) + 2  # bytes up to the properties
    # The topic and the size of the properties, which mostly is that of the last message.
    expected_size, expected_field = 0, topic_field + b"\0\0"
    end = len(data)
    at = 0
    expected = first_offset
    unpack = _CHECKED.unpack_from
    number = 0
    while at < end:
        if end - at < RECORD_SIZE_MIN:
            raise _corrupt(number, "total_size", f"{end - at} bytes are left, a record has 91")
        total, magic, crc, found_queue, queue_offset, system_flag, body_size = unpack(data, at)
        body_at = at + BODY_OFFSET
        topic_at = body_at + body_size
        properties_at = topic_at + behind_body
        next_at = at + total
        properties_size = next_at - properties_at
        if properties_size != expected_size and 0 <= properties_size < 1 << 16:
            expected_size = properties_size
            expected_field = topic_field + properties_size.to_bytes(2, "big")
        if (
            magic == MAGIC_V1
            and not system_flag & _ODD_KIND
            and properties_size == expected_size
            and next_at <= end
            and found_queue == queue_id
            and data.startswith(expected_field, topic_at)
        ):
            body = data[body_at:topic_at]
            if crc32(body) & CRC_MASK != crc:
                raise _corrupt(number, "body_crc", f"{crc:#x} is not the checksum of the body")
            rare = None
            head, properties = data[at:body_at], data[properties_at:next_at]
        else:
            # A rare kind of record, or none of ours: the codec tells which.
            stored = decode_record(data, at, record=number)
            if stored.topic != topic or stored.queue_id != queue_id:
                raise _corrupt(
                    number,
                    "topic",
                    f"{stored.topic!r} queue {stored.queue_id} was not asked for",
                )
            rare = rare_message(stored)
            head = body = b""
            properties = stored.encoded_properties
            next_at = at + stored.size
        at = next_at
        number += 1
        if queue_offset != expected or tags is not None:
            if queue_offset < expected:
                continue
            if tags is None:
                raise _corrupt(
                    number - 1, "queue_offset", f"{queue_offset} where {expected} follows"
                )
            expected = queue_offset
            # The node compared hashes only, and one of an older version nothing at all.
            if names.find_property(properties, b"TAGS") not in tags:
                expected += 1
                continue
        expected += 1
        if rare is not None:
            run.add(rare)
            continue
        add_offset(queue_offset)
        add_head(head)
        add_body(body)
        add_properties(properties)
    return run


def _corrupt(record: int, field: str, message: str) -> CorruptRecordError:
    return CorruptRecordError(message, record=record, field=field)
