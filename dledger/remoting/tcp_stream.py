"""A TCP connection, and how what it brings reaches whoever takes it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import outcome
import trio

from dledger.remoting.errors import ConnectionClosedError, ConnectionLostError
from dledger.remoting.network import format_address
from dledger.remoting.readiness import hot_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dledger.remoting.command import Buffer
    from dledger.remoting.network import ByteStream
    from dledger.remoting.readiness import HotSockets

# As much as the largest of ordinary frames: an entry, or a batch, that comes in several receives is
# put together with a copy of every byte and a wake-up for each of them.
RECEIVE_SIZE_MAX: Final = 1024 * 1024
# A small receive is common, and asking for so much costs an allocation that size even then.
_RECEIVE_SIZE_MIN: Final = 32 * 1024
_VECTOR_MAX: Final = 512  # buffers of one sendmsg; Linux takes 1024 (IOV_MAX)

_HAS_SENDMSG: Final = hasattr(socket.socket, "sendmsg")  # all but Windows
# A peer that vanished without a word is noticed after about two minutes, not in two hours.
_KEEPALIVE: Final = (
    # macOS has the first of them under another name.
    ("TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", 60),
    ("TCP_KEEPINTVL", 15),
    ("TCP_KEEPCNT", 4),
)


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
        return ConnectionLostError(f"{between} broke: {reason_of(error)}")


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


def _address_text(address: tuple[Any, ...]) -> str:
    """Return a socket address as ``host:port``; IPv4 inside IPv6 becomes plain IPv4."""
    host = str(address[0]).removeprefix("::ffff:")
    return format_address(host, int(address[1]))


def reason_of(error: BaseException) -> str:
    """Return the words for *error*; of a failed connect to several addresses the first one's."""
    inner: BaseException | None = error.__cause__
    while isinstance(inner, BaseExceptionGroup) and inner.exceptions:
        inner = inner.exceptions[0]
    if isinstance(inner, OSError):
        error = inner
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return str(error.args[-1]) if error.args else str(error)
