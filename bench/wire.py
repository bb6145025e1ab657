"""Connections of the clients that are nothing but a socket, to all peers alike.

What a client does between an answer's arrival and the next send is part of every latency that it
measures.  So bytes are received into one buffer that is kept, not into a mebibyte made anew for
each answer, and the kernel counts the silence, where Python would poll before each receive.
"""

from __future__ import annotations

import socket
import struct

from bench.measured import LoadError

_SIZE = 1 << 20
_buffer = memoryview(bytearray(_SIZE))


def connect(host: str, port: int, *, silence_seconds: float) -> socket.socket:
    """Return a blocking connection on which an operation fails after so long a silence."""
    connected = socket.create_connection((host, port), timeout=silence_seconds)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit_silence(connected, silence_seconds)
    return connected


def limit_silence(connected: socket.socket, seconds: float) -> None:
    """Make *connected* a blocking socket, with a receive or send that fails after *seconds*."""
    connected.settimeout(None)
    whole = int(seconds)
    limit = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def receive(connected: socket.socket) -> bytes:
    """Return what has arrived, up to 1 MiB, and wait for it first if need be.

    Raises:
        LoadError: the other end closed the connection, or is silent for too long.
    """
    try:
        size = connected.recv_into(_buffer)
    except BlockingIOError as error:
        raise LoadError("no answer for too long") from error
    if not size:
        raise LoadError("the peer closed the connection")
    return bytes(_buffer[:size])
