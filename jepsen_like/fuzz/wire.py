"""Readers of what sockets bring: frames, headers, requests, bodies, messages of peers."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from broker.errors import BrokerError, HeaderError
from broker.handlers.registry import error_response, holding_cost
from broker.protocol import headers, name_headers, send_headers
from broker.protocol.bodies import (
    Ack,
    GroupStatus,
    MemberStatus,
    TopicEntry,
    decode_acks,
    decode_topic_table,
    encode_acks,
    encode_topic_table,
)
from broker.protocol.header_fields import Header
from broker.protocol.registration import (
    decode_data_version,
    decode_registration,
    encode_topic,
    join_topics,
)
from dledger.config import LedgerConfig, Member
from dledger.entry import LOG_START
from dledger.errors import HandshakeRefusedError
from dledger.peers.fixed_frames import frame_of, read_front
from dledger.peers.link import check_hello
from dledger.peers.messages import from_command, to_command
from dledger.protocol import PEER_PROTOCOL_VERSION
from dledger.remoting.command import Command, SerializeType
from dledger.remoting.connection import Connection
from dledger.remoting.errors import LocalProtocolError, RemoteProtocolError
from dledger.remoting.frame import encode_frame
from dledger.remoting.header_codec import decode_header, encode_header
from jepsen_like.fuzz.clients import requests
from jepsen_like.fuzz.target import Target, must_be, must_say

if TYPE_CHECKING:
    from collections.abc import Callable

FRAME_SIZE_MAX = 64 * 1024
HEADER_SIZE_MAX = 16 * 1024
_KINDS = tuple(SerializeType)


def frame_bytes(command: Command) -> bytes:
    """Return the frame of *command* in one piece."""
    return b"".join(bytes(part) for part in encode_frame(command))


# -- frames -------------------------------------------------------------------------------------


def _frame_seeds() -> list[bytes]:
    frames = [frame_bytes(command) for command in requests()]
    return [b"\0" + frame for frame in frames] + [b"\x05" + b"".join(frames)]


def run_frame(data: bytes) -> None:
    """Read *data* at once and in pieces as its first byte says: the same must come of it."""
    step = data[0] if data else 0
    stream = data[1:]
    whole, whole_error = _read([stream])
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)] if step else [stream]
    found, error = _read(pieces)
    must_be(found == whole, f"{len(found)} commands in pieces of {step}, {len(whole)} at once")
    must_be((error is None) == (whole_error is None), "refused one way and not the other")
    alone = Connection(frame_size_max=FRAME_SIZE_MAX, header_size_max=HEADER_SIZE_MAX).lone_command(
        stream
    )
    must_be(alone is None or ([alone], None) == (whole, whole_error), "alone it is another command")


def _read(pieces: list[bytes]) -> tuple[list[Command], RemoteProtocolError | None]:
    connection = Connection(frame_size_max=FRAME_SIZE_MAX, header_size_max=HEADER_SIZE_MAX)
    found: list[Command] = []
    error: RemoteProtocolError | None = None
    for piece in pieces:
        connection.receive_data(piece)
        must_be(connection.partial_size <= FRAME_SIZE_MAX, "more is kept than a frame has")
        try:
            while commands := connection.commands():
                found += commands
        except RemoteProtocolError as refusal:
            must_say(refusal)
            error = refusal
            break
    if error is None:
        try:
            connection.receive_eof()
        except RemoteProtocolError as refusal:
            must_say(refusal, names="connection ended")
    return found, error


# -- headers ------------------------------------------------------------------------------------


def _header_seeds() -> list[bytes]:
    found = []
    for command in requests():
        for number, kind in enumerate(_KINDS):
            command.serialization = kind
            try:
                found.append(bytes((number,)) + encode_header(command))
            except LocalProtocolError:  # ROCKETMQ and JSON have no binary fields
                continue
    return found


def run_header(data: bytes) -> None:
    """Read a header; what is understood can be written again, or that is refused."""
    _command_of(data)


def _command_of(data: bytes) -> Command | None:
    kind = _KINDS[(data[0] if data else 0) % len(_KINDS)]
    try:
        command = decode_header(kind, data[1:])
    except RemoteProtocolError as error:
        must_say(error, names=kind.name)
        return None
    for other in SerializeType:
        command.serialization = other
        try:
            again = decode_header(other, encode_header(command))
        except LocalProtocolError as error:
            must_say(error)
            must_be(
                kind is not SerializeType.ROCKETMQ or other is SerializeType.MSGPACK,
                f"read as {kind.name} and not to be written as {other.name}: {error}",
            )
            continue
        must_be(again.opaque == command.opaque, "another opaque after writing and reading")
        must_be(again.code == command.code, "another code after writing and reading")
    command.serialization = kind
    return command


# -- requests -----------------------------------------------------------------------------------

_HEADERS = [
    kind
    for module in (headers, send_headers, name_headers)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Header) and kind is not Header
]


def run_command(data: bytes) -> None:
    """Read a header as every request and response we know, and answer what is refused."""
    command = _command_of(data)
    if command is None:
        return
    must_be(holding_cost(command) >= 0, "a negative cost")
    readers: list[Callable[[Any], Any]] = [kind.decode for kind in _HEADERS]
    readers += [send_headers.SendMessageRequest.decode_v2, send_headers.SendRecordsRequest.decode]
    for decode in readers:
        try:
            header = decode(command.ext_fields)
        except BrokerError as error:
            must_say(error, names="field ")
            answer = error_response(command, error)
            # A client is told in its own serialization, whatever it sent.
            must_be(len(frame_bytes(answer)) < FRAME_SIZE_MAX, "an answer without bound")
            continue
        must_be(
            header.__class__.decode(header.encode()) == header, f"{header} reads back differently"
        )


# -- bodies, as our client reads them -----------------------------------------------------------


def _body_seeds() -> list[bytes]:
    member = MemberStatus(node_id="n1", address="h:1", is_connected=True)
    status = GroupStatus(
        group="g", node_id="n1", role="LEADER", term=1, leader_id="n1", leader_address="h:1",
        is_ready=True, begin_index=1, end_index=2, durable_index=2, commit_index=2,
        dispatched_index=2, begin_position=0, end_position=9, flush_disk_type="SYNC_FLUSH",
        topic_count=0, connection_count=0, held_pull_count=0, rss_bytes=1, uptime_seconds=1.0,
        sync_seconds_last=0.0, version="0", members=(member,),
    )  # fmt: skip
    topics = encode_topic_table([TopicEntry("t", 4, 4, 6)], version=1)
    return [encode_acks([Ack(1, 0, 0, 5, 6)] * 3), status.encode(), topics, b"[" * 5000]


def run_body(data: bytes) -> None:
    """Read a body as grouped acks, as a group's status and as a list of topics."""
    for decode in (lambda body: list(decode_acks(body)), GroupStatus.decode, decode_topic_table):
        try:
            decode(data)
        except HeaderError as error:
            must_say(error, names="body")


