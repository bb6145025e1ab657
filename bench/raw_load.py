"""Loads over a plain socket, so that the client's own work hardly counts."""

from __future__ import annotations

import contextlib
import socket
import struct
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from bench import wire
from bench.measured import LoadError, Measured
from bench.window import run_window
from broker.protocol.bodies import ACK_SIZE
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import FLAG_GROUPED, Command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.frames import FrameRing

_ACK = np.dtype(
    [("opaque", ">u4"), ("code", ">i4"), ("queue", ">i4"), ("offset", ">i8"), ("at", ">i8")]
)
assert _ACK.itemsize == ACK_SIZE
_TIMES = 1 << 16  # sends under way never come near it
_SILENCE_SECONDS = 10.0
_PULL_SIZE = 1024 * 1024  # bytes asked for at a time
_PREFIX = struct.Struct(">II")


def connect(host: str, port: int) -> socket.socket:
    """Return a connection to a broker that gives up after a long silence."""
    return wire.connect(host, port, silence_seconds=_SILENCE_SECONDS)


def run_sends(
    connected: socket.socket,
    ring: FrameRing,
    *,
    in_flight: int,
    batch_count: int,
    seconds: float,
    warm_up_seconds: float,
) -> Measured:
    """Keep *in_flight* requests under way, then wait for all answers.

    Raises:
        LoadError: a send was refused, or no answer comes.
    """
    connection = Connection()
    sent_at = np.zeros(_TIMES)
    latencies: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    began = perf_counter()
    counting_from, until = began + warm_up_seconds, began + warm_up_seconds + seconds
    counted = answered = 0

    def send(count: int) -> None:
        slots = np.arange(ring.next_opaque, ring.next_opaque + count) % _TIMES
        views = ring.take(count)
        sent_at[slots] = perf_counter()
        for view in views:
            connected.sendall(view)

    under_way = in_flight
    send(in_flight)
    while under_way:
        data = wire.receive(connected)
        now = perf_counter()
        connection.receive_data(data)
        count = 0
        for command in connection.commands():
            opaques = acknowledged_opaques(command)
            count += len(opaques)
            if counting_from <= now < until:
                latencies.append(now - sent_at[opaques % _TIMES])
        answered += count
        under_way -= count
        if now < until:
            send(count)
            under_way += count
            if now >= counting_from:
                counted += count
    return Measured.of(
        message_count=counted * batch_count,
        seconds=seconds,
        latencies=np.concatenate(latencies) if latencies else np.zeros(0),
        written_count=answered * batch_count,
    )


def run_spread(
    host: str, port: int, rings: Sequence[FrameRing], *, seconds: float, warm_up_seconds: float
) -> Measured:
    """Keep one request under way on each of many connections, then wait for all answers.

    Raises:
        LoadError: a send was refused, or no answer comes.
    """
    with contextlib.ExitStack() as stack:
        streams = [_RingStream(stack.enter_context(connect(host, port)), ring) for ring in rings]
        return run_window(
            streams, in_flight=len(streams), seconds=seconds, warm_up_seconds=warm_up_seconds
        )


class _RingStream:
    """One connection of many, for `run_window`."""

    def __init__(self, connected: socket.socket, ring: FrameRing) -> None:
        self.socket = connected
        self._ring = ring
        self._connection = Connection()

    def encode(self, count: int) -> bytes:
        """See `Stream`."""
        return b"".join(self._ring.take(count))

    def settle(self, data: bytes) -> int:
        """See `Stream`."""
        self._connection.receive_data(data)
        return sum(map(_acknowledged_count, self._connection.commands()))


def _acknowledged_count(command: Command) -> int:
    """As `acknowledged_opaques`, how many; an answer for one send by itself without an array."""
    body = command.body
    if command.flag & FLAG_GROUPED and len(body) == ACK_SIZE and not any(body[4:8]):
        return 1
    return len(acknowledged_opaques(command))


