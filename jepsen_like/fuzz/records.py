"""Readers of records, batches, entries and commands: what clients send and the log holds."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import msgpack

from broker.errors import CorruptRecordError, InvalidMessageError
from broker.message.batch import (
    BatchMessage,
    ProducerMark,
    decode_batch_body,
    decode_mark,
    decode_sizes,
    encode_batch_body,
    encode_mark,
    encode_sizes,
)
from broker.message.codec import decode_records, encode_record, record_size
from broker.message.message_id import decode_offset_id
from broker.message.properties import decode_properties, encode_properties, find_property
from broker.metadata.consumer_offsets import ConsumerOffsets, commit_offsets, reset_offsets
from broker.metadata.queue_trims import QueueTrims, trim_queues
from broker.metadata.state_machine import StateMachine, encode_commands
from broker.metadata.subscription_groups import (
    SubscriptionGroups,
    create_group,
    delete_group,
    put_group,
)
from broker.metadata.topics import (
    TopicConfig,
    Topics,
    alter_topic,
    create_topic,
    delete_topic,
    put_topic,
)
from broker.protocol.subscription_group import SubscriptionGroupConfig
from dledger.entry import (
    HEADER_SIZE,
    LOG_START,
    LogPoint,
    body_crc_of,
    check_entries,
    encode_header,
)
from dledger.errors import CorruptEntryError, PoisonEntryError
from jepsen_like.fuzz.target import Target, must_be, must_say
from jepsen_like.fuzz.ways import both_ways, read_chunk, read_runs

if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT_SIZE = 64 * 1024
_PROPERTIES = encode_properties({"TAGS": "tag", "KEYS": "k1 k2"})
_U32 = struct.Struct(">I")


def _record(number: int = 0, *, position: int = 0, topic: bytes = b"t") -> bytes:
    return encode_record(
        topic=topic,
        queue_id=0,
        body=b"body %d" % number,
        properties=_PROPERTIES,
        queue_offset=number,
        position=position,
    )


# -- records and batches ------------------------------------------------------------------------


def _record_seeds() -> list[bytes]:
    return [_record(), _record(0) + _record(1), _record(topic=b"x" * 200), b""]


def run_record(data: bytes) -> None:
    """Read records, with and without their checksums, and their properties."""
    for check_crc in (False, True):
        try:
            messages = decode_records(data, check_crc=check_crc)
        except CorruptRecordError as error:
            must_say(error, names="field ")
            continue
        must_be(sum(message.size for message in messages) == len(data), "bytes left over")
        for message in messages:
            must_be(isinstance(message.properties, dict) and message.keys is not None, "no names")
    try:
        must_be(record_size(data) >= 0, "a negative size")
    except CorruptRecordError as error:
        must_say(error)
    decode_properties(data)
    find_property(data, b"TAGS")
    try:
        decode_offset_id(data.decode("latin-1"))
    except InvalidMessageError as error:
        must_say(error, names="message id")


def _batch_seeds() -> list[bytes]:
    messages = [BatchMessage(0, b"a", _PROPERTIES), BatchMessage(1, b"", b"")]
    few, many = [_record(n) for n in range(3)], [_record(n) for n in range(40)]
    return [
        b"\0" + encode_batch_body(messages),
        b"\1" + encode_mark(ProducerMark(7, 0, 3, 0)),
        bytes((3,)) + encode_sizes(list(map(len, few))) + b"".join(few),
        bytes((40,)) + encode_sizes(list(map(len, many))) + b"".join(many),
    ]


def run_batch(data: bytes) -> None:
    """Read a batch as RocketMQ writes it, as ours, and as a producer mark."""
    count = data[0] if data else 0
    body = data[1:]
    column, rest = body[: 4 * count], body[4 * count :]
    attempts: tuple[Callable[[], object], ...] = (
        lambda: decode_batch_body(body),
        lambda: decode_mark(body),
        lambda: decode_sizes(column),
        lambda: both_ways(lambda: read_chunk(rest, column)),
    )
    for attempt in attempts:
        try:
            attempt()
        except (CorruptRecordError, InvalidMessageError) as error:
            must_say(error)


# -- entries ------------------------------------------------------------------------------------


def entries(*bodies: bytes, channel: int = 0, after: LogPoint = LOG_START) -> bytes:
    """Return entries with *bodies*, back to back."""
    found = []
    for body in bodies:
        header, chain_crc = encode_header(
            kind=1 if body else 2,
            index=after.index + 1,
            term=1,
            position=after.position,
            channel=channel,
            previous_chain_crc=after.chain_crc,
            body_crc=body_crc_of([body]),
            body_size=len(body),
        )
        found.append(header + body)
        end = after.position + len(header) + len(body)
        after = LogPoint(after.index + 1, 1, end, chain_crc)
    return b"".join(found)


def with_checksums(raw: bytes) -> bytes:
    """Return *raw* with the checksums made right wherever an entry's header still says a size.

    Behind a checksum no random byte comes far; this way the other checks are reached.
    """
    data = bytearray(raw)
    at, chain_crc = 0, 0
    while at + HEADER_SIZE <= len(data):
        (size,) = struct.unpack_from(">i", data, at + 4)
        if not HEADER_SIZE <= size <= len(data) - at:
            break
        _U32.pack_into(data, at + 40, zlib.crc32(data[at + HEADER_SIZE : at + size]))
        chain_crc = zlib.crc32(data[at + 40 : at + 48], zlib.crc32(data[at : at + 36], chain_crc))
        _U32.pack_into(data, at + 36, chain_crc)
        at += size
    return bytes(data)


def _entry_seeds() -> list[bytes]:
    raw = entries(b"", b"first", b"x" * 200)
    return [b"\0" + raw, b"\1" + raw, b"\0" + entries(b"")]


def run_entry(data: bytes) -> None:
    """Read entries as a follower gets them; an odd first byte makes their checksums right."""
    raw = data[1:]
    if data[:1] and data[0] % 2:
        raw = with_checksums(raw)
    after = LOG_START
    try:
        _, after = check_entries(memoryview(raw), after=after, segment_size=SEGMENT_SIZE)
    except CorruptEntryError as error:
        must_say(error)
        return
    must_be(after.index == 0 or after.position >= len(raw), "bytes left over")


# -- what is inside ------------------------------------------------------------------------------


def entry_body(
    count: int, *, with_mark: bool, position: int = HEADER_SIZE, first: int = 0
) -> bytes:
    """Return an entry body for *position*: *count* records, the first with offset *first*."""
    head = encode_mark(ProducerMark(7, first, count, 0)) if with_mark else b""
    found = [head]
    at = position + len(head)
    for number in range(first, first + count):
        found.append(_record(number, position=at))
        at += len(found[-1])
    return b"".join(found)


def _run_seeds() -> list[bytes]:
    shapes = ((1, False), (3, True), (40, True), (40, False))
    return [entry_body(count, with_mark=with_mark) for count, with_mark in shapes]


def run_runs(data: bytes) -> None:
    """Read an entry's body as dispatch does."""
    try:
        runs = both_ways(lambda: read_runs(data, HEADER_SIZE))
    except CorruptRecordError as error:
        must_say(error, names="field ")
        return
    for run in runs:
        must_be(len(run.units) == 20 * run.record_count, "not one unit for each record")