# -- registrations ------------------------------------------------------------------------------


def _registration_seeds() -> list[bytes]:
    plain = join_topics([encode_topic(TopicEntry("t", 4, 4, 6))], version=3)
    version = b'{"counter":3,"stateVersion":0,"timestamp":5}'
    pieces = b"".join(
        len(piece).to_bytes(4, "big") + piece for piece in (version, b"t 4 4 6 SINGLE_TAG", b"[]")
    )
    at = 4 + len(version)
    rows = pieces[:at] + (1).to_bytes(4, "big") + pieces[at:]
    return [b"\0" + plain, b"\0" + version, b"\1" + zlib.compress(rows), b"\0" + b"[" * 5000]


def run_registration(data: bytes) -> None:
    """Read a body as the topics of a broker, as its first byte says, and as their version."""
    compressed = bool(data[:1] and data[0] & 1)
    for decode in (
        lambda body: decode_registration(body, compressed=compressed),
        decode_data_version,
    ):
        try:
            decode(data[1:])
        except HeaderError as error:
            must_say(error, names="body")


# -- peers --------------------------------------------------------------------------------------

PEER_CONFIG = LedgerConfig(
    group="g",
    node_id="n1",
    members=tuple(Member(node_id=f"n{n}", host=f"h{n}", port=7000 + n) for n in (1, 2, 3)),
    data_folder="/data",
)
HELLO = {
    "version": PEER_PROTOCOL_VERSION,
    "group": "g",
    "node_id": "n2",
    "members": "n1=h1:7001,n2=h2:7002,n3=h3:7003",
    "segment_size": PEER_CONFIG.store.segment_size,
    "joining": False,
    "last_index": 3,
}


