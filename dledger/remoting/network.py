"""The seam between everything above and the operating system's sockets.

`Network`, `Listener` and `ByteStream` are what the simulator swaps; the real ones are in `tcp` and
`tcp_stream`.  Sending never waits: `ByteStream.send_now` takes what the kernel takes, and
`outbox.Outbox` keeps the rest.  That is what lets one synchronous pass answer a whole receive with
one system call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.remoting.command import Buffer


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


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, with an IPv6 *host* in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
