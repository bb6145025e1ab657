r"""One message as a record of the commit log, exactly as RocketMQ stores it.

All integers are big-endian.  With IPv4 hosts the fields lie at fixed places up to the body:

    total_size         int32    0   bytes of the whole record
    magic              int32    4   version of the layout
    body_crc           int32    8   crc32 of the body, highest bit cleared
    queue_id           int32   12
    flag               int32   16   the application's
    queue_offset       int64   20   messages inside the queue; the broker's to fill in
    position           int64   28   of this record in the commit log; the broker's to fill in
    system_flag        int32   36
    born_timestamp     int64   40   milliseconds, the sender's clock
    born_host        4+int32   48   IPv6 (system_flag 0x10): 16+int32
    store_timestamp    int64   56   milliseconds, the leader's clock; the broker's to fill in
    store_host       4+int32   64   IPv6 (system_flag 0x20): 16+int32; the broker's to fill in
    reconsume_times    int32   72
    prepared_position  int64   76
    body_size          int32   84
    body                       88
    topic_size         uint8        version 2: int16
    topic                           UTF-8
    properties_size    int16
    properties                      name \x01 value \x02 ...

Source: RocketMQ ``CommitLog.MessageExtEncoder`` and ``MessageDecoder.decode``.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

from broker.errors import CorruptRecordError
from broker.message.limits import (
    DEFAULT_LIMITS,
    INTERNAL_TOPIC_SIZE_MAX,
    PROPERTIES_SIZE_MAX,
    TOPIC_SIZE_MAX,
    MessageLimits,
    check_body_size,
    check_properties_size,
)
from broker.message.model import NO_HOST, HostAddress, StoredMessage
from dledger.checksum import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

Buffer = bytes | bytearray | memoryview

MAGIC_V1 = 0xDAA320A7
MAGIC_V2 = 0xDAA320AB  # topic longer than 127 bytes: two bytes for its length
MAGIC_BLANK = 0xCBD43194  # RocketMQ's filler at the end of a file; never inside an entry of ours

MAGIC_OFFSET = 4
BODY_CRC_OFFSET = 8
QUEUE_ID_OFFSET = 12
FLAG_OFFSET = 16
QUEUE_OFFSET_OFFSET = 20
POSITION_OFFSET = 28
SYSTEM_FLAG_OFFSET = 36
BORN_TIMESTAMP_OFFSET = 40
BORN_HOST_OFFSET = 48
# From here on with IPv4 hosts.
STORE_TIMESTAMP_OFFSET = 56
STORE_HOST_OFFSET = 64
RECONSUME_TIMES_OFFSET = 72
PREPARED_POSITION_OFFSET = 76
BODY_SIZE_OFFSET = 84
BODY_OFFSET = 88

RECORD_SIZE_MIN = 91  # IPv4 hosts, version 1, empty body, topic and properties

FLAG_COMPRESSED = 0x1
FLAG_MULTI_TAGS = 0x2
FLAG_TRANSACTION_MASK = 0xC
FLAG_BORN_HOST_V6 = 0x10
FLAG_STORE_HOST_V6 = 0x20
FLAG_COMPRESSION_MASK = 0x700
CRC_MASK = 0x7FFFFFFF

_HEAD_V4 = struct.Struct(">iIiiiqqiq4siq4siiqi")
_TO_BORN_HOST = struct.Struct(">iIiiiqqiq")
_AFTER_HOSTS = struct.Struct(">iqi")
_PORT = struct.Struct(">i")
_I64 = struct.Struct(">q")
_U16 = struct.Struct(">H")
_LEAD = struct.Struct(">iI")

assert _HEAD_V4.size == BODY_OFFSET

# Few hosts send and store very many messages.
_host = functools.lru_cache(maxsize=1024)(HostAddress)


def crc_of_body(body: Buffer) -> int:
    """Return the checksum a record keeps of its body. Source: RocketMQ ``UtilAll.crc32``."""
    return crc32(body) & CRC_MASK


def encode_record(
    *,
    topic: bytes,
    queue_id: int,
    body: Buffer,
    properties: bytes = b"",
    flag: int = 0,
    system_flag: int = 0,
    queue_offset: int = 0,
    position: int = 0,
    born_timestamp_ms: int = 0,
    born_host: HostAddress = NO_HOST,
    store_timestamp_ms: int = 0,
    store_host: HostAddress = NO_HOST,
    reconsume_times: int = 0,
    prepared_position: int = 0,
    limits: MessageLimits = DEFAULT_LIMITS,
) -> bytes:
    """Return the record of one message.

    A client leaves *queue_offset*, *position* and the store fields at zero: the broker stamps them.
    The host flags of *system_flag* are set or cleared to fit the hosts.

    Raises:
        InvalidMessageError: body or properties are larger than *limits*.
    """
    assert 1 <= len(topic) <= INTERNAL_TOPIC_SIZE_MAX, "check_topic comes first"
    if len(body) > limits.body_size_max:
        check_body_size(len(body), limits)
    if len(properties) > limits.properties_size_max:
        check_properties_size(len(properties), limits)
    if len(topic) <= TOPIC_SIZE_MAX:
        magic = MAGIC_V1
        topic_head = bytes((len(topic),))
    else:
        magic = MAGIC_V2
        topic_head = _U16.pack(len(topic))
    crc = crc32(body) & CRC_MASK
    rest = len(body) + len(topic_head) + len(topic) + 2 + len(properties)
    if len(born_host.ip) == 4 and len(store_host.ip) == 4:
        head = _HEAD_V4.pack(
            BODY_OFFSET + rest, magic, crc, queue_id, flag, queue_offset, position,
            system_flag & ~(FLAG_BORN_HOST_V6 | FLAG_STORE_HOST_V6),
            born_timestamp_ms, born_host.ip, born_host.port,
            store_timestamp_ms, store_host.ip, store_host.port,
            reconsume_times, prepared_position, len(body),
        )  # fmt: skip
    else:
        system_flag &= ~(FLAG_BORN_HOST_V6 | FLAG_STORE_HOST_V6)
        system_flag |= FLAG_BORN_HOST_V6 if born_host.is_ipv6 else 0
        system_flag |= FLAG_STORE_HOST_V6 if store_host.is_ipv6 else 0
        total = BODY_OFFSET - 8 + len(born_host.ip) + len(store_host.ip) + rest
        head = b"".join(
            (
                _TO_BORN_HOST.pack(
                    total, magic, crc, queue_id, flag, queue_offset, position, system_flag,
                    born_timestamp_ms,
                ),
                born_host.ip, _PORT.pack(born_host.port), _I64.pack(store_timestamp_ms),
                store_host.ip, _PORT.pack(store_host.port),
                _AFTER_HOSTS.pack(reconsume_times, prepared_position, len(body)),
            )
        )  # fmt: skip
    return b"".join((head, body, topic_head, topic, _U16.pack(len(properties)), properties))


def decode_record(
    buffer: Buffer, offset: int = 0, *, check_crc: bool = True, record: int = 0
) -> StoredMessage:
    """Return the message whose record begins at *offset* of *buffer*.

    Args:
        buffer: holds the whole record; what follows it does not matter.
        offset: bytes from the start of *buffer*.
        check_crc: compare the body with its checksum.
        record: the number an error names.

    Raises:
        CorruptRecordError: the bytes are no whole record, or the body fails its checksum.
    """
    end = len(buffer)
    if end - offset < RECORD_SIZE_MIN:
        raise _corrupt(record, "total_size", f"{end - offset} bytes are left, a record has 91")
    (
        total, magic, crc, queue_id, flag, queue_offset, position, system_flag, born_timestamp,
        born_ip, born_port, store_timestamp, store_ip, store_port, reconsume_times,
        prepared_position, body_size,
    ) = _HEAD_V4.unpack_from(buffer, offset)  # fmt: skip
    if total < RECORD_SIZE_MIN or total > end - offset:
        raise _corrupt(record, "total_size", f"{total} does not fit the {end - offset} bytes left")
    if magic != MAGIC_V1 and magic != MAGIC_V2:
        raise _corrupt(record, "magic", f"{magic:#010x} is neither version 1 nor version 2")
    end = offset + total
    body_at = offset + BODY_OFFSET
    if system_flag & (FLAG_BORN_HOST_V6 | FLAG_STORE_HOST_V6):
        at = offset + BORN_HOST_OFFSET
        born_size = 16 if system_flag & FLAG_BORN_HOST_V6 else 4
        store_size = 16 if system_flag & FLAG_STORE_HOST_V6 else 4
        if total < RECORD_SIZE_MIN - 8 + born_size + store_size:
            raise _corrupt(record, "total_size", f"{total} is too small for IPv6 hosts")
        born_ip = bytes(buffer[at : at + born_size])
        at += born_size
        (born_port,) = _PORT.unpack_from(buffer, at)
        (store_timestamp,) = _I64.unpack_from(buffer, at + 4)
        at += 12
        store_ip = bytes(buffer[at : at + store_size])
        at += store_size
        (store_port,) = _PORT.unpack_from(buffer, at)
        reconsume_times, prepared_position, body_size = _AFTER_HOSTS.unpack_from(buffer, at + 4)
        body_at = at + 4 + _AFTER_HOSTS.size
    topic_at = body_at + body_size
    head_size = 1 if magic == MAGIC_V1 else 2
    if body_size < 0 or topic_at + head_size + 2 > end:
        raise _corrupt(record, "body_size", f"{body_size} does not fit a record of {total} bytes")
    topic_size = buffer[topic_at] if head_size == 1 else _U16.unpack_from(buffer, topic_at)[0]
    topic_at += head_size
    properties_at = topic_at + topic_size + 2
    if properties_at > end:
        raise _corrupt(record, "topic_size", f"{topic_size} does not fit the record")
    (properties_size,) = _U16.unpack_from(buffer, properties_at - 2)
    if properties_at + properties_size != end or properties_size > PROPERTIES_SIZE_MAX:
        raise _corrupt(
            record,
            "properties_size",
            f"{properties_size} where {end - properties_at} bytes are left",
        )
    body = bytes(buffer[body_at : body_at + body_size])
    if check_crc and crc32(body) & CRC_MASK != crc:
        raise _corrupt(record, "body_crc", f"{crc:#x} is not the checksum of the body")
    try:
        topic = str(buffer[topic_at : topic_at + topic_size], "utf-8")
    except UnicodeDecodeError as error:
        raise _corrupt(record, "topic", f"no UTF-8: {error.reason}") from error
    return StoredMessage(
        topic=topic,
        body=body,
        encoded_properties=bytes(buffer[properties_at:end]),
        queue_id=queue_id,
        flag=flag,
        queue_offset=queue_offset,
        position=position,
        system_flag=system_flag,
        born_timestamp_ms=born_timestamp,
        born_host=_host(born_ip, born_port),
        store_timestamp_ms=store_timestamp,
        store_host=_host(store_ip, store_port),
        reconsume_times=reconsume_times,
        prepared_position=prepared_position,
        size=total,
    )


def decode_records(buffer: Buffer, *, check_crc: bool = True) -> list[StoredMessage]:
    """Return all messages of records that lie back to back in *buffer* and fill it.

    Raises:
        CorruptRecordError: as `decode_record`; the error counts records from 0.
    """
    return list(iter_records(buffer, check_crc=check_crc))


def iter_records(buffer: Buffer, *, check_crc: bool = True) -> Iterator[StoredMessage]:
    """Yield what `decode_records` returns, one after another."""
    offset = 0
    end = len(buffer)
    number = 0
    while offset < end:
        message = decode_record(buffer, offset, check_crc=check_crc, record=number)
        yield message
        offset += message.size
        number += 1


def record_size(buffer: Buffer, offset: int = 0) -> int:
    """Return the size a record's first field claims, checked against its magic only.

    Raises:
        CorruptRecordError: no record begins at *offset*.
    """
    if len(buffer) - offset < _LEAD.size:
        raise _corrupt(0, "total_size", f"only {len(buffer) - offset} bytes are left")
    size, magic = _LEAD.unpack_from(buffer, offset)
    if magic != MAGIC_V1 and magic != MAGIC_V2:
        raise _corrupt(0, "magic", f"{magic:#010x} is neither version 1 nor version 2")
    if size < RECORD_SIZE_MIN:
        raise _corrupt(0, "total_size", f"{size} is less than the {RECORD_SIZE_MIN} of any record")
    return int(size)


def _corrupt(record: int, field: str, message: str) -> CorruptRecordError:
    return CorruptRecordError(message, record=record, field=field)