def peer_commands() -> list[Command]:
    """Return one message of each kind that members send."""
    position = {"last_log_index": 3, "last_log_term": 1}
    message = {"term": 2, "id": 1}
    answer = message | {"joining": False}
    found = [
        {"type": "request_vote", "term": 2, **position},
        {"type": "response_vote", "term": 2},
        {"type": "pre_vote", "term": 2, "round": 1, **position},
        {"type": "pre_vote_answer", "term": 2, "round": 1, "granted": True},
        {
            "type": "append_entries", **message, "prev_index": 0, "prev_term": 0, "last_index": 0,
            "commit_index": 0, "entries": b"", "admit_index": -1,
        },
        {"type": "append_answer", **answer, "next_index": 1, "success": True, "reset": False},
        {"type": "timeout_now", "term": 2},
        {"type": "install", **message, "base": LOG_START, "offset": 0, "total": 0, "crc": 0,
         "data": b""},
        {"type": "install_answer", **answer, "base_index": 0, "offset": 0, "done": True},
    ]  # fmt: skip
    return [to_command(message) for message in found]


def _peer_seeds() -> list[bytes]:
    hello = Command(51020, 2, ext_fields=HELLO)
    return [encode_header(command) for command in [hello, *peer_commands()]]


def run_peer(data: bytes) -> None:
    """Read a header as a handshake and as a message of a member."""
    try:
        command = decode_header(SerializeType.MSGPACK, data)
    except RemoteProtocolError:
        return
    try:
        must_be(check_hello(PEER_CONFIG, command.ext_fields) in ("n2", "n3"), "a stranger gets in")
    except HandshakeRefusedError as error:
        must_say(error)
        must_be(len(str(error)) < 2000, "a refusal without bound")
    try:
        message = from_command(command)
    except RemoteProtocolError as error:
        must_say(error)
        return
    must_be(from_command(to_command(message)) == message, "a message reads back differently")


def _peer_frame_seeds() -> list[bytes]:
    messages = [from_command(command) for command in peer_commands()]
    messages += [message | {"entries": b"entry"} for message in messages if "entries" in message]
    for message in messages:
        message.pop("admit_index", None)
    frames = [b"".join(bytes(part) for part in frame_of(message)) for message in messages]
    return [*frames, b"".join(reversed(frames)), *map(frame_bytes, peer_commands())]


def run_peer_frames(data: bytes) -> None:
    """Read *data* as frames of members: at fixed places, as far as that goes, and as commands."""
    found: list[dict[str, Any]] = []
    end = read_front(data, found, frame_size_max=FRAME_SIZE_MAX)
    must_be(0 <= end <= len(data), "more was read than there is")
    commands, error = _read([data[:end]])
    must_be(error is None, f"what was read at fixed places is refused: {error}")
    must_be(list(map(from_command, commands)) == found, "at fixed places stands another message")


TARGETS = [
    Target("frame", "Connection: frames, at once and in pieces", _frame_seeds, run_frame),
    Target("header", "headers in JSON, ROCKETMQ and MSGPACK", _header_seeds, run_header),
    Target("command", "the fields of every request", _header_seeds, run_command),
    Target("body", "bodies that our client reads", _body_seeds, run_body),
    Target(
        "registration",
        "topics of brokers, plain and deflated",
        _registration_seeds,
        run_registration,
    ),
    Target("peer", "handshakes and messages of members", _peer_seeds, run_peer),
    Target(
        "peer-frames",
        "frames of members, at fixed places and field by field",
        _peer_frame_seeds,
        run_peer_frames,
    ),
]
