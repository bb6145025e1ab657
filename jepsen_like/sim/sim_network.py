"""A network in memory with TCP's promises: bytes in order, or an error.

Each direction of a link (from one host to another) has its own delay and may be cut by itself.
What is sent into a cut is held; when the cut heals in time it arrives, otherwise the connection
breaks at both ends.  A host that dies resets its connections; one whose power fails says nothing,
and its peers notice a while later.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import trio

from dledger.remoting.errors import (
    AddressInUseError,
    ConnectFailedError,
    ConnectionClosedError,
    ConnectionLostError,
)
from dledger.remoting.network import format_address
from jepsen_like.sim.sim_time import current_sim_time

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from dledger.remoting.command import Buffer
    from jepsen_like.sim.trace import Trace

CAPACITY = 256 * 1024  # bytes on the way in one direction before the sender is blocked
RECEIVE_SIZE_MAX = 256 * 1024
RETRANSMIT_SECONDS = 0.2  # what a lost packet costs, as TCP's least timeout
NEVER = float("inf")


class SimNetwork:
    """All hosts and what lies between them."""

    def __init__(
        self,
        chance: random.Random,
        trace: Trace,
        *,
        delay_min: float = 0.0005,
        delay_mean: float = 0.004,
        reset_seconds: float = 1.0,
        capacity: int = CAPACITY,
    ) -> None:
        """Make an empty network.

        Args:
            chance: decides about delays.
            trace: hears of everything sent.
            delay_min: seconds that bytes take at least.
            delay_mean: seconds on top of that, exponentially distributed.
            reset_seconds: how long a connection bears that nothing gets through.
            capacity: bytes on the way in one direction before the sender is blocked.
        """
        self.chance = chance
        self.trace = trace
        self.delay_min = delay_min
        self.delay_mean = delay_mean
        self.reset_seconds = reset_seconds
        self.capacity = capacity
        self.cuts: dict[tuple[str, str], int] = {}  # directed; how many faults cut it
        self.held: Counter[tuple[str, str]] = Counter()  # what could not pass, by its way
        self.extra_delay: dict[tuple[str, str], float] = {}
        self.loss: dict[tuple[str, str], float] = {}
        self.healed = trio.lowlevel.ParkingLot()
        self.reset_count = 0
        self.time = current_sim_time()
        self._hosts: dict[str, SimHost] = {}
        self._pipes: dict[int, _Pipe] = {}  # those that live
        self._numbers = 0

    def host(self, address: str) -> SimHost:
        """Return the host with that IP address; the same one for the same address."""
        if address not in self._hosts:
            self._hosts[address] = SimHost(self, address)
        return self._hosts[address]

    def find(self, address: str) -> SimHost | None:
        """Return the host, if there is one."""
        return self._hosts.get(address)

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from *source* to *target*; one heal is needed for each cut."""
        self.cuts[source, target] = self.cuts.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        """Take back one `cut`."""
        left = self.cuts.get((source, target), 0) - 1
        if left > 0:
            self.cuts[source, target] = left
            return
        self.cuts.pop((source, target), None)
        for pipe in self._pipes.values():
            if (pipe.source, pipe.target) == (source, target):
                pipe.release()
        self.healed.unpark_all()

    def is_cut(self, one: str, other: str) -> bool:
        """Whether either direction between two hosts is cut."""
        return (one, other) in self.cuts or (other, one) in self.cuts

    def delay(self, source: str, target: str) -> float:
        """Draw how long bytes take now."""
        link = (source, target)
        seconds = self.delay_min + self.chance.expovariate(1 / self.delay_mean)
        if self.extra_delay:
            seconds += self.extra_delay.get(link, 0.0)
        if self.loss and self.chance.random() < self.loss.get(link, 0.0):
            seconds += RETRANSMIT_SECONDS * (1 + self.chance.random())
        return seconds

    def add(self, pipe: _Pipe) -> None:
        """Take up a new pipe."""
        self._numbers += 1
        pipe.number = self._numbers
        self._pipes[pipe.number] = pipe

    def forget(self, pipe: _Pipe) -> None:
        """Let go of a pipe that carries nothing any more."""
        self._pipes.pop(pipe.number, None)


