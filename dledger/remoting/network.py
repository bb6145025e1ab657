"""The seam between everything above and the operating system's sockets.

`Network`, `Listener` and `ByteStream` are what the simulator swaps; `TcpNetwork` is the real one.
Sending never waits: `ByteStream.send_now` takes what the kernel takes, and `outbox.Outbox` keeps
the rest.  That is what lets one synchronous pass answer a whole receive with one system call.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

import outcome
import trio

from dledger.remoting.errors import (
    AddressInUseError,
    ConnectFailedError,
    ConnectionClosedError,
    ConnectionLostError,
    ListenFailedError,
)
from dledger.remoting.readiness import hot_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dledger.remoting.command import Buffer
    from dledger.remoting.readiness import HotSockets

# As much as the largest of ordinary frames: an entry, or a batch, that comes in several receives is
# put together with a copy of every byte and a wake-up for each of them.
RECEIVE_SIZE_MAX: Final = 1024 * 1024
# A small receive is common, and asking for so much costs an allocation that size even then.
_RECEIVE_SIZE_MIN: Final = 32 * 1024
_VECTOR_MAX: Final = 512  # buffers of one sendmsg; Linux takes 1024 (IOV_MAX)
_BACKLOG: Final = 1024  # connections the kernel completes before accept sees them
_ACCEPT_PAUSE_SECONDS: Final = 0.1  # out of file descriptors: let some connection end

_HAS_SENDMSG: Final = hasattr(socket.socket, "sendmsg")  # all but Windows
# A peer that vanished without a word is noticed after about two minutes, not in two hours.
_KEEPALIVE: Final = (
    # macOS has the first of them under another name.
    ("TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", 60),
    ("TCP_KEEPINTVL", 15),
    ("TCP_KEEPCNT", 4),
)

_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger("dledger.remoting")


class ByteStream(Protocol):
    """One established connection: bytes in order, or an error."""

    @property
    def local_address(self) -> str:
        """``host:port`` of this end; an IPv6 host in brackets."""
        ...

    @property
    def peer_address(self) -> str:
        """``host:port`` of the other end; an IPv6 host in brackets."""
        ...

    async def receive_some(self) -> bytes:
        """Wait for bytes and return up to 1 MiB of them; ``b""`` once the other end is done.

        A checkpoint always.  One caller at a time.

        Raises:
            ConnectionLostError: the connection broke.
            ConnectionClosedError: this end closed it, before the call or during it.
        """
        ...

    def send_now(self, buffers: Sequence[Buffer]) -> list[memoryview]:
        """Send what can be sent without waiting; return the rest, in order.

        Raises:
            ConnectionLostError: the connection broke or is closed; nothing more will be sent.
        """
        ...

    async def wait_writable(self) -> None:
        """Wait until `send_now` can take something again.  One caller at a time.

        Raises:
            ConnectionLostError: as `receive_some`.
        """
        ...

    def end_sending(self) -> None:
        """Let the other end know, behind all that was sent, that nothing more comes.

        What it sends is still received, so that none of it turns `close` into a reset.
        """
        ...

    def close(self) -> None:
        """Close this end and wake who waits on it; bytes already taken still travel."""
        ...

    def abort(self) -> None:
        """Close at once: what has not travelled is thrown away, the other end sees a reset."""
        ...


class Listener(Protocol):
    """A port that takes connections."""

    @property
    def port(self) -> int:
        """The port in fact bound; never 0."""
        ...

    async def accept(self) -> ByteStream:
        """Wait for the next connection.

        Raises:
            ConnectionClosedError: `close` was called, before or meanwhile.
        """
        ...

    def close(self) -> None:
        """Take no more connections; those accepted live on."""
        ...


class Network(Protocol):
    """Where connections come from."""

    async def connect(self, host: str, port: int) -> ByteStream:
        """Connect to *port* of *host*, a name or an address (IPv6 without brackets).

        No time limit of its own: use ``trio.fail_after``.

        Raises:
            ConnectFailedError: naming the address and the reason.
        """
        ...

    async def listen(self, host: str, port: int) -> Listener:
        """Listen on *port* of *host*; port 0 takes any free one.

        Raises:
            AddressInUseError: another process has the port.
            ListenFailedError: the address cannot be had for another reason.
        """
        ...


class TcpNetwork:
    """The operating system's TCP, IPv4 and IPv6."""

    async def connect(self, host: str, port: int) -> ByteStream:
        """See `Network.connect`; a name's addresses are tried as RFC 8305 has it."""
        address = format_address(host, port)
        try:
            stream = await trio.open_tcp_stream(host, port)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ConnectFailedError(f"cannot connect to {address}: {_reason(error)}") from error
        # Only trio's connecting is wanted: its stream has no send that does not wait.
        connected = socket.socket(fileno=stream.socket.detach())
        try:
            return TcpStream(connected)
        except OSError as error:
            # The other end accepted and was gone before its address could be asked for.
            connected.close()
            raise ConnectFailedError(f"cannot connect to {address}: {_reason(error)}") from error

    async def listen(self, host: str, port: int) -> Listener:
        """See `Network.listen`; of a name's several addresses the first IPv4 one is used."""
        try:
            found = await trio.socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, OverflowError, UnicodeError) as error:
            raise ListenFailedError(
                f"cannot listen on {format_address(host, port)}: {_reason(error)}; "
                "use a host name or address of this machine"
            ) from error
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0])
        return TcpListener(_bind(family, kind, protocol, address, format_address(host, port)))


