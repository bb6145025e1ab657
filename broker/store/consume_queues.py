"""All consume queues of a node.

On start the queues are what a state file says (`broker.store.state_file`), provided that their
files hold as much; what the files hold beyond that was dispatched after the state was written, and
will be written over with the same bytes.

A queue whose topic is deleted keeps its end and nothing else: what comes to a topic of that name
later begins there, at the queue's *floor*.  So an offset never means two messages, and what once
found a message by its offset finds it gone.  A queue that is trimmed has its floor further down:
below it nothing is read, whatever the log still holds.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.message import codec
from broker.store.consume_queue import TAIL_UNITS_KEPT, ConsumeQueue
from broker.store.queue_jobs import DeletedFiles, QueueFlush
from broker.store.runs import UNIT_SIZE
from dledger.errors import PoisonEntryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from broker.store.consume_queue import DroppedUnits
    from broker.store.log_view import LogView
    from broker.store.queue_files import QueueFiles, QueueKey
    from broker.store.runs import RecordRun

# Bytes of written units in memory, for those who keep up, when thousands of queues grow alike.
TAILS_SIZE_MAX = 2 * 1024 * 1024

_UNIT = struct.Struct(">qiq")
_QUEUE_ID = struct.Struct(">i")
_PLACES = struct.Struct(">qq")  # queue offset and position of a record


class ConsumeQueues:
    """The consume queues by topic and queue id. A queue begins with its first message."""

    def __init__(self, files: QueueFiles) -> None:
        self._files = files
        self._queues: dict[QueueKey, ConsumeQueue] = {}
        self._grown: dict[QueueKey, ConsumeQueue] = {}  # since the last flush began
        self._unflushed_size = 0
        # Of queues that were trimmed, or whose topic was deleted once: nothing below is read again.
        self._floors: dict[QueueKey, int] = {}
        # Trimmed since the last state that was asked for; and what that state knew of.
        self._trimmed: dict[QueueKey, int] = {}
        self._trimmed_before: dict[QueueKey, int] = {}
        # Queues of deleted topics, their files still there: no state has been begun that knows;
        # one has been since; and the one before that.
        self._deleted: list[QueueKey] = []
        self._doomed: dict[QueueKey, None] = {}
        self._doomed_before: dict[QueueKey, None] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @property
    def unflushed_size(self) -> int:
        """Bytes of units no job has been given yet."""
        return self._unflushed_size

    def get(self, topic: str, queue_id: int) -> ConsumeQueue | None:
        """Return a queue; None as long as it never had a message."""
        return self._queues.get((topic, queue_id))

    def next_queue_offset(self, topic: str, queue_id: int) -> int:
        """Return the offset the queue's next message gets."""
        queue = self._queues.get((topic, queue_id))
        return 0 if queue is None else queue.max_offset

    def put_runs(self, runs: Iterable[RecordRun], arrived: list[ConsumeQueue]) -> None:
        """Add the units of some runs, and the queue of each to *arrived*.

        Raises:
            PoisonEntryError: the queue offsets of one do not continue its queue's.
        """
        count = 0
        for run in runs:
            lane = run.lane
            queue = None if lane is None else lane.queue
            if queue is None or queue.is_retired:
                queue = self._find_or_begin((run.topic, run.queue_id))
                if lane is not None:
                    lane.queue = queue
            if run.first_queue_offset != queue.max_offset:
                raise PoisonEntryError(
                    f"the record at position {run.first_position} has offset "
                    f"{run.first_queue_offset} in queue {run.queue_id} of topic {run.topic}, where "
                    f"{queue.max_offset} comes next"
                )
            record_count = run.record_count
            queue.append_run(run.units, record_count)
            arrived.append(queue)
            if not queue.has_grown:
                queue.has_grown = True
                self._grown[queue.key] = queue
            count += record_count
        self._unflushed_size += count * UNIT_SIZE

    def _find_or_begin(self, key: QueueKey) -> ConsumeQueue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = ConsumeQueue(self._files, key)
        return queue

    @property
    def has_deleted(self) -> bool:
        """Whether a topic was deleted of which no state knows yet; see `doom_deleted`."""
        return bool(self._deleted)

    def delete_topic(self, topic: str) -> None:
        """Forget all messages of *topic*; its queues go on where they end now."""
        for key in [key for key in self._queues if key[0] == topic]:
            queue = self._queues[key]
            if queue.max_offset == self._floors.get(key):
                continue  # nothing came since it was deleted before
            end = queue.max_offset
            self._unflushed_size -= queue.uncaptured_size
            self._grown.pop(key, None)
            self._floors[key] = end
            queue.trim(end)  # a job may be about to look where it begins
            queue.retire()
            self._queues[key] = ConsumeQueue(self._files, key, min_offset=end, max_offset=end)
            self._deleted.append(key)

    def trim(self, topic: str, queue_id: int, offset: int) -> None:
        """Let a queue begin at *offset*, at the latest where it ends; never further back."""
        key = topic, queue_id
        queue = self._queues.get(key)
        if queue is None:
            return
        floor = min(offset, queue.max_offset)
        if floor > self._floors.get(key, 0):
            # Also where this node has dropped more than that: floors are the same on all nodes.
            self._floors[key] = floor
            queue.trim(floor)
            self._trimmed[key] = floor

    def take_trimmed(self) -> list[tuple[QueueKey, int]]:
        """Return, with each state that is begun, what was trimmed before the one before it.

        For `unlink_dropped`.  A start takes the last state but one when the checkpoint of the log
        is older than the last; without the files it counts on everything would be built anew.
        """
        ready = list(self._trimmed_before.items())
        self._trimmed_before, self._trimmed = self._trimmed, {}
        return ready

    def doom_deleted(self) -> None:
        """Take note that a state has been begun that knows of all deletions so far."""
        self._doomed.update(dict.fromkeys(self._deleted))
        self._deleted.clear()

    def begin_unlink(self, *, with_state: bool) -> DeletedFiles | None:
        """Return the job that removes files of deleted topics whose time has come; None: of none.

        Until the log's checkpoint has passed a deletion, a start begins with a state before it, and
        without the files would build everything anew: they stay for as long as those of what was
        trimmed (`take_trimmed`).  But they go before any flush to a queue that has messages again,
        as that may write to the same files: call it before each flush.

        Args:
            with_state: also with each state that is begun, or that would be if anything had
                changed: what was doomed before the one before goes.
        """
        going = [
            key
            for key in (*self._doomed_before, *self._doomed)
            if key in self._grown or (with_state and key in self._doomed_before)
        ]
        for key in going:
            self._doomed.pop(key, None)
            self._doomed_before.pop(key, None)
        if with_state:
            self._doomed_before, self._doomed = self._doomed, {}
        return DeletedFiles(self._files, going) if going else None

    def begin_flush(self) -> QueueFlush:
        """Return the job that brings every unit so far to the files; jobs run in order."""
        grown, self._grown = self._grown, {}
        self._unflushed_size = 0
        kept = min(TAIL_UNITS_KEPT, TAILS_SIZE_MAX // UNIT_SIZE // max(1, len(self._queues)))
        parts = [(key, *queue.begin_flush()) for key, queue in grown.items()]
        for queue in grown.values():
            queue.has_grown = False
        return QueueFlush(self._files, parts, list(grown.values()), kept)

    def drop_below_position(self, position: int) -> list[DroppedUnits]:
        """Forget units of records before *position*; return what `find_dropped` is to look up.

        With thousands of queues that would stop the event loop for as long as an election takes.
        Until `settle_dropped` a queue that somebody asks for is looked up by itself.
        """
        found = [queue.drop_below_position(position) for queue in self._queues.values()]
        return [dropped for dropped in found if dropped is not None]

    def find_dropped(self, dropped: Iterable[DroppedUnits]) -> list[tuple[int, int]]:
        """Return where each queue begins, and where in the log; blocking, beside the loop."""
        return [
            self._files.find_position(
                units.key,
                max(units.low, min(units.queue.begin_so_far, units.high)),
                units.high,
                units.position,
                units.high_position,
            )
            for units in dropped
        ]

    def settle_dropped(
        self, dropped: Iterable[DroppedUnits], found: Iterable[tuple[int, int]]
    ) -> list[tuple[QueueKey, int]]:
        """Take note of what `find_dropped` found; return what changed, for `unlink_dropped`."""
        changed = []
        for units, (offset, first_position) in zip(dropped, found, strict=True):
            units.queue.settle(units, offset, first_position)
            # Files below a floor wait for longer (`take_trimmed`, `begin_unlink`).
            if offset > units.began and offset > self._floors.get(units.key, 0):
                changed.append((units.key, offset))
        return changed

    def unlink_dropped(self, dropped: Iterable[tuple[QueueKey, int]]) -> list[str]:
        """Remove the files without a unit that can still be read; blocking, beside the event loop.

        Return their paths, for `forget_files`.

        The file of the last unit stays, so that a start can tell a queue whose messages are gone
        from one whose files are.
        """
        paths = [
            path
            for key, min_offset in dropped
            for path in self._files.paths_before(key, min_offset - 1)
        ]
        self._files.unlink(paths)
        return paths

    def forget_files(self, paths: Iterable[str]) -> None:
        """Let go of the mappings of removed files, which hold their space on the disk."""
        for path in paths:
            self._files.forget(path)

    def snapshot(self) -> Iterator[tuple[str, int, int]]:
        """Yield topic, queue id and next offset of each queue, in order; the same on every node."""
        for topic, queue_id in sorted(self._queues):
            yield topic, queue_id, self._queues[topic, queue_id].max_offset

    def floors(self) -> Iterator[tuple[str, int, int]]:
        """Yield topic, queue id and floor of each queue that has one, in order."""
        for topic, queue_id in sorted(self._floors):
            yield topic, queue_id, self._floors[topic, queue_id]

    def load(
        self,
        snapshot: Iterable[tuple[str, int, int]],
        log: LogView,
        *,
        begins: Mapping[QueueKey, int] | None,
        floors: Iterable[tuple[str, int, int]] = (),
    ) -> bool:
        """Become the queues of *snapshot*, if the files hold them as far; blocking.

        Args:
            snapshot: topic, queue id and next offset of each queue.
            log: what the units lead to.
            begins: the first offset of each queue that the log still holds, 0 where it says
                nothing; None when nobody knows.
            floors: topic, queue id and floor of the queues that have one.

        Returns:
            Whether they do. If not, only `restart` or another `load` may follow.
        """
        self._clear()
        self._floors = {(topic, queue_id): floor for topic, queue_id, floor in floors}
        for topic, queue_id, next_offset in snapshot:
            key = topic, queue_id
            floor = self._floors.get(key, 0)
            if floor == next_offset:
                # Perhaps the node ended before the files of the deleted topic were gone.
                self._files.unlink_queues([key])
                self._begin_at(key, floor)
                continue
            begin = self._first_held(key, next_offset)
            if begin is None:
                self._queues.clear()
                return False
            begin = max(begin, floor)
            queue = ConsumeQueue(self._files, key, min_offset=begin, max_offset=next_offset)
            if not self._fits_the_log(queue, key, log, floor):
                self._queues.clear()
                return False
            queue.look_up_first(log.base.position)
            if begins is not None and queue.min_offset != max(begins.get(key, 0), floor):
                # Units have no checksum: one that is damaged to look dropped takes others along,
                # and who asked for their messages would be told that retention had them.
                self._queues.clear()
                return False
            self._queues[key] = queue
        # Perhaps the node ended before all files below the floors were gone.
        self._trimmed_before = dict(self._floors)
        return True

    def restart(
        self,
        snapshot: Iterable[tuple[str, int, int]],
        *,
        floors: Iterable[tuple[str, int, int]] = (),
    ) -> None:
        """Remove all files and begin with empty queues at the offsets of *snapshot*; blocking."""
        self._clear()
        self._files.unlink_all()
        self._floors = {(topic, queue_id): floor for topic, queue_id, floor in floors}
        for topic, queue_id, next_offset in snapshot:
            key = topic, queue_id
            if next_offset == self._floors.get(key):
                self._begin_at(key, next_offset)
                continue
            # A blank unit before the first stands for those that were: `load` finds the file.
            blank = bytes(UNIT_SIZE)
            self._files.write(self._files.pieces(key, next_offset - 1, blank), size=UNIT_SIZE)
            self._begin_at(key, next_offset)

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def _clear(self) -> None:
        self._files.close()
        for queue in self._queues.values():
            queue.retire()
        self._queues.clear()
        self._grown.clear()
        self._unflushed_size = 0
        self._floors = {}
        self._trimmed = {}
        self._trimmed_before = {}
        self._deleted.clear()
        self._doomed = {}
        self._doomed_before = {}

    def _begin_at(self, key: QueueKey, offset: int) -> None:
        self._queues[key] = ConsumeQueue(self._files, key, min_offset=offset, max_offset=offset)

    def _first_held(self, key: QueueKey, next_offset: int) -> int | None:
        """Return where the unbroken row of units up to *next_offset* begins; None if there is none.

        A row: the last file reaches *next_offset* and every file before it is full.
        """
        end = next_offset
        for begin in reversed(self._files.file_begins(key)):
            if begin >= next_offset:
                continue
            if self._files.file_end(begin) < end or self._files.written_end(key, begin) < end:
                break
            end = begin
        return end if end < next_offset else None

    def _fits_the_log(self, queue: ConsumeQueue, key: QueueKey, log: LogView, floor: int) -> bool:
        """Whether no unit of a record still in the log is missing, and the last one is right."""
        # The file of the last unit that retention took stays (`unlink_dropped`), so a row that does
        # not begin at 0, or at the floor, begins with a unit of a record that is gone; otherwise a
        # file is missing.
        first = queue.min_offset
        if first > floor and queue.position_at(first) >= log.base.position:
            return False
        last = queue.max_offset - 1
        position, size, _ = _UNIT.unpack(queue.units_from(last, unit_count_max=1))
        if position < log.base.position:
            return bool(position >= 0)
        end_position = log.point_at(log.end_index).position
        if size < codec.RECORD_SIZE_MIN or position + size > end_position:
            return False
        head = log.bytes_at(position, codec.BODY_OFFSET)
        (found_queue,) = _QUEUE_ID.unpack_from(head, codec.QUEUE_ID_OFFSET)
        found = _PLACES.unpack_from(head, codec.QUEUE_OFFSET_OFFSET)
        return (found_queue, *found) == (key[1], last, position)