class SimHost:
    """One machine's network; see `dledger.remoting.network.Network`."""

    def __init__(self, network: SimNetwork, address: str) -> None:
        self.address = address
        self.network = network
        self.listeners: dict[int, SimListener] = {}
        self._streams: dict[int, SimStream] = {}
        self._next_port = 40_000
        self.is_up = True

    def die(self, *, silently: bool) -> None:
        """End every connection and listener, as the process or (*silently*) the machine ends."""
        self.is_up = False
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.die(silently=silently)
        for listener in list(self.listeners.values()):
            listener.close()

    def revive(self) -> None:
        """Let a new process use it."""
        self.is_up = True

    def own(self, stream: SimStream) -> None:
        """Take note of a stream that ends here."""
        self._streams[id(stream)] = stream

    def disown(self, stream: SimStream) -> None:
        """Forget a stream that was closed."""
        self._streams.pop(id(stream), None)

    async def connect(self, host: str, port: int) -> SimStream:
        """See `Network.connect`."""
        network, here = self.network, self.address
        await trio.sleep(network.delay(here, host))
        while network.is_cut(here, host):
            network.held[here, host] += 1
            network.held[host, here] += 1
            await network.healed.park()
        there = network.find(host)
        listener = there.listeners.get(port) if there is not None else None
        if listener is None or there is None or not self.is_up:
            raise ConnectFailedError(
                f"cannot connect to {format_address(host, port)}: Connection refused"
            )
        out, back = _Pipe(network, here, host), _Pipe(network, host, here)
        out.other, back.other = back, out
        self._next_port += 1
        names = format_address(here, self._next_port), format_address(host, port)
        caller = SimStream(self, inbound=back, outbound=out, local=names[0], peer=names[1])
        callee = SimStream(there, inbound=out, outbound=back, local=names[1], peer=names[0])
        listener.arrived.append(callee)
        listener.changed.unpark_all()
        await trio.sleep(network.delay(host, here))
        return caller

    async def listen(self, host: str, port: int) -> SimListener:
        """See `Network.listen`."""
        await trio.lowlevel.checkpoint()
        if port in self.listeners:
            raise AddressInUseError(f"port {port} is in use: cannot listen on {host}")
        self.listeners[port] = SimListener(self, port)
        return self.listeners[port]


class SimListener:
    """See `dledger.remoting.network.Listener`."""

    def __init__(self, host: SimHost, port: int) -> None:
        self.port = port
        self.arrived: deque[SimStream] = deque()
        self.changed = trio.lowlevel.ParkingLot()
        self._host = host
        self._is_closed = False

    async def accept(self) -> SimStream:
        """See `Listener.accept`."""
        await trio.lowlevel.checkpoint()
        while not self._is_closed:
            if self.arrived:
                return self.arrived.popleft()
            await self.changed.park()
        raise ConnectionClosedError(f"listener on port {self.port} is closed")

    def close(self) -> None:
        """See `Listener.close`."""
        if not self._is_closed:
            self._is_closed = True
            self._host.listeners.pop(self.port, None)
            self.changed.unpark_all()
            while self.arrived:
                self.arrived.popleft().abort()


class _Pipe:
    """One direction of one connection."""

    other: _Pipe
    number: int

    def __init__(self, network: SimNetwork, source: str, target: str) -> None:
        self.network = network
        self.source = source
        self.target = target
        self.chunks: deque[tuple[float, bytes]] = deque()  # (arrival, bytes); NEVER: held
        self.size = 0
        self.last_arrival = 0.0
        self.held_since = NEVER
        self.ended = NEVER  # when the sender's end of stream arrives
        self.broken = NEVER  # from when on both sides find it broken
        self.changed = trio.lowlevel.ParkingLot()
        network.add(self)

    def send(self, data: bytes) -> None:
        network = self.network
        network.trace.add(f"send {self.number}", data)
        if (self.source, self.target) in network.cuts:
            self.hold()
            arrival = NEVER
        else:
            arrival = self.next_arrival()
            network.time.call_at(arrival, self.changed.unpark_all)
        self.chunks.append((arrival, data))
        self.size += len(data)

    def next_arrival(self) -> float:
        delay = self.network.delay(self.source, self.target)
        self.last_arrival = max(self.last_arrival, self.network.time.seconds + delay)  # FIFO
        return self.last_arrival

    def hold(self) -> None:
        """Note that something cannot pass; for too long, and the connection breaks."""
        self.network.held[self.source, self.target] += 1
        if self.held_since == NEVER:
            since = self.held_since = self.network.time.seconds
            self.network.time.call_at(
                since + self.network.reset_seconds, lambda: self._give_up(since)
            )

    def _give_up(self, since: float) -> None:
        if self.held_since == since:
            self.network.reset_count += 1
            self.break_at(0.0)
            self.other.break_at(0.0)

    def release(self) -> None:
        """Let pass what a cut has held."""
        self.held_since = NEVER
        for number, (arrival, data) in enumerate(self.chunks):
            if arrival == NEVER:
                self.chunks[number] = (self.next_arrival(), data)
                self.network.time.call_at(self.last_arrival, self.changed.unpark_all)
        if self.ended == NEVER and self.is_ending:
            self.end()

    is_ending = False

    def end(self) -> None:
        """Have the sender's end of stream arrive behind everything sent."""
        self.is_ending = True
        if (self.source, self.target) in self.network.cuts:
            self.hold()
        else:
            self.ended = self.next_arrival()
            self.network.time.call_at(self.ended, self.changed.unpark_all)

    def break_at(self, time: float) -> None:
        """Break from *time* on; what is on the way is lost."""
        if time < self.broken:
            self.broken = time
            self.network.forget(self)
            self.network.time.call_at(time, self.changed.unpark_all)