def acknowledged_opaques(command: Command) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return which sends an answer is for: many that share a frame, or one that was forwarded.

    Raises:
        LoadError: one was refused.
    """
    if not command.flag & FLAG_GROUPED:
        if command.code == ResponseCode.SUCCESS:
            return np.array([command.opaque], dtype=np.int64)
        raise LoadError(f"a send was refused with code {command.code}: {command.remark}")
    body = command.body
    assert not isinstance(body, list)
    acks = np.frombuffer(body, _ACK)
    if acks["code"].any():
        raise LoadError(f"a send was refused with code {int(acks['code'].max())}")
    return acks["opaque"].astype(np.int64)


def run_pulls(
    connected: socket.socket, topic: str, *, queue_count: int, seconds: float, count_max: int = 0
) -> Measured:
    """Pull a topic from its beginning, over and over, one pull of each queue under way.

    Args:
        connected: to the node that is asked.
        topic: what is pulled.
        queue_count: of the topic.
        seconds: for how long.
        count_max: messages in one answer at most; 0: as many as fit 1 MiB.

    Raises:
        LoadError: a pull fails.
    """
    offsets = [0] * queue_count
    began = perf_counter()
    asked_at = [0.0] * queue_count
    latencies: list[float] = []
    count = size = under_way = 0

    def ask(queue_id: int) -> None:
        nonlocal under_way
        command = Command(
            RequestCode.PULL_MESSAGE.value,
            0,
            queue_id,
            ext_fields={
                "consumerGroup": "bench-pull",
                "topic": topic,
                "queueId": queue_id,
                "queueOffset": offsets[queue_id],
                "maxMsgNums": count_max or 1 << 20,
                "sysFlag": 0,
                "maxMsgBytes": _PULL_SIZE,
            },
        )
        asked_at[queue_id] = perf_counter()
        connected.sendall(b"".join(encode_frame(command)))
        under_way += 1

    for queue_id in range(queue_count):
        ask(queue_id)
    while under_way:
        command, body_size = _receive_pulled(connected)
        now = perf_counter()
        under_way -= 1
        queue_id = command.opaque
        latencies.append(now - asked_at[queue_id])
        if command.code == ResponseCode.SUCCESS:
            end = int(command.ext_fields["nextBeginOffset"])
            count += end - offsets[queue_id]
            size += body_size
            offsets[queue_id] = end
        elif command.code == ResponseCode.PULL_NOT_FOUND:
            offsets[queue_id] = 0
        else:
            raise LoadError(f"a pull failed with code {command.code}: {command.remark}")
        if now < began + seconds:
            ask(queue_id)
    return Measured.of(
        message_count=count,
        seconds=perf_counter() - began,
        latencies=np.array(latencies),
        written_count=0,
    )


_pulled = bytearray(2 * _PULL_SIZE)


def _receive_pulled(connected: socket.socket) -> tuple[Command, int]:
    """Receive one frame into a buffer used again; return its head and the size of its body."""
    head = _receive_exactly(connected, memoryview(bytearray(8)))
    length, mark = _PREFIX.unpack(head)
    header = bytes(_receive_exactly(connected, memoryview(bytearray(mark & 0xFFFFFF))))
    body_size = length - 4 - len(header)
    if body_size > len(_pulled):
        raise LoadError(f"a pull brought {body_size} bytes, more than was asked for")
    _receive_exactly(connected, memoryview(_pulled)[:body_size])
    connection = Connection()
    connection.receive_data(_PREFIX.pack(4 + len(header), mark) + header)
    command = connection.next_command()
    assert command is not None
    return command, body_size


def _receive_exactly(connected: socket.socket, view: memoryview) -> memoryview:
    at = 0
    while at < len(view):
        try:
            received = connected.recv_into(view[at:], 0, socket.MSG_WAITALL)
        except BlockingIOError as error:
            raise LoadError(f"no answer for {_SILENCE_SECONDS:g} s") from error
        if not received:
            raise LoadError("the broker closed the connection")
        at += received
    return view
