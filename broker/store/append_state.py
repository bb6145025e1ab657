"""What the leader must know to append: each queue's next offset, each producer's last number.

Dispatch knows both up to the entry it has reached.  The leader appends beyond that, so this lays
what was appended since over what dispatch knows.  It lives as long as one leadership: a new leader
makes a new one and recounts the tail of its log that is not dispatched yet, committed or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from broker.message.batch import PRODUCER_ID_MAX
from broker.store.log_view import CHANNEL_RECORDS
from broker.store.producers import (
    GAP_VERDICT,
    NEW_VERDICT,
    PENDING_VERDICT,
    Producer,
    ProducerKey,
    ProducerTable,
    SequenceState,
    SequenceVerdict,
    check_sequence,
)
from broker.store.runs import RunReader

if TYPE_CHECKING:
    from broker.store.log_view import LogView

_OVERLAY_PRUNED_AT = 10_000  # producers; below it looking for stale ones is not worth the time


class Dispatched(Protocol):
    """What dispatch knows. `broker.store.derived.DerivedState` fits."""

    @property
    def dispatched_index(self) -> int:
        """The last entry taken in."""
        ...

    @property
    def producers(self) -> ProducerTable:
        """The producers up to there."""
        ...

    def next_queue_offset(self, topic: str, queue_id: int) -> int:
        """Return the offset the queue's next message gets; 0 for a queue without messages."""
        ...


class AppendState:
    """Offsets and sequences up to the end of the leader's log."""

    def __init__(self, dispatched: Dispatched, log: LogView) -> None:
        """Recount the part of *log* that is not dispatched yet: time grows with its length.

        Raises:
            CorruptRecordError: an entry there does not parse.
        """
        self._dispatched = dispatched
        self._log = log
        self._next_offsets: dict[tuple[str, int], int] = {}
        self._producers: dict[ProducerKey, Producer] = {}
        # Last sequence handed in; all up to it may be appended by now, and `_producers` knows it.
        self.reserved: dict[ProducerKey, int] = {}
        self._prune_at = _OVERLAY_PRUNED_AT
        self._last_index = dispatched.dispatched_index
        reader = RunReader()
        for entry in log.entries(self._last_index + 1, log.end_index):
            if entry.channel == CHANNEL_RECORDS:
                for run in reader.runs(entry.body, entry.body_position):
                    self._next_offsets[run.topic, run.queue_id] = (
                        run.first_queue_offset + run.record_count
                    )
                    if run.mark is not None:
                        key = run.mark.producer_id, run.topic, run.queue_id
                        producer = self._producers.get(key) or self._changeable(key)
                        producer.record(
                            run.mark.first_sequence,
                            run.record_count,
                            run.first_queue_offset,
                            run.first_position,
                            entry.index,
                            0,
                        )
            self._last_index = entry.index

    def next_queue_offset(self, topic: str, queue_id: int) -> int:
        """Return the offset the queue's next message gets."""
        offset = self._next_offsets.get((topic, queue_id))
        return self._first_offset(topic, queue_id) if offset is None else offset

    def last_sequence_of(self, producer_id: int) -> int:
        """Return the highest number of a producer in any queue of the log; -1: there is none.

        Also of what is not dispatched yet: an append that failed has made this state anew then.
        """
        appended = (
            producer.last_sequence
            for key, producer in self._producers.items()
            if key[0] == producer_id
        )
        return max(self._dispatched.producers.last_sequence_of(producer_id), *appended, -1)

    def reserve(
        self, producer_id: int, topic: str, queue_id: int, first_sequence: int, count: int
    ) -> SequenceVerdict:
        """Say what messages of a producer are, and take them as handed in when they are NEW.

        After NEW they must be appended, in the order of reservation; if the append fails this
        whole state is of no use any more and a new one has to be made.
        """
        if producer_id > PRODUCER_ID_MAX:
            return NEW_VERDICT  # the broker's own, which looks before it writes
        key = producer_id, topic, queue_id
        reserved = self.reserved.get(key)
        if reserved is not None:
            if first_sequence == reserved + 1:
                self.reserved[key] = reserved + count
                return NEW_VERDICT
            last = first_sequence + count - 1
            appended = self._producer(key)
            if last > (appended.last_sequence if appended is not None else -1):
                return PENDING_VERDICT if last <= reserved else GAP_VERDICT
        verdict = check_sequence(self._producer(key), first_sequence, count)
        if verdict.state is SequenceState.NEW:
            self.reserved[key] = first_sequence + count - 1
        return verdict

    def append_run(
        self, key: ProducerKey, record_count: int, *, first_sequence: int, position: int
    ) -> int:
        """Take note of a run that is appended now; return the queue offset of its first record.

        Of a producer and a queue; the producer id 0 stands for none.
        """
        producer_id, topic, queue_id = key
        queue = topic, queue_id
        offset = self._next_offsets.get(queue)
        if offset is None:
            offset = self._first_offset(topic, queue_id)
        self._next_offsets[queue] = offset + record_count
        if producer_id:
            producer = self._producers.get(key) or self._changeable(key)
            producer.record(first_sequence, record_count, offset, position, self._last_index, 0)
        return offset

    def begin_entry(self) -> None:
        """Take note that what follows is appended as the log's next entry."""
        self._last_index = self._log.end_index + 1
        if len(self._producers) >= self._prune_at:
            self._prune()

    def _producer(self, key: ProducerKey) -> Producer | None:
        return self._producers.get(key) or self._dispatched.producers.get(key)

    def _first_offset(self, topic: str, queue_id: int) -> int:
        """Return where a queue goes on to which nothing was appended here."""
        return self._dispatched.next_queue_offset(topic, queue_id)

    def _changeable(self, key: ProducerKey) -> Producer:
        """Return what is known of *key* as something of our own, which it was not yet."""
        known = self._dispatched.producers.get(key)
        producer = self._producers[key] = known.copy() if known is not None else Producer()
        return producer

    def _prune(self) -> None:
        """Forget the producers of whom dispatch knows as much by now."""
        dispatched = self._dispatched.dispatched_index
        kept: dict[ProducerKey, Producer] = {}
        for key, producer in self._producers.items():
            if producer.index > dispatched:
                kept[key] = producer
            elif self.reserved.get(key) == producer.last_sequence:
                del self.reserved[key]  # nothing of it waits: what dispatch says counts
        self._producers = kept
        self._prune_at = max(_OVERLAY_PRUNED_AT, 2 * len(kept))
