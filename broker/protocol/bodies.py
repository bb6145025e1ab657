"""Bodies that are neither records nor empty.

Grouped acks answer many sends of one connection in one frame, 28 bytes each, big-endian:

    opaque        uint32   of the request
    code          int32    response code
    queue_id      int32
    queue_offset  int64    of the first record; -1 when there is none
    position      int64    of the first record in the commit log; -1 when there is none

The ext field ``durability`` of the frame says what all of them have reached.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from broker.errors import HeaderError
from broker.protocol.topic_attributes import (
    ACKS,
    ATTRIBUTE_NAMES,
    FLUSH,
    RETENTION_BYTES,
    RETENTION_MS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Buffer = bytes | bytearray | memoryview

ACK = struct.Struct(">Iiiqq")
ACK_SIZE = 28

assert ACK.size == ACK_SIZE


_new_tuple = tuple.__new__  # a third of what a named tuple's own way takes


class Ack(NamedTuple):
    """The outcome of one send."""

    opaque: int
    code: int
    queue_id: int = -1
    queue_offset: int = -1
    position: int = -1
    durability: str = ""  # what the messages have reached, as "majority/sync"; "": not said


def encode_acks(acks: Iterable[Ack]) -> bytes:
    """Return the body of a grouped response."""
    pack = ACK.pack
    return b"".join([pack(*ack[:-1]) for ack in acks])


def decode_acks(body: Buffer, durability: str = "") -> Iterator[Ack]:
    """Return the acks of a grouped response, all of which have reached *durability*.

    Raises:
        HeaderError: the body is no whole number of acks.
    """
    if len(body) % ACK_SIZE:
        raise HeaderError(f"{len(body)} bytes are no whole number of 28-byte acks", field="body")
    return iter(
        [
            _new_tuple(Ack, (*fields, durability))  # opaque, code, queue, offset, position
            for fields in ACK.iter_unpack(body)
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One member of a group as the answering node sees it; -1 where it cannot know."""

    node_id: str
    address: str  # for clients, host:port
    is_connected: bool
    match_index: int = -1  # last entry known to be on that member; only the leader knows


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """The answer to GET_GROUP_STATUS, as JSON in the body."""

    group: str
    node_id: str  # who answers
    role: str  # LEADER, FOLLOWER or CANDIDATE
    term: int
    leader_id: str | None
    leader_address: str | None  # for clients, host:port
    is_ready: bool  # a leader that serves, or a follower that has caught up
    begin_index: int
    end_index: int
    durable_index: int
    commit_index: int
    dispatched_index: int
    begin_position: int  # bytes
    end_position: int  # bytes
    flush_disk_type: str  # SYNC_FLUSH or ASYNC_FLUSH
    topic_count: int
    connection_count: int
    held_pull_count: int
    rss_bytes: int  # resident memory without mapped files
    uptime_seconds: float
    sync_seconds_last: float
    version: str
    members: tuple[MemberStatus, ...]
    # What nodes of 0.1 do not tell.
    begin_time_ms: int = -1  # when the oldest message of the log was stored; -1 without one
    disk_used: int = -1  # bytes of the data folder's file system; -1 before the first look
    disk_available: int = -1  # likewise, left to the node
    disk_percent: float = -1.0  # used of both
    write_refusal: str = ""  # why it would take no messages as the leader
    wall_ms: int = -1  # its clock as it answers, milliseconds since 1970

    def encode(self) -> bytes:
        """Return the body."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, body: Buffer) -> GroupStatus:
        """Return the status in *body*; keys of later versions are ignored.

        Raises:
            HeaderError: the body is no group status.
        """
        try:
            fields: dict[str, Any] = json.loads(bytes(body))
            members = tuple(
                MemberStatus(**{name: member[name] for name in MemberStatus.__slots__})
                for member in fields["members"]
            )
            known = {
                item.name: fields[item.name]
                for item in dataclasses.fields(cls)
                if item.name != "members"
                and (item.name in fields or item.default is dataclasses.MISSING)
            }
            return cls(members=members, **known)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise HeaderError(_why("no group status", error), field="body") from error


class TopicEntry(NamedTuple):
    """One topic of a topic table."""

    topic: str
    read_queue_count: int
    write_queue_count: int
    perm: int
    order: bool = False
    filter_type: str = "SINGLE_TAG"
    system_flag: int = 0
    retention_ms: int = 0  # 0: as the broker has it
    retention_bytes: int = 0  # 0: no bound of its own
    acks: str = ""  # "": as the broker has it
    flush: str = ""  # the same

    @property
    def attributes(self) -> dict[str, str]:
        """What the topic has otherwise than the broker, as `topic_attributes` names it."""
        values = (self.retention_ms, self.retention_bytes, self.acks, self.flush)
        return {
            name: str(value) for name, value in zip(ATTRIBUTE_NAMES, values, strict=True) if value
        }


def encode_topic_table(topics: Iterable[TopicEntry], *, version: int) -> bytes:
    """Return the answer to GET_ALL_TOPIC_CONFIG. *version* grows with each change of any topic.

    Source: RocketMQ ``TopicConfigSerializeWrapper``.
    """
    wrapper = {
        "dataVersion": {"counter": version, "stateVersion": 0, "timestamp": 0},
        "topicConfigTable": {entry.topic: _topic_json(entry) for entry in topics},
    }
    return json.dumps(wrapper, separators=(",", ":")).encode()


def encode_topic_config(entry: TopicEntry) -> bytes:
    """Return the answer to GET_TOPIC_CONFIG. Source: ``TopicConfigAndQueueMapping``."""
    return json.dumps(_topic_json(entry), separators=(",", ":")).encode()


def _topic_json(entry: TopicEntry) -> dict[str, Any]:
    return {
        "attributes": entry.attributes,
        "order": entry.order,
        "perm": entry.perm,
        "readQueueNums": entry.read_queue_count,
        "topicFilterType": entry.filter_type,
        "topicName": entry.topic,
        "topicSysFlag": entry.system_flag,
        "writeQueueNums": entry.write_queue_count,
    }


def decode_topic_table(body: Buffer) -> list[TopicEntry]:
    """Return the topics of a topic table.

    Raises:
        HeaderError: the body is no topic table.
    """
    try:
        table = json.loads(bytes(body))["topicConfigTable"]
        return [_topic_entry(str(name), config) for name, config in table.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(_why("no topic table", error), field="body") from error


def _topic_entry(name: str, config: dict[str, Any]) -> TopicEntry:
    attributes = config.get("attributes") or {}
    return TopicEntry(
        name,
        int(config["readQueueNums"]),
        int(config["writeQueueNums"]),
        int(config["perm"]),
        order=bool(config.get("order", False)),
        filter_type=str(config.get("topicFilterType", "SINGLE_TAG")),
        system_flag=int(config.get("topicSysFlag", 0)),
        retention_ms=int(attributes.get(RETENTION_MS, 0)),
        retention_bytes=int(attributes.get(RETENTION_BYTES, 0)),
        acks=str(attributes.get(ACKS, "")),
        flush=str(attributes.get(FLUSH, "")),
    )


def _why(what: str, error: Exception) -> str:
    """Return what is wrong; the error's own form would repeat the whole body."""
    return f"{what}: {type(error).__name__}: {error}"
