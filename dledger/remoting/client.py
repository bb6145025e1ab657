"""The trio shell that sends commands: requests out, matched with their answers by opaque.

    async with open_remoting_client(network, host, port) as client:
        answer = await client.request(command, timeout_seconds=3)

A client is one connection.  It never connects again by itself: whoever routes requests decides
where the next ones go.
"""

from __future__ import annotations

import heapq
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import outcome
import trio

from dledger.remoting.command import INT32_MAX, Buffer, Command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import (
    ConnectionLostError,
    NotConnectedError,
    RemoteProtocolError,
    RemotingError,
    RequestTimeoutError,
)
from dledger.remoting.frame import FRAME_SIZE_MAX, REQUEST_HEADER_SIZE_MAX, encode_frame
from dledger.remoting.network import format_address
from dledger.remoting.outbox import Outbox
from dledger.remoting.tcp_stream import receive_each

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from dledger.remoting.network import ByteStream, Network

PENDING_SIZE_MAX: Final = 16 * 1024 * 1024
OUTBOX_SIZE_MAX: Final = 256 * 1024 * 1024

_FOREVER: Final = float("inf")
_HEAP_SLACK: Final = 1024  # deadlines of answered requests kept before they are swept out


class RemotingClient:
    """One connection to one server.

    Args:
        network: where connections come from.
        host: name or address, IPv6 without brackets.
        port: TCP port.
        on_push: called with what the server sends unasked: requests of its own and GROUPED
            responses, whole.  Synchronous, as all callbacks here; an exception out of one is a
            bug and ends `run` with it.
        on_lost: called once when a connection that stood ends, after the callbacks of everything
            unanswered; for those who send with `submit_frames`.
        pending_size_max: unsent bytes above which `request` waits before it sends.
        outbox_size_max: unsent bytes above which the connection is given up.
        frame_size_max: bytes of the largest frame sent or taken.
    """

    def __init__(
        self,
        network: Network,
        host: str,
        port: int,
        *,
        on_push: Callable[[Command], None] | None = None,
        on_lost: Callable[[RemotingError], None] | None = None,
        pending_size_max: int = PENDING_SIZE_MAX,
        outbox_size_max: int = OUTBOX_SIZE_MAX,
        frame_size_max: int = FRAME_SIZE_MAX,
    ) -> None:
        self.on_push = on_push
        self.on_lost = on_lost
        self.address = format_address(host, port)
        self._network = network
        self._host = host
        self._port = port
        self._pending_size_max = pending_size_max
        self._outbox_size_max = outbox_size_max
        self._frame_size_max = frame_size_max
        self._outbox: Outbox | None = None
        self._stream: ByteStream | None = None
        # Unanswered requests: opaque -> (what to call, deadline).
        self._pending: dict[int, tuple[Callable[[Command | RemotingError], None], float]] = {}
        # (deadline, opaque), earliest first; those answered meanwhile are passed over.
        self._deadlines: list[tuple[float, int]] = []
        self._timer = trio.lowlevel.ParkingLot()
        self._next_opaque = 1
        self._closed = False
        self._lost_reason = "it is not connected yet"

    @property
    def closed(self) -> bool:
        """Whether there is no connection: not yet, or not any more."""
        return self._outbox is None or self._outbox.closed or self._closed

    @property
    def unanswered_count(self) -> int:
        """Requests that wait for an answer."""
        return len(self._pending)

    @property
    def pending_size(self) -> int:
        """Bytes submitted and not yet taken by the kernel."""
        return 0 if self._outbox is None else self._outbox.pending_size

    @property
    def local_address(self) -> str:
        """``host:port`` of this end; empty before the connection stands."""
        return "" if self._stream is None else self._stream.local_address

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and return when the connection has ended: ``await nursery.start(client.run)``.

        Raises:
            ConnectFailedError: there was no connection.
        """
        assert self._stream is None, "a client is one connection: make another"
        self._stream = await self._network.connect(self._host, self._port)
        self._outbox = Outbox(self._stream, self._outbox_size_max)
        error: RemotingError = ConnectionLostError(f"connection to {self.address} was cancelled")
        try:
            if not self._closed:
                task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._outbox.run)
                    nursery.start_soon(self._expire)
                    error = await self._receive(self._stream)
                    nursery.cancel_scope.cancel()
        finally:
            self._lose(error)

    async def request(self, command: Command, *, timeout_seconds: float) -> Command:
        """Send *command* and return the answer to it.  Its opaque is set here.

        Raises:
            NotConnectedError: nothing was sent.
            RequestTimeoutError: no answer in time; the outcome is unknown.
            ConnectionLostError: it broke before the answer; the outcome is unknown.
            LocalProtocolError: the command cannot be written; nothing was sent.
        """
        outbox = self._require_open()
        deadline = trio.current_time() + timeout_seconds
        if outbox.pending_size > self._pending_size_max:
            with trio.move_on_at(deadline) as scope:
                await outbox.wait_below(self._pending_size_max // 2)
            if scope.cancelled_caught:
                raise RequestTimeoutError(
                    f"request {command.code} to {self.address} was not sent in "
                    f"{timeout_seconds} s: the server does not read"
                )
        task = trio.lowlevel.current_task()

        def settle(answer: Command | RemotingError) -> None:
            trio.lowlevel.reschedule(task, outcome.Value(answer))

        is_alone = not self._pending
        opaque = self._submit(command, settle, deadline)
        if is_alone:
            outbox.flush()  # nobody to share a send with: no need to wait for the flusher
        else:
            outbox.flush_soon()

        def abandon(_: object) -> trio.lowlevel.Abort:
            self._pending.pop(opaque, None)
            return trio.lowlevel.Abort.SUCCEEDED

        answer: Command | RemotingError = await trio.lowlevel.wait_task_rescheduled(abandon)
        if isinstance(answer, RequestTimeoutError):
            raise RequestTimeoutError(
                f"request {command.code} to {self.address} was not answered in {timeout_seconds} s"
            )
        if isinstance(answer, RemotingError):
            raise answer
        return answer

    def submit(
        self,
        command: Command,
        callback: Callable[[Command | RemotingError], None],
        *,
        timeout_seconds: float = _FOREVER,
    ) -> int:
        """Queue *command*; sent by the next `flush`.

        Args:
            command: its opaque is set here.
            callback: called once, with the answer, or with `ConnectionLostError` or
                `RequestTimeoutError`, and never before this returns.
            timeout_seconds: how long to wait for the answer.

        Returns:
            The opaque.

        Raises:
            NotConnectedError, LocalProtocolError: nothing was queued, nothing is called.
        """
        self._require_open()
        deadline = _FOREVER
        if timeout_seconds != _FOREVER:
            deadline = trio.current_time() + timeout_seconds
        return self._submit(command, callback, deadline)

    def send(self, command: Command) -> None:
        """Queue *command* as it is: a oneway request, or the answer to a request of the server.

        Raises:
            NotConnectedError, LocalProtocolError: nothing was queued.
        """
        self._require_open().write(self._encode(command))

    def submit_frames(self, buffers: Iterable[Buffer]) -> None:
        """Queue whole frames, with opaques from `reserve_opaques`; answers come to `on_push`.

        Raises:
            NotConnectedError: nothing was queued.
        """
        self._require_open().write(buffers)

    def reserve_opaques(self, count: int) -> int:
        """Return the first of *count* opaques in a row that no other request will have."""
        if self._next_opaque + count > INT32_MAX:
            self._next_opaque = 1
        first = self._next_opaque
        self._next_opaque += count
        return first

    def flush(self) -> None:
        """Send what is queued, as far as the kernel takes it; the rest follows by itself."""
        if self._outbox is not None:
            self._outbox.flush()

    def flush_soon(self) -> None:
        """Flush once, when all tasks that run now have had their turn."""
        if self._outbox is not None:
            self._outbox.flush_soon()

    async def wait_below(self, size: int) -> None:
        """Wait until at most *size* bytes are unsent, or the connection has ended."""
        if self._outbox is not None:
            await self._outbox.wait_below(size)

    def close(self) -> None:
        """End the connection; callbacks of what is unanswered are called from `run`."""
        self._closed = True
        self._lost_reason = "it was closed by this end"
        if self._outbox is not None:
            self._outbox.close()

    def _submit(
        self,
        command: Command,
        callback: Callable[[Command | RemotingError], None],
        deadline: float,
    ) -> int:
        outbox = self._require_open()
        opaque = self.reserve_opaques(1)
        while opaque in self._pending:  # once around all two billion, and still unanswered
            opaque = self.reserve_opaques(1)
        command.opaque = opaque
        frame = self._encode(command)
        self._pending[opaque] = (callback, deadline)
        if deadline != _FOREVER:
            self._add_deadline(deadline, opaque)
        outbox.write(frame)
        return opaque

    def _encode(self, command: Command) -> list[Buffer]:
        return encode_frame(
            command,
            frame_size_max=self._frame_size_max,
            header_size_max=REQUEST_HEADER_SIZE_MAX,  # what servers read
        )

    def _require_open(self) -> Outbox:
        if self._outbox is None or self._outbox.closed or self._closed:
            raise NotConnectedError(f"no connection to {self.address}: {self._lost_reason}")
        return self._outbox

    async def _receive(self, stream: ByteStream) -> RemotingError:
        """Hand out what arrives until the connection ends; return why it did."""
        connection = Connection(frame_size_max=self._frame_size_max)

        def take(data: bytes) -> bool:
            if (alone := connection.lone_command(data)) is not None:
                self._take(alone)
                return False
            connection.receive_data(data)
            while commands := connection.commands():
                for command in commands:
                    self._take(command)
            return False

        try:
            await receive_each(stream, take)
            connection.receive_eof()
        except (ConnectionLostError, RemoteProtocolError) as error:
            cause = self._outbox.error if self._outbox is not None else None
            return cause or error
        return ConnectionLostError(f"connection to {self.address} was closed by the server")

    def _take(self, command: Command) -> None:
        if command.is_response and not command.is_grouped:
            # Nothing found: the answer to what has timed out or was cancelled.
            if found := self._pending.pop(command.opaque, None):
                found[0](command)
        elif self.on_push is not None:
            self.on_push(command)

    def _add_deadline(self, deadline: float, opaque: int) -> None:
        deadlines = self._deadlines
        if len(deadlines) > 2 * len(self._pending) + _HEAP_SLACK:
            deadlines[:] = [
                (when, number)
                for number, (_, when) in self._pending.items()
                if when != _FOREVER and number != opaque
            ]
            heapq.heapify(deadlines)
        heapq.heappush(deadlines, (deadline, opaque))
        if deadlines[0][0] == deadline:
            self._timer.unpark_all()

    async def _expire(self) -> None:
        """Time out requests: one task for all of them."""
        while True:
            with trio.move_on_at(self._deadlines[0][0] if self._deadlines else _FOREVER):
                await self._timer.park()
            now = trio.current_time()
            while self._deadlines and self._deadlines[0][0] <= now:
                _, opaque = heapq.heappop(self._deadlines)
                found = self._pending.get(opaque)
                # An opaque may have come around: then it is the new request's deadline that counts.
                if found is not None and found[1] <= now:
                    del self._pending[opaque]
                    found[0](
                        RequestTimeoutError(
                            f"request with opaque {opaque} to {self.address} was not answered"
                        )
                    )

    def _lose(self, error: RemotingError) -> None:
        """Tell everybody who waits that the connection has ended."""
        if not self._closed:
            self._lost_reason = str(error)
        self._closed = True
        if self._outbox is not None:
            self._outbox.close()
        pending, self._pending = self._pending, {}
        self._deadlines.clear()
        for callback, _ in pending.values():
            callback(
                ConnectionLostError(
                    f"connection to {self.address} ended before the answer: {self._lost_reason}"
                )
            )
        if self.on_lost is not None:
            self.on_lost(error)


@asynccontextmanager
async def open_remoting_client(
    network: Network,
    host: str,
    port: int,
    *,
    on_push: Callable[[Command], None] | None = None,
    on_lost: Callable[[RemotingError], None] | None = None,
) -> AsyncIterator[RemotingClient]:
    """Connect, and close again at the end of the block; see `RemotingClient`.

    Raises:
        ConnectFailedError: there was no connection.
    """
    client = RemotingClient(network, host, port, on_push=on_push, on_lost=on_lost)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(client.run)
            yield client
        except BaseException as error:  # noqa: BLE001 - raised again below
            # Through the nursery it would come out wrapped in a group.
            failure = error
        client.close()
    if failure is not None:
        raise failure
