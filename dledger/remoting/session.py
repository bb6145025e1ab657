"""One connection as handlers see it, and how much of it and of all may be under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.remoting.command import Buffer, Command
    from dledger.remoting.network import ByteStream
    from dledger.remoting.outbox import Outbox, OutboxBudget

CONNECTION_INFLIGHT_SIZE_MAX: Final = 16 * 1024 * 1024
INFLIGHT_SIZE_MAX: Final = 512 * 1024 * 1024


class Flow:
    """How much of all connections together is under way.

    Args:
        connection_size_max: bytes of one connection's requests that are taken and not answered,
            above which no more of it is read until half of them are.
        size_max: bytes of the same and of answers that are not read, over all connections, above
            which a connection that has any is read no further until it has none.
    """

    def __init__(
        self,
        *,
        connection_size_max: int = CONNECTION_INFLIGHT_SIZE_MAX,
        size_max: int = INFLIGHT_SIZE_MAX,
    ) -> None:
        self.connection_size_max = connection_size_max
        self.size_max = size_max
        self.inflight_size = 0  # bytes of requests that are taken and not answered
        self.outboxes: list[OutboxBudget] = []  # one for each port
        self.pause_count = 0  # how often a connection was read no further

    @property
    def unread_size(self) -> int:
        """Bytes of answers that clients have not taken."""
        return sum(outboxes.pending_size for outboxes in self.outboxes)

    @property
    def is_exceeded(self) -> bool:
        """Whether more is under way than may be."""
        size = self.inflight_size
        for outboxes in self.outboxes:  # not by `unread_size`: asked for at every receive
            size += outboxes.pending_size
        return size > self.size_max


class SessionHandler(Protocol):
    """What the server above does with connections.  All three calls are synchronous.

    An exception out of any of them is a bug, and ends `RemotingServer.serve` with it.
    """

    def on_opened(self, session: Session) -> None:
        """A connection was accepted."""
        ...

    def on_commands(
        self, session: Session, commands: list[Command], *, ends_pass: bool = True
    ) -> None:
        """Commands have arrived, in order; answers written to *session* are flushed afterwards.

        All of one receive at a time, but at most `PASS_COUNT_MAX`.  Where they do not end the pass,
        another call follows at once, perhaps without commands.
        """
        ...

    def on_closed(self, session: Session) -> None:
        """The connection has ended; called once, and nothing of it is called afterwards."""
        ...


class Session:
    """One connection, as handlers see it.

    Attributes:
        session_id: counts up from 1 within one server; never used twice.
        context: the handler's own, for what it knows about this client.
        inflight_size: bytes of its requests that are taken and not answered.
    """

    def __init__(
        self,
        *,
        session_id: int,
        stream: ByteStream,
        outbox: Outbox,
        pending_size_max: int,
        flow: Flow,
    ) -> None:
        self.session_id = session_id
        self.context: Any = None
        self.inflight_size = 0
        self._flow = flow
        self._room = trio.lowlevel.ParkingLot()
        self._room_at = -1  # who waits in it wants no more in flight than that
        self._outbox = outbox
        self._pending_size_max = pending_size_max
        self._close_reason: str | None = None
        # Asked for often, and the same to the end.
        self.peer_address = stream.peer_address
        self.local_address = stream.local_address

    def __repr__(self) -> str:
        return f"<Session {self.session_id} from {self.peer_address}>"

    @property
    def closed(self) -> bool:
        """Whether the connection has ended; what is written to it is thrown away."""
        return self._outbox.closed

    @property
    def close_reason(self) -> str | None:
        """Why the connection ended; None while it lives."""
        return self._close_reason

    @property
    def pending_size(self) -> int:
        """Bytes answered that the client has not taken yet."""
        return self._outbox.pending_size

    @property
    def is_congested(self) -> bool:
        """Whether the client reads so slowly that large answers should wait or be refused."""
        return self._outbox.pending_size > self._pending_size_max

    def charge(self, size: int) -> None:
        """Count *size* bytes of a request that is taken and will be answered later."""
        self.inflight_size += size
        self._flow.inflight_size += size

    def release(self, size: int) -> None:
        """Take *size* bytes back: the request is answered, or will never be."""
        self.inflight_size -= size
        self._flow.inflight_size -= size
        assert self.inflight_size >= 0, "more was released than charged"
        if self.inflight_size <= self._room_at:
            self._room_at = -1
            self._room.unpark_all()

    @property
    def must_wait_for_room(self) -> bool:
        """Whether `wait_for_room` would wait."""
        flow = self._flow
        if self.inflight_size > flow.connection_size_max:
            return True
        return flow.is_exceeded and bool(self.inflight_size or self._outbox.pending_size)

    async def wait_for_room(self) -> None:
        """Wait while this connection, or the whole server, has too much under way to read on.

        Where the whole server has, a connection is read again when all it asked for is answered
        and those answers are read: who has nothing under way waits for nobody.
        """
        flow = self._flow
        if self.inflight_size > flow.connection_size_max:
            flow.pause_count += 1
            await self._wait_inflight(flow.connection_size_max // 2)
        if flow.is_exceeded and (self.inflight_size or self._outbox.pending_size):
            flow.pause_count += 1
            while (self.inflight_size or self._outbox.pending_size) and not self.closed:
                await self._outbox.wait_below(0)
                await self._wait_inflight(0)

    async def _wait_inflight(self, size: int) -> None:
        while self.inflight_size > size and not self.closed:
            self._room_at = size
            await self._room.park()

    def reply(self, command: Command) -> None:
        """Queue a response (or a request of our own); sent by the next `flush`.

        Raises:
            LocalProtocolError: *command* cannot be written, or is too large for a frame.
        """
        self._outbox.write(encode_frame(command))

    def write(self, buffers: Iterable[Buffer]) -> None:
        """Queue bytes that are whole frames already."""
        self._outbox.write(buffers)

    def send(self, buffers: list[Buffer]) -> None:
        """Queue bytes that are whole frames already, and `flush`."""
        self._outbox.send(buffers)

    def flush(self) -> None:
        """Send what is queued, as far as the kernel takes it.  Not needed inside `on_commands`."""
        self._outbox.flush()

    def flush_soon(self) -> None:
        """Flush once, when all tasks that run now have had their turn."""
        self._outbox.flush_soon()

    async def wait_below(self, size: int) -> None:
        """Wait until at most *size* bytes are unsent, or the connection has ended."""
        await self._outbox.wait_below(size)

    def end(self) -> None:
        """Answer nothing more, and let the client know that it has had everything."""
        self._outbox.end()

    def close(self, reason: str) -> None:
        """End the connection; `on_closed` follows from its own task."""
        if self._close_reason is None:
            self._close_reason = reason
        self._outbox.close()
        self._room.unpark_all()
