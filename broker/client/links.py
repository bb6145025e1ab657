"""One connection to each node, opened when first needed, shared by all producers and consumers.

A request is *submitted* and its callback called once, with the answer or with the error that took
its place; nothing is awaited, so that one pass over received answers can send what follows from
them. Of an error the class says what became of the request:

    ConnectFailedError, NotConnectedError   it was never sent
    any other RemotingError                 the node may have acted on it
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec
import trio

from broker.client.results import durability_in
from broker.errors import HeaderError
from broker.protocol.bodies import ACK, ACK_SIZE, Ack, decode_acks
from dledger.remoting.command import FLAG_GROUPED, FLAG_RESPONSE, INT32_MAX, Command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import (
    ConnectFailedError,
    ConnectionLostError,
    NotConnectedError,
    RemoteProtocolError,
    RemotingError,
    RequestTimeoutError,
)
from dledger.remoting.frame import encode_frame
from dledger.remoting.readiness import timed_sockets
from dledger.remoting.tcp_stream import TcpStream, receive_each

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.remoting.command import Buffer
    from dledger.remoting.network import ByteStream, Network
    from dledger.remoting.readiness import HotSockets

Answer = Command | Ack | RemotingError

_ACKS = FLAG_RESPONSE | FLAG_GROUPED
_new_tuple = tuple.__new__  # a third of what a named tuple's own way takes


class LinkState(enum.Enum):
    """How far a link is."""

    CLOSED = enum.auto()
    CONNECTING = enum.auto()
    OPEN = enum.auto()


class _Request(msgspec.Struct, frozen=True):
    callback: Callable[[Answer], None]
    submitted_at: float  # trio seconds
    is_slow: bool  # a long poll: no answer for a while means nothing


class Link:
    """The connection to one node."""

    def __init__(
        self,
        address: str,
        *,
        network: Network,
        nursery: trio.Nursery,
        connect_timeout: float,
        on_lost: Callable[[Link, RemotingError], None],
        on_request: Callable[[Link, Command], None],
    ) -> None:
        self.address = address
        self.state = LinkState.CLOSED
        self.failed_at = float("-inf")  # trio seconds; when the last try to connect failed
        self.received_at = float("-inf")  # trio seconds; when something last came
        self._network = network
        self._nursery = nursery
        self._connect_timeout = connect_timeout
        self._on_lost = on_lost
        self._on_request = on_request
        # Out of whose poll answers are read; None while there is no connection, or by tasks.
        self.sockets: HotSockets | None = None
        self._stream: ByteStream | None = None
        self._outbox: list[Buffer] = []
        self._is_draining = False
        self._requests: dict[int, _Request] = {}  # by opaque, in the order of submission
        self._next_opaque = 1

    @property
    def is_open(self) -> bool:
        """Whether a request would go out at once."""
        return self.state is LinkState.OPEN

    def oldest_quick_request_at(self) -> float:
        """Return when the oldest request that should be answered by now went out; inf for none."""
        for request in self._requests.values():
            if not request.is_slow:
                return request.submitted_at
        return float("inf")

    def open(self) -> None:
        """Connect, if there is no connection."""
        if self.state is LinkState.CLOSED:
            self.state = LinkState.CONNECTING
            self._nursery.start_soon(self._run)

    def submit(
        self,
        command: Command,
        callback: Callable[[Answer], None],
        *,
        is_slow: bool = False,
        now: float | None = None,
    ) -> int:
        """Queue *command* until `flush`; return its opaque. Opens the link if need be.

        *callback* is called later, never from inside this call.  *now*: the time, where the caller
        has just looked.
        """
        opaque = self._next_opaque
        self._next_opaque = opaque + 1 if opaque < INT32_MAX else 1
        command.opaque = opaque
        self._outbox += encode_frame(command)
        now = trio.current_time() if now is None else now
        self._requests[opaque] = _Request(callback, now, is_slow)
        if self.state is LinkState.CLOSED:
            self.open()
        return opaque

    def submit_made(
        self,
        make_frame: Callable[[int], list[Buffer]],
        callback: Callable[[Answer], None],
        *,
        now: float,
    ) -> None:
        """As `submit`, for a request that is a frame once its opaque is known."""
        opaque = self._next_opaque
        self._outbox += make_frame(opaque)
        self._next_opaque = opaque + 1 if opaque < INT32_MAX else 1
        self._requests[opaque] = _Request(callback, now, False)
        if self.state is LinkState.CLOSED:
            self.open()

    def reply(self, command: Command) -> None:
        """Send the answer to a request of the node's; called while that is being taken."""
        self._outbox += encode_frame(command)
        self.flush()

    def abandon(self, opaque: int) -> None:
        """Call no callback for that request any more; a late answer is thrown away."""
        self._requests.pop(opaque, None)

    def flush(self) -> None:
        """Hand queued requests to the network, as far as it takes them without waiting."""
        stream = self._stream
        if stream is None or self._is_draining or not self._outbox:
            return
        buffers, self._outbox = self._outbox, []
        try:
            rest = stream.send_now(buffers)
        except RemotingError:
            # It will fail again: whoever sends may not have begun to wait for what becomes of it.
            rest = [memoryview(buffer) for buffer in buffers]
        if rest:
            self._is_draining = True
            self._nursery.start_soon(self._drain, stream, rest)

    async def request(
        self, command: Command, *, timeout_seconds: float, is_slow: bool = False
    ) -> Command:
        """Send *command* and return the answer, whatever its code.

        Raises:
            RemotingError: as in the module's docstring; RequestTimeoutError when the
                time is up.
        """
        done = trio.Event()
        answers: list[Answer] = []

        def on_answer(answer: Answer) -> None:
            answers.append(answer)
            done.set()

        opaque = self.submit(command, on_answer, is_slow=is_slow)
        self.flush()
        try:
            with trio.move_on_after(timeout_seconds):
                await done.wait()
        finally:
            self.abandon(opaque)
        if not answers:
            raise RequestTimeoutError(
                f"{self.address} has not answered request {command.code} for {timeout_seconds:g} s"
            )
        answer = answers[0]
        if isinstance(answer, RemotingError):
            raise answer
        assert isinstance(answer, Command), "only sends are answered by grouped acks"
        return answer

    def close(self, error: RemotingError) -> None:
        """Close the connection; requests not answered yet get *error*."""
        self._lose(error)

    async def _run(self) -> None:
        host, _, port = self.address.rpartition(":")
        try:
            with trio.fail_after(self._connect_timeout):
                stream = await self._network.connect(host.strip("[]"), int(port))
        except trio.TooSlowError:
            self._fail_connect(
                ConnectFailedError(
                    f"{self.address} does not answer within {self._connect_timeout:g} s"
                )
            )
            return
        except ConnectFailedError as error:
            self._fail_connect(error)
            return
        if self.state is not LinkState.CONNECTING:  # closed meanwhile
            stream.close()
            return
        self._stream = stream
        if isinstance(stream, TcpStream):
            self.sockets = timed_sockets()
        self.received_at = trio.current_time()
        self.state = LinkState.OPEN
        self.flush()
        connection = Connection()
        time = trio.lowlevel.current_clock().current_time
        is_whole = True  # no part of a frame is kept
        # What a frame with one ack began with, and what that said of durability: those behind it
        # begin with the same bytes, and are not parsed.
        ack_head, durability = b"", ""
        ack_frame_size = -1  # bytes of such a frame; no such frame has come yet

        def take(data: bytes) -> bool:
            nonlocal is_whole, ack_head, durability, ack_frame_size
            if self._stream is not stream:
                return True
            if not data:
                raise ConnectionLostError(f"{self.address} closed the connection")
            self.received_at = time()
            if is_whole and len(data) == ack_frame_size and data.startswith(ack_head):
                fields = ACK.unpack_from(data, len(ack_head))
                request = self._requests.pop(fields[0], None)
                if request is not None:
                    request.callback(_new_tuple(Ack, (*fields, durability)))
                return self._stream is not stream
            was_whole = is_whole
            connection.receive_data(data)
            commands: list[Command] = []
            count = 0
            while self._stream is stream and connection.has_more:
                commands = connection.commands()
                count += len(commands)
                self._take(commands)
            is_whole = not connection.partial_size
            if was_whole and is_whole and count == 1 and _is_one_ack(commands[0]):
                ack_head = data[:-ACK_SIZE]
                ack_frame_size = len(data)
                durability = durability_in(commands[0].ext_fields)
            return self._stream is not stream

        try:
            await receive_each(stream, take)
        except (ConnectionLostError, RemoteProtocolError, HeaderError) as error:
            if self._stream is stream:
                self._lose(ConnectionLostError(f"connection to {self.address}: {error}"))
        finally:
            stream.close()
            if self._stream is stream:  # cancelled: the client is closing
                self._stream = self.sockets = None
                self.state = LinkState.CLOSED

    def _take(self, commands: list[Command]) -> None:
        requests = self._requests
        for command in commands:
            if not command.flag & FLAG_RESPONSE:
                self._on_request(self, command)
                continue
            if command.flag & FLAG_GROUPED:
                durability = durability_in(command.ext_fields)
                for ack in decode_acks(command.body, durability):  # type: ignore[arg-type]
                    request = requests.pop(ack.opaque, None)
                    if request is not None:
                        request.callback(ack)
                continue
            request = requests.pop(command.opaque, None)
            if request is not None:
                request.callback(command)

    async def _drain(self, stream: ByteStream, rest: list[memoryview]) -> None:
        try:
            while rest:
                await stream.wait_writable()
                rest = stream.send_now(rest)
        except RemotingError as error:
            if self._stream is stream:
                self._lose(error)
            return
        if self._stream is stream:
            self._is_draining = False
            self.flush()

    def _fail_connect(self, error: RemotingError) -> None:
        if self.state is LinkState.CONNECTING:
            self.failed_at = trio.current_time()
            self._lose(error)

    def _lose(self, error: RemotingError) -> None:
        stream, self._stream = self._stream, None
        self.sockets = None
        was_closed = self.state is LinkState.CLOSED
        if self.state is LinkState.CONNECTING and not isinstance(error, ConnectFailedError):
            error = NotConnectedError(str(error))
        self.state = LinkState.CLOSED
        self._is_draining = False
        self._outbox = []
        if stream is not None:
            stream.close()
        # Emptied, not replaced: `_take` may be at work, and each callback is called once.
        requests = list(self._requests.values())
        self._requests.clear()
        if not was_closed:
            self._on_lost(self, error)
        for request in requests:
            request.callback(error)


