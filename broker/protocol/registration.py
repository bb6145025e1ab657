"""The body of REGISTER_BROKER: the topics of a broker, in one of two forms.

JSON, or with the header's ``compressed`` one deflated stream, numbers big-endian:

    int32 length, data version as JSON
    int32 how many topics, then for each: int32 length, "name readQueues writeQueues perm filter"
    int32 length, filter servers as JSON: an array of strings; and more that RocketMQ 5 adds

Source: RocketMQ ``RegisterBrokerBody``, ``TopicConfig.encode``, ``DataVersion``.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from broker.errors import HeaderError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.protocol.bodies import TopicEntry

    Buffer = bytes | bytearray | memoryview

INFLATED_SIZE_MAX: Final = 64 * 1024 * 1024  # bytes; a frame brings a thousandth, or all of it
TOPIC_SIZE_MAX: Final = 255  # characters of a name. Source: RocketMQ, for retry topics

_INT32 = struct.Struct(">i")


class DataVersion(msgspec.Struct, frozen=True, rename="camel"):
    """Which state of a broker's topics is meant; equal means the same. Source: ``DataVersion``."""

    counter: int = 0
    state_version: int = 0
    timestamp: int = 0

    def encode(self) -> bytes:
        """Return it as JSON."""
        return msgspec.json.encode(self)


class RegisteredTopic(msgspec.Struct, frozen=True, rename="camel"):
    """What a name server is told of one topic. Source: RocketMQ ``TopicConfig``."""

    read_queue_nums: int = 16
    write_queue_nums: int = 16
    perm: int = 6
    topic_sys_flag: int = 0


class _Wrapper(msgspec.Struct, rename="camel"):
    data_version: DataVersion = DataVersion()
    topic_config_table: dict[str, RegisteredTopic] = {}


class _Body(msgspec.Struct, rename="camel"):
    topic_config_serialize_wrapper: _Wrapper = msgspec.field(default_factory=_Wrapper)


@dataclass(frozen=True, slots=True)
class RegisteredTopics:
    """The topics of one broker at one version."""

    version: DataVersion
    table: Mapping[str, RegisteredTopic]
    size: int = 0  # bytes of the body, inflated


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_version = msgspec.json.Decoder(DataVersion).decode


def decode_data_version(body: Buffer) -> DataVersion:
    """Return the version that *body* holds.

    Raises:
        HeaderError: it holds none.
    """
    try:
        return _decode_version(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HeaderError(f"no data version: {error}", field="body") from error


def decode_registration(body: Buffer, *, compressed: bool) -> RegisteredTopics:
    """Return the topics that a REGISTER_BROKER brings; an empty body brings none.

    Raises:
        HeaderError: *body* is no registration.
    """
    if not len(body):
        return RegisteredTopics(DataVersion(), {})
    try:
        if compressed:
            found = _decode_deflated(_inflate(bytes(body)))
        else:
            wrapper = _decode_body(body).topic_config_serialize_wrapper
            table = wrapper.topic_config_table
            found = RegisteredTopics(wrapper.data_version, table, len(body))
        if long := next((name for name in found.table if len(name) > TOPIC_SIZE_MAX), None):
            raise ValueError(f"topic {long[:40]!r} has more than {TOPIC_SIZE_MAX} characters")
    except (ValueError, UnicodeDecodeError, RecursionError, zlib.error) as error:
        raise HeaderError(f"no topics of a broker: {error}", field="body") from error
    return found


def encode_topic(entry: TopicEntry) -> bytes:
    """Return one topic as `join_topics` takes it."""
    config = {
        "order": entry.order,
        "perm": entry.perm,
        "readQueueNums": entry.read_queue_count,
        "topicFilterType": entry.filter_type,
        "topicName": entry.topic,
        "topicSysFlag": entry.system_flag,
        "writeQueueNums": entry.write_queue_count,
    }
    return msgspec.json.encode(entry.topic) + b":" + msgspec.json.encode(config)


def join_topics(topics: Iterable[bytes], *, version: int) -> bytes:
    """Return the body by which a node of ours registers.

    Args:
        topics: each as `encode_topic` returns it, so that those that stay as they are need not be
            written anew with every change of another.
        version: how often any topic has changed.
    """
    return b"".join(
        (
            b'{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":',
            DataVersion(counter=version).encode(),
            b',"topicConfigTable":{',
            b",".join(topics),
            b"}}}",
        )
    )


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, INFLATED_SIZE_MAX)
    if inflater.unconsumed_tail:
        raise ValueError(f"it inflates to more than {INFLATED_SIZE_MAX} bytes")
    if not inflater.eof:
        raise ValueError("the deflated bytes break off")
    return found


def _decode_deflated(data: bytes) -> RegisteredTopics:
    version, at = _take(data, 0)
    count, at = _number(data, at)
    table = {}
    for _ in range(count):
        row, at = _take(data, at)
        words = row.decode().split(" ")
        if len(words) < 5:
            raise ValueError(f"{row[:80]!r} is no topic")
        table[words[0]] = RegisteredTopic(int(words[1]), int(words[2]), int(words[3]))
    return RegisteredTopics(_decode_version(version), table, len(data))


def _number(data: bytes, at: int) -> tuple[int, int]:
    if at + 4 > len(data):
        raise ValueError("it breaks off")
    (number,) = _INT32.unpack_from(data, at)
    return number, at + 4


def _take(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _number(data, at)
    if not 0 <= size <= len(data) - at:
        raise ValueError(f"a piece claims {size} bytes, and {len(data) - at} are left")
    return data[at : at + size], at + size
