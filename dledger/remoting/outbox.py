"""What one connection still has to send.

`write` only appends and `flush` never waits, so both may be called anywhere; when the kernel takes
no more, the `run` task sends the rest as room comes.  Buffers may be views over mapped files: they
are held until sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from dledger.remoting.errors import ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.remoting.command import Buffer
    from dledger.remoting.network import ByteStream

# From so many buffers on the small ones are copied together: an entry in a sendmsg vector costs
# more than copying this much, and what the kernel does not take stays a short list.
_COALESCE_COUNT: Final = 8
_COALESCE_SIZE: Final = 8 * 1024


class OutboxBudget:
    """A limit that many outboxes share: beyond it the one with the most unsent is given up.

    Args:
        limit_bytes: most unsent bytes of all of them together.
    """

    def __init__(self, limit_bytes: int) -> None:
        assert limit_bytes > 0
        self.limit_bytes = limit_bytes
        self.pending_size = 0  # kept by the outboxes
        self.outboxes: set[Outbox] = set()

    def shed(self) -> None:
        """Give up outboxes until the others are within the limit."""
        while self.pending_size > self.limit_bytes:
            largest = max(self.outboxes, key=lambda outbox: outbox.pending_size)
            largest.give_up(
                f"which all connections share; together they had {self.pending_size}",
                self.limit_bytes,
            )


class Outbox:
    """The sending half of one stream.

    Args:
        stream: where the bytes go; closed when it breaks or overflows.
        limit_bytes: most unsent bytes to keep.  A reader too slow for its limit loses its
            connection, since dropping bytes inside a stream is not to be had.
        budget: shared with others, if any.

    Attributes:
        closed: whether nothing will be sent any more.
        pending_size: bytes written and not yet taken by the kernel.
    """

    # Both are attributes, and not properties, as they are asked for many times for each message.

    def __init__(
        self, stream: ByteStream, limit_bytes: int, *, budget: OutboxBudget | None = None
    ) -> None:
        assert limit_bytes > 0
        self._budget = budget
        if budget is not None:
            budget.outboxes.add(self)
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._queue: list[Buffer] = []
        self.pending_size = 0
        self._is_blocked = False  # the kernel is full; `run` waits for room
        self._flush_wanted = False
        self.closed = False
        self._ended = False
        self._overflowed = False
        self._error: ConnectionLostError | None = None
        self._runner = trio.lowlevel.ParkingLot()
        self._waiters = trio.lowlevel.ParkingLot()

    @property
    def overflowed(self) -> bool:
        """Whether the connection was given up because it was read too slowly."""
        return self._overflowed

    @property
    def error(self) -> ConnectionLostError | None:
        """Why sending ended, unless `close` ended it."""
        return self._error

    def write(self, buffers: Iterable[Buffer]) -> None:
        """Append *buffers*; nothing is sent before a `flush`.  Thrown away once closed."""
        if self.closed or self._ended:
            return
        queue = self._queue
        size = 0
        for buffer in buffers:
            size += len(buffer)
            queue.append(buffer)
        self._set_pending(self.pending_size + size)
        if self.pending_size > self._limit_bytes:
            self.flush()
            if self.pending_size > self._limit_bytes:
                self.give_up("of one connection", self._limit_bytes)
        budget = self._budget
        if budget is not None and budget.pending_size > budget.limit_bytes:
            self.flush()
            budget.shed()

    def flush(self) -> None:
        """Send what can be sent without waiting; `run` sends what is left.  Never raises."""
        self._flush_wanted = False
        if self._is_blocked or not self._queue:
            return
        if len(self._queue) >= _COALESCE_COUNT:
            self._queue = _coalesce(self._queue)
        try:
            rest = self._stream.send_now(self._queue)
        except ConnectionLostError as error:
            self._fail(error)
            return
        self._queue = list(rest)
        if rest:
            self._set_pending(sum(map(len, rest)))
            self._is_blocked = True
            self._runner.unpark_all()
        else:
            self._set_pending(0)
        if self._waiters:
            self._waiters.unpark_all()

    def send(self, buffers: list[Buffer]) -> None:
        """Append *buffers* and send what can be sent: `write` and `flush` in one."""
        if self._queue or self._is_blocked or self.closed or self._ended:
            self.write(buffers)
            self.flush()
            return
        self._flush_wanted = False
        try:
            rest = self._stream.send_now(buffers)
        except ConnectionLostError as error:
            self._fail(error)
            return
        if rest:
            self._is_blocked = True
            self.write(rest)
            self._runner.unpark_all()

    def flush_soon(self) -> None:
        """Have `run` flush when the tasks that run now have run: many writers, one send."""
        if not self._flush_wanted:
            self._flush_wanted = True
            self._runner.unpark_all()

    async def run(self) -> None:
        """Send what `flush` left, until the stream is closed or cancelled."""
        while not self.closed:
            if self._is_blocked:
                try:
                    await self._stream.wait_writable()
                except ConnectionLostError as error:
                    self._fail(error)
                    return
                self._is_blocked = False
                self.flush()
            elif self._flush_wanted:
                self.flush()
            else:
                await self._runner.park()

    async def wait_below(self, size: int) -> None:
        """Wait until at most *size* bytes are unsent, or nothing will be sent any more."""
        while self.pending_size > size and not self.closed:
            await self._waiters.park()

    async def wait_closed(self) -> None:
        """Wait until nothing will be sent any more."""
        while not self.closed:
            await self._waiters.park()

    def end(self) -> None:
        """Send no more than what was sent, and let the other end know; it may still send."""
        if not self.closed and not self._ended:
            self._ended = True
            self._queue = []
            self._set_pending(0)
            self._stream.end_sending()

    def close(self) -> None:
        """Close the stream; what is unsent is thrown away.  Does nothing the second time."""
        self._end()
        self._stream.close()

    def abort(self) -> None:
        """Close the stream with a reset, where it has such a thing."""
        self._end()
        self._stream.abort()

    def give_up(self, whose: str, limit_bytes: int) -> None:
        """End the connection, as too much is unread; *whose* limit it is goes into the reason."""
        self._overflowed = True
        self._error = ConnectionLostError(
            f"connection to {self._stream.peer_address} was given up: it left "
            f"{self.pending_size} bytes unread, over the limit of {limit_bytes} {whose}"
        )
        self.abort()

    def _set_pending(self, size: int) -> None:
        if self._budget is not None:
            self._budget.pending_size += size - self.pending_size
        self.pending_size = size

    def _fail(self, error: ConnectionLostError) -> None:
        if not self.closed:
            # Its words, not itself: with its traceback it holds on to whatever was to be sent, and
            # that to this outbox, in a ring that only the collector finds, and seldom.
            self._error = type(error)(str(error))
            self.close()

    def _end(self) -> None:
        self.closed = True
        self._queue = []
        self._set_pending(0)
        if self._budget is not None:
            self._budget.outboxes.discard(self)
        self._runner.unpark_all()
        self._waiters.unpark_all()


def _coalesce(buffers: Iterable[Buffer]) -> list[Buffer]:
    """Return the same bytes with runs of small buffers copied together."""
    merged: list[Buffer] = []
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < _COALESCE_SIZE:
            small.append(buffer)
            continue
        if small:
            merged.append(small[0] if len(small) == 1 else b"".join(small))
            small = []
        merged.append(buffer)
    if small:
        merged.append(small[0] if len(small) == 1 else b"".join(small))
    return merged