def _is_one_ack(command: Command) -> bool:
    """Whether *command* carries the ack of one request."""
    return command.flag & _ACKS == _ACKS and len(command.body) == ACK_SIZE


class Links:
    """All links of a client, by address."""

    def __init__(
        self,
        *,
        network: Network,
        nursery: trio.Nursery,
        connect_timeout: float,
        on_lost: Callable[[Link, RemotingError], None],
        on_request: Callable[[Link, Command], None] = lambda _link, _command: None,
    ) -> None:
        """Open none yet.

        Args:
            network: where connections come from.
            nursery: lives as long as the client.
            connect_timeout: seconds.
            on_lost: hears of every connection that breaks, or cannot be opened.
            on_request: hears what nodes ask of the client.
        """
        self._network = network
        self._nursery = nursery
        self._connect_timeout = connect_timeout
        self._on_lost = on_lost
        self._on_request = on_request
        self._links: dict[str, Link] = {}

    def __getitem__(self, address: str) -> Link:
        """Return the link to *address*, opened or not."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(
                address,
                network=self._network,
                nursery=self._nursery,
                connect_timeout=self._connect_timeout,
                on_lost=self._on_lost,
                on_request=self._on_request,
            )
        return link

    def all(self) -> list[Link]:
        """Return every link there is, opened or not."""
        return list(self._links.values())

    def close(self, error: RemotingError) -> None:
        """Close every connection."""
        for link in self._links.values():
            link.close(error)
