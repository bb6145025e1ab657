"""The append path: chunks of many requests become the body of one log entry.

A `RecordGroup` gathers what clients sent while the log was busy with the group before.  Inside the
entry the records of one producer and queue lie together, in the order they were sent, behind one
producer mark; that also makes them one run for a reader.  Between different queues or producers an
order is promised to nobody.

The body is laid out and stamped only when the entry's position is known, inside the append itself
and without an ``await``: index, position and queue offsets are given out together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from broker.message.batch import MARK_SIZE, pack_mark
from broker.store import compiled
from broker.store.chunk import Chunk
from broker.store.columns import COLUMN_MIN
from broker.store.producers import NEW_VERDICT, SequenceState, SequenceVerdict
from broker.store.stamp import STORE_HOST_SIZE, stamp_columns, stamp_each
from dledger.entry import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from broker.store.append_state import AppendState
    from broker.store.columns import IntArray
    from broker.store.producers import ProducerKey
    from broker.store.send_columns import ReadSends
    from dledger.clock import Clock


class Receipt(NamedTuple):
    """Where the records of one chunk went; valid once the group's entry is committed."""

    queue_id: int
    queue_offset: int  # of the first record
    position: int  # of the first record in the log, in bytes


_new_tuple = tuple.__new__  # a third of what a named tuple's own way takes


class _Bucket:
    """The records of one producer and queue inside a group."""

    # With many queues there is one for each record: it is made of one chunk, and little else.
    __slots__ = ("at", "chunks", "key", "last_sequence", "queue_offset", "record_count", "size")

    at: int  # where the first record begins in the body; known once it is laid out
    queue_offset: int  # of the first record; as well

    def __init__(self, key: ProducerKey, chunk: Chunk, first_sequence: int) -> None:
        self.key = key
        self.chunks = [chunk]
        self.record_count = chunk.record_count
        self.last_sequence = first_sequence + chunk.record_count - 1
        self.size = len(chunk.body)  # bytes of the records, without the mark

    def add(self, chunk: Chunk, first_sequence: int) -> None:
        self.chunks.append(chunk)
        self.record_count += chunk.record_count
        self.last_sequence = first_sequence + chunk.record_count - 1
        self.size += len(chunk.body)

    def starts(self) -> Iterator[int]:
        """Yield where each record begins in the body."""
        at = self.at
        for chunk in self.chunks:
            for size in chunk.sizes:
                yield int(at)
                at += size

    def all_sizes(self) -> IntArray:
        return np.concatenate([np.asarray(chunk.sizes, np.int64) for chunk in self.chunks])


_Place = tuple[_Bucket, int, int]


