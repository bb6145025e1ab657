"""Attacks on a living node by somebody who can reach its ports and knows nothing else.

Each takes a `Victim` and some seconds, and ends with every socket of its own closed.  What came of
it is asked of the node itself: does it answer, since when has it been running, what memory has it?
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from broker.message.batch import BatchMessage, encode_batch_body
from broker.protocol.bodies import GroupStatus
from broker.protocol.response_code import ResponseCode
from dledger.config import parse_address
from dledger.protocol import PeerCode
from dledger.remoting.command import FLAG_ONEWAY, Command, SerializeType
from dledger.remoting.connection import Connection
from dledger.remoting.errors import LocalProtocolError, RemotingError
from dledger.remoting.frame import FRAME_SIZE_MAX
from jepsen_like.fuzz.clients import requests
from jepsen_like.fuzz.wire import frame_bytes, peer_commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "outsider"
_QUIET_SECONDS = 0.05
_ODD: list[Any] = [
    None, True, -1, 0, 1, 1 << 31, 1 << 63, -(1 << 63), "", "x", "\0", "\x01" * 5000, "9" * 25,
    "-1", b"", b"\xff" * 300, [], {}, [[[]]], {"a": {}}, 1.5, 1e308, "t" * 70_000, TOPIC,
]  # fmt: skip


@dataclass(slots=True)
class Victim:
    """One node, as an outsider sees it."""

    broker: tuple[str, int]
    peer: tuple[str, int] | None
    chance: random.Random


# -- sockets ------------------------------------------------------------------------------------


# Whatever goes wrong with a connection ends the block, and the next one begins.
_QUIETLY = contextlib.suppress(OSError)


def connected(address: tuple[str, int], *, seconds: float = 5.0) -> socket.socket:
    """Return a connection that waits for nothing longer than *seconds*.

    Raises:
        OSError: there is none.
    """
    return socket.create_connection(address, timeout=seconds)


def ask(address: tuple[str, int], data: bytes, *, seconds: float = 5.0) -> list[Command]:
    """Send *data* and return the commands that come back: at least one, or none in time."""
    answers: list[Command] = []
    reading = Connection()
    broken = contextlib.suppress(OSError, RemotingError)
    with broken, connected(address, seconds=seconds) as stream:
        stream.sendall(data)
        while not answers and (received := stream.recv(1 << 18)):
            reading.receive_data(received)
            answers += reading.commands()
    return answers


def status_of(address: tuple[str, int], *, seconds: float = 10.0) -> GroupStatus | None:
    """Return how a node says it is; None when it does not answer in time, or has no room."""
    answers = ask(address, frame_bytes(Command(60001, opaque=1)), seconds=seconds)
    if not answers or answers[0].code == ResponseCode.SYSTEM_BUSY:
        return None
    return GroupStatus.decode(answers[0].body)  # type: ignore[arg-type]


def _drain(stream: socket.socket, seconds: float = _QUIET_SECONDS) -> None:
    stream.settimeout(seconds)
    with contextlib.suppress(OSError):
        while stream.recv(1 << 18):
            pass


def _raw_frame(kind: int, header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">II", 4 + len(header) + len(body), kind << 24 | len(header)) + header + body


def _mutated(data: bytes, chance: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) + 1)
        new = chance.choice([b"", b"\xff" * 4, b"\0" * 4, chance.randbytes(chance.randint(1, 9))])
        content[at : at + chance.randint(0, 6)] = new
    return bytes(content)


def _until(seconds: float) -> Iterator[int]:
    end = time.monotonic_ns() + int(seconds * 1e9)
    number = 0
    while time.monotonic_ns() < end:
        yield number
        number += 1


# -- attacks on the port for clients ------------------------------------------------------------


def broken_frames(victim: Victim, seconds: float) -> None:
    """Frames of real clients with a few bytes changed, and plain noise."""
    frames = [frame_bytes(command) for command in requests(TOPIC)]
    chance = victim.chance
    for _ in _until(seconds):
        data = b"".join(
            _mutated(chance.choice(frames), chance) for _ in range(chance.randint(1, 5))
        )
        with _QUIETLY, connected(victim.broker) as stream:
            stream.sendall(chance.choice([data, data, chance.randbytes(200)]))
            _drain(stream, 0.01)


def other_protocols(victim: Victim, seconds: float) -> None:
    """What scanners say: HTTP, TLS, SSH, and a telnet user's line."""
    hellos = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes.fromhex("16030100f8010000f40303") + b"\0" * 240,
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"help\n",
    ]
    ports = [victim.broker] + ([victim.peer] if victim.peer else [])
    for number in _until(seconds):
        with _QUIETLY, connected(ports[number % len(ports)]) as stream:
            stream.sendall(hellos[number % len(hellos)])
            _drain(stream, 0.01)