class TcpListener:
    """A listening TCP socket."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self._port = int(listening.getsockname()[1])
        self._closed = False

    @property
    def port(self) -> int:
        """See `Listener.port`."""
        return self._port

    async def accept(self) -> ByteStream:
        """See `Listener.accept`."""
        while True:
            if self._closed:
                raise ConnectionClosedError(f"listener on port {self._port} is closed")
            try:
                await trio.lowlevel.wait_readable(self._socket)
                accepted, _ = self._socket.accept()
            except trio.ClosedResourceError:
                continue
            except OSError as error:
                # Whoever connected is gone again, or there is no descriptor left: neither may
                # stop a server that has other connections.
                if error.errno in _OUT_OF_DESCRIPTORS:
                    logger.warning(
                        "cannot accept on port %d: %s; raise the limit of open files (ulimit -n)",
                        self._port,
                        _reason(error),
                    )
                    await trio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            try:
                return TcpStream(accepted)
            except OSError:
                accepted.close()

    def close(self) -> None:
        """See `Listener.close`."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TcpStream:
    """A connected TCP socket, without Nagle's delay.

    Works on the plain socket: `trio.lowlevel.wait_readable` and a recv take two thirds of the time
    of `trio.SocketStream`.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # trio sets 16 KiB, which would cut a large answer into many sends; 0 is the default.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
        self._socket = connected
        self._closed = False
        self._receive_size = _RECEIVE_SIZE_MIN
        self._hot: HotSockets | None = None  # while `receive_each` waits
        self._taker: Callable[[bytes], bool] | None = None
        self._receiver: trio.lowlevel.Task | None = None
        self._local_address = _address_text(connected.getsockname())
        self._peer_address = _address_text(connected.getpeername())

    @property
    def local_address(self) -> str:
        """See `ByteStream.local_address`."""
        return self._local_address

    @property
    def peer_address(self) -> str:
        """See `ByteStream.peer_address`."""
        return self._peer_address

    async def receive_some(self) -> bytes:
        """See `ByteStream.receive_some`."""
        while True:
            self._check_open()
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(self._receive_size)
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise self._lost(error) from error
            self._suit_receive_size(len(data))
            return data

    async def receive_each(self, take: Callable[[bytes], bool]) -> None:
        """See the function `receive_each`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        hot = hot_sockets()
        if hot is None:
            await _receive_by_turns(self, take)
            return
        assert self._hot is None, "one caller at a time"
        try:
            hot.add(self._socket.fileno(), self._read)
        except OSError as error:
            # The kernel watches no more for this user, or has no memory: nobody else suffers.
            raise self._lost(error) from error
        self._hot, self._taker = hot, take
        self._receiver = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._end_receiving(None)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _read(self) -> None:
        try:
            data = self._socket.recv(self._receive_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end_receiving(outcome.Error(self._lost(error)))
            return
        size = len(data)
        if size == self._receive_size or 4 * size < self._receive_size > _RECEIVE_SIZE_MIN:
            self._suit_receive_size(size)
        taker = self._taker
        assert taker is not None
        try:
            if not taker(data) and data:
                return
        except BaseException as error:  # noqa: BLE001 - raised where the task waits
            self._end_receiving(outcome.Error(error))
        else:
            self._end_receiving(outcome.Value(None))

    def _end_receiving(self, end: outcome.Outcome[None] | None) -> None:
        """Have `receive_each` return or raise; does nothing the second time."""
        hot, receiver = self._hot, self._receiver
        if hot is None or receiver is None:
            return
        self._hot = self._taker = self._receiver = None
        hot.remove(self._socket.fileno())
        if end is not None:
            trio.lowlevel.reschedule(receiver, end)

    def _suit_receive_size(self, size: int) -> None:
        # One step at a time, so that a single full receive does not cost big ones ever after.
        if size == self._receive_size:
            self._receive_size = min(2 * size, RECEIVE_SIZE_MAX)
        elif 4 * size < self._receive_size > _RECEIVE_SIZE_MIN:
            self._receive_size //= 2

    def send_now(self, buffers: Sequence[Buffer]) -> list[memoryview]:
        """See `ByteStream.send_now`."""
        if len(buffers) == 1:
            buffer = buffers[0]  # as nearly always: a message, or an answer, alone
            try:
                sent = self._socket.send(buffer)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                raise self._lost(error) from error
            return [] if sent == len(buffer) else [memoryview(buffer)[sent:]]
        for start in range(0, len(buffers), _VECTOR_MAX):
            vector = buffers[start : start + _VECTOR_MAX]
            try:
                if _HAS_SENDMSG:
                    sent = self._socket.sendmsg(vector)
                else:
                    sent = self._socket.send(b"".join(vector))
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                raise self._lost(error) from error
            for number, buffer in enumerate(vector):
                if sent < len(buffer):
                    # Less than asked: the kernel is full, another call would only tell so.
                    rest = [memoryview(later) for later in buffers[start + number :]]
                    rest[0] = rest[0][sent:]
                    return rest
                sent -= len(buffer)
        return []

    async def wait_writable(self) -> None:
        """See `ByteStream.wait_writable`."""
        self._check_open()
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise self._lost(error) from error

    def end_sending(self) -> None:
        """See `ByteStream.end_sending`."""
        if not self._closed:
            with contextlib.suppress(OSError):  # the other end is gone: then it needs no telling
                self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `ByteStream.close`."""
        if not self._closed:
            self._closed = True
            self._end_receiving(outcome.Error(self._lost(trio.ClosedResourceError())))
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def abort(self) -> None:
        """See `ByteStream.abort`; a reset, by closing with a linger time of zero."""
        if not self._closed:
            linger_zero = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
            self.close()

    def _check_open(self) -> None:
        # A closed socket has no descriptor, and trio's registration of -1 would fail untyped.
        if self._closed:
            raise ConnectionClosedError(
                f"connection {self._local_address} - {self._peer_address} was closed by this end"
            )

    def _lost(self, error: Exception) -> ConnectionLostError:
        between = f"connection {self._local_address} - {self._peer_address}"
        if self._closed:
            return ConnectionClosedError(f"{between} was closed by this end")
        return ConnectionLostError(f"{between} broke: {_reason(error)}")


async def receive_each(stream: ByteStream, take: Callable[[bytes], bool]) -> None:
    """Call *take* with all that *stream* brings, in order, until it returns true.

    In pieces of 1 MiB at most, and b"" at the end, after which this returns in any case.  *take* is
    called without a task's turn in between where that can be had, so it has to be quick and must
    not wait; what it raises is raised here.  Nothing is received meanwhile or afterwards.  One
    caller at a time.

    Raises:
        ConnectionLostError: as `ByteStream.receive_some`.
    """
    if isinstance(stream, TcpStream):
        await stream.receive_each(take)
    else:
        await _receive_by_turns(stream, take)


async def _receive_by_turns(stream: ByteStream, take: Callable[[bytes], bool]) -> None:
    while True:
        data = await stream.receive_some()
        if take(data) or not data:
            return


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, with an IPv6 *host* in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(
    family: int, kind: int, protocol: int, address: tuple[Any, ...], text: str
) -> socket.socket:
    """Return a listening socket on *address*, which people wrote as *text*."""
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setblocking(False)
        # A restarted node gets its port back although old connections are still fading out.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                f"port {address[1]} is in use: cannot listen on {text}; stop the process that "
                "has it (a node that still runs?) or choose another port"
            ) from error
        raise ListenFailedError(
            f"cannot listen on {text}: {_reason(error)}; use an address of this machine and a "
            "port this user may bind"
        ) from error
    return listening


def _address_text(address: tuple[Any, ...]) -> str:
    """Return a socket address as ``host:port``; IPv4 inside IPv6 becomes plain IPv4."""
    host = str(address[0]).removeprefix("::ffff:")
    return format_address(host, int(address[1]))


def _reason(error: BaseException) -> str:
    """Return the words for *error*; of a failed connect to several addresses the first one's."""
    inner: BaseException | None = error.__cause__
    while isinstance(inner, BaseExceptionGroup) and inner.exceptions:
        inner = inner.exceptions[0]
    if isinstance(inner, OSError):
        error = inner
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return str(error.args[-1]) if error.args else str(error)
