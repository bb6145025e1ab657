"""Reading the records of an entry in runs: consecutive records of one topic and queue.

A run is what dispatch works on.  Its consume-queue units are made here, by column where there are
enough records, without an object for each record.  What does not parse raises, and what parses is
proved to be what the leader stamped: places, and queue offsets without a gap inside the run.
"""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from broker.message import codec
from broker.message.batch import MARK_MAGIC, MARK_SIZE, ProducerMark, decode_mark
from broker.message.properties import find_property
from broker.store import compiled
from broker.store.columns import (
    COLUMN_MIN,
    UNIT,
    gather,
    gather_heads,
    tails_match,
)
from broker.store.hashing import string_hash
from broker.store.run_layout import HEAD, LaidRun, corrupt, layout_of, places_of, topic_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.errors import CorruptRecordError
    from broker.store.columns import IntArray
    from broker.store.consume_queue import ConsumeQueue
    from broker.store.producers import Producer

UNIT_SIZE = 20
_UNIT = struct.Struct(">qiq")
_LEAD = struct.Struct(">iI")
_U16 = struct.Struct(">H")
_TAGS = b"TAGS"
_TAGS_NAME = b"TAGS\x01"
_TAGS_CACHED_MAX = 4096
_TOPICS_CACHED_MAX = 16_384
LANES_MAX = 131_072  # about 150 bytes each; more than there are producers to be remembered
_LANE_HEAD_SIZE = 12
_ONE_SIZE_MAX = 64 * 1024  # bytes; larger bodies are seldom one record
_RECORDS_A_RUN_MIN = 4  # on average, for columns to pay

assert UNIT.itemsize == _UNIT.size == UNIT_SIZE


