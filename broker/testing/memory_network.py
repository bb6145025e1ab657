"""A network in memory, for tests under virtual time: `dledger.remoting.network` without sockets."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from dledger.remoting.errors import (
    AddressInUseError,
    ConnectFailedError,
    ConnectionClosedError,
    ConnectionLostError,
)
from dledger.remoting.network import format_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.remoting.command import Buffer


class MemoryNetwork:
    """Connects listeners and callers of one process.

    Args:
        capacity: bytes on the way in one direction before the sender is blocked.
        latency_seconds: time a byte is on the way.
        receive_size_max: most bytes one `receive_some` returns.
    """

    def __init__(
        self,
        *,
        capacity: int = 64 * 1024,
        latency_seconds: float = 0.0,
        receive_size_max: int = 256 * 1024,
    ) -> None:
        self.capacity = capacity
        self.latency_seconds = latency_seconds
        self.receive_size_max = receive_size_max
        self.streams: list[MemoryStream] = []  # every stream ever made, callers' ends first
        self.connect_error: str | None = None  # set: every connect fails for this reason
        self._listeners: dict[int, MemoryListener] = {}
        self._next_port = 40_000

    async def connect(self, host: str, port: int) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        listener = self._listeners.get(port)
        if self.connect_error is not None or listener is None:
            reason = self.connect_error or "Connection refused"
            raise ConnectFailedError(f"cannot connect to {format_address(host, port)}: {reason}")
        there, here = _Pipe(self), _Pipe(self)
        names = format_address(host, self.free_port()), format_address(host, port)
        caller = MemoryStream(inbound=here, outbound=there, local=names[0], peer=names[1])
        callee = MemoryStream(inbound=there, outbound=here, local=names[1], peer=names[0])
        self.streams += [caller, callee]
        listener.arrived.append(callee)
        listener.changed.unpark_all()
        return caller

    async def listen(self, host: str, port: int) -> MemoryListener:
        await trio.lowlevel.checkpoint()
        port = port or self.free_port()
        if port in self._listeners:
            raise AddressInUseError(f"port {port} is in use: cannot listen on {host}")
        self._listeners[port] = MemoryListener(self, port)
        return self._listeners[port]

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def forget(self, port: int) -> None:
        self._listeners.pop(port, None)


class MemoryListener:
    def __init__(self, network: MemoryNetwork, port: int) -> None:
        self.port = port
        self.arrived: deque[MemoryStream] = deque()
        self.changed = trio.lowlevel.ParkingLot()
        self._network = network
        self._closed = False

    async def accept(self) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        while not self._closed:
            if self.arrived:
                return self.arrived.popleft()
            await self.changed.park()
        raise ConnectionClosedError(f"listener on port {self.port} is closed")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._network.forget(self.port)
            self.changed.unpark_all()
            while self.arrived:
                self.arrived.popleft().abort()


class _Pipe:
    """One direction of one connection."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.chunks: deque[tuple[float, bytes]] = deque()  # (arrival time, bytes)
        self.size = 0
        self.ended: float | None = None  # the sender closed; its end arrives at this time
        self.broken = False
        self.changed = trio.lowlevel.ParkingLot()

    def break_(self) -> None:
        self.broken = True
        self.chunks.clear()
        self.changed.unpark_all()


class MemoryStream:
    """One end of a connection; see `dledger.remoting.network.ByteStream`."""

    def __init__(self, *, inbound: _Pipe, outbound: _Pipe, local: str, peer: str) -> None:
        self.local_address = local
        self.peer_address = peer
        self.closed = False
        self.send_count = 0  # calls of send_now that took something: system calls, as it were
        self._inbound = inbound
        self._outbound = outbound

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self._inbound
        while True:
            self._check(pipe)
            now = trio.current_time()
            wake = float("inf")
            if pipe.chunks:
                wake = pipe.chunks[0][0]
            elif pipe.ended is not None:
                wake = pipe.ended
            if wake <= now:
                return self._take(now)
            with trio.move_on_at(wake):
                await pipe.changed.park()

    def send_now(self, buffers: Sequence[Buffer]) -> list[memoryview]:
        pipe = self._outbound
        self._check(pipe)
        views = [memoryview(buffer) for buffer in buffers]
        arrival = trio.current_time() + pipe.network.latency_seconds
        taken = False
        while views and pipe.size < pipe.network.capacity:
            part = bytes(views[0][: pipe.network.capacity - pipe.size])
            if part:
                pipe.chunks.append((arrival, part))
                pipe.size += len(part)
                taken = True
            views[0] = views[0][len(part) :]
            if not len(views[0]):
                views.pop(0)
        if taken:
            self.send_count += 1
            pipe.changed.unpark_all()
        return views

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            self._check(self._outbound)
            if self._outbound.size < self._outbound.network.capacity:
                return
            await self._outbound.changed.park()

    def end_sending(self) -> None:
        pipe = self._outbound
        if not self.closed and pipe.ended is None:
            pipe.ended = trio.current_time() + pipe.network.latency_seconds
            pipe.changed.unpark_all()

    def close(self) -> None:
        if not self.closed:
            self.end_sending()
            self.closed = True
            # As a kernel does: bytes left unread turn the close into a reset.
            if self._inbound.chunks:
                self._outbound.break_()
            self._inbound.break_()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._outbound.break_()
            self._inbound.break_()

    def _take(self, now: float) -> bytes:
        pipe = self._inbound
        parts: list[bytes] = []
        room = pipe.network.receive_size_max
        while pipe.chunks and pipe.chunks[0][0] <= now and room:
            arrival, chunk = pipe.chunks.popleft()
            if len(chunk) > room:
                pipe.chunks.appendleft((arrival, chunk[room:]))
                chunk = chunk[:room]
            parts.append(chunk)
            room -= len(chunk)
        data = b"".join(parts)
        pipe.size -= len(data)
        pipe.changed.unpark_all()
        return data

    def _check(self, pipe: _Pipe) -> None:
        between = f"connection {self.local_address} - {self.peer_address}"
        if self.closed:
            raise ConnectionClosedError(f"{between} was closed by this end")
        if pipe.broken:
            raise ConnectionLostError(f"{between} broke: Connection reset by peer")
