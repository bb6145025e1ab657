"""Redis streams, two replicas, an append-only file synced every second.

An ack is the answer to ``WAIT 1`` behind the ``XADD``: the page caches of two of three. It is not
a consensus: nobody is elected when the primary dies.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from bench.measured import LoadError, Measured
from bench.peers import clients
from bench.peers.foreign import ForeignPeer
from bench.peers.servers import find_program, free_ports
from bench.window import connect
from bench.wire import receive

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from bench.window import Stream

_CONNECTIONS = 4  # WAIT holds up its own connection: another one's sends go on meanwhile
_READ_COUNT = 2000


class Redis(ForeignPeer):
    """A primary and two replicas, one stream."""

    name = "Redis streams + WAIT 1"
    durability = "page caches of two, no failover"
    library = "redis-py"
    package = "redis"
    library_sends = clients.redis_sends
    library_consume = clients.redis_consume
    is_emptied = False

    def __init__(self, folder: Path, *, body_size: int) -> None:
        program = find_program("redis-server", "redis-server")
        super().__init__(folder, body_size=body_size)
        self._ports = free_ports(3)
        try:
            for number, port in enumerate(self._ports):
                home = folder / f"r{number}"
                home.mkdir()
                command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
                command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
                if number:
                    command += ["--replicaof", "127.0.0.1", str(self._ports[0])]
                self.servers.start(f"r{number}", command)
            self.servers.wait_until(self._has_replicas, seconds=30.0, what="two replicas")
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """See `ForeignPeer`."""
        return self._ports[0]

    def streams(self, in_flight: int) -> list[Stream]:
        """See `ForeignPeer`."""
        return [
            _Adder(connect(self._ports[0]), self.body_size)
            for _ in range(min(_CONNECTIONS, in_flight))
        ]

    def consume(self, *, count: int, seconds: float) -> Measured:
        """See `Peer`: ranges of the stream, one after another."""
        seen = 0
        mark = b"$1\r\nb\r\n"
        with connect(self._ports[0]) as connected:
            began = now = perf_counter()
            after = b"-"
            while seen < count and now - began < seconds:
                connected.sendall(
                    _command(b"XRANGE", b"s", after, b"+", b"COUNT", b"%d" % _READ_COUNT)
                )
                data = _read_array(connected, mark)
                found = data.count(mark)
                now = perf_counter()
                if not found:
                    after = b"-"
                    continue
                seen += found
                last = data.rfind(b"*2\r\n$", 0, data.rfind(mark))
                after = b"(" + data[last:].split(b"\r\n", 3)[2]
        if not seen:
            raise LoadError("Redis delivered nothing")
        return Measured.of(
            message_count=seen, seconds=now - began, latencies=np.zeros(0), written_count=0
        )

    def _has_replicas(self) -> bool:
        try:
            with connect(self._ports[0]) as connected:
                connected.sendall(_command(b"INFO", b"replication"))
                answer = receive(connected)
        except (OSError, LoadError):
            return False
        return answer.count(b"state=online") == 2


class _Adder:
    def __init__(self, connected: socket.socket, body_size: int) -> None:
        self.socket = connected
        self._one = _command(b"XADD", b"s", b"*", b"b", b"x" * body_size)
        self._sizes: list[int] = []
        self._tail = b""

    def encode(self, count: int) -> bytes:
        """See `Stream`: the additions, and one wait for a replica behind them."""
        self._sizes.append(count)
        return self._one * count + _command(b"WAIT", b"1", b"0")

    def settle(self, data: bytes) -> int:
        """See `Stream`."""
        lines = (self._tail + data).split(b"\r\n")
        self._tail = lines.pop()
        settled = 0
        for line in lines:
            if line.startswith(b"-"):
                raise LoadError(f"Redis refused a message: {line[:200]!r}")
            if line.startswith(b":"):
                settled += self._sizes.pop(0)
        return settled


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def _read_array(connected: socket.socket, mark: bytes) -> bytes:
    """Return the whole answer to a range: an array of as many entries as its head says."""
    data = b""
    while b"\r\n" not in data:
        data += receive(connected)
    expected = int(data[1 : data.index(b"\r\n")])
    parts, seen = [data], data.count(mark)
    while seen < expected or not parts[-1].endswith(b"\r\n") or not _is_whole(parts, mark):
        received = receive(connected)
        whole = parts[-1][-(len(mark) - 1) :] + received
        seen += whole.count(mark)
        parts.append(received)
        if expected == 0:
            break
    return b"".join(parts)


def _is_whole(parts: list[bytes], mark: bytes) -> bool:
    """Whether the last entry's body has come in whole."""
    end = b"".join(parts[-3:])
    at = end.rfind(mark)
    if at < 0:
        return b"".join(parts).startswith(b"*0")
    rest = end[at + len(mark) :]
    size_end = rest.find(b"\r\n")
    return size_end > 0 and len(rest) >= size_end + 2 + int(rest[1:size_end]) + 2
