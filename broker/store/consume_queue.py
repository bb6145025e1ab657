"""One queue's index into the commit log.

A consume queue turns a *queue offset* (0, 1, 2, ... inside one queue of one topic) into the place
of a record in the commit log.  It is derived state: delete the folder, dispatch the commit log
again, and the same bytes come back.

A unit is 20 bytes, big-endian, as RocketMQ lays it out (docs/en/Design_Store.md):

    position   int64   byte position of the record in the commit log
    size       int32   length of the record in bytes
    tags_code  int64   hash of the tag; 0 when the message has none

New units gather in memory, in the *tail*; a job beside the event loop is handed the tail as it is,
to write it to the queue's file.  The latest stay in memory, which is where consumers that keep up
read them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from broker.errors import OffsetTooSmallError
from broker.store.runs import UNIT_SIZE

if TYPE_CHECKING:
    from broker.store.queue_files import QueueFiles, QueueKey

TAIL_UNITS_KEPT = 1024  # in memory after they were written: 20 KiB for each busy queue

UNKNOWN = -1  # where the record of the first unit lies

_UNIT = struct.Struct(">qiq")
_POSITION = struct.Struct(">q")


class DroppedUnits(NamedTuple):
    """Where a queue begins since the log was dropped up to a position: to be found."""

    queue: ConsumeQueue
    key: QueueKey
    position: int  # of the log; what lies before it is gone
    began: int  # the first unit before
    low: int  # the first unit that stays is one of those from here
    high: int  # to here, all before it in files
    high_position: int  # of the record of the unit at *high*; `UNKNOWN` where nobody knows


class ConsumeQueue:
    """The units of one queue from *min_offset* to *max_offset*."""

    # There may be thousands, each looked at in turn.
    __slots__ = (
        "_dropped_below",
        "_files",
        "_first_position",
        "_handed",
        "_kept",
        "_kept_begin",
        "_min_offset",
        "_tail",
        "_tail_begin",
        "_written",
        "has_grown",
        "is_retired",
        "key",
        "max_offset",
    )

    def __init__(
        self, files: QueueFiles, key: QueueKey, *, min_offset: int = 0, max_offset: int = 0
    ) -> None:
        """Begin with the units that the files hold.

        Args:
            files: where the units are kept.
            key: topic and queue id.
            min_offset: first unit that can be read.
            max_offset: behind the last unit; all before it are in *files*.
        """
        assert 0 <= min_offset <= max_offset
        self._files = files
        self.key = key
        self.has_grown = False  # since a job was last given its units; the table's
        self.is_retired = False  # another has its place
        self._min_offset = min_offset
        self.max_offset = max_offset  # the queue offset the next message gets
        # What lies in memory: the latest units that are written; those that jobs have been given,
        # a piece each, which nobody changes as a job reads them beside the event loop; the tail.
        self._kept = b""
        self._kept_begin = max_offset  # queue offset of the first
        self._written = max_offset  # behind them; up to here the files hold the units
        self._handed: tuple[bytearray, ...] = ()
        self._tail = bytearray()
        self._tail_begin = max_offset  # queue offset of its first
        # Of the record of the first unit, or one behind it that the log does not hold any more.
        self._first_position = UNKNOWN
        self._dropped_below: int | None = None  # units before it may be there, to be forgotten

    @property
    def min_offset(self) -> int:
        """The first queue offset that can be read; the end when there is none."""
        if self._dropped_below is not None:
            self._look_up(self._dropped_below)
        return self._min_offset

    @property
    def begin_so_far(self) -> int:
        """The same where all that was dropped has been looked up, else less; only grows.

        Also for jobs beside the event loop: no file with a unit from here on is removed before
        they are through.
        """
        return self._min_offset

    @property
    def unwritten_size(self) -> int:
        """Bytes of units no file holds yet."""
        return (self.max_offset - self._written) * UNIT_SIZE

    @property
    def uncaptured_size(self) -> int:
        """Bytes of units no job has been given yet."""
        return (self.max_offset - self._tail_begin) * UNIT_SIZE

    def append(self, position: int, size: int, tags_code: int) -> None:
        """Add one unit: the record at *position* of the log, *size* bytes long."""
        self.append_units(_UNIT.pack(position, size, tags_code))

    def append_units(self, units: bytes) -> None:
        """Add whole units, laid flat."""
        count, odd = divmod(len(units), UNIT_SIZE)
        assert not odd
        if count:
            self.append_run(units, count)

    def append_run(self, units: bytes, count: int) -> None:
        """Add *count* units, at least one."""
        if self._min_offset == self.max_offset:
            (self._first_position,) = _POSITION.unpack_from(units)
        self._tail += units
        self.max_offset += count

    def units_from(self, queue_offset: int, *, unit_count_max: int) -> bytes | memoryview:
        """Return up to *unit_count_max* whole units, the first at *queue_offset*.

        Args:
            queue_offset: first unit wanted, in messages, not bytes; at most the queue's end.
            unit_count_max: most units to return; at least 1.

        Returns:
            Units laid flat, 20 bytes each; fewer than asked for only at the end of the queue, and
            empty when *queue_offset* is the end.

        Raises:
            OffsetTooSmallError: retention has already removed *queue_offset*.

        Source: RocketMQ ``GetMessageStatus.OFFSET_TOO_SMALL``.
        """
        assert unit_count_max >= 1
        assert queue_offset <= self.max_offset
        if self._dropped_below is not None:
            self._look_up(self._dropped_below)
        if queue_offset < self._min_offset:
            raise OffsetTooSmallError(
                f"queue {self.key[1]} of topic {self.key[0]} begins at offset "
                f"{self._min_offset}; {queue_offset} was removed",
                min_offset=self._min_offset,
            )
        end = min(queue_offset + unit_count_max, self.max_offset)
        if queue_offset >= self._kept_begin:
            return self._from_memory(queue_offset, end)
        in_files = min(end, self._kept_begin)
        units: bytes | memoryview = self._files.read(
            self.key, queue_offset, unit_count=in_files - queue_offset
        )
        reached = queue_offset + len(units) // UNIT_SIZE
        if reached == end:
            return units
        parts = [units]
        while reached < in_files:
            units = self._files.read(self.key, reached, unit_count=in_files - reached)
            parts.append(units)
            reached += len(units) // UNIT_SIZE
        parts.append(self._from_memory(reached, end))
        return b"".join(parts)

    def position_at(self, queue_offset: int) -> int:
        """Return the position of the record at *queue_offset*, in bytes. Raises as `units_from`."""
        (position,) = _POSITION.unpack_from(self.units_from(queue_offset, unit_count_max=1))
        return int(position)

    def drop_below_position(self, position: int) -> DroppedUnits | None:
        """Forget the units of records before *position* of the log; None: there are none.

        Opens no file: what only they can tell is looked up by whoever asks before `settle`.
        """
        began, end = self._min_offset, self.max_offset
        if began == end or self._first_position >= position:
            return None
        self._dropped_below = position
        high, high_position = end, UNKNOWN
        if self._kept_begin < end:
            high = max(self._kept_begin, began)
            high_position = self._position_of(high)
            if high == began or high_position < position:
                self._look_up(position)
                high, high_position = self._min_offset, self._first_position
                if high == began:
                    return None
        low = self._min_offset
        return DroppedUnits(self, self.key, position, began, low, high, high_position)

    def settle(self, dropped: DroppedUnits, offset: int, first_position: int) -> None:
        """Begin at *offset*, the record of which lies at *first_position*, now that it is found."""
        if offset >= self._min_offset:
            self._min_offset = offset
            self._first_position = first_position
        if self._dropped_below == dropped.position:
            self._dropped_below = None

    def look_up_first(self, position: int) -> None:
        """Forget the units of records before *position* of the log, at once; reads the files."""
        self._look_up(position)

    def trim(self, queue_offset: int) -> None:
        """Let the queue begin at *queue_offset*, unless it begins behind it already."""
        assert queue_offset <= self.max_offset
        if queue_offset > self._min_offset:
            self._min_offset = queue_offset
            self._first_position = UNKNOWN

    def retire(self) -> None:
        """Make room for another: nobody may add to this one, or read it."""
        self.is_retired = True
        self._kept, self._handed, self._tail = b"", (), bytearray()
        self._kept_begin = self._written = self._tail_begin = self.max_offset

    def begin_flush(self) -> tuple[int, bytearray]:
        """Return the units no job has been given yet, and the queue offset of the first.

        They are not copied, and do not change any more.
        """
        first, units = self._tail_begin, self._tail
        self._tail, self._tail_begin = bytearray(), self.max_offset
        if units:
            self._handed += (units,)
        return first, units

    def finish_flush(self, written_offset: int, *, kept_count: int = TAIL_UNITS_KEPT) -> None:
        """Take note that the files hold all units before *written_offset*, where a job ended.

        *kept_count* of the last units stay in memory nevertheless.
        """
        if self.is_retired:
            return
        begin = max(self._kept_begin, min(written_offset, self.max_offset - kept_count))
        kept = self._from_memory(begin, written_offset)
        if written_offset > self._written:
            written, *handed = self._handed  # jobs run in order
            assert written_offset == self._written + len(written) // UNIT_SIZE
            self._handed, self._written = tuple(handed), written_offset
        self._kept, self._kept_begin = kept, begin

    def _look_up(self, position: int) -> None:
        low, high, found = self._min_offset, self.max_offset, UNKNOWN
        begin = max(low, self._kept_begin)
        if begin < high:
            # Memory first: it tells of most queues that nothing has to be read for them.
            in_tail = self._position_of(begin)
            if in_tail < position:
                low = begin + 1
            else:
                high, found = begin, in_tail
        while low < high:  # positions grow along the queue
            middle = (low + high) // 2
            at_middle = self._position_of(middle)
            if at_middle < position:
                low = middle + 1
            else:
                high, found = middle, at_middle
        self._min_offset, self._first_position, self._dropped_below = low, found, None

    def _position_of(self, queue_offset: int) -> int:
        if queue_offset >= self._kept_begin:
            units: bytes | memoryview = self._from_memory(queue_offset, queue_offset + 1)
        else:
            units = self._files.read(self.key, queue_offset, unit_count=1)
        return int(_POSITION.unpack_from(units)[0])

    def _from_memory(self, queue_offset: int, end: int) -> bytes:
        """Return the units from *queue_offset* to *end*; all must be in memory."""
        at = self._tail_begin
        if queue_offset >= at:
            return bytes(
                memoryview(self._tail)[(queue_offset - at) * UNIT_SIZE : (end - at) * UNIT_SIZE]
            )
        at, parts = self._kept_begin, []
        pieces: tuple[bytes | bytearray, ...] = (self._kept, *self._handed, self._tail)
        for units in pieces:
            behind = at + len(units) // UNIT_SIZE
            if queue_offset < behind and at < end:
                begin = max(queue_offset - at, 0) * UNIT_SIZE
                parts.append(memoryview(units)[begin : (end - at) * UNIT_SIZE])
            at = behind
        return b"".join(parts)
