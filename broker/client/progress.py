"""How far one queue has come on its way through a consumer.

The *position* is the offset of the next message to hand out.  A message is *done* when its receiver
has dealt with it; everything below `done` may be committed.  There are two ways to deal with one:

*   by coming back for the next message (with ``auto_commit``), which costs next to nothing;
*   by ``async with message:`` or `Message.ack`, in any order and from any task or thread.

A message that is *open* (inside its block) or *left* (its block ended with an error) keeps itself
and everything behind it from being committed, until it is done after all.  A seek passes over what
lies before its goal, but for such messages; those behind the goal are handed out once more.

A member of a group has a *keeper*, which sees to it that a message whose block failed comes again:
the message is *returning* until that is certain, and then it is done.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.message import Message
    from broker.client.queue_reader import QueueReader

DEAD = -1  # a level: to the dead letters. Source: RocketMQ ``consumerSendMsgBack``


class Again(NamedTuple):
    """When a message is to come again."""

    level: int = 0  # of RocketMQ's delay levels; 0: as the group has it; `DEAD`: never
    delay_ms: int | None = None  # instead


class Keeper(Protocol):
    """Has messages come again that could not be dealt with."""

    def take_back(self, progress: QueueProgress, message: Message, again: Again) -> None:
        """Take *message*, which is returning; called in the thread of whoever dealt with it."""


class QueueProgress:
    """Position, what is done and what is committed of one queue."""

    __slots__ = (
        "_acked_begins",
        "_acked_ends",
        "_came_back_at",
        "_is_auto",
        "_left",
        "_lock",
        "_on_settled",
        "_open",
        "_returning",
        "_start",
        "committed",
        "done",
        "follows",
        "handed_out",
        "keeper",
        "reader",
        "valid_until",
    )

    def __init__(
        self,
        reader: QueueReader,
        start: int,
        *,
        is_auto: bool,
        keeper: Keeper | None = None,
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        """Begin at the offset *start*.

        Args:
            reader: what the messages come from.
            start: offset of the first message to hand out.
            is_auto: whether coming back for the next message means that the last one is done.
            keeper: has messages come again whose blocks failed; None: they are left.
            on_settled: called when somebody has said of a message what became of it, in any thread.
        """
        self.reader = reader
        self.handed_out = start  # the position: offset of the next message to hand out
        self.done = start  # everything below has been dealt with
        self.committed = start  # what the group's leader has been told
        # Whether nothing is open or left, so that `done` simply follows `handed_out`.
        self.follows = is_auto
        self._is_auto = is_auto
        self._start = start  # messages before it that are not open were passed over by a seek
        self.keeper = keeper
        self.valid_until = float("inf")  # trio seconds; nothing is handed out later
        self._on_settled = on_settled
        self._lock = threading.Lock()  # messages may be dealt with in threads
        # By offset, where its message begins: before the messages a filter has passed over.
        self._open: dict[int, int] = {}
        self._left: dict[int, int] = {}
        # Of those that are open: whether they only wait to be handed out here once more.
        self._returning: dict[int, bool] = {}
        self._came_back_at = start  # with ``auto_commit`` what lies before it is done, or waits
        # Ranges above `done` that are dealt with: begin to end, and end to begin.
        self._acked_begins: dict[int, int] = {}
        self._acked_ends: dict[int, int] = {}

    @property
    def left(self) -> list[int]:
        """Offsets of messages whose blocks ended with an error, ascending."""
        return sorted(self._left)

    @property
    def is_idle(self) -> bool:
        """Whether everything handed out is done."""
        return self.done == self.handed_out

    @property
    def is_over(self) -> bool:
        """Whether nobody will say anything more of what was handed out."""
        with self._lock:
            return not self._open and (self.done == self.handed_out or bool(self._left))

    def is_just_at(self, queue_offset: int) -> bool:
        """Whether *queue_offset* comes next, and nothing before it waits to be done."""
        with self._lock:
            return queue_offset == self.handed_out and (
                self.follows or (self.done == queue_offset and not self._waiting())
            )

    def reset(self, queue_offset: int) -> None:
        """Go on at *queue_offset* and forget everything: the group was put there."""
        with self._lock:
            for table in (self._open, self._left, self._acked_begins, self._acked_ends):
                table.clear()
            self._returning.clear()
            self.handed_out = self.done = self._start = self._came_back_at = queue_offset
            self.follows = self._is_auto

    def seek(self, queue_offset: int) -> None:
        """Go on at *queue_offset*; what is open or left before it still waits to be done."""
        with self._lock:
            for table in (self._open, self._left):
                for offset in [offset for offset in table if offset >= queue_offset]:
                    del table[offset]
            self._returning = {o: held for o, held in self._returning.items() if o in self._open}
            self._acked_begins.clear()
            self._acked_ends.clear()
            waiting = sorted((begin, offset) for offset, begin in self._waiting())
            self.handed_out = self._start = self._came_back_at = queue_offset
            self.follows = self._is_auto and not waiting
            self.done = waiting[0][0] if waiting else queue_offset
            ends = [*(begin for begin, _ in waiting[1:]), queue_offset]
            for (_, offset), end in zip(waiting, ends, strict=False):
                if offset + 1 < end:
                    self._acked_begins[offset + 1] = end
                    self._acked_ends[end] = offset + 1

    def hand_out(self, message: Message) -> None:
        """Take note that *message* is handed out now."""
        offset = message.queue_offset
        message.progress = self
        if offset != self.handed_out:
            message.begin = self.handed_out
        self.handed_out = offset + 1
        if self._left:
            self._left.pop(offset, None)  # once more

    def skip_to(self, queue_offset: int) -> None:
        """Take note that no message wanted follows before *queue_offset*."""
        with self._lock:
            begin = self.handed_out
            self.handed_out = queue_offset
            if self._came_back_at == begin:
                self._came_back_at = queue_offset
            if self.follows:
                self.done = queue_offset
            else:
                self._ack(begin, queue_offset)

    def settle(self) -> None:
        """The receiver has come back: with ``auto_commit`` what it had is done."""
        if self.follows:
            self.done = self.handed_out
        elif self._is_auto:
            self.settle_all()

    def settle_all(self) -> None:
        """All that was handed out is done, but for what is open or left and what lies behind it."""
        with self._lock:
            self._came_back_at = self.handed_out
            blocked = min((begin for _, begin in self._waiting()), default=self.handed_out)
            if blocked > self.done:
                self.done = blocked
                for begin in [begin for begin in self._acked_begins if begin < blocked]:
                    end = self._acked_begins.pop(begin)
                    del self._acked_ends[end]
                    if end > self.done:
                        self.done = end
            self.follows = self._is_auto and not self._open and not self._left

    def enter(self, message: Message) -> None:
        """Its receiver deals with *message* now, and says when it has."""
        with self._lock:
            if not self._is_passed(message):
                self._open[message.queue_offset] = message.begin_or_offset
                self.follows = False

    def ack(self, message: Message) -> None:
        """*message* is done, unless it is on its way back."""
        with self._lock:
            if message.queue_offset in self._returning:
                return
            self._settle(message)
        self._tell_settled()

    def leave(self, message: Message) -> None:
        """*message* is not done: neither it nor what lies behind it is to be committed."""
        with self._lock:
            offset = message.queue_offset
            begin = self._open.pop(offset, None)
            if begin is None:
                if self._is_passed(message):
                    return
                begin = message.begin_or_offset
            self._returning.pop(offset, None)
            self.follows = False
            self._left[offset] = begin
            # It was taken for done already when its receiver came back for another one first.
            self.done = min(self.done, max(begin, self.committed))
        self._tell_settled()

    # --- coming again -------------------------------------------------------------------------

    def fail(self, message: Message) -> None:
        """The block of *message* has ended with an error."""
        if self.keeper is None:
            self.leave(message)
        elif message.queue_offset not in self._returning:
            self.take_back(message, Again())

    def take_back(self, message: Message, again: Again) -> None:
        """Have *message* come again, and be done here once that is certain.

        Raises:
            RuntimeError: nobody sees to that.
        """
        if self.keeper is None:
            raise RuntimeError(
                f"{message!r} cannot come again: its consumer is no member of a group, or reads "
                "for itself what all members read; seek to it, or leave it to the next consumer"
            )
        with self._lock:
            offset = message.queue_offset
            if offset in self._returning or (self._is_passed(message) and offset not in self._open):
                return
            begin = self._open.setdefault(offset, message.begin_or_offset)
            self._left.pop(offset, None)
            self._returning[offset] = False
            self.follows = False
            self.done = min(self.done, max(begin, self.committed))
        self.keeper.take_back(self, message, again)

    def returned(self, message: Message) -> None:
        """*message* will come again: it is done."""
        with self._lock:
            self._returning.pop(message.queue_offset, None)
            if message.queue_offset in self._open:
                self._settle(message)
        self._tell_settled()

    def hold(self, message: Message) -> None:
        """*message*, which is returning, waits to be handed out here."""
        with self._lock:
            if message.queue_offset in self._returning:
                self._returning[message.queue_offset] = True

    def leave_held(self) -> None:
        """Leave what waits to be handed out here: the queue goes to another member."""
        with self._lock:
            for offset in [offset for offset, is_held in self._returning.items() if is_held]:
                del self._returning[offset]
                self._left[offset] = self._open.pop(offset)

    def hand_out_again(self, message: Message) -> bool:
        """Have *message*, the last that was handed out, be the next; False after a seek."""
        with self._lock:
            offset = message.queue_offset
            if self._returning.pop(offset, None) is None:
                return False
            self.handed_out = self._open.pop(offset)
            self._came_back_at = min(self._came_back_at, self.handed_out)
        return True

    def _settle(self, message: Message) -> None:
        offset = message.queue_offset
        self._open.pop(offset, None)
        self._left.pop(offset, None)
        self._ack(message.begin_or_offset, offset + 1)
        if self._is_auto:
            # What its receiver has come back from meanwhile was kept waiting by this one.
            blocked = min((begin for _, begin in self._waiting()), default=self._came_back_at)
            self.done = max(self.done, min(blocked, self._came_back_at))

    def _tell_settled(self) -> None:
        if self._on_settled is not None:
            self._on_settled()

    def _waiting(self) -> list[tuple[int, int]]:
        return [*self._open.items(), *self._left.items()]

    def _is_passed(self, message: Message) -> bool:
        """Whether a seek has put the queue elsewhere since *message* was handed out."""
        return not self._start <= message.queue_offset < self.handed_out

    def _ack(self, begin: int, end: int) -> None:
        if begin <= self.done:
            if end <= self.done:
                return
            self.done = end
            while (further := self._acked_begins.pop(self.done, None)) is not None:
                del self._acked_ends[further]
                self.done = further
            return
        if self._is_auto:
            return  # what lies before it is open or left; `settle_all` sees to the rest
        if begin in self._acked_ends:
            begin = self._acked_ends.pop(begin)
        if end in self._acked_begins:
            end = self._acked_begins.pop(end)
        self._acked_begins[begin] = end
        self._acked_ends[end] = begin
