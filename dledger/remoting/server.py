"""The trio shell that serves commands: connections in, passes over their commands, answers out.

One synchronous pass per receive: parse every frame, hand all commands to the handler (but not
thousands at once), send what it answered with one system call.  Answers that come later are sent
by whoever has them.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import trio

from dledger.remoting.command import (
    CODE_SYSTEM_ERROR,
    FLAG_RESPONSE,
    Command,
    SerializeType,
)
from dledger.remoting.connection import Connection
from dledger.remoting.errors import (
    ConnectionClosedError,
    ConnectionLostError,
    RemoteProtocolError,
)
from dledger.remoting.frame import FRAME_SIZE_MAX, REQUEST_HEADER_SIZE_MAX
from dledger.remoting.frame_run import FindOthers, FrameGroup, FrameRun, RunFinder
from dledger.remoting.outbox import Outbox, OutboxBudget
from dledger.remoting.rate_limited_log import RateLimitedLog
from dledger.remoting.session import Flow, Session, SessionHandler
from dledger.remoting.tcp_stream import receive_each
from dledger.remoting.turned_away import TurnedAway
from dledger.remoting.turns import Partials, Turns

__all__ = ["Flow", "FrameGroup", "FrameRun", "RemotingServer", "Session", "SessionHandler"]

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.remoting.network import ByteStream, Listener, Network

CONNECTIONS_MAX: Final = 10_000
PENDING_SIZE_MAX: Final = 16 * 1024 * 1024
OUTBOX_SIZE_MAX: Final = 256 * 1024 * 1024
UNREAD_SIZE_MAX: Final = 1024 * 1024 * 1024
PARTIAL_SIZE_MAX: Final = 256 * 1024 * 1024

# After a refusal: how long we read on and throw away, so that the answer is not lost to the reset
# a kernel sends when a socket is closed with bytes unread.
_LINGER_SECONDS: Final = 1.0
_CLOSE_POLL_SECONDS: Final = 0.005

logger = logging.getLogger("dledger.remoting")


class OnRun(Protocol):
    """Takes requests that are alike; see `RemotingServer`."""

    def __call__(self, session: Session, run: FrameGroup, *, ends_pass: bool) -> list[Command]:
        """Return those that are left to be handled one by one, in their order.

        *ends_pass* as for `SessionHandler.on_commands`; where any are left, it does not.
        """
        ...


class RemotingServer:
    """Listens on one port and serves every connection to it.

    Args:
        network: where connections come from.
        host: address to listen on.
        port: port to listen on; 0 takes any.
        handler: what is done with commands.
        flow: how much may be under way, where the handler charges for it.
        connections_max: connections served at a time; one more is closed.
        refusal: makes the answer to the first request of such a one; None: it gets none.
        pending_size_max: unsent bytes of one connection above which no more of its requests are
            read until half of them are gone.
        outbox_size_max: unsent bytes of one connection above which it is closed: answers to what
            was read already come however slowly their client reads.
        unread_size_max: unsent bytes of all connections above which the one with the most is
            closed: ten thousand, each within its own limit, would have more than any machine.
        frame_size_max: bytes of the largest frame taken.
        find_others: finds requests that its handler can read together though they are not alike;
            `on_run` is given them as well.
        on_run: takes requests that are alike all at once; those that it leaves, which may be all,
            go to *handler* one by one, in their turns.  None: all do.
        partial_size_max: bytes of frames that have begun to arrive, over all connections; beyond it
            the connection is closed whose frame began first.  Each may keep a whole frame, and ten
            thousand of them would have more than any machine.
    """

    def __init__(
        self,
        network: Network,
        *,
        host: str,
        port: int,
        handler: SessionHandler,
        flow: Flow | None = None,
        connections_max: int = CONNECTIONS_MAX,
        pending_size_max: int = PENDING_SIZE_MAX,
        outbox_size_max: int = OUTBOX_SIZE_MAX,
        unread_size_max: int = UNREAD_SIZE_MAX,
        frame_size_max: int = FRAME_SIZE_MAX,
        partial_size_max: int = PARTIAL_SIZE_MAX,
        on_run: OnRun | None = None,
        find_others: FindOthers | None = None,
        refusal: Callable[[Command], Command] | None = None,
    ) -> None:
        assert connections_max >= 1
        assert 0 < pending_size_max <= outbox_size_max
        self._network = network
        self._host = host
        self._port = port
        self._handler = handler
        self._on_run = on_run
        self._find_others = find_others
        self._connections_max = connections_max
        self._turned_away = TurnedAway(refusal, connections_max=connections_max)
        self._pending_size_max = pending_size_max
        self._outbox_size_max = outbox_size_max
        self._frame_size_max = frame_size_max
        self._partials = Partials(partial_size_max)
        self._budget = OutboxBudget(unread_size_max)
        self.flow = flow or Flow()
        self.flow.outboxes.append(self._budget)
        self._listener: Listener | None = None
        self._sessions: dict[int, Session] = {}
        self._last_session_id = 0
        self._reads = True
        self._is_ending = False
        self._readings: dict[Session, tuple[trio.CancelScope, Turns]] = {}
        self._refused_log = RateLimitedLog(logger)
        self._full_log = RateLimitedLog(logger)
        self._partial_log = RateLimitedLog(logger)

    @property
    def unread_size(self) -> int:
        """Bytes answered that clients have not taken yet, over all connections."""
        return self._budget.pending_size

    @property
    def partial_size(self) -> int:
        """Bytes kept of frames that have begun to arrive, over all connections."""
        return self._partials.total

    @property
    def sessions(self) -> list[Session]:
        """The connections of this moment."""
        return list(self._sessions.values())

    async def serve(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or `close`; ``port = await nursery.start(server.serve)``.

        Raises:
            ListenFailedError: also `AddressInUseError`; before anything was started.
        """
        self._listener = await self._network.listen(self._host, self._port)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(self._listener.port)
                await self._accept(self._listener, nursery)
        finally:
            self._listener.close()

    @property
    def is_busy(self) -> bool:
        """Whether requests were read that no handler has been given yet."""
        return any(turns.is_busy for _, turns in self._readings.values())

    def stop_reading(self) -> None:
        """Take no more connections and no more requests; what was taken is still answered."""
        if self._listener is not None:
            self._listener.close()
        self._reads = False
        for reading, turns in list(self._readings.values()):
            if not turns.is_busy:
                reading.cancel()

    async def close(self, *, grace_seconds: float = 1.0) -> None:
        """Take no more connections, send what is answered, close all; `serve` then returns.

        A client that reads to the end and then closes has had all its answers: a connection closed
        from here while it still sends is reset, and what is on its way to it may be lost.

        Args:
            grace_seconds: longest time to wait for clients to do so.
        """
        if self._listener is not None:
            self._listener.close()
        self._turned_away.end()
        sessions = self.sessions
        with trio.move_on_after(grace_seconds):
            for session in sessions:
                session.flush()
                await session.wait_below(0)
                session.end()
            self._is_ending = True
            while self._sessions:  # noqa: ASYNC110 - once in a server's life
                await trio.sleep(_CLOSE_POLL_SECONDS)
        self._is_ending = True
        for session in self.sessions:
            session.close("the server closed")

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except ConnectionClosedError:
                return
            if len(self._sessions) >= self._connections_max:
                self._full_log.warning(
                    "connection from %s is closed: %d connections are open, as many as "
                    "connections_max allows",
                    stream.peer_address,
                    self._connections_max,
                )
                self._turned_away.take(stream, nursery)
                continue
            self._last_session_id += 1
            outbox = Outbox(stream, self._outbox_size_max, budget=self._budget)
            session = Session(
                session_id=self._last_session_id,
                stream=stream,
                outbox=outbox,
                pending_size_max=self._pending_size_max,
                flow=self.flow,
            )
            # Here and not in the task: the count must hold for the very next accept.
            self._sessions[session.session_id] = session
            nursery.start_soon(self._serve_connection, session, stream, outbox)

    async def _serve_connection(self, session: Session, stream: ByteStream, outbox: Outbox) -> None:
        opened = False
        try:
            self._handler.on_opened(session)
            opened = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outbox.run)
                turns = Turns(self._handler, session, outbox, self._pending_size_max)
                with trio.CancelScope() as reading:
                    self._readings[session] = reading, turns
                    await self._receive(session, stream, outbox, turns)
                if not self._reads:
                    await _discard(stream)
                    if not self._is_ending:
                        await outbox.wait_closed()  # what was read may still be answered
                nursery.cancel_scope.cancel()
        finally:
            if outbox.overflowed:
                self._refused_log.warning("session %d: %s", session.session_id, outbox.error)
            session.close(str(outbox.error or "the server stopped"))
            self._partials.note(session, 0, is_new=True)
            del self._sessions[session.session_id]
            self._readings.pop(session, None)
            logger.debug("%r is closed: %s", session, session.close_reason)
            if opened:
                self._handler.on_closed(session)

    async def _receive(
        self, session: Session, stream: ByteStream, outbox: Outbox, turns: Turns
    ) -> None:
        """Serve *session* until one of its ends closes it or what it sends is refused."""
        connection = Connection(
            frame_size_max=self._frame_size_max,
            header_size_max=REQUEST_HEADER_SIZE_MAX,
            find_run=None if self._on_run is None else RunFinder(self._find_others).find,
        )
        at_end = False
        pieces: deque[list[Command] | FrameGroup] = deque()  # that came and are not served yet

        def take(data: bytes) -> bool:
            """Serve what a receive brought; return whether something has to be waited for."""
            nonlocal at_end
            turns.count = 0
            if not data:
                at_end = True
                return True
            # Meanwhile what had been handled may have come back, to wait for a leader.
            if (session.inflight_size or outbox.pending_size) and session.must_wait_for_room:
                connection.receive_data(data)
                return True
            if (
                not pieces
                and not outbox.closed
                and (command := connection.lone_command(data)) is not None
            ):
                self._handler.on_commands(session, [command], ends_pass=True)
                if outbox.pending_size:
                    outbox.flush()
            else:
                connection.receive_data(data)
                self._serve_now(session, connection, turns, pieces)
            return (
                bool(pieces)
                or outbox.pending_size > self._pending_size_max
                or session.must_wait_for_room
                or outbox.closed
                or not self._reads
            )

        try:
            while True:
                await receive_each(stream, take)
                await session.wait_for_room()
                while not outbox.closed:
                    while pieces:
                        if many := self._serve_first(session, pieces, turns):
                            await turns.serve(many)
                        if self._must_wait(session, pieces, turns):
                            session.flush()
                            await session.wait_for_room()
                    self._serve_now(session, connection, turns, pieces)
                    if not pieces:
                        break
                if at_end:
                    break
                if outbox.pending_size > self._pending_size_max:
                    await outbox.wait_below(self._pending_size_max // 2)
                await session.wait_for_room()
                if outbox.closed or not self._reads:
                    return
            connection.receive_eof()
            session.close("the client closed")
        except RemoteProtocolError as error:
            await self._refuse(session, stream, error)
        except ConnectionLostError as error:
            session.close(str(outbox.error or error))

    def _serve_now(
        self,
        session: Session,
        connection: Connection,
        turns: Turns,
        left: deque[list[Command] | FrameGroup],
    ) -> None:
        """Have what has come handled; what others must get a turn amid goes to *left*."""
        is_new = False
        while (
            not left
            and connection.has_more
            and not session.closed
            and (found := connection.pieces())
        ):
            is_new = True
            left.extend(found)
            while left:
                if many := self._serve_first(session, left, turns):
                    left.appendleft(many)
                    break
                if self._must_wait(session, left, turns):
                    break
        session.flush()
        size = connection.partial_size
        if size or self._partials.total:
            self._note_partial(session, size, is_new=is_new)

    def _note_partial(self, session: Session, size: int, *, is_new: bool) -> None:
        self._partials.note(session, size, is_new=is_new)
        while (oldest := self._partials.take_excess()) is not None:
            reason = (
                "its request has been on its way for the longest time, and requests that "
                "have begun to arrive take more than partial_size_max"
            )
            self._partial_log.warning("%r is closed: %s", oldest, reason)
            oldest.close(reason)

    def _serve_first(
        self, session: Session, left: deque[list[Command] | FrameGroup], turns: Turns
    ) -> list[Command]:
        """Take the first of *left* and have it handled; return it where it is too many for that."""
        piece = left.popleft()
        ends_pass = not left
        if session.closed:
            if not ends_pass:
                return []
            commands = []  # what was handled before may wait for the end
        elif isinstance(piece, list):
            commands = piece
        else:
            assert self._on_run is not None, "nobody else looks for them"
            if rest := self._on_run(session, piece, ends_pass=ends_pass):
                left.appendleft(rest)
            turns.has_open_pass = bool(left)
            return []
        if turns.count + len(commands) > turns.count_max:
            self._end_pass(session, turns)
            return commands
        turns.count += len(commands)
        self._handler.on_commands(session, commands, ends_pass=ends_pass)
        turns.has_open_pass = not ends_pass
        return []

    def _must_wait(
        self, session: Session, left: deque[list[Command] | FrameGroup], turns: Turns
    ) -> bool:
        """Whether *left*, which came with what was handled, has to wait for the room it takes."""
        if not left or not session.must_wait_for_room:
            return False
        self._end_pass(session, turns)
        return True

    def _end_pass(self, session: Session, turns: Turns) -> None:
        # Before anybody waits: what was handled is answered behind the end of its pass, and others
        # may be waiting for the room it takes, or never have their turn.
        if turns.has_open_pass:
            turns.has_open_pass = False
            self._handler.on_commands(session, [], ends_pass=True)

    async def _refuse(
        self, session: Session, stream: ByteStream, error: RemoteProtocolError
    ) -> None:
        """Answer bytes that are no frame, if it is known to whom, and close their connection."""
        self._refused_log.warning(
            "session %d from %s is closed: %s", session.session_id, session.peer_address, error
        )
        if error.opaque is not None and error.serialize_type is not None:
            session.reply(
                Command(
                    CODE_SYSTEM_ERROR,
                    FLAG_RESPONSE,
                    error.opaque,
                    remark=str(error),
                    serialization=SerializeType(error.serialize_type),
                )
            )
        session.flush()
        try:
            with trio.move_on_after(_LINGER_SECONDS):
                while await stream.receive_some():
                    pass
        except ConnectionLostError:
            pass  # gone: there is nobody left to wait for
        session.close(str(error))


async def _discard(stream: ByteStream) -> None:
    """Throw away what arrives until the connection ends.

    A socket closed with bytes unread is reset, and the last answers may be lost with it.
    """
    try:
        while await stream.receive_some():
            pass
    except ConnectionLostError:
        pass
