"""Which messages of a producer are already in the log, so that one sent again is not stored twice.

A producer numbers what it sends to one queue 0, 1, 2, ...  The marks in the log say which records
are which numbers; every node counts them as it dispatches, so a new leader knows as much as the
old one.

Everything here follows from the log alone: expiry goes by the store timestamps of records and
happens only at the first entry of a segment, and the producer dropped when there are too many is
the one whose last message lies furthest back.

Source: Kafka's idempotent producer (KIP-98) for the idea; RocketMQ has none.
"""

from __future__ import annotations

import enum
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.store.runs import RecordRun

# Each with one queue: about 500 bytes of memory, and 32 for each run but the last.
PRODUCERS_MAX = 100_000
RUNS_MAX = 64  # remembered per producer and queue; a batch pipelined further back is a duplicate
IDLE_MAX_MS = 7 * 24 * 3600 * 1000

ProducerKey = tuple[int, str, int]  # producer id, topic, queue id


class SequenceState(enum.Enum):
    """What a sequence number means for the log."""

    NEW = "new"
    DUPLICATE = "duplicate"  # all of it is in the log
    PENDING = "pending"  # handed in and not yet appended: ask again in a moment
    GAP = "gap"  # something before it is missing, or it overlaps what is there
    UNKNOWN = "unknown"  # nothing is known of the producer, and this is not its first message


class SequenceVerdict(NamedTuple):
    """The state of a run of messages, and where it is when it is a duplicate."""

    state: SequenceState
    queue_offset: int = -1  # of its first message; -1: no longer known
    entry_index: int = 0  # once that entry is committed, so is the duplicate


class Run(NamedTuple):
    """Messages with consecutive sequences and consecutive queue offsets."""

    first_sequence: int
    record_count: int
    first_queue_offset: int
    position: int  # of the first record in the log


FORGOTTEN = -1  # a producer's turn

_PACKED_ONCE = b""
_NO_RUN = Run(-1, 0, -1, -1)
_EARLIER_NUMBERS_MAX = (RUNS_MAX - 1) * len(_NO_RUN)
NEW_VERDICT = SequenceVerdict(SequenceState.NEW)
PENDING_VERDICT = SequenceVerdict(SequenceState.PENDING)
GAP_VERDICT = SequenceVerdict(SequenceState.GAP)
UNKNOWN_VERDICT = SequenceVerdict(SequenceState.UNKNOWN)


class Producer:
    """What is known of one producer and one queue."""

    # The last run goes on with nearly every mark: its ends are numbers here, and no tuple.
    __slots__ = (
        "_earlier_runs",
        "_end_offset",
        "_first_offset",
        "_first_sequence",
        "_position",
        "index",
        "last_sequence",
        "packed",
        "seen_ms",
        "turn",
    )

    def __init__(
        self,
        *,
        last_sequence: int = -1,
        runs: list[Run] | None = None,
        seen_ms: int = 0,
        index: int = 0,
    ) -> None:
        self.last_sequence = last_sequence
        *earlier, last = runs or [_NO_RUN]
        # None for nearly all.  Where many producers write to one queue each message is a run: four
        # numbers each, and no objects, which were 200 bytes.
        self._earlier_runs: array[int] | None = None
        for run in earlier:
            self._add_earlier(*run)
        self._first_sequence, count, self._first_offset, self._position = last
        self._end_offset = self._first_offset + count
        self.seen_ms = seen_ms
        self.index = index  # of the last entry with a message of this producer
        # Its row of the snapshot; None since it changed; `_PACKED_ONCE` when one was taken since.
        self.packed: bytes | None = None
        self.turn = 0  # of its last message among all; `FORGOTTEN` once it is out of the table

    @property
    def runs(self) -> list[Run]:
        """The runs that are remembered, the latest last."""
        return [Run(*run) for run in self.packable_runs()]

    def packable_runs(self) -> list[tuple[int, int, int, int]]:
        """Return the same as plain tuples: a state has those of all producers."""
        count = self._end_offset - self._first_offset
        if not count:
            return []
        numbers = iter(self._earlier_runs or ())
        runs = list(zip(numbers, numbers, numbers, numbers, strict=True))
        runs.append((self._first_sequence, count, self._first_offset, self._position))
        return runs

    def copy(self) -> Producer:
        """Return one that may be changed by itself."""
        return Producer(
            last_sequence=self.last_sequence,
            runs=self.runs,
            seen_ms=self.seen_ms,
            index=self.index,
        )

    def check(self, first_sequence: int, count: int) -> SequenceVerdict:
        """Say what *count* messages from *first_sequence* on are; see `SequenceState`."""
        if first_sequence == self.last_sequence + 1:
            return NEW_VERDICT
        if first_sequence + count - 1 > self.last_sequence:
            return GAP_VERDICT
        return SequenceVerdict(
            SequenceState.DUPLICATE, self._queue_offset_of(first_sequence), self.index
        )

    def record(
        self,
        first_sequence: int,
        record_count: int,
        first_queue_offset: int,
        position: int,
        index: int,
        seen_ms: int,
    ) -> None:
        """Take note of a `Run` that is in entry *index*. What the log says is never doubted.

        By place, and not as a `Run`: this is done for every mark.
        """
        if self._end_offset != first_queue_offset or self.last_sequence + 1 != first_sequence:
            self._begin_run(first_sequence, first_queue_offset, position)
        self._end_offset = first_queue_offset + record_count
        self.last_sequence = first_sequence + record_count - 1
        self.index = index
        self.seen_ms = seen_ms
        self.packed = None

    def _begin_run(self, first_sequence: int, first_queue_offset: int, position: int) -> None:
        count = self._end_offset - self._first_offset
        if count:
            self._add_earlier(self._first_sequence, count, self._first_offset, self._position)
        self._first_sequence = first_sequence
        self._first_offset = first_queue_offset
        self._position = position

    def _add_earlier(self, *run: int) -> None:
        runs = self._earlier_runs
        if runs is None:
            runs = self._earlier_runs = array("Q")  # a sequence may be any 64 bits
        elif len(runs) >= _EARLIER_NUMBERS_MAX:
            del runs[: len(_NO_RUN)]
        runs.extend(run)

    def _queue_offset_of(self, first_sequence: int) -> int:
        for run in reversed(self.runs):
            into = first_sequence - run.first_sequence
            if 0 <= into < run.record_count:
                # Beyond the end of the run the rest is elsewhere; the first place is still right.
                return run.first_queue_offset + into
        return -1