class SimStream:
    """One end of a connection; see `dledger.remoting.network.ByteStream`."""

    def __init__(
        self, host: SimHost, *, inbound: _Pipe, outbound: _Pipe, local: str, peer: str
    ) -> None:
        self.local_address = local
        self.peer_address = peer
        self._host = host
        self._inbound = inbound
        self._outbound = outbound
        self._is_closed = False
        host.own(self)

    async def receive_some(self) -> bytes:
        """See `ByteStream.receive_some`."""
        pipe = self._inbound
        has_waited = False  # to wait is a checkpoint, too
        while True:
            self._check(pipe)
            now = pipe.network.time.seconds
            wake = pipe.chunks[0][0] if pipe.chunks else pipe.ended
            if wake <= now:
                if not has_waited:
                    await trio.lowlevel.checkpoint()
                    self._check(pipe)
                return self._take(now)
            await pipe.changed.park()
            has_waited = True

    def send_now(self, buffers: Sequence[Buffer]) -> list[memoryview]:
        """See `ByteStream.send_now`."""
        pipe = self._outbound
        self._check(pipe)
        data = b"".join(buffers)
        room = pipe.network.capacity - pipe.size
        rest = data[room:] if room < len(data) else b""
        if rest:
            data = data[:room]
        if data:
            pipe.send(data)
        return [memoryview(rest)] if rest else []

    async def wait_writable(self) -> None:
        """See `ByteStream.wait_writable`."""
        await trio.lowlevel.checkpoint()
        pipe = self._outbound
        while True:
            self._check(pipe)
            if pipe.size < pipe.network.capacity:
                return
            await pipe.changed.park()

    def end_sending(self) -> None:
        """See `ByteStream.end_sending`."""
        if not self._is_closed and not self._outbound.is_ending:
            self._outbound.end()

    def close(self) -> None:
        """See `ByteStream.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._host.disown(self)
        self._inbound.changed.unpark_all()
        self._outbound.changed.unpark_all()
        if self._inbound.chunks:  # as a kernel does: bytes left unread make it a reset
            self._reset(silently=False)
        else:
            if not self._outbound.is_ending:
                self._outbound.end()
            self._inbound.break_at(0.0)

    def abort(self) -> None:
        """See `ByteStream.abort`."""
        if not self._is_closed:
            self._is_closed = True
            self._host.disown(self)
            self._reset(silently=False)

    def die(self, *, silently: bool) -> None:
        """End as the process or the machine ends."""
        self._is_closed = True
        self._inbound.changed.unpark_all()
        self._outbound.changed.unpark_all()
        self._reset(silently=silently)

    def _reset(self, *, silently: bool) -> None:
        network = self._host.network
        source, target = self._outbound.source, self._outbound.target
        seconds = network.reset_seconds * (0.3 + network.chance.random())
        if not silently and not network.is_cut(source, target):
            seconds = network.delay(source, target)
        time = network.time.seconds + seconds
        self._outbound.break_at(time)
        self._inbound.break_at(time)

    def _take(self, now: float) -> bytes:
        pipe = self._inbound
        parts: list[bytes] = []
        room = RECEIVE_SIZE_MAX
        while pipe.chunks and pipe.chunks[0][0] <= now and room:
            arrival, chunk = pipe.chunks.popleft()
            if len(chunk) > room:
                pipe.chunks.appendleft((arrival, chunk[room:]))
                chunk = chunk[:room]
            parts.append(chunk)
            room -= len(chunk)
        data = b"".join(parts)
        was_full = pipe.size >= pipe.network.capacity
        pipe.size -= len(data)
        if was_full:
            pipe.changed.unpark_all()
        if not data:
            pipe.network.forget(pipe)
        return data

    def _check(self, pipe: _Pipe) -> None:
        if self._is_closed:
            raise ConnectionClosedError(
                f"connection {self.local_address} - {self.peer_address} was closed by this end"
            )
        if pipe.broken <= pipe.network.time.seconds:
            raise ConnectionLostError(
                f"connection {self.local_address} - {self.peer_address} broke: "
                "Connection reset by peer"
            )
