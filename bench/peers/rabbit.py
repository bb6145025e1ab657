"""RabbitMQ, a quorum queue of three members, AMQP 0-9-1 over a plain socket.

A confirm stands on the disks of a majority: the queue's log is synced in batches before it.
"""

from __future__ import annotations

import os
import secrets
import struct
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from bench.measured import LoadError, Measured
from bench.peers import clients
from bench.peers.foreign import ForeignPeer
from bench.peers.servers import find_program, free_ports
from bench.window import connect
from bench.wire import limit_silence, receive

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from bench.window import Stream

_BIN = ("/usr/lib/rabbitmq/bin",)
_START_SECONDS = 120.0
_QUEUE = b"bench"
_FRAME_METHOD, _FRAME_HEADER, _FRAME_BODY, _FRAME_END = 1, 2, 3, b"\xce"
_HEAD = struct.Struct(">BHI")
_ACK = struct.Struct(">QB")
_START_OK, _TUNE_OK, _OPEN = (10, 11), (10, 31), (10, 40)
_CHANNEL_OPEN = (20, 10)
_QUEUE_DECLARE, _QUEUE_DECLARED = (50, 10), (50, 11)
_QOS, _CONSUME, _PUBLISH, _DELIVER = (60, 10), (60, 20), (60, 40), (60, 60)
_ACKED, _NACKED = (60, 80), (60, 120)
_CONFIRM = (85, 10)


class RabbitMq(ForeignPeer):
    """Three nodes of Erlang and one queue."""

    name = "RabbitMQ quorum queue"
    durability = "disks of a majority"
    library = "aiormq"
    package = "aiormq"
    library_sends = clients.rabbit_sends
    library_consume = clients.rabbit_consume
    is_emptied = True

    def __init__(self, folder: Path, *, body_size: int) -> None:
        program = find_program("rabbitmq-server", "rabbitmq-server", beside=_BIN)
        epmd = find_program("epmd", "erlang-base")
        super().__init__(folder, body_size=body_size)
        epmd_port, *ports = free_ports(7)
        self._ports = ports[:3]
        names = [f"bench{number}-{epmd_port}@localhost" for number in range(3)]
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16), encoding="ascii")
        cookie.chmod(0o400)
        try:
            # A name server of our own, in the foreground: it ends with the rest.
            self.servers.start("epmd", [epmd, "-port", str(epmd_port), "-address", "127.0.0.1"])
            for number, name in enumerate(names):
                home = folder / f"q{number}"
                home.mkdir()
                config = home / "rabbitmq.conf"
                config.write_text(
                    f"listeners.tcp.1 = 127.0.0.1:{ports[number]}\n"
                    "cluster_formation.peer_discovery_backend = classic_config\n"
                    + "".join(
                        f"cluster_formation.classic_config.nodes.{at} = {each}\n"
                        for at, each in enumerate(names, start=1)
                    )
                    + "log.console = true\nlog.console.level = warning\nlog.file = false\n",
                    encoding="utf-8",
                )
                (home / "plugins").write_text("[].\n", encoding="ascii")
                environment = dict(os.environ) | {
                    "HOME": str(folder),
                    "ERL_EPMD_PORT": str(epmd_port),
                    "RABBITMQ_NODENAME": name,
                    "RABBITMQ_CONFIG_FILE": str(config),
                    "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
                    "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
                    "RABBITMQ_LOG_BASE": str(home / "log"),
                    "RABBITMQ_DIST_PORT": str(ports[3 + number]),
                    # The script becomes the server, and not its parent, which would die alone.
                    "RUNNING_UNDER_SYSTEMD": "1",
                }
                self.servers.start(f"q{number}", [program], environment=environment)
            self.servers.wait_until(
                self._has_queue, seconds=_START_SECONDS, what="a queue with three members"
            )
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """See `ForeignPeer`."""
        return self._ports[0]

    def streams(self, in_flight: int) -> list[Stream]:
        """See `ForeignPeer`."""
        del in_flight  # on one
        return [_Publisher(_Channel(self._ports[0]), self.body_size)]

    def consume(self, *, count: int, seconds: float) -> Measured:
        """See `Peer`: pushed, and taken as read when they leave the server."""
        seen = 0
        channel = _Channel(self._ports[0])
        with channel.socket:
            channel.send_method(_QOS, struct.pack(">IHB", 0, 2000, 0))
            channel.send_method(
                _CONSUME,
                struct.pack(">H", 0) + _short(_QUEUE) + _short(b"c") + b"\x02" + _table({}),
            )
            began = now = perf_counter()
            while seen < count and now - began < seconds:
                for kind, _, payload in channel.read():
                    seen += kind == _FRAME_METHOD and _method(payload) == _DELIVER
                now = perf_counter()
        if not seen:
            raise LoadError("RabbitMQ delivered nothing")
        return Measured.of(
            message_count=seen, seconds=now - began, latencies=np.zeros(0), written_count=0
        )

    def _has_queue(self) -> bool:
        """Declare the queue once all nodes take clients: it gets a member on each.

        A node that knows nothing of the queue has not joined the others.
        """
        try:
            for port in reversed(self._ports):
                _Channel(port, seconds=5.0).socket.close()
            for is_new, port in zip((True, False, False), self._ports, strict=True):
                channel = _Channel(port, seconds=5.0)
                with channel.socket:
                    channel.declare(is_new=is_new)
        except (OSError, LoadError):
            return False
        return True