class ProducerTable:
    """All producers a log prefix tells of, in the order of their last message.

    That order is asked for seldom, and each message changes it: so a producer only notes its turn,
    and is put in its place when somebody wants to know.
    """

    def __init__(
        self, *, producers_max: int = PRODUCERS_MAX, idle_max_ms: int = IDLE_MAX_MS
    ) -> None:
        assert producers_max >= 1
        self._producers: dict[ProducerKey, Producer] = {}
        self._producers_max = producers_max
        self._idle_max_ms = idle_max_ms
        self._packer = msgpack.Packer()
        self._clock_ms = 0  # latest store timestamp seen; unlike the leaders' clocks never falls
        self._turn = 0  # of the last message
        self._sorted_turn = 0  # up to it all are in their places
        self._oldest: Iterator[ProducerKey] | None = None  # since then, those not dropped yet

    def __len__(self) -> int:
        return len(self._producers)

    def get(self, key: ProducerKey) -> Producer | None:
        """Return what is known of *key*; not to be changed."""
        return self._producers.get(key)

    def last_sequence_of(self, producer_id: int) -> int:
        """Return the highest number of a producer in any queue; -1: nothing is known of it."""
        return max(
            (
                producer.last_sequence
                for key, producer in self._producers.items()
                if key[0] == producer_id
            ),
            default=-1,
        )

    def __iter__(self) -> Iterator[ProducerKey]:
        """Yield all keys, the longest idle first."""
        self._sort()
        return iter(self._producers)

    def check(self, key: ProducerKey, first_sequence: int, count: int) -> SequenceVerdict:
        """Say what messages *first_sequence* to ``first_sequence + count - 1`` are."""
        return check_sequence(self._producers.get(key), first_sequence, count)

    def record(self, key: ProducerKey, run: Run, *, index: int, timestamp_ms: int) -> None:
        """Take note of a mark in entry *index* whose records were stored at *timestamp_ms*."""
        if timestamp_ms > self._clock_ms:
            self._clock_ms = timestamp_ms
        producer = self._find_or_add(key)
        self._turn = producer.turn = self._turn + 1
        producer.record(*run, index, self._clock_ms)

    def record_runs(self, runs: Iterable[RecordRun], *, indexes: Iterable[int]) -> None:
        """Take note of the marks of *runs*, whose entries have *indexes*, and of their times."""
        for run, index in zip(runs, indexes, strict=False):
            if run.store_timestamp_ms > self._clock_ms:
                self._clock_ms = run.store_timestamp_ms
            mark = run.mark
            if mark is None:
                continue
            lane = run.lane
            producer = None if lane is None else lane.producer
            if producer is None or producer.turn == FORGOTTEN:
                producer = self._find_or_add((mark.producer_id, run.topic, run.queue_id))
                if lane is not None:
                    lane.producer = producer
            self._turn = producer.turn = self._turn + 1
            producer.record(
                mark.first_sequence,
                run.record_count,
                run.first_queue_offset,
                run.first_position,
                index,
                self._clock_ms,
            )

    def _find_or_add(self, key: ProducerKey) -> Producer:
        """Return the producer *key*, whose turn it is."""
        producer = self._producers.get(key)
        if producer is None:
            if len(self._producers) >= self._producers_max:
                self._forget(self._find_oldest())
            producer = self._producers[key] = Producer()
        return producer

    def _find_oldest(self) -> ProducerKey:
        """Return the producer whose last message lies furthest back."""
        while True:
            if self._oldest is None:
                self._sort()
                self._oldest = iter(list(self._producers))
            for key in self._oldest:
                producer = self._producers.get(key)
                # Nothing came from it since all were in their places, and what is in front is gone.
                if producer is not None and producer.turn <= self._sorted_turn:
                    return key
            self._oldest = None

    def _forget(self, key: ProducerKey) -> None:
        self._producers.pop(key).turn = FORGOTTEN

    def _sort(self) -> None:
        """Put those in their places from whom something came since this was done last."""
        before = self._sorted_turn
        if before == self._turn:
            return
        items = self._producers.items()
        producers = {key: producer for key, producer in items if producer.turn <= before}
        moved = [item for item in items if item[1].turn > before]
        moved.sort(key=lambda item: item[1].turn)
        producers.update(moved)
        self._producers = producers
        self._sorted_turn = self._turn
        self._oldest = None

    def observe_time(self, timestamp_ms: int) -> None:
        """Take note of a store timestamp of records without a mark."""
        if timestamp_ms > self._clock_ms:
            self._clock_ms = timestamp_ms

    def expire(self) -> int:
        """Forget producers idle too long; only at the first entry of a segment. Return how many."""
        self._sort()
        horizon = self._clock_ms - self._idle_max_ms
        expired = []
        for key, producer in self._producers.items():
            if producer.seen_ms >= horizon:
                break  # in order of last use, and that never goes back in time
            expired.append(key)
        for key in expired:
            self._forget(key)
        return len(expired)

    def snapshot(self) -> bytes:
        """Return msgpack that says everything, the same on every node: [clock, [row ...]].

        A row is kept packed until its producer sends again: with 100,000 producers, few of them
        busy, this takes 20 ms where packing all of them took 150 ms, on the event loop.  But only
        from the second snapshot on that finds nothing new: rows of those who are busy would be kept
        in vain, of all runs up to a kilobyte each.
        """
        self._sort()
        pack = self._packer.pack
        parts = [
            self._packer.pack_array_header(2),
            pack(self._clock_ms),
            self._packer.pack_array_header(len(self._producers)),
        ]
        for key, producer in self._producers.items():
            packed = producer.packed
            if not packed:
                row = pack(
                    [
                        *key,
                        producer.last_sequence,
                        producer.seen_ms,
                        producer.index,
                        producer.packable_runs(),
                    ]
                )
                producer.packed = _PACKED_ONCE if packed is None else row
                packed = row
            parts.append(packed)
        return b"".join(parts)

    def restore(self, snapshot: list[Any]) -> None:
        """Become what `snapshot` was taken of; it comes unpacked, ``[0, []]`` is nobody.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        clock_ms, rows = snapshot
        producers: dict[ProducerKey, Producer] = {}
        for producer_id, topic, queue_id, last_sequence, seen_ms, index, runs in rows:
            numbers = (producer_id, queue_id, last_sequence, seen_ms, index)
            if type(topic) is not str or any(type(number) is not int for number in numbers):
                raise ValueError(f"{(topic, *numbers)!r:.200} is no producer")
            producers[producer_id, topic, queue_id] = Producer(
                last_sequence=last_sequence,
                runs=[Run(*run) for run in runs],
                seen_ms=seen_ms,
                index=index,
            )
        self._clock_ms = int(clock_ms)
        for known in self._producers.values():
            known.turn = FORGOTTEN
        self._producers = producers  # in their places
        self._turn = self._sorted_turn = 0
        self._oldest = None


def check_sequence(producer: Producer | None, first_sequence: int, count: int) -> SequenceVerdict:
    """Say what messages of *producer* are; None: nothing is known of it."""
    assert count >= 1
    if producer is None:
        return NEW_VERDICT if first_sequence == 0 else UNKNOWN_VERDICT
    return producer.check(first_sequence, count)