def odd_requests(victim: Victim, seconds: float) -> None:
    """Whole frames of every request, with fields of every type and size."""
    chance = victim.chance
    codes = [command.code for command in requests(TOPIC)] + [0, -1, 34, 35, 99, 1 << 30, 51004]
    names = sorted({name for command in requests(TOPIC) for name in command.ext_fields})
    for _ in _until(seconds):
        data = b""
        for _ in range(chance.randint(1, 12)):
            good = chance.choice(requests(TOPIC))
            fields = dict(good.ext_fields)
            for _ in range(chance.randint(0, 3)):
                fields[chance.choice(names)] = chance.choice(_ODD)
            command = Command(
                chance.choice([good.code, good.code, chance.choice(codes)]),
                chance.choice([0, 0, 0, 1, 2, 4, 7, -1]),
                chance.randrange(1 << 31),
                ext_fields=fields,
                body=chance.choice([good.body, b"", chance.randbytes(100)]),
                serialization=chance.choice([good.serialization, *SerializeType]),
            )
            with contextlib.suppress(LocalProtocolError):
                data += frame_bytes(command)
        with _QUIETLY, connected(victim.broker) as stream:
            stream.sendall(data)
            _drain(stream)


def greedy_requests(victim: Victim, seconds: float) -> None:
    """Requests as large as a frame, each with its weight somewhere else."""
    tiny = encode_batch_body([BatchMessage(0, b"", b"")] * 700_000)
    send = {"a": "g", "b": TOPIC, "e": 0}
    pull = {
        "consumerGroup": "g", "topic": TOPIC, "queueId": 3, "queueOffset": 0, "maxMsgNums": 4096,
        "sysFlag": 2, "suspendTimeoutMillis": 60_000,
    }  # fmt: skip
    bodies = [
        Command(320, opaque=1, ext_fields=send, body=tiny),
        Command(310, opaque=2, ext_fields=send, body=bytes(FRAME_SIZE_MAX - 200)),
        Command(11, opaque=3, ext_fields=pull, body=bytes(15 << 20)),
        Command(11, opaque=4, ext_fields=pull | {"subscription": "x" * 900_000}),
        Command(31, opaque=5, ext_fields={"topic": "\x01" * 900_000, "queueId": 0}),
        Command(15, opaque=6, ext_fields={
            "consumerGroup": "g" * 900_000, "topic": TOPIC, "queueId": 0, "commitOffset": 1,
        }),
    ]  # fmt: skip
    frames = [frame_bytes(command) for command in bodies]
    deep = bytes((0x97, 30, 0, 9, 3, 1, 0xC0, 0x81, 0xA1)) + b"a" + b"\x91" * 980 + b"\x01"
    pairs = b"\0\1a\0\0\0\0" * 140_000
    frames += [
        _raw_frame(77, deep),
        _raw_frame(0, b'{"code":30,"opaque":1,"extFields":{"topic":' + b"9" * 4000 + b"}}"),
        _raw_frame(1, struct.pack(">HBHiiii", 31, 3, 401, 1, 0, 0, len(pairs)) + pairs),
        _raw_frame(0, b"[" * 1_000_000),
    ]
    for number in _until(seconds):
        with _QUIETLY, connected(victim.broker) as stream:
            stream.sendall(frames[number % len(frames)])
            _drain(stream)


def never_ending_frames(victim: Victim, seconds: float) -> None:
    """Forty frames of 16 MiB that stop before their last byte, again and again."""
    frame = frame_bytes(Command(310, ext_fields={"a": "g"}, body=bytes(FRAME_SIZE_MAX - 100)))[:-1]
    with contextlib.ExitStack() as stack:
        for number in _until(seconds):
            if number % 40 == 0:
                stack.close()
            stream = stack.enter_context(_held(victim.broker))
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.sendall(frame)


@contextlib.contextmanager
def _held(address: tuple[str, int]) -> Iterator[socket.socket | None]:
    """As `connected`, for many at a time: None where there is no connection."""
    try:
        stream = socket.create_connection(address, timeout=5.0)
    except OSError:
        yield None
        return
    try:
        yield stream
    finally:
        stream.close()


def slow_frames(victim: Victim, seconds: float, *, count: int = 100) -> None:
    """A hundred connections that send one byte a second (slowloris), on both ports."""
    frame = frame_bytes(requests(TOPIC)[0])
    ports = [victim.broker] + ([victim.peer] if victim.peer else [])
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(_held(ports[n % len(ports)])) for n in range(count)]
        for number in _until(seconds):
            for stream in streams:
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.sendall(frame[number % len(frame) :][:1])
            time.sleep(min(1.0, seconds))


