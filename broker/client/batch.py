"""Messages of one queue that travel in one request.

A batch is filled while it is *pending*, gets its sequence numbers when it is *sealed*, and then
keeps its records until every one of them is settled: acknowledged, refused or given up.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import outcome
import trio

from broker.client.errors import LessDurableError
from broker.client.results import SendResult
from broker.message.batch import encode_sizes
from broker.message.codec import decode_record

if TYPE_CHECKING:
    from collections.abc import Callable


class _Acknowledged:
    """Wakes a sender whose batch was written as it stood; it builds its result itself.

    Stands in for `outcome.Value`, which would cost another half microsecond for each message.
    """

    __slots__ = ()

    def unwrap(self) -> None:
        """Return what ``wait_task_rescheduled`` is to return."""


_Task = trio.lowlevel.Task
_ACKNOWLEDGED: outcome.Outcome[object] = _Acknowledged()  # type: ignore[assignment]


class Place(Protocol):
    """Stands where a task would wait, for a message that no task of its own waits for."""

    custom_sleep_data: Any  # the batch the message is in, as of a task that is parked
    unique_id: str  # of the message

    def settle(self, result: SendResult | Exception) -> None:
        """Take what became of the message; called once, and must not send anything itself."""


class Here:
    """Stands where a task would, while that waits without having parked."""

    __slots__ = ("custom_sleep_data", "is_settled", "settled_with", "unique_id")

    def __init__(self) -> None:
        self.custom_sleep_data: Any = None
        self.unique_id = ""
        self.is_settled = False
        # None: the batch was acknowledged as it stood.
        self.settled_with: SendResult | Exception | None = None

    def settle(self, result: SendResult | Exception) -> None:
        """See `Place`."""
        self.settled_with = result
        self.is_settled = True


Waiter = trio.lowlevel.Task | Place


class Batch(msgspec.Struct, eq=False):
    """One request's records and the tasks that wait for them, in step.

    A struct, since one is made for every message that is sent alone.
    """

    acks: str = ""  # how well its messages have to be kept; "": as topic or broker have it
    flush: str = ""
    records: list[bytes] = msgspec.field(default_factory=list)
    waiters: list[Waiter | None] = msgspec.field(default_factory=list)  # None: nobody, any more
    deadlines: list[float] = msgspec.field(default_factory=list)  # trio seconds, ascending
    size: int = 0  # bytes of all records
    durability: str = ""  # how well they are kept, once acknowledged
    shortfall: str = ""  # what the broker says of messages kept less well than was asked for
    producer_id: int = 0
    first_sequence: int = 0
    needs_numbers: bool = False  # those it has are dead: a predecessor was taken out
    attempt: int = 0  # counts the times it was sent
    in_flight: bool = False  # the last attempt has not been answered
    is_uncertain: bool = False  # an attempt before the last may have been written
    is_acknowledged: bool = False
    is_moved: bool = False  # messages were taken out: numbers senders remember do not hold
    reason: str = ""  # why the last attempt failed
    node: str = ""  # where the last attempt went
    answered_at: float = 0.0  # trio seconds, once acknowledged
    queue_offset: int = -1
    position: int = -1

    @property
    def count(self) -> int:
        """How many messages there are."""
        return len(self.records)

    @property
    def may_be_written(self) -> bool:
        """Whether nobody can say that its messages are not in the log."""
        return self.is_uncertain or self.in_flight

    def encoded_sizes(self) -> bytes:
        """Return the column of record sizes."""
        if len(self.records) == 1:
            return self.size.to_bytes(4, "big")
        return encode_sizes([len(record) for record in self.records])

    def take(self, count: int) -> Batch:
        """Move the first *count* messages into a batch of their own and return it."""
        assert 0 < count < self.count
        assert not self.in_flight
        front = Batch(self.acks, self.flush)
        front.records, self.records = self.records[:count], self.records[count:]
        front.waiters, self.waiters = self.waiters[:count], self.waiters[count:]
        front.deadlines, self.deadlines = self.deadlines[:count], self.deadlines[count:]
        front.size = sum(map(len, front.records))
        front.producer_id = self.producer_id
        front.first_sequence = self.first_sequence
        front.needs_numbers = self.needs_numbers
        front.attempt = self.attempt
        front.is_uncertain = self.is_uncertain
        front.reason, front.node = self.reason, self.node
        self.size -= front.size
        self.first_sequence += count
        for batch in (front, self):
            batch.is_moved = True
            for waiter in batch.waiters:
                if waiter is not None:
                    waiter.custom_sleep_data = batch
        return front

    def take_expired(self, now: float) -> Batch | None:
        """Move the messages whose deadline has passed, if any, into a batch of their own."""
        count = bisect_right(self.deadlines, now)
        if count == 0:
            return None
        return self if count == self.count else self.take(count)

    def acknowledge(self, topic: str, queue_id: int) -> None:
        """Wake every sender with the place of its message."""
        self.is_acknowledged = True
        reschedule = trio.lowlevel.reschedule
        if not self.is_moved and not self.shortfall:
            has_places = False
            for waiter in self.waiters:
                if type(waiter) is _Task:
                    reschedule(waiter, _ACKNOWLEDGED)
                elif type(waiter) is Here:
                    waiter.is_settled = True
                elif waiter is not None:
                    has_places = True
            if not has_places:
                return
        starts = accumulate(map(len, self.records), initial=0)
        for number, (record, waiter, start) in enumerate(
            zip(self.records, self.waiters, starts, strict=False)
        ):
            if waiter is None:
                continue
            if not isinstance(waiter, trio.lowlevel.Task):
                result = self.result(topic, queue_id, number, start, waiter.unique_id)
                waiter.settle(self._error_with(result) if self.shortfall else result)
            elif self.is_moved or self.shortfall:
                unique_id = decode_record(record, check_crc=False).unique_key or ""
                result = self.result(topic, queue_id, number, start, unique_id)
                if self.shortfall:
                    reschedule(waiter, outcome.Error(self._error_with(result)))
                else:
                    reschedule(waiter, outcome.Value(result))

    def _error_with(self, result: SendResult) -> LessDurableError:
        return LessDurableError(f"node {self.node}: {self.shortfall}", result=result)

    def result(
        self, topic: str, queue_id: int, number: int, start: int, unique_id: str
    ) -> SendResult:
        """Return where message *number* is, whose record begins *start* bytes into the batch."""
        if self.queue_offset < 0:  # a duplicate so old that its place is forgotten
            return SendResult(topic, queue_id, -1, -1, self.node, unique_id, self.durability)
        position = self.position + start if self.position >= 0 else -1
        return SendResult(
            topic,
            queue_id,
            self.queue_offset + number,
            position,
            self.node,
            unique_id,
            self.durability,
        )

    def fail(self, make_error: Callable[[], Exception], *, until: float | None = None) -> None:
        """Wake senders with an error of their own each; they wait no more.

        Args:
            make_error: builds the error; a traceback belongs to one task only.
            until: only those whose deadline is not after this time; None for all.
        """
        count = self.count if until is None else bisect_right(self.deadlines, until)
        for number in range(count):
            waiter = self.waiters[number]
            if waiter is not None:
                self.waiters[number] = None
                if isinstance(waiter, trio.lowlevel.Task):
                    trio.lowlevel.reschedule(waiter, outcome.Error(make_error()))
                else:
                    waiter.settle(make_error())

    def forget(self, waiter: Waiter) -> None:
        """Wake *waiter* no more: it was cancelled. Its message stays."""
        self.waiters[self.waiters.index(waiter)] = None
