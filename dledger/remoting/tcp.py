"""The operating system's TCP: connecting and listening; `tcp_stream` is the connection itself."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from dledger.remoting.errors import (
    AddressInUseError,
    ConnectFailedError,
    ConnectionClosedError,
    ListenFailedError,
)
from dledger.remoting.network import format_address
from dledger.remoting.tcp_stream import TcpStream, reason_of

if TYPE_CHECKING:
    from dledger.remoting.network import ByteStream, Listener

_BACKLOG: Final = 1024  # connections the kernel completes before accept sees them
_ACCEPT_PAUSE_SECONDS: Final = 0.1  # out of file descriptors: let some connection end

_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger("dledger.remoting")


class TcpNetwork:
    """The operating system's TCP, IPv4 and IPv6."""

    async def connect(self, host: str, port: int) -> ByteStream:
        """See `Network.connect`; a name's addresses are tried as RFC 8305 has it."""
        address = format_address(host, port)
        try:
            stream = await trio.open_tcp_stream(host, port)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ConnectFailedError(f"cannot connect to {address}: {reason_of(error)}") from error
        # Only trio's connecting is wanted: its stream has no send that does not wait.
        connected = socket.socket(fileno=stream.socket.detach())
        try:
            return TcpStream(connected)
        except OSError as error:
            # The other end accepted and was gone before its address could be asked for.
            connected.close()
            raise ConnectFailedError(f"cannot connect to {address}: {reason_of(error)}") from error

    async def listen(self, host: str, port: int) -> Listener:
        """See `Network.listen`; of a name's several addresses the first IPv4 one is used."""
        try:
            found = await trio.socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, OverflowError, UnicodeError) as error:
            raise ListenFailedError(
                f"cannot listen on {format_address(host, port)}: {reason_of(error)}; "
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
                        reason_of(error),
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
            f"cannot listen on {text}: {reason_of(error)}; use an address of this machine and a "
            "port this user may bind"
        ) from error
    return listening
