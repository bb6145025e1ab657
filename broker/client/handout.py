"""What a consumer has at hand: messages that are handed out without waiting for anything.

Nothing here waits or knows an event loop, so that the receiver may live in another thread than the
connections: it calls `Handout.next`, and when that has nothing, asks the consumer to fill it.
While it is being filled nobody else may touch it.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from broker.client.records import MessageRun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from broker.client.message import Message
    from broker.client.progress import QueueProgress

_NO_MESSAGES: Sequence[Message] = ()
_NO_RUN = MessageRun.of(_NO_MESSAGES)
# Made at once: enough that one of them costs little more than itself, and far fewer than there
# have to be, 700, before the collector looks at new objects.
_MADE_AT_ONCE = 256


@dataclass(slots=True)
class ConsumerStats:
    """What a consumer has done so far."""

    messages: int = 0  # pulled, and wanted by the filter
    bytes: int = 0  # of records pulled
    pulls: int = 0  # answers that brought messages
    removed: int = 0  # offsets that retention had removed before they were read
    commits: int = 0  # offsets the group's leader has taken


class Handout:
    """The batch being handed out, and whose it is."""

    exclusive: AbstractContextManager[object] = nullcontext()  # held while something is taken away

    __slots__ = ("_gathered", "_run", "_taken", "at", "batch", "current", "end", "last")

    def __init__(self) -> None:
        self._run = _NO_RUN  # what is left of the batch and not made yet
        self.batch: Sequence[Message] = _NO_MESSAGES  # what is made of it
        self.at = 0  # the next one's number in that
        self.end = 0  # offset behind the batch, and behind what a filter passed over there
        self.current: QueueProgress | None = None  # whose the batch is
        self.last: QueueProgress | None = None  # whose the message is that was handed out last
        # For receivers of batches: what is gathered so far, and whose is in the batch they have.
        self._gathered: deque[Message] = deque()
        self._taken: dict[QueueProgress, None] = {}

    def next(self) -> Message | None:
        """Return the next message at hand, if any; with ``auto_commit`` the last one is done."""
        last = self.last
        if last is not None:
            if last.follows:
                last.done = last.handed_out
            else:
                last.settle()
        if self._gathered or self._taken:
            return self._next_of_gathered()
        at = self.at
        if at < len(self.batch):
            message = self.batch[at]
            self.at = at + 1
            current = self.last = self.current
            current.hand_out(message)  # type: ignore[union-attr] # there is a batch
            return message
        if self._run:
            self._make_some()
            return self.next()
        self.last = None
        self.use_up()
        return None

    def _next_of_gathered(self) -> Message | None:
        """As `next`, for somebody who has received batches before."""
        self.settle_taken()
        if not self._gathered:
            return self.next()
        message = self._gathered.popleft()
        progress = message.progress
        assert progress is not None
        self.last = progress
        progress.hand_out(message)
        return message

    def _make_some(self) -> None:
        run = self._run
        made, end = run.make(_MADE_AT_ONCE)
        # At once: whatever a signal's handler raises, it comes before or behind.
        self.batch, self.at, run.at = made, 0, end

    # --- filling ------------------------------------------------------------------------------

    def use_up(self) -> None:
        """Take note that the batch has been handed out, and what follows it passed over."""
        current = self.current
        if current is not None:
            # Otherwise the next message takes along what the filter has passed over.
            if current.handed_out < self.end and not self._gathered:
                current.skip_to(self.end)
            self.drop()

    def has(self, progress: QueueProgress, *, settled: bool) -> bool:
        """Whether a message of one queue is at hand, or unless *settled* with the receiver."""
        return (
            (not settled and (progress is self.last or progress in self._taken))
            or (progress is self.current and self._is_left())
            or any(message.progress is progress for message in self._gathered)
        )

    def drop(self) -> None:
        """Have no batch."""
        self._run = _NO_RUN
        self.batch, self.at, self.current = _NO_MESSAGES, 0, None

    def take_up(self, progress: QueueProgress, run: MessageRun, end: int) -> None:
        """Hand out *run* from now on; *end* is the offset behind it."""
        assert not self._is_left()
        self._run = run
        self.batch, self.at, self.end, self.current = _NO_MESSAGES, 0, end, progress

    def put_back(self, progress: QueueProgress) -> list[Message]:
        """Return what is at hand of one queue, and have it no more; `end` is behind it."""
        back = [message for message in self._gathered if message.progress is progress]
        self._gathered = deque(m for m in self._gathered if m.progress is not progress)
        if progress is self.current:
            back += self.batch[self.at :]
            back += self._run.take_all()
            self.drop()
        return back

    def forget(self, progress: QueueProgress) -> None:
        """Have nothing of one queue at hand: its reader goes elsewhere."""
        self.put_back(progress)
        self._taken.pop(progress, None)
        if self.last is progress:
            self.last = None

    def release(self, progress: QueueProgress) -> None:
        """Hand out no more of one queue; what its receiver has, it can still say is done."""
        self.put_back(progress)

    def _is_left(self) -> bool:
        return self.at < len(self.batch) or len(self._run) > 0

    # --- batches ------------------------------------------------------------------------------

    @property
    def gathered_count(self) -> int:
        """How many messages there are of the batch being gathered."""
        return len(self._gathered)

    def gather(self, count_max: int) -> bool:
        """Add what is at hand to the batch being gathered; return whether that is full."""
        while (wanted := count_max - len(self._gathered)) > 0 and self._is_left():
            if self.at == len(self.batch):
                self._make_some()
            more = self.batch[self.at : self.at + wanted]
            self.at += len(more)
            for message in more:
                message.progress = self.current
            self._gathered += more
        return len(self._gathered) >= count_max

    def settle_taken(self) -> None:
        """The receiver has come back for a batch: with ``auto_commit`` what it had is done."""
        if self.last is not None:
            self.last.settle()
            self.last = None
        for progress in self._taken:
            progress.settle()
        self._taken.clear()

    def take_gathered(self, count_max: int) -> list[Message]:
        """Hand out the batch that was gathered."""
        result = [self._gathered.popleft() for _ in range(min(count_max, len(self._gathered)))]
        for message in result:
            progress = message.progress
            assert progress is not None
            progress.hand_out(message)
            self._taken[progress] = None
        return result


class SharedHandout(Handout):
    """As `Handout`, for a receiver in another thread than the connections.

    The group may be put elsewhere while it takes a message, and what is at hand taken away.
    """

    __slots__ = ("exclusive",)

    def __init__(self) -> None:
        super().__init__()
        self.exclusive = threading.RLock()

    def next(self) -> Message | None:
        """See `Handout.next`."""
        with self.exclusive:
            return super().next()

    def settle_taken(self) -> None:
        """See `Handout.settle_taken`."""
        with self.exclusive:
            super().settle_taken()

    def take_gathered(self, count_max: int) -> list[Message]:
        """See `Handout.take_gathered`."""
        with self.exclusive:
            return super().take_gathered(count_max)


class BatchSource(Protocol):
    """A consumer, as `MessageBatches` needs it."""

    async def gather(self, handout: Handout, count_max: int, linger: float) -> None:
        """Gather at least one message, and up to *count_max* within *linger* seconds more."""


class MessageBatches:
    """Yields lists of messages: ``async for batch in consumer.batches(...)``."""

    def __init__(
        self, source: BatchSource, handout: Handout, *, count_max: int, linger: float
    ) -> None:
        self._source = source
        self._handout = handout
        self._count_max = count_max
        self._linger = linger

    def __aiter__(self) -> MessageBatches:
        return self

    async def __anext__(self) -> list[Message]:
        """Return the next batch; with ``auto_commit`` the one before is done."""
        handout = self._handout
        handout.settle_taken()
        # What is gathered when this is cancelled is the beginning of the next batch.
        await self._source.gather(handout, self._count_max, self._linger)
        return handout.take_gathered(self._count_max)