class RecordGroup:
    """What one entry of channel 0 will carry."""

    def __init__(
        self, state: AppendState, *, clock: Clock, store_host: bytes, body_size_max: int
    ) -> None:
        """Begin an empty group.

        Args:
            state: gives out sequences and queue offsets; belongs to this leadership.
            clock: stamps the store time.
            store_host: address of this broker in records: 4 bytes IPv4, the port in 4.
            body_size_max: most bytes an entry's body may have.
        """
        assert len(store_host) == STORE_HOST_SIZE
        self._state = state
        self._clock = clock
        self._store_host = store_host
        self._body_size_max = body_size_max
        # A chunk of one record by itself, with its producer and sequence: in no bucket, as there is
        # nothing to lay out, and it goes the short way.
        self._lone: tuple[Chunk, int, int] | None = None
        self._buckets: dict[ProducerKey, _Bucket] = {}
        # Each chunk's bucket, and records and bytes of the bucket before it; of sends that were
        # taken together a list of these, for each run one.
        self._chunks: list[_Place | list[_Place]] = []
        self.body_size = 0  # bytes of the body as it will be encoded
        self._record_count = 0
        self._receipts: list[Receipt | list[Receipt]] | None = None

    @property
    def chunk_count(self) -> int:
        """Chunks taken so far."""
        if self._receipts is not None:
            return len(self._receipts)
        return len(self._chunks) if self._lone is None else 1

    @property
    def record_count(self) -> int:
        """Records taken so far."""
        return self._record_count

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to append."""
        return self._record_count == 0

    def has_room(self, chunk_size: int) -> bool:
        """Whether a chunk of *chunk_size* bytes still fits, with a mark if it needs one."""
        return self.body_size + MARK_SIZE + chunk_size <= self._body_size_max

    def add_chunk(
        self, chunk: Chunk, *, producer_id: int = 0, first_sequence: int = 0
    ) -> SequenceVerdict:
        """Take a checked chunk if its sequence is NEW; it then is number ``chunk_count - 1``.

        Args:
            chunk: what `check_chunk` returned; its bytes must not change until `encode`.
            producer_id: 0 when the producer wants no duplicates recognised; always NEW then.
            first_sequence: the producer's number of the first record.

        Returns:
            The verdict; nothing was taken unless its state is NEW.
        """
        assert self._receipts is None, "the group is appended already"
        size = len(chunk.body)
        assert self.body_size + MARK_SIZE + size <= self._body_size_max, "see `has_room`"
        verdict = NEW_VERDICT
        if producer_id:
            verdict = self._state.reserve(
                producer_id, chunk.topic, chunk.queue_id, first_sequence, chunk.record_count
            )
            if verdict.state is not SequenceState.NEW:
                return verdict
        if not self._record_count and chunk.record_count == 1:
            self._lone = chunk, producer_id, first_sequence
            self._record_count = 1
            self.body_size = MARK_SIZE + size if producer_id else size
            return verdict
        self._move_lone()
        self._put_in_bucket(chunk, producer_id, first_sequence)
        return verdict

    def add_sends(self, sends: ReadSends, begin: int, end: int) -> int:
        """Take runs *begin* to *end* as one chunk, up to the first that is not NEW or has no room.

        Args:
            sends: what was read together; the received bytes must not change until `encode`.
            begin: the first run.
            end: behind the last.

        Returns:
            The first that is not taken; *begin* where none is.
        """
        assert self._receipts is None, "the group is appended already"
        self._move_lone()
        size_max = self._body_size_max - MARK_SIZE
        reserved, reserve, buckets = self._state.reserved, self._state.reserve, self._buckets
        places: list[_Place] = []
        body_size, record_count, nth = self.body_size, self._record_count, begin
        runs, records = sends.runs, sends.records
        while nth < end:
            run = runs[nth]
            target, first_sequence, count, size, _, _, _ = run
            key = target.key
            if body_size + size > size_max:
                break
            if key[0]:
                if reserved.get(key) == first_sequence - 1:
                    reserved[key] = first_sequence + count - 1
                elif reserve(*key, first_sequence, count).state is not SequenceState.NEW:
                    break
            # The compiled loop that stamps what others of its kind have read asks for no sizes.
            chunk = Chunk(key[1], key[2], records(run), (), count)
            bucket = buckets.get(key)
            if bucket is None:
                bucket = buckets[key] = _Bucket(key, chunk, first_sequence)
                places.append((bucket, 0, 0))
                if key[0]:
                    body_size += MARK_SIZE
            else:
                places.append((bucket, bucket.record_count, bucket.size))
                bucket.add(chunk, first_sequence)
            body_size += size
            record_count += count
            nth += 1
        if places:
            self._chunks.append(places)
            self.body_size, self._record_count = body_size, record_count
        return nth

    def _move_lone(self) -> None:
        """Put a record that is not alone any more where the others are."""
        if (lone := self._lone) is not None:
            self._lone = None
            self._record_count = self.body_size = 0
            self._put_in_bucket(*lone)

    def _put_in_bucket(self, chunk: Chunk, producer_id: int, first_sequence: int) -> None:
        key = producer_id, chunk.topic, chunk.queue_id
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(key, chunk, first_sequence)
            self._chunks.append((bucket, 0, 0))
            if producer_id:
                self.body_size += MARK_SIZE
        else:
            self._chunks.append((bucket, bucket.record_count, bucket.size))
            bucket.add(chunk, first_sequence)
        self.body_size += len(chunk.body)
        self._record_count += chunk.record_count

    def encode(self, entry_position: int) -> list[bytearray]:
        """Lay out and stamp the body of the entry whose header will be at *entry_position*.

        To be called once, at the moment of append: it gives out the queue offsets.
        """
        assert self._receipts is None, "an entry is stamped once"
        body_position = entry_position + HEADER_SIZE
        self._state.begin_entry()
        if self._lone is not None:
            return [self._encode_lone(self._lone, body_position)]
        parts: list[bytes | memoryview] = []
        append_run = self._state.append_run
        at = 0
        for bucket in self._buckets.values():
            key, count = bucket.key, bucket.record_count
            producer_id, _, queue_id = key
            # What the mark says; of numbers with gaps it is the last that counts.
            first_sequence = bucket.last_sequence - count + 1
            if producer_id:
                parts.append(pack_mark(producer_id, first_sequence, count, queue_id))
                at += MARK_SIZE
            for chunk in bucket.chunks:
                body = chunk.body
                parts.append(body if type(body) is memoryview else body.tobytes())
            bucket.at = at
            bucket.queue_offset = append_run(
                key, count, first_sequence=first_sequence, position=body_position + at
            )
            at += bucket.size
        laid_out = bytearray().join(parts)
        assert len(laid_out) == at == self.body_size
        self._stamp(laid_out, self._buckets.values(), body_position)
        self._receipts = [
            _receipts_of(chunk, body_position)
            if isinstance(chunk, list)
            else _receipts_of([chunk], body_position)[0]
            for chunk in self._chunks
        ]
        # The received bytes are copied; what else was kept of them is not needed any more.
        self._buckets.clear()
        self._chunks.clear()
        return [laid_out]

    def _encode_lone(self, lone: tuple[Chunk, int, int], body_position: int) -> bytearray:
        chunk, producer_id, first_sequence = lone
        queue_id, at, mark = chunk.queue_id, 0, b""
        if producer_id:
            mark, at = pack_mark(producer_id, first_sequence, 1, queue_id), MARK_SIZE
        key = producer_id, chunk.topic, queue_id
        queue_offset = self._state.append_run(
            key, 1, first_sequence=first_sequence, position=body_position + at
        )
        body = bytearray(mark)
        body += chunk.body if type(chunk.body) is memoryview else chunk.body.tobytes()
        assert len(body) == self.body_size
        stamp_each(
            body,
            ((at, queue_offset),),
            body_position=body_position,
            timestamp_ms=self._clock.wall_ms(),
            store_host=self._store_host,
        )
        self._receipts = [_new_tuple(Receipt, (queue_id, queue_offset, body_position + at))]
        self._lone = None
        return body

    @property
    def receipts(self) -> list[Any]:
        """Where each chunk went, in the order they were added; only after `encode`.

        Of each `add_chunk` a `Receipt`, of each `add_sends` a list of these.
        """
        assert self._receipts is not None, "not appended yet"
        return self._receipts

    def _stamp(self, body: bytearray, buckets: Collection[_Bucket], body_position: int) -> None:
        timestamp_ms = self._clock.wall_ms()
        if compiled.loops is not None:
            runs = [(each.at, each.queue_offset, each.record_count) for each in buckets]
            compiled.loops.stamp_runs(body, runs, body_position, timestamp_ms, self._store_host)
            return
        if self._record_count < COLUMN_MIN:
            stamp_each(
                body,
                (
                    (start, bucket.queue_offset + nth)
                    for bucket in buckets
                    for nth, start in enumerate(bucket.starts())
                ),
                body_position=body_position,
                timestamp_ms=timestamp_ms,
                store_host=self._store_host,
            )
            return
        starts: list[IntArray] = []
        queue_offsets: list[IntArray] = []
        few_starts: list[int] = []  # of buckets not worth arrays of their own
        few_offsets: list[int] = []
        for bucket in buckets:
            first, behind = bucket.queue_offset, bucket.queue_offset + bucket.record_count
            if bucket.record_count < COLUMN_MIN:
                few_starts.extend(bucket.starts())
                few_offsets.extend(range(first, behind))
                continue
            sizes = bucket.all_sizes()
            starts.append(np.cumsum(sizes) - sizes + bucket.at)
            queue_offsets.append(np.arange(first, behind))
        if few_starts:
            starts.append(np.array(few_starts, np.int64))
            queue_offsets.append(np.array(few_offsets, np.int64))
        stamp_columns(
            body,
            np.concatenate(starts),
            np.concatenate(queue_offsets),
            body_position=body_position,
            timestamp_ms=timestamp_ms,
            store_host=self._store_host,
        )


def _receipts_of(places: list[_Place], body_position: int) -> list[Receipt]:
    return [
        _new_tuple(
            Receipt,
            (
                bucket.key[2],
                bucket.queue_offset + records_before,
                body_position + bucket.at + bytes_before,
            ),
        )
        for bucket, records_before, bytes_before in places
    ]
