"""A small HTTP/1.1 server for a handful of pages that machines look at.

It answers GET and HEAD, one request a connection, and is no more than that needs: whoever asks has
`REQUEST_SECONDS` to say what, in `HEAD_SIZE_MAX` bytes, and `ANSWER_SECONDS` to read the answer.
One connection more than `CONNECTIONS_MAX` is closed at once.  A body is never read.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from dledger.remoting.errors import ConnectionClosedError, ConnectionLostError
from dledger.remoting.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dledger.remoting.network import ByteStream, Listener, Network

CONNECTIONS_MAX: Final = 16
HEAD_SIZE_MAX: Final = 8 * 1024  # bytes of request line and header fields together
REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
# A kernel that closes a socket with bytes unread sends a reset, which takes the answer with it.
LINGER_SECONDS: Final = 0.5

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_END = b"\r\n\r\n"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one page says."""

    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    body: bytes = b""

    @classmethod
    def of_json(cls, status: int, content: Mapping[str, Any]) -> Answer:
        """Return *content* as a JSON object on one line."""
        return cls(
            status=status,
            content_type="application/json",
            body=json.dumps(content, separators=(", ", ": ")).encode() + b"\n",
        )

    def encode(self, *, with_body: bool) -> bytes:
        """Return the bytes of the response."""
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n"
            "Cache-Control: no-store\r\n"
            f"{'Allow: GET, HEAD' + chr(13) + chr(10) if self.status == 405 else ''}"
            "Connection: close\r\n\r\n"
        ).encode("ascii")
        return head + self.body if with_body else head


class Page(Protocol):
    """What answers a path."""

    def __call__(self) -> Awaitable[Answer]:
        """Return the answer of this moment."""
        ...


class HttpServer:
    """Serves pages on one port."""

    def __init__(
        self,
        network: Network,
        *,
        host: str,
        port: int,
        pages: Mapping[str, Page],
    ) -> None:
        """Prepare to listen.

        Args:
            network: where connections come from.
            host: address to listen on; "": every interface.
            port: port to listen on; 0 takes any.
            pages: what answers each path, such as ``/metrics``.
        """
        self._network = network
        self._host = host
        self._port = port
        self._pages = pages
        self._count = 0
        self._log = RateLimitedLog(logger)

    async def serve(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; ``port = await nursery.start(server.serve)``.

        Raises:
            ListenFailedError: the port cannot be had; also `AddressInUseError`.
        """
        listener = await self._network.listen(self._host, self._port)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(listener.port)
                await self._accept(listener, nursery.start_soon)
        finally:
            listener.close()

    async def _accept(self, listener: Listener, start_soon: Callable[..., None]) -> None:
        while True:
            try:
                stream = await listener.accept()
            except ConnectionClosedError:
                return
            if self._count >= CONNECTIONS_MAX:
                self._log.warning(
                    "connection from %s for metrics or health is closed: %d are open already",
                    stream.peer_address,
                    self._count,
                )
                stream.close()
                continue
            self._count += 1
            start_soon(self._serve_connection, stream)

    async def _serve_connection(self, stream: ByteStream) -> None:
        try:
            head = None
            with trio.move_on_after(REQUEST_SECONDS):
                head = await _read_head(stream)
            if head is not None:
                answer, with_body = await self._answer(head)
                with trio.move_on_after(ANSWER_SECONDS):
                    await _send(stream, answer.encode(with_body=with_body))
                    await _linger(stream)
        except ConnectionLostError:
            pass  # nobody is there to be answered
        finally:
            self._count -= 1
            stream.close()

    async def _answer(self, head: bytes) -> tuple[Answer, bool]:
        """Return the answer to the request that begins with *head*, and whether its body is due."""
        if len(head) > HEAD_SIZE_MAX:
            return _plain(431, f"a request may have {HEAD_SIZE_MAX} bytes of head"), True
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _plain(400, "this is no HTTP/1.1 request"), True
        method, target, _ = words
        if method not in (b"GET", b"HEAD"):
            return _plain(405, "only GET and HEAD are answered here"), True
        path = target.partition(b"?")[0].decode("ascii", "replace")
        page = self._pages.get(path)
        if page is None:
            return _plain(404, f"there are {', '.join(sorted(self._pages))}"), method == b"GET"
        try:
            return await page(), method == b"GET"
        except Exception as error:  # noqa: BLE001 - a page that fails must not stop a broker
            self._log.warning("%s cannot be answered: %r", path, error)
            return _plain(500, f"{type(error).__name__}; the node's log has more"), True


async def _read_head(stream: ByteStream) -> bytes | None:
    """Return what was sent up to the empty line, or too much of it; None when it never came."""
    received = bytearray()
    while True:
        data = await stream.receive_some()
        if not data:
            return None
        received += data
        end = received.find(_END)
        if end >= 0:
            return bytes(received[: end + len(_END)])
        if len(received) > HEAD_SIZE_MAX:
            return bytes(received)


async def _send(stream: ByteStream, data: bytes) -> None:
    rest = stream.send_now([data])
    while rest:
        await stream.wait_writable()
        rest = stream.send_now(rest)


async def _linger(stream: ByteStream) -> None:
    """Throw away what still arrives until the other end has read the answer and closed."""
    with trio.move_on_after(LINGER_SECONDS):
        while await stream.receive_some():
            pass


def _plain(status: int, text: str) -> Answer:
    return Answer(status=status, body=text.encode("utf-8", "replace") + b"\n")