class Lane:
    """One producer and queue, as the runs of a log name them; found once for each run.

    Whoever keeps a table of either leaves here what it would look up in it for each run.  With
    thousands of queues, each run one message, these lookups were most of dispatch.
    """

    __slots__ = ("producer", "queue", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic  # of all lanes one object
        self.queue: ConsumeQueue | None = None  # unless it is retired
        self.producer: Producer | None = None  # unless it is forgotten


class RecordRun(NamedTuple):
    """Consecutive records of one topic and queue, as they lie in the log."""

    topic: str
    queue_id: int
    record_count: int
    first_queue_offset: int
    first_position: int  # of the first record in the log, in bytes
    store_timestamp_ms: int  # of the first record
    units: bytes  # of the consume queue, 20 bytes for each record
    mark: ProducerMark | None  # which messages of which producer they are
    size: int  # bytes of all records
    size_max: int  # bytes of the largest
    # Where the properties of each record begin and end in the bytes that were read, an entry's body
    # or some entries; both may be empty where no record has any.
    properties_begins: Sequence[int] | IntArray
    properties_ends: Sequence[int] | IntArray
    lane: Lane | None = None  # None: tables look it up


class RunReader:
    """Reads entry bodies; keeps the hashes of tags it has seen, as there are few."""

    def __init__(self) -> None:
        self._tags_codes: dict[bytes, int] = {}
        self._topics: dict[bytes, str] = {}
        self.lanes: dict[bytes, Lane] = {}  # by what the compiled loops pack

    def runs(self, body: memoryview, body_position: int) -> Iterator[RecordRun]:
        """Yield the runs of an entry's *body* that lies at *body_position* of the log.

        Raises:
            CorruptRecordError: the body is not what a leader of this version writes.
        """
        if compiled.loops is not None:
            found = compiled.loops.read_runs(
                body,
                body_position,
                RecordRun,
                ProducerMark,
                self.lanes,
                self.make_lane,
                self.tags_code,
            )
            if found is not None:
                return iter(found)
        if len(body) < _ONE_SIZE_MAX:
            one = self._marked_one(body, body_position)
            if one is not None:
                return iter((one,))
        layout = list(layout_of(body))
        count = sum(len(run.starts) for run in layout)
        # Columns cost something for each run of an entry as well.
        if count < COLUMN_MIN or count < _RECORDS_A_RUN_MIN * len(layout):
            return (
                self._run_of_one(body, body_position, run) or self._run(body, body_position, run)
                for run in layout
            )
        return self._runs_by_column(body, body_position, layout)

    def _marked_one(self, body: memoryview, body_position: int) -> RecordRun | None:
        """Return the run of a body that is one record behind its mark, as a message alone is.

        None where it is anything else, or anything is odd.
        """
        if (
            len(body) < MARK_SIZE + codec.RECORD_SIZE_MIN
            or _LEAD.unpack_from(body)[1] != MARK_MAGIC
        ):
            return None
        mark = decode_mark(body, 0)
        if mark.record_count != 1:
            return None
        return self._run_of_one(body, body_position, LaidRun(mark, [MARK_SIZE], len(body), 0))

    def _run_of_one(self, body: memoryview, body_position: int, run: LaidRun) -> RecordRun | None:
        """Return a run that is one record; None where it is more, or anything is odd.

        What a topic with many queues consists of, and many topics: everything `_run` checks, in
        half the time. It is left to say what is wrong.
        """
        starts, mark = run.starts, run.mark
        if len(starts) > 1:
            return None
        at, end = starts[0], run.end
        if end - at < codec.RECORD_SIZE_MIN:
            return None
        head = HEAD.unpack_from(body, at)
        size, magic, queue_id, queue_offset, position, flags, store_timestamp, body_size = head
        topic_at = at + codec.BODY_OFFSET + body_size
        head_size = 2 if magic == codec.MAGIC_V2 else 1
        if (
            (magic != codec.MAGIC_V1 and magic != codec.MAGIC_V2)
            or (mark is not None and queue_id != mark.queue_id)
            or position != body_position + at
            or flags & _FLAGS_REFUSED
            or body_size < 0
            or size != end - at
            or topic_at + head_size + 2 > end
        ):
            return None
        name_at = topic_at + head_size
        name_size = body[topic_at] if head_size == 1 else _U16.unpack_from(body, topic_at)[0]
        begin = name_at + name_size + 2
        if begin > end or _U16.unpack_from(body, begin - 2)[0] != end - begin:
            return None
        topic = self._topic(bytes(body[name_at : begin - 2]))
        if topic is None:
            return None
        code = self.tags_code(bytes(body[begin:end])) if begin < end else 0
        return RecordRun(
            topic,
            queue_id,
            1,
            queue_offset,
            position,
            store_timestamp,
            _UNIT.pack(position, size, code),
            mark,
            size,
            size,
            (begin,),
            (end,),
        )

    def _run(self, body: memoryview, body_position: int, run: LaidRun) -> RecordRun:
        first = int(run.starts[0])
        head = HEAD.unpack_from(body, first)
        size, magic, queue_id, queue_offset, _, _, store_timestamp, body_size = head
        topic_field, topic = topic_of(body, first, size, magic, body_size, run.number)
        if run.mark is not None and run.mark.queue_id != queue_id:
            raise _wrong_mark(run, queue_id)
        units, begins, ends = self._units_each(body, body_position, run, head, topic_field)
        return RecordRun(
            topic,
            queue_id,
            len(run.starts),
            queue_offset,
            body_position + first,
            store_timestamp,
            units,
            run.mark,
            run.end - first,
            max(behind - at for at, behind in pairwise([*run.starts, run.end])),
            begins,
            ends,
        )

    def _runs_by_column(
        self, body: memoryview, body_position: int, layout: list[LaidRun]
    ) -> Iterator[RecordRun]:
        """Read all records of an entry at once, whatever their runs are."""
        starts, ends = places_of(layout)
        sizes = ends - starts
        heads = gather_heads(body, starts)
        counts = [len(run.starts) for run in layout]
        rows = [0, *accumulate(counts)]  # where in the columns each run begins, and the last ends
        topics = _topics_of(body, layout, heads[rows[:-1]])
        is_one = len(layout) == 1

        def spread(values: list[int] | IntArray) -> int | IntArray:
            """Return a value of each run for each of its records."""
            return values[0] if is_one else np.repeat(values, counts)

        firsts = heads[rows[:-1]]
        tail_sizes = [len(field) + 2 for field, _ in topics]
        body_sizes = heads["body_size"].astype(np.int64)
        tails = starts + codec.BODY_OFFSET + body_sizes
        begins = np.add(tails, spread(tail_sizes), dtype=np.int64)
        first_offsets = firsts["queue_offset"].astype(np.int64)
        offsets = np.arange(len(starts)) + spread(first_offsets - np.array(rows[:-1]))
        sound = (
            (heads["total_size"] == sizes)
            & (heads["magic"] == spread(firsts["magic"]))
            & (heads["queue_id"] == spread(firsts["queue_id"]))
            & (heads["system_flag"] & _FLAGS_REFUSED == 0)
            & (body_sizes >= 0)
            & (begins <= ends)
            & (heads["queue_offset"] == offsets)
            & (heads["position"] == starts + body_position)
        )
        if not sound.all() or not _tails_sound(body, tails, ends - begins, topics, rows):
            # Only to say what is wrong with which one.
            for run in layout:
                self._run(body, body_position, run)
            raise corrupt(int(sound.argmin()), "total_size", "it ends inside the next one")
        units = np.empty(len(starts), UNIT)
        units["position"] = heads["position"]
        units["size"] = heads["total_size"]
        units["tags_code"] = self._tags_codes_of(body, begins, ends)
        packed = units.tobytes()
        queue_ids = firsts["queue_id"].tolist()
        timestamps = firsts["store_timestamp"].tolist()
        for number, (run, (_, topic)) in enumerate(zip(layout, topics, strict=True)):
            row, behind = rows[number], rows[number + 1]
            first = int(run.starts[0])
            yield RecordRun(
                topic,
                queue_ids[number],
                behind - row,
                int(first_offsets[number]),
                body_position + first,
                timestamps[number],
                packed[UNIT_SIZE * row : UNIT_SIZE * behind],
                run.mark,
                run.end - first,
                int(sizes[row:behind].max()),
                begins[row:behind],
                ends[row:behind],
            )

    def _units_each(
        self,
        body: memoryview,
        body_position: int,
        run: LaidRun,
        first: tuple[int, ...],
        topic_field: bytes,
    ) -> tuple[bytes, list[int], list[int]]:
        number, end = run.number, run.end
        _, magic, queue_id, first_queue_offset, *_ = first
        units: list[bytes] = []
        begins: list[int] = []
        ends: list[int] = []
        for nth, at in enumerate(run.starts):
            size, found_magic, found_queue, queue_offset, position, flags, _, body_size = (
                HEAD.unpack_from(body, at)
            )
            topic_at = at + codec.BODY_OFFSET + body_size
            properties_at = topic_at + len(topic_field) + 2
            if (
                found_magic != magic
                or found_queue != queue_id
                or flags & _FLAGS_REFUSED
                or body_size < 0
                or properties_at > at + size
                or at + size > end
                or body[topic_at : properties_at - 2] != topic_field
                or _U16.unpack_from(body, properties_at - 2)[0] != at + size - properties_at
            ):
                raise corrupt(number + nth, "head", "it does not parse, or not like its neighbours")
            if queue_offset != first_queue_offset + nth:
                raise corrupt(
                    number + nth,
                    "queue_offset",
                    f"{queue_offset} where {first_queue_offset + nth} belongs",
                )
            if position != body_position + at:
                raise corrupt(
                    number + nth, "position", f"{position} at position {body_position + at}"
                )
            code = self.tags_code(bytes(body[properties_at : at + size]))
            units.append(_UNIT.pack(position, size, code))
            begins.append(properties_at)
            ends.append(at + size)
        return b"".join(units), begins, ends

    def _tags_codes_of(
        self, body: memoryview, properties: IntArray, ends: IntArray
    ) -> list[int] | int:
        # Nothing but properties is copied: bodies are most of a run.
        sizes = ends - properties
        size = int(sizes[0])
        if (sizes == size).all():
            if not size:
                return 0
            packed = gather(body, properties, size).tobytes()
        else:
            begins_and_ends = zip(properties.tolist(), ends.tolist(), strict=True)
            packed = b"".join([body[begin:end] for begin, end in begins_and_ends])
        if packed.find(_TAGS_NAME) < 0:
            return 0
        ends = np.cumsum(sizes)
        places = zip((ends - sizes).tolist(), ends.tolist(), strict=True)
        tags_code = self.tags_code
        return [tags_code(packed[begin:end]) for begin, end in places]

    def make_lane(self, packed: bytes) -> Lane | None:
        """Return a new lane and remember it; None where its topic is no UTF-8.

        Args:
            packed: 8 bytes for the producer, 4 for the queue, and the topic.
        """
        topic = self._topic(packed[_LANE_HEAD_SIZE:])
        if topic is None:
            return None
        if len(self.lanes) >= LANES_MAX:
            self.lanes.clear()
        lane = self.lanes[packed] = Lane(topic)
        return lane

    def _topic(self, name: bytes) -> str | None:
        """Return a topic's name, of all records one object; None where it is no UTF-8."""
        topic = self._topics.get(name)
        if topic is None:
            try:
                topic = name.decode()
            except UnicodeDecodeError:
                return None
            if len(self._topics) >= _TOPICS_CACHED_MAX:
                self._topics.clear()
            self._topics[name] = topic
        return topic

    def tags_code(self, properties: bytes) -> int:
        """Return the hash of the tag in *properties*; 0 without one."""
        tag = find_property(properties, _TAGS)
        if tag is None:
            return 0
        code = self._tags_codes.get(tag)
        if code is None:
            if len(self._tags_codes) >= _TAGS_CACHED_MAX:
                self._tags_codes.clear()
            code = self._tags_codes[tag] = string_hash(tag.decode("utf-8", "replace"))
        return code


# IPv6 hosts would move the fields behind them; transactions have no place in a consume queue.
_FLAGS_REFUSED = codec.FLAG_BORN_HOST_V6 | codec.FLAG_STORE_HOST_V6 | codec.FLAG_TRANSACTION_MASK


def _topics_of(
    body: memoryview, layout: list[LaidRun], firsts: np.ndarray[Any, Any]
) -> list[tuple[bytes, str]]:
    """Return the topic of each run; *firsts* are the heads of their first records."""
    topics = []
    for run, size, magic, body_size, queue_id in zip(
        layout,
        firsts["total_size"].tolist(),
        firsts["magic"].tolist(),
        firsts["body_size"].tolist(),
        firsts["queue_id"].tolist(),
        strict=True,
    ):
        topics.append(topic_of(body, int(run.starts[0]), size, magic, body_size, run.number))
        if run.mark is not None and run.mark.queue_id != queue_id:
            raise _wrong_mark(run, queue_id)
    return topics


def _tails_sound(
    body: memoryview,
    tails: IntArray,
    properties_sizes: IntArray,
    topics: list[tuple[bytes, str]],
    rows: list[int],
) -> bool:
    """Whether topic and size of properties follow each body as they should."""
    begin = 0
    for number, topic in enumerate(topics):
        if number + 1 < len(topics) and topics[number + 1] == topic:
            continue  # together with the next run
        end = rows[number + 1]
        part = tails_match(body, tails[begin:end], topic[0], properties_sizes[begin:end])
        if not part.all():
            return False
        begin = end
    return True


def _wrong_mark(run: LaidRun, queue_id: int) -> CorruptRecordError:
    assert run.mark is not None
    return corrupt(run.number, "queue_id", f"{queue_id} behind a mark of {run.mark.queue_id}")
