"""Everything a node derives from its log: taken in, kept up, written down.

What it lies in, and how a start takes it up, is in `broker.store.derived_parts`.

Nothing here writes a file on the event loop: `begin_jobs` hands out the work that blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.store.derived_jobs import DropJob, FindDroppedJob, FlushedSize, StateJob
from broker.store.derived_parts import DerivedParts
from broker.store.dispatch import (
    DISPATCH_ENTRY_COST,
    DISPATCH_KEY_COST,
    DISPATCH_SIZE_MAX,
    DISPATCH_SMALL_COST,
    DISPATCH_STATE_COST,
    Dispatch,
)
from broker.store.log_view import CHANNEL_METADATA
from broker.store.queue_files import UNITS_PER_FILE
from dledger.entry import LogPoint
from dledger.errors import PoisonEntryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.store.derived_jobs import Job
    from broker.store.dispatch import (
        AppliedListener,
        ArrivalListener,
        DeletedListener,
        Dispatcher,
        MetadataMachine,
    )
    from broker.store.index_file import IndexShape
    from broker.store.log_view import LogView
    from broker.store.queue_files import QueueKey
    from dledger.entry import Entry
    from dledger.store.disk import Disk

FLUSH_SIZE = 4 * 1024 * 1024  # bytes of units in memory before a job should write them
# Dispatch waits for the jobs when they hold more, or leave more to the next: a second of the
# fastest load.
UNFLUSHED_SIZE_MAX = 24 * 1024 * 1024
DELETION_STATES_SIZE_MAX = 4 * 1024 * 1024  # the same of states that know of deletions


class DerivedState:
    """The derived state of one node."""

    def __init__(
        self,
        disk: Disk,
        folder: str,
        log: LogView,
        *,
        segment_size: int,
        metadata: MetadataMachine,
        dispatchers: Sequence[Dispatcher] = (),
        units_per_file: int = UNITS_PER_FILE,
        index_shape: IndexShape | None = None,
    ) -> None:
        """Make an empty one; `open` is what is wanted."""
        self._log = log
        self._parts = DerivedParts(
            disk,
            folder,
            log,
            segment_size=segment_size,
            metadata=metadata,
            units_per_file=units_per_file,
            index_shape=index_shape,
        )
        self.queues = self._parts.queues
        self.key_index = self._parts.key_index
        self.producers = self._parts.producers
        self._states = self._parts.states
        self._dispatch = Dispatch(
            queues=self.queues,
            producers=self.producers,
            metadata=metadata,
            segment_size=segment_size,
            dispatchers=[self.key_index, *dispatchers],
        )
        self._point = log.base
        self._state_index = -1  # of the last state handed out as a job, or loaded
        self._jobs: list[Job] = []
        self._flushing_size = 0  # bytes of units and index entries that jobs hold
        self._states_size = 0  # of all states so far, as dispatch counts them
        self._deletions_size = 0  # of those in the jobs that were written for a deletion
        self.on_arrival: ArrivalListener | None = None
        self.on_applied: AppliedListener | None = None
        self.on_deleted: DeletedListener | None = None

    @classmethod
    def open(
        cls,
        disk: Disk,
        folder: str,
        log: LogView,
        *,
        commit_index: int,
        segment_size: int,
        metadata: MetadataMachine,
        dispatchers: Sequence[Dispatcher] = (),
        units_per_file: int = UNITS_PER_FILE,
        index_shape: IndexShape | None = None,
    ) -> DerivedState:
        """Take up what *folder* holds; blocking.

        Args:
            disk: where the files are.
            folder: of the derived state; nothing else may be in it.
            log: what everything is derived from.
            commit_index: entries up to here are known to be committed.
            segment_size: of the log, in bytes.
            metadata: restored to fit; its state is written along.
            dispatchers: hear of every run of records, after the queues.
            units_per_file: of a consume queue.
            index_shape: of the files of the key index; None: what suits *segment_size*.

        Raises:
            CorruptStoreError: the log begins behind its first entry and no state leads there.
        """
        derived = cls(
            disk,
            folder,
            log,
            segment_size=segment_size,
            metadata=metadata,
            dispatchers=dispatchers,
            units_per_file=units_per_file,
            index_shape=index_shape,
        )
        derived.reopen(commit_index)
        return derived

    @property
    def log(self) -> LogView:
        """What everything is derived from."""
        return self._log

    @property
    def dispatched_index(self) -> int:
        """The last entry taken in."""
        return self._point.index

    @property
    def dispatched_position(self) -> int:
        """The byte behind the last entry taken in."""
        return self._point.position

    @property
    def boundary_indexes(self) -> list[int]:
        """Last entries of segments whose state is on the disk, ascending.

        The log may begin behind each of them: retention must not go further than the last.
        """
        return self._states.boundaries

    @property
    def needs_flush(self) -> bool:
        """Whether `begin_jobs` should be called soon."""
        return bool(self._jobs) or self.queues.has_deleted or self._is_flush_due

    def next_queue_offset(self, topic: str, queue_id: int) -> int:
        """Return the offset the queue's next message gets, as far as dispatch knows."""
        return self.queues.next_queue_offset(topic, queue_id)

    def dispatch_up_to(self, committed_index: int, *, size_max: int = DISPATCH_SIZE_MAX) -> int:
        """Take in committed entries, about *size_max* bytes of them; return the last taken in.

        Each entry counts `DISPATCH_ENTRY_COST` bytes more than it has, `DISPATCH_SMALL_COST` where
        some are read together, each key looked at by itself `DISPATCH_KEY_COST`, and a state on the
        way its bytes and `DISPATCH_STATE_COST`.  There may be more left when *size_max* is reached,
        or when `UNFLUSHED_SIZE_MAX` bytes of units are not written or `DELETION_STATES_SIZE_MAX` of
        states wait for `begin_jobs`: call again.
        Listeners hear of arrivals once, at the end.

        Raises:
            PoisonEntryError: an entry cannot be taken in; stop the node.
            CorruptStoreError: an entry is damaged here; stop the node.
        """
        size = 0
        if self._point.index < committed_index:
            while self._point.index < committed_index:
                if size >= size_max or self._unwritten_size >= UNFLUSHED_SIZE_MAX:
                    break
                keys_before, states_before = self.key_index.singly_count, self._states_size
                before, end = self._point, None
                if not self.queues.has_deleted:
                    end = self._dispatch.take_in_small(
                        self._log, before, committed_index=committed_index, size_max=size_max - size
                    )
                if end is not None:
                    self._point = end
                    size += end.position - before.position
                    size += (end.index - before.index) * DISPATCH_SMALL_COST
                else:
                    (entry,) = self._log.entries(before.index + 1, before.index + 1)
                    if self._needs_settling(entry) and (
                        self._deletions_size >= DELETION_STATES_SIZE_MAX
                    ):
                        break
                    self._take_in(entry)
                    size += entry.size + DISPATCH_ENTRY_COST
                size += (self.key_index.singly_count - keys_before) * DISPATCH_KEY_COST
                size += self._states_size - states_before
            for topic in self._dispatch.take_deleted():
                if self.on_deleted is not None:
                    self.on_deleted(topic)
            arrived = self._dispatch.take_arrived()
            if arrived and self.on_arrival is not None:
                self.on_arrival(arrived)
        return self._point.index

    def begin_jobs(self, *, with_state: bool = False) -> list[Job]:
        """Return the work that waits, to be run in this order and before any handed out later.

        Ask again only when all of it is finished: what waits meanwhile is then one flush.

        Args:
            with_state: also write down the state as it is now; a matter of how long a restart may
                take, every few seconds will do.
        """
        self._settle_deletions()
        if with_state and self._point.index != self._state_index and self._point.index > 0:
            self._add_state_job(is_boundary=False)
        elif self._is_flush_due:
            self._jobs += self._begin_flushes(with_state=with_state)
        elif with_state and (unlink := self.queues.begin_unlink(with_state=True)) is not None:
            self._jobs.append(unlink)
        jobs, self._jobs = self._jobs, []
        self._deletions_size = 0
        return jobs

    def begin_drop(self, go_on: Callable[[Job], None]) -> Job:
        """Follow retention: call it when the log's base has moved.

        The job hands another to *go_on* as it finishes, which removes files.  It may run only once
        that base is durable: until then a crash brings the old one back, and what leads from there
        must be found.
        """
        base, queues, states, key_index = self._log.base, self.queues, self._states, self.key_index
        gone_states = states.drop_before(base.index)
        gone_paths = key_index.drop_below_position(base.position)

        def then(dropped: list[tuple[QueueKey, int]]) -> None:
            go_on(DropJob(queues, dropped, states, gone_states, key_index, gone_paths))

        return FindDroppedJob(queues, queues.drop_below_position(base.position), then)

    def read_state(self, index: int) -> bytes:
        """Return the state at one of `boundary_indexes`, for a peer; blocking.

        Raises:
            CorruptStoreError: it is damaged: a peer would take it for what the log amounts to.
        """
        return self._parts.read_state(index)

    def save_state_of_peer(self, data: bytes) -> LogPoint:
        """Keep a state a peer sent, durably, and return the point it leads to; blocking.

        Only when the log begins at that point, too, is `reopen` to be called.

        Raises:
            CorruptStateError: *data* is no state of this version.
        """
        return self._parts.save_state_of_peer(data)

    def reopen(self, commit_index: int) -> None:
        """Forget everything in memory and take up what the disk holds; blocking.

        For the start, and for a log that was replaced; nobody may use this object meanwhile, and
        all jobs handed out must be finished.

        Raises:
            CorruptStoreError: as `open`.
        """
        self._jobs.clear()
        self._flushing_size = 0
        self._deletions_size = 0
        self._point = self._parts.take_up(commit_index)
        self._state_index = self._point.index

    def close(self) -> None:
        """Let go of the files; what no job has written yet is derived again on the next start."""
        self._parts.close()

    @property
    def _unflushed_size(self) -> int:
        return self.queues.unflushed_size + self.key_index.unflushed_size

    @property
    def _is_flush_due(self) -> bool:
        return self._unflushed_size >= FLUSH_SIZE

    @property
    def _unwritten_size(self) -> int:
        return self._unflushed_size + self._flushing_size

    def _flushed(self, size: int) -> None:
        self._flushing_size -= size

    def _take_in(self, entry: Entry) -> None:
        if self._point.index > 0 and self._dispatch.begins_segment(entry):
            self._add_state_job(is_boundary=True)
        if self._needs_settling(entry):
            self._settle_deletions()
        if entry.channel == CHANNEL_METADATA:
            # A start does not look at what lies before the checkpoint, and nobody looks at a
            # command again once it is applied: an offset with one bit flipped is an offset, too.
            self._log.verify(entry.index, entry.index)
        try:
            results = self._dispatch.take_in(entry)
        except PoisonEntryError:
            # What every member would stop at is told from what was damaged here alone.
            self._log.verify(entry.index, entry.index)
            raise
        self._point = LogPoint(entry.index, entry.term, entry.end, entry.chain_crc)
        if results is not None and self.on_applied is not None:
            self.on_applied(entry.index, results)

    def _needs_settling(self, entry: Entry) -> bool:
        return entry.channel != CHANNEL_METADATA and self.queues.has_deleted

    def _settle_deletions(self) -> None:
        """Have a state written that knows of deleted topics, so that their files may go.

        Before the next message is taken in: it may belong to a topic created again, whose units go
        where the files are.
        """
        if self.queues.has_deleted:
            if self._point.index != self._state_index:
                before = self._states_size
                self._add_state_job(is_boundary=False)
                self._deletions_size += self._states_size - before
            self.queues.doom_deleted()

    def _begin_flushes(self, *, with_state: bool) -> list[Job]:
        unlink = self.queues.begin_unlink(with_state=with_state)
        flushes: list[Job] = [] if unlink is None else [unlink]
        size = self._unflushed_size
        self._flushing_size += size
        flushes += [self.queues.begin_flush(), self.key_index.begin_flush()]
        return [*flushes, FlushedSize(size, self._flushed)]

    def _add_state_job(self, *, is_boundary: bool) -> None:
        data = self._parts.state_after(self._point)
        self._states_size += len(data) + DISPATCH_STATE_COST
        index = self._point.index
        self._state_index = index
        flushes = self._begin_flushes(with_state=True)
        self._jobs.append(
            StateJob(
                flushes,
                self._parts.files,
                self._states,
                index,
                data,
                is_boundary,
            )
        )
        if trimmed := self.queues.take_trimmed():
            self._jobs.append(DropJob(self.queues, trimmed, self._states, [], self.key_index, []))