def idle_connections(victim: Victim, seconds: float, *, count: int = 3000) -> None:
    """Thousands of connections that say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_held(victim.broker))
        time.sleep(seconds)


def half_closed_connections(victim: Victim, seconds: float) -> None:
    """Connections of which one half is closed, with a request on its way or without."""
    frames = [frame_bytes(command) for command in requests(TOPIC)]
    chance = victim.chance
    with contextlib.ExitStack() as stack:
        for number in _until(seconds):
            if number % 200 == 0:
                stack.close()
            stream = stack.enter_context(_held(victim.broker))
            if stream is not None:
                with contextlib.suppress(OSError):
                    frame = chance.choice(frames)
                    stream.sendall(frame[: chance.choice([0, 3, 20, len(frame)])])
                    stream.shutdown(chance.choice([socket.SHUT_WR, socket.SHUT_RD]))


def resets(victim: Victim, seconds: float) -> None:
    """Connections that are reset, before and after a request."""
    frames = [frame_bytes(command) for command in requests(TOPIC)]
    ports = [victim.broker] + ([victim.peer] if victim.peer else [])
    for number in _until(seconds):
        with _QUIETLY, connected(ports[number % len(ports)]) as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 3:
                stream.sendall(victim.chance.choice(frames))


def unread_answers(victim: Victim, seconds: float) -> None:
    """A flood of requests whose answers nobody reads."""
    pull = {
        "consumerGroup": "g", "topic": TOPIC, "queueId": 0, "queueOffset": 0, "maxMsgNums": 4096,
        "sysFlag": 0, "maxMsgBytes": 12 << 20,
    }  # fmt: skip
    frames = frame_bytes(Command(11, ext_fields=pull)) * 500
    frames += frame_bytes(Command(21)) * 500 + frame_bytes(Command(30, ext_fields=pull)) * 500
    for _ in _until(seconds):
        with _QUIETLY, connected(victim.broker, seconds=1.0) as stream:
            while True:
                stream.sendall(frames)  # until its room is full, or the node has had enough


# -- attacks on the port for members ------------------------------------------------------------


def _hello_fields(peer: tuple[str, int]) -> dict[str, Any]:
    """Return what a member says: a node tells it to whoever greets it wrongly."""
    wrong = Command(int(PeerCode.HELLO), FLAG_ONEWAY, ext_fields={"version": 0})
    answers = ask(peer, frame_bytes(wrong), seconds=1.0)
    return dict(answers[0].ext_fields) if answers else {}


def wrong_greetings(victim: Victim, seconds: float) -> None:
    """Handshakes with one field of a wrong type, one missing, and no handshake at all."""
    if victim.peer is None:
        return
    chance, fields = victim.chance, _hello_fields(victim.peer)
    frames = [frame_bytes(command) for command in [*peer_commands(), *requests()]]
    for _ in _until(seconds):
        changed = dict(fields)
        for name in chance.sample(sorted(fields), min(len(fields), chance.randint(1, 2))):
            if chance.random() < 0.3:
                del changed[name]
            else:
                changed[name] = chance.choice([value for value in _ODD if value != 1 << 63])
        hello = _raw_frame(
            77, msgspec.msgpack.encode([int(PeerCode.HELLO), 2, 0, 3, 401, None, changed])
        )
        with _QUIETLY, connected(victim.peer) as stream:
            data = chance.choice([hello, hello, chance.choice(frames)])
            stream.sendall(chance.choice([data, data, _mutated(data, chance)]))
            _drain(stream, 0.01)


def members_that_babble(victim: Victim, seconds: float) -> None:
    """A right handshake in a member's name, and then frames that are none."""
    if victim.peer is None:
        return
    chance, fields = victim.chance, _hello_fields(victim.peer)
    members = [part.partition("=")[0] for part in str(fields.get("members", "")).split(",")]
    others = [name for name in members if name and name != fields.get("node_id")]
    if not others:
        return
    frames = [frame_bytes(command) for command in requests()]
    frames += [_mutated(frame_bytes(command), chance)[:-3] for command in peer_commands()[:1]]
    for _ in _until(seconds):
        hello = Command(
            int(PeerCode.HELLO), FLAG_ONEWAY, ext_fields=fields | {"node_id": chance.choice(others)}
        )
        with _QUIETLY, connected(victim.peer) as stream:
            stream.sendall(frame_bytes(hello))
            stream.recv(1 << 16)
            stream.sendall(chance.choice([chance.choice(frames), chance.randbytes(300)]))
            _drain(stream)
        time.sleep(0.05)  # each one cuts the link of the member it plays: let that come back


ATTACKS: dict[str, Callable[[Victim, float], None]] = {
    attack.__name__: attack
    for attack in (
        broken_frames, other_protocols, odd_requests, greedy_requests, never_ending_frames,
        slow_frames, idle_connections, half_closed_connections, resets, unread_answers,
        wrong_greetings, members_that_babble,
    )
}  # fmt: skip


def victim_of(broker: str, peer: str | None, seed: int) -> Victim:
    """Return the node with these addresses, each ``host:port``."""
    return Victim(parse_address(broker), parse_address(peer) if peer else None, random.Random(seed))
