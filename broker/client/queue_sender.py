"""The batches of one queue on their way: in order, each written once, whatever fails.

Pure but for waking senders: time is an argument, and `broker.client.producer` does the sending.

A queue's sealed batches are a *chain*: their sequence numbers follow one another under one producer
id, and the broker refuses a batch whose predecessor it does not have.  Three rules keep every
message single and in order:

1.  After any failure nothing is sent until all that is in flight has been answered or lost; then
    everything is sent again from the head of the chain, with the same numbers.
2.  A batch that may be written keeps its numbers and is sent again until its outcome is known or
    the whole chain has expired, even when nobody waits for it any more: those behind it may be
    written too, and only the numbers can tell.
3.  A message is taken out of the chain only when no attempt can have written it.  Those behind it
    get new numbers: under the same producer id when none of them can be on its way any more, else
    under a new one.  Copies of them still under way are dead, as their predecessor never comes.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

from broker.client.errors import MessageRefusedError, NotWrittenError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.batch import Batch

DELAY_MIN = 0.005  # seconds before the first resend
DELAY_MAX = 0.200


class Failure(enum.Enum):
    """What a failed attempt means for its batch."""

    NOT_WRITTEN = enum.auto()  # send it again
    UNCERTAIN = enum.auto()  # may be written; if it has numbers, send it again: they are known
    OUT_OF_ORDER = enum.auto()  # not written, nor is a predecessor
    UNKNOWN_PRODUCER = enum.auto()  # not written, and never will be under these numbers
    ILLEGAL = enum.auto()  # not written: one of its messages is not acceptable
    REFUSED = enum.auto()  # not written: none of its messages is


class QueueSender:
    """Pending and sealed batches of one queue of one topic."""

    __slots__ = (
        "_chance",
        "_delay",
        "_free_numbers",
        "_is_broken",
        "_needs_new_id",
        "_new_producer_id",
        "_next_sequence",
        "_on_settled",
        "in_flight_count",
        "pending",
        "producer_id",
        "queue_id",
        "resend_at",
        "sealed",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        queue_id: int,
        *,
        producer_id: int,
        new_producer_id: Callable[[], int],
        chance: Callable[[], float],
        on_settled: Callable[[Batch], None],
    ) -> None:
        """Start with nothing.

        Args:
            topic: its name, for results and errors.
            queue_id: likewise.
            producer_id: 0 when the broker shall not recognise duplicates: what may be written is
                then never sent again.
            new_producer_id: returns an id never used before.
            chance: returns a number from 0 to below 1, for the jitter of delays.
            on_settled: called with each batch, or part of one, that is done with.
        """
        self.topic = topic
        self.queue_id = queue_id
        self.producer_id = producer_id  # of the batch sealed next
        self.pending: deque[Batch] = deque()  # the last one takes more messages
        self.sealed: deque[Batch] = deque()  # numbered; unless broken, those in flight come first
        self.in_flight_count = 0
        self.resend_at = 0.0  # trio seconds; nothing is sent before, after a failure
        self._new_producer_id = new_producer_id
        self._chance = chance
        self._on_settled = on_settled
        self._next_sequence = 0
        self._delay = 0.0
        self._is_broken = False  # wait for what is in flight, then resend from the head
        # (producer id, sequence) of what was taken out, or must not be sent as it is.
        self._free_numbers: list[tuple[int, int]] = []
        self._needs_new_id = False  # for the batches that need numbers

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to send and nothing to wait for."""
        return not self.sealed and not self.pending

    @property
    def expires_at(self) -> float:
        """When `expire` next has something to do, in trio seconds; infinite for never."""
        result = float("inf")
        if self.pending:
            result = self.pending[0].deadlines[0]
        if self.sealed:
            result = min(result, self.sealed[-1].deadlines[-1])
        for batch in self.sealed:
            for waiter, deadline in zip(batch.waiters, batch.deadlines, strict=True):
                if waiter is not None:
                    return min(result, deadline)  # deadlines only grow from here on
        return result

    @property
    def is_waiting_to_resend(self) -> bool:
        """Whether nothing but time, until `resend_at`, stands in the way of sending."""
        return self._is_broken and not self.in_flight_count and not self.is_idle

    # --- sending ------------------------------------------------------------------------------

    def may_seal(self, *, in_flight_max: int, eager_size: int) -> bool:
        """Whether the first pending batch should leave now.

        When nothing is under way it leaves at once, however small: what arrives meanwhile is the
        next batch, so load makes batches larger and nobody ever waits for company.
        """
        if not self.pending or len(self.sealed) >= in_flight_max:
            return False
        return not self.sealed or len(self.pending) > 1 or self.pending[0].size >= eager_size

    def is_ready(self, now: float) -> bool:
        """Whether anything may be sent; after a failure, starts over once all is answered."""
        if self._is_broken:
            if self.in_flight_count or now < self.resend_at:
                return False
            self._resume()
        return True

    def next_unsent(self) -> Batch | None:
        """Return the sealed batch to send next, if there is one; call when `is_ready`."""
        assert not self._is_broken
        if self.in_flight_count < len(self.sealed):
            return self.sealed[self.in_flight_count]
        return None

    def seal(self) -> Batch:
        """Number the first pending batch; call when `is_ready` and `may_seal`."""
        assert not self._is_broken
        batch = self.pending.popleft()
        batch.producer_id = self.producer_id
        batch.first_sequence = self._next_sequence
        self._next_sequence += batch.count
        self.sealed.append(batch)
        return batch

    def mark_sent(self, batch: Batch, node: str) -> int:
        """Note that *batch* goes to *node*; return the number of this attempt."""
        assert self.sealed[self.in_flight_count] is batch
        batch.attempt += 1
        batch.in_flight = True
        batch.node = node
        self.in_flight_count += 1
        return batch.attempt

    def send_first(self, batch: Batch, node: str) -> bool:
        """Seal *batch* and mark it as sent to *node*, if there is nothing before it.

        As `is_ready`, `seal` and `mark_sent` one after another for a batch that is pending alone;
        returns False, and has done nothing, where something else is here or has failed before.
        """
        if self._is_broken or self.sealed or self.pending:
            return False
        batch.producer_id = self.producer_id
        batch.first_sequence = self._next_sequence
        self._next_sequence += len(batch.records)
        self.sealed.append(batch)
        batch.attempt = 1
        batch.in_flight = True
        batch.node = node
        self.in_flight_count = 1
        return True

    # --- answers ------------------------------------------------------------------------------

    def acknowledge(
        self,
        batch: Batch,
        *,
        node: str,
        queue_offset: int,
        position: int,
        durability: str = "",
        shortfall: str = "",
    ) -> bool:
        """Settle *batch* as written; return False when it was settled before.

        An answer to any attempt counts: written is written.  One that was acknowledged with the
        leader's copy alone may still be lost; those behind it are then out of order for the next
        leader, and are sent again under another producer id.

        Args:
            batch: what was sent.
            node: who answered.
            queue_offset: of its first message.
            position: of its first message.
            durability: what its messages have reached.
            shortfall: what the node says where that is less than was asked for.
        """
        sealed = self.sealed
        if batch not in sealed:
            return False
        sealed.remove(batch)
        if batch.in_flight:
            batch.in_flight = False
            self.in_flight_count -= 1
        batch.node = node
        batch.queue_offset = queue_offset
        batch.position = position
        batch.durability = durability
        batch.shortfall = shortfall
        self._delay = 0.0
        batch.acknowledge(self.topic, self.queue_id)
        self._on_settled(batch)
        return True

    def fail(
        self,
        batch: Batch,
        attempt: int,
        failure: Failure,
        reason: str,
        *,
        now: float,
        make_error: Callable[[str], Exception] = MessageRefusedError,
    ) -> bool:
        """Take note that *attempt* failed; return False when that is old news.

        Args:
            batch: what was sent.
            attempt: the number `mark_sent` returned.
            failure: what it means.
            reason: what an error is to say if there is no time left to try again.
            now: trio seconds.
            make_error: for ILLEGAL and REFUSED, makes an error from its text.
        """
        if not batch.in_flight or batch.attempt != attempt or batch not in self.sealed:
            return False
        batch.in_flight = False
        self.in_flight_count -= 1
        batch.reason = reason
        is_first = not self._is_broken
        self._is_broken = True
        batch.is_uncertain |= failure is Failure.UNCERTAIN
        # New numbers and halves are sent at once, unless new numbers have been refused before.
        is_repeated = failure is not Failure.ILLEGAL and batch.attempt > 2
        if failure in (Failure.NOT_WRITTEN, Failure.UNCERTAIN) or is_repeated:
            if is_first or not self._delay:
                self._delay = min(max(self._delay * 2, DELAY_MIN), DELAY_MAX)
            self.resend_at = now + self._delay * (0.5 + 0.5 * self._chance())
        elif is_first:
            self.resend_at = now
        if failure is Failure.UNCERTAIN and not batch.producer_id:
            # Without numbers the broker would not know it again, and store it twice.
            self._take_out(batch, lambda: self._outcome_unknown(batch))
            return True
        if failure in (Failure.NOT_WRITTEN, Failure.UNCERTAIN):
            return True
        if failure is Failure.OUT_OF_ORDER:
            # At the head there is no predecessor that could still come.
            if batch is self.sealed[0] and not batch.needs_numbers:
                self._renumber_from(batch, needs_new_id=True)
        elif failure is Failure.UNKNOWN_PRODUCER:
            self._renumber_from(batch, needs_new_id=True)
            if batch.is_uncertain:
                self._take_out(batch, lambda: self._outcome_unknown(batch))
        elif failure is Failure.ILLEGAL and batch.count > 1:
            place = self.sealed.index(batch)
            self.sealed.insert(place, batch.take(batch.count // 2))
        elif batch.is_uncertain:
            self._take_out(batch, lambda: self._outcome_unknown(batch))
        else:
            self._take_out(batch, lambda: make_error(self._describe(batch)))
        return True

    def hurry(self) -> None:
        """Resend without further delay: what stood in the way has changed."""
        self.resend_at = 0.0
        self._delay = 0.0

    # --- time ---------------------------------------------------------------------------------

    def expire(self, now: float, reason: str) -> None:
        """Give up what has had its time.

        Args:
            now: trio seconds.
            reason: why nothing was sent, for messages that never were.
        """
        if self.sealed and self.sealed[-1].deadlines[-1] <= now:
            self._abandon_chain(reason)
        for batch in list(self.sealed):
            if batch.deadlines[0] > now:
                break
            if batch.may_be_written:
                batch.fail(self._error_maker(batch, reason), until=now)
                continue
            gone = batch.take_expired(now)
            assert gone is not None
            if gone is not batch:
                self.sealed.insert(self.sealed.index(batch), gone)
            self._take_out(gone, self._error_maker(gone, reason))
        while self.pending:
            batch = self.pending[0]
            gone = batch.take_expired(now)
            if gone is None:
                break
            if gone is batch:
                self.pending.popleft()
            gone.fail(self._error_maker(gone, reason))
            self._on_settled(gone)

    def close(self, reason: str) -> None:
        """Give up everything at once."""
        if self.sealed:
            self._abandon_chain(reason)
        while self.pending:
            batch = self.pending.popleft()
            batch.fail(self._error_maker(batch, reason))
            self._on_settled(batch)

    # --- inside -------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Start over from the head of the chain, with new numbers where the old ones are dead."""
        self._is_broken = False
        if not self._free_numbers:
            return
        renumbered = [batch for batch in self.sealed if batch.needs_numbers]
        ids = {producer_id for producer_id, _ in self._free_numbers}
        producer_id, sequence = min(self._free_numbers)
        if producer_id and (
            self._needs_new_id or len(ids) > 1 or any(batch.is_uncertain for batch in renumbered)
        ):
            producer_id, sequence = self._new_producer_id(), 0
        for batch in renumbered:
            batch.producer_id = producer_id
            batch.first_sequence = sequence
            batch.needs_numbers = False
            batch.is_uncertain = False  # under the old numbers it can never be written
            sequence += batch.count
        if self.producer_id in ids:
            self.producer_id = producer_id
            self._next_sequence = sequence
        self._free_numbers.clear()
        self._needs_new_id = False

    def _renumber_from(self, first: Batch, *, needs_new_id: bool) -> None:
        """Have *first* and its followers numbered anew, and the batch sealed next too."""
        self._is_broken = True
        self._needs_new_id |= needs_new_id
        self._free_numbers.append((first.producer_id, first.first_sequence))
        is_behind = False
        for batch in self.sealed:
            is_behind |= batch is first
            if is_behind and batch.producer_id == first.producer_id:
                batch.needs_numbers = True

    def _take_out(self, batch: Batch, make_error: Callable[[], Exception]) -> None:
        """Remove *batch*, which no attempt can have written, and fail its messages."""
        if not batch.needs_numbers:
            self._renumber_from(batch, needs_new_id=batch.is_uncertain)
        self._remove(batch)
        batch.fail(make_error)
        self._on_settled(batch)

    def _abandon_chain(self, reason: str) -> None:
        """Give up all sealed batches; nothing is known of those that were on their way."""
        chain = list(self.sealed)
        self.sealed.clear()
        self.in_flight_count = 0
        ids = {batch.producer_id for batch in chain}
        if self.producer_id and (
            self._free_numbers
            or ids != {self.producer_id}
            or any(batch.may_be_written for batch in chain)
        ):
            self.producer_id = self._new_producer_id()
            self._next_sequence = 0
        else:
            self._next_sequence = chain[0].first_sequence
        self._free_numbers.clear()
        self._needs_new_id = False
        for batch in chain:
            batch.fail(self._error_maker(batch, reason))
            batch.in_flight = False
            self._on_settled(batch)

    def _remove(self, batch: Batch) -> None:
        self.sealed.remove(batch)
        if batch.in_flight:
            batch.in_flight = False
            self.in_flight_count -= 1

    def _error_maker(self, batch: Batch, reason: str) -> Callable[[], Exception]:
        if batch.may_be_written:
            if batch.in_flight:
                batch.reason = "no answer yet"
            return lambda: self._outcome_unknown(batch)
        batch.reason = batch.reason or reason
        return lambda: NotWrittenError(
            f"{self._describe(batch)}; it is not written and sending it again cannot duplicate it"
        )

    def _outcome_unknown(self, batch: Batch) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{self._describe(batch)}; it may be written: look for it before sending it again"
        )

    def _describe(self, batch: Batch) -> str:
        if not batch.attempt:
            return f"topic {self.topic} queue {self.queue_id}: never sent: {batch.reason}"
        tries = "attempt" if batch.attempt == 1 else "attempts"
        return (
            f"topic {self.topic} queue {self.queue_id}: {batch.reason} "
            f"({batch.attempt} {tries}, the last at {batch.node})"
        )
