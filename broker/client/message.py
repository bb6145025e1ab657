"""One message as a consumer hands it out, and what its receiver may say of it.

`broker.client.records` makes the common kind while it reads what a pull has brought; every other
kind the codec reads, and `rare_message` makes the message of it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.client.compression import unpack
from broker.client.delays import delay_as_ms
from broker.client.progress import DEAD, Again
from broker.message import properties as names
from broker.message.codec import BODY_OFFSET, FLAG_COMPRESSED
from broker.message.message_id import encode_offset_id
from broker.message.model import HostAddress

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from broker.client.progress import QueueProgress
    from broker.message.model import StoredMessage

# What is read of a record's head when it is asked for:
#   flag | position | born_timestamp | store_timestamp | store_host | reconsume_times
_OTHERS = struct.Struct(">16xi8xq4xq8xq4sii12x")

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


def rare_message(stored: StoredMessage) -> Message:
    """Return the message of a record that the codec has read, of whatever kind it is."""
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