def _metadata_seeds() -> list[bytes]:
    config = TopicConfig(topic="t")
    commands = [
        put_topic(config),
        create_topic(config),
        commit_offsets("g", "t", {0: 5, 1: 6}),
        reset_offsets("g", "t", {0: 1}),
        commit_offsets("g", "t", {0: 7}, epoch=1, at_ms=5),
        put_group(SubscriptionGroupConfig(group="g", retry_delays_ms=(1, 2))),
        create_group(SubscriptionGroupConfig(group="h")),
        alter_topic(config, {"perm": 4, "acks": "all"}),
        trim_queues("t", {0: 5, 1: 1}),
        delete_group("g"),
        delete_topic("t"),
    ]
    return [encode_commands(commands), *(encode_commands([command]) for command in commands)]


def run_metadata(data: bytes) -> None:
    """Apply an entry of commands; what was applied can be written down and taken up again."""
    topics = Topics()
    machine = StateMachine([topics, SubscriptionGroups(), ConsumerOffsets(topics), QueueTrims()])
    try:
        machine.apply_entry(data)
    except PoisonEntryError as error:
        must_say(error)
        return
    snapshot = msgpack.unpackb(msgpack.packb(machine.snapshot()), strict_map_key=False)
    machine.restore(snapshot)
    must_be(msgpack.packb(machine.snapshot()) == msgpack.packb(snapshot), "restored differently")


TARGETS = [
    Target("record", "records of the commit log", _record_seeds, run_record),
    Target("batch", "batches: RocketMQ's, ours, marks", _batch_seeds, run_batch),
    Target("entry", "entries from a leader", _entry_seeds, run_entry),
    Target("runs", "the body of an entry, as dispatch reads it", _run_seeds, run_runs),
    Target("metadata", "commands in the log", _metadata_seeds, run_metadata),
]