class _Channel:
    """A connection with one channel open."""

    def __init__(self, port: int, *, seconds: float = 15.0) -> None:
        self.socket = connect(port)
        limit_silence(self.socket, seconds)
        self._buffer = b""
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._await(0)
        self._send(
            0,
            _START_OK,
            _table({}) + _short(b"PLAIN") + _long(b"\x00guest\x00guest") + _short(b"en_US"),
        )
        tune = self._await(0)
        channels, frame_size, _ = struct.unpack(">HIH", tune[4:12])
        self._send(0, _TUNE_OK, struct.pack(">HIH", channels, frame_size, 0))
        self._send(0, _OPEN, _short(b"/") + _short(b"") + b"\x00")
        self._await(0)
        self.send_method(_CHANNEL_OPEN, _short(b""))
        self._await(1)

    def declare(self, *, is_new: bool) -> None:
        """Declare the queue, or see that it is there.

        Raises:
            LoadError: it is not.
        """
        flags = b"\x02" if is_new else b"\x03"  # durable; durable and passive
        arguments = struct.pack(">H", 0) + _short(_QUEUE) + flags
        self.send_method(_QUEUE_DECLARE, arguments + _table({b"x-queue-type": b"quorum"}))
        if _method(self._await(1)) != _QUEUE_DECLARED:
            raise LoadError("RabbitMQ did not declare the queue")

    def confirm(self) -> None:
        """Ask for confirms from now on."""
        self.send_method(_CONFIRM, b"\x00")
        self._await(1)

    def send_method(self, method: tuple[int, int], arguments: bytes) -> None:
        """Send a method on the channel."""
        self._send(1, method, arguments)

    def read(self) -> list[tuple[int, int, bytes]]:
        """Receive once; return the whole frames that are there: kind, channel, payload."""
        return self.take(receive(self.socket))

    def take(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the whole frames that *data* completes."""
        buffer = self._buffer + data if self._buffer else data
        frames = []
        at, end = 0, len(buffer)
        while end - at >= 8:
            kind, channel, size = _HEAD.unpack_from(buffer, at)
            if end - at < size + 8:
                break
            frames.append((kind, channel, buffer[at + 7 : at + 7 + size]))
            at += size + 8
        self._buffer = buffer[at:]
        return frames

    def _send(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        self.socket.sendall(_frame(_FRAME_METHOD, channel, struct.pack(">HH", *method) + arguments))

    def _await(self, channel: int) -> bytes:
        while True:
            for kind, where, payload in self.read():
                if kind == _FRAME_METHOD and where == channel:
                    return payload


class _Publisher:
    def __init__(self, channel: _Channel, body_size: int) -> None:
        channel.confirm()
        self._channel = channel
        self.socket: socket.socket = channel.socket
        method = struct.pack(">HHH", *_PUBLISH, 0) + _short(b"") + _short(_QUEUE) + b"\x00"
        header = struct.pack(">HHQHB", 60, 0, body_size, 0x1000, 2)  # delivery mode: persistent
        self._one = (
            _frame(_FRAME_METHOD, 1, method)
            + _frame(_FRAME_HEADER, 1, header)
            + _frame(_FRAME_BODY, 1, b"x" * body_size)
        )
        self._acked: set[int] = set()
        self._settled = 0  # every tag up to here is acknowledged
        self._last = 0

    def encode(self, count: int) -> bytes:
        """See `Stream`."""
        self._last += count
        return self._one * count

    def settle(self, data: bytes) -> int:
        """See `Stream`."""
        before = self._settled + len(self._acked)
        for kind, _, payload in self._channel.take(data):
            if kind != _FRAME_METHOD:
                continue
            method = _method(payload)
            if method == _NACKED:
                raise LoadError("RabbitMQ refused a message")
            if method == _ACKED:
                tag, is_multiple = _ACK.unpack_from(payload, 4)
                if is_multiple:
                    self._settled = max(self._settled, tag)
                    self._acked = {each for each in self._acked if each > self._settled}
                elif tag > self._settled:
                    self._acked.add(tag)
        while self._settled + 1 in self._acked:
            self._settled += 1
            self._acked.discard(self._settled)
        return self._settled + len(self._acked) - before


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _HEAD.pack(kind, channel, len(payload)) + payload + _FRAME_END


def _method(payload: bytes) -> tuple[int, int]:
    class_id, method_id = struct.unpack_from(">HH", payload)
    return class_id, method_id


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def _table(fields: dict[bytes, bytes]) -> bytes:
    return _long(b"".join(_short(key) + b"S" + _long(value) for key, value in fields.items()))
