"""NATS JetStream, three replicas, its text protocol over a plain socket.

An ack of JetStream 2.9 stands on the page caches of a majority: it syncs every two minutes, and
the version that Debian 12 brings cannot be told to sync before it acknowledges.
"""

from __future__ import annotations

import json
from time import perf_counter
from typing import TYPE_CHECKING, Any

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

_STREAM = "BENCH"
_START_SECONDS = 30.0


class Nats(ForeignPeer):
    """Three servers and one stream."""

    name = "NATS JetStream R3"
    durability = "page caches of a majority"
    library = "nats-py"
    package = "nats"
    library_sends = clients.nats_sends
    library_consume = clients.nats_consume
    is_emptied = False

    def __init__(self, folder: Path, *, body_size: int) -> None:
        program = find_program("nats-server", "nats-server")
        super().__init__(folder, body_size=body_size)
        ports, routes = free_ports(3), free_ports(3)
        self._ports = {f"s{number}": port for number, port in enumerate(ports)}
        peers = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        try:
            for (name, port), route in zip(self._ports.items(), routes, strict=True):
                config = folder / f"{name}.conf"
                config.write_text(
                    f"server_name: {name}\nlisten: 127.0.0.1:{port}\n"
                    f"jetstream {{ store_dir: {folder}/{name} }}\n"
                    f"cluster {{ name: bench, listen: 127.0.0.1:{route}, routes: [{peers}] }}\n",
                    encoding="utf-8",
                )
                self.servers.start(name, [program, "-c", str(config)])
            self.servers.wait_until(
                self._has_stream, seconds=_START_SECONDS, what="a stream with three replicas"
            )
            self._port = self._ports[self._leader()]
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """See `ForeignPeer`."""
        return self._port

    def streams(self, in_flight: int) -> list[Stream]:
        """See `ForeignPeer`."""
        del in_flight  # on one
        return [_Publisher(connect(self._port), self.body_size)]

    def consume(self, *, count: int, seconds: float) -> Measured:
        """See `Peer`: a push consumer that asks for no acks."""
        with _Caller(self._port) as caller:
            caller.socket.sendall(b"SUB bench.out 7\r\n")
            caller.ask(
                f"$JS.API.CONSUMER.CREATE.{_STREAM}",
                {
                    "stream_name": _STREAM,
                    "config": {
                        "deliver_subject": "bench.out",
                        "ack_policy": "none",
                        "deliver_policy": "all",
                        "replay_policy": "instant",
                        "num_replicas": 1,
                        "mem_storage": True,
                    },
                },
            )
            began = now = perf_counter()
            seen, tail = 0, caller.rest
            mark = b"MSG bench.new 7 "
            while seen < count and now - began < seconds:
                data = tail + receive(caller.socket)
                found = data.count(mark)
                seen += found
                # Half a mark may stand at the end; a whole one is counted already.
                tail = data[-(len(mark) - 1) :]
                now = perf_counter()
            if not seen:
                raise LoadError("NATS delivered nothing")
        return Measured.of(
            message_count=seen, seconds=now - began, latencies=np.zeros(0), written_count=0
        )

    def _has_stream(self) -> bool:
        try:
            with _Caller(self._ports["s0"], seconds=2.0) as caller:
                answer = caller.ask(
                    f"$JS.API.STREAM.CREATE.{_STREAM}",
                    {
                        "name": _STREAM,
                        "subjects": ["bench.new"],
                        "num_replicas": 3,
                        "storage": "file",
                        "retention": "limits",
                        "discard": "old",
                        "max_age": 0,
                        "max_bytes": -1,
                        "max_msgs": -1,
                    },
                )
        except (OSError, LoadError):
            return False
        return "error" not in answer

    def _leader(self) -> str:
        with _Caller(self._ports["s0"]) as caller:
            info = caller.ask(f"$JS.API.STREAM.INFO.{_STREAM}", {})
        leader = info["cluster"]["leader"]
        assert isinstance(leader, str)
        return leader


class _Caller:
    """A connection on which one API call after another is made."""

    def __init__(self, port: int, *, seconds: float = 10.0) -> None:
        self.socket = connect(port)
        limit_silence(self.socket, seconds)
        self.rest = b""
        _greet(self.socket)
        self.socket.sendall(b"SUB bench.answers 1\r\n")

    def __enter__(self) -> _Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of the JetStream API."""
        data = json.dumps(body).encode()
        self.socket.sendall(
            f"PUB {subject} bench.answers {len(data)}\r\n".encode() + data + b"\r\n"
        )
        buffer = self.rest
        while True:
            head, found, after = buffer.partition(b"\r\n")
            if found and head.startswith(b"MSG bench.answers "):
                size = int(head.rsplit(b" ", 1)[1])
                if len(after) >= size + 2:
                    self.rest = after[size + 2 :]
                    answer = json.loads(after[:size])
                    assert isinstance(answer, dict)
                    return answer
            elif found:
                if head == b"PING":
                    self.socket.sendall(b"PONG\r\n")
                elif head.startswith(b"-ERR"):
                    raise LoadError(f"NATS: {head.decode()}")
                buffer = after
                continue
            buffer += receive(self.socket)


class _Publisher:
    """Publishes with an inbox for acks."""

    def __init__(self, connected: socket.socket, body_size: int) -> None:
        self.socket = connected
        _greet(connected)
        connected.sendall(b"SUB bench.acks 1\r\n")
        self._one = f"PUB bench.new bench.acks {body_size}\r\n".encode() + b"x" * body_size
        self._one += b"\r\n"
        self._tail = b""

    def encode(self, count: int) -> bytes:
        """See `Stream`."""
        return self._one * count

    def settle(self, data: bytes) -> int:
        """See `Stream`."""
        data = self._tail + data
        if b"PING\r\n" in data:
            self.socket.sendall(b"PONG\r\n")
        if b'"error"' in data or b"-ERR" in data:
            raise LoadError(f"NATS refused a message: {data[:200]!r}")
        count = data.count(b'"seq":')
        self._tail = data[-5:]
        return count


def _greet(connected: socket.socket) -> None:
    connected.recv(1 << 16)  # INFO
    connected.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
