"""The replicated log of one node: append, read, cut, drop, sync.

All calls are synchronous and belong to one thread, the event loop's, except those whose docstring
says *blocking*: these may wait for the disk and are made for a `dledger.worker.Worker`.  Work that
starts on the loop and waits for the disk comes in three steps, so that the loop never waits:

    ticket = store.begin_sync()     on the loop: what is there now
    ticket.run()                    blocking, in the worker: touches files only
    store.finish_sync(ticket)       on the loop again: what is durable now

A ticket speaks only for what still stands: `truncate_from` takes back what an unfinished ticket
would have promised about the entries cut (RabbitMQ's ra, issue 516).

Files, under the data folder:

    commitlog/  segments of *segment_size* bytes, named by the position of their first byte
    index/      32-byte units, derived from the segments
    checkpoint  base, and the point up to which log and index are synced and committed
    watermark   hint: the last index synced; tells damage from a torn tail after a process crash
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dledger.entry import LogPoint
from dledger.errors import CorruptStoreError
from dledger.store.checkpoint import Checkpoint
from dledger.store.entry_index import EntryNotFoundError
from dledger.store.ledger_writer import LedgerWriter
from dledger.store.recovery import RecoveredLog, recover
from dledger.store.tickets import CheckpointTicket, DropTicket, StoreStats, SyncTicket

if TYPE_CHECKING:
    from dledger.config import StoreConfig
    from dledger.store.disk import Disk
    from dledger.store.disk_usage import DiskUsage


class LedgerStore(LedgerWriter):
    """The log of one node; `LedgerReader` is the half that reads, `LedgerWriter` that which grows.

    Attributes:
        synced_index: last index that a finished sync speaks for; survives a power loss.
        durable_index: last index that may be acknowledged: *synced_index*, or with ASYNC_FLUSH
            *end_index*, as what is in the page cache counts.
    """

    synced_index: int
    durable_index: int

    def __init__(self, disk: Disk, config: StoreConfig, found: RecoveredLog) -> None:
        super().__init__(config, found)
        self._disk = disk
        self._checkpoints = found.checkpoints
        self._watermark = found.watermark
        self._checkpoint = found.checkpoint
        self._tickets: deque[SyncTicket] = deque()
        self._sync_count = 0
        self._truncation_count = 0
        self.scanned_count = found.scanned_count  # entries read by the recovery
        self._note_synced(found.end.index)
        self.write_watermark()

    @classmethod
    def open(cls, disk: Disk, config: StoreConfig, folder: str) -> LedgerStore:
        """Recover the log under *folder*, or create an empty one; blocking.

        Everything found is synced before this returns: what a dead process left in the page cache
        is not durable yet.

        Raises:
            CorruptStoreError: something once synced is gone or damaged; names file and remedy.
            LedgerFullError: no room for the first files.
            StorageFailedError: the disk fails.
        """
        return cls(disk, config, recover(disk, config, folder))

    def _note_synced(self, index: int) -> None:
        """Let the log be synced up to *index*: the one place where that changes."""
        self.synced_index = index
        if not self._counts_unsynced:
            self.durable_index = index

    @property
    def checkpoint_commit_index(self) -> int:
        """Up to here all is known to be committed, as of the last checkpoint begun."""
        return self._checkpoint.synced.index

    @property
    def size_since_checkpoint(self) -> int:
        """Bytes of log that a restart would have to scan."""
        return self.end.position - self._checkpoint.synced.position

    @property
    def stats(self) -> StoreStats:
        """Counters since `open`, and sizes as they are now."""
        return StoreStats(
            log_size=self.end.position - self._log.first.position,
            segment_count=len(self._log),
            spare_count=self._log.spare_count,
            appended_count=self._appended_count,
            appended_size=self._appended_size,
            sync_count=self._sync_count,
            truncation_count=self._truncation_count,
            free_size=self._disk.free_bytes(self._log.folder),
        )

    def measure_disk(self) -> DiskUsage:
        """Return how full the disk of the log is; may block, any thread."""
        return self._disk.disk_usage(self._log.folder)

    # -- cut, drop, reset -------------------------------------------------------------------------

    def truncate_from(self, index: int) -> None:
        """Cut entry *index* and all behind it, as a follower whose leader has other entries there.

        Takes back what unfinished syncs would promise about them. Views of the bytes cut stay
        readable, but change once new entries take their place.

        Raises:
            EntryNotFoundError: *index* lies before the base or more than one behind the end.
            CorruptStoreError: *index* is committed: the leader, or we, lost acknowledged entries.
            StorageFailedError: the write failed; stop the process.
        """
        if index == self.end.index + 1:
            return
        self._check_index(index)
        if index <= self._checkpoint.synced.index:
            raise CorruptStoreError(
                f"{self._log.folder}: asked to cut entry {index}, but entries up to "
                f"{self._checkpoint.synced.index} are committed; some member of the group lost "
                "acknowledged entries: stop the group and compare the members' logs"
            )
        end = self.point_at(index - 1)
        # First the watermark: once the bytes below it change, it would call them damage.
        if index <= self.synced_index:
            self._note_synced(index - 1)
            self.write_watermark()
        for ticket in self._tickets:
            ticket.index = min(ticket.index, index - 1)
        self._recent.clear()
        self._log.blank_header_at(end.position)
        self._log.retire_behind(end.position)
        self._move_end(end)
        self._truncation_count += 1

    def begin_drop(self, position: int) -> DropTicket | None:
        """Take the whole segments below *position* out of the log; None when there are none.

        Only committed, applied and synced entries may be dropped; the caller sees to the first two.
        The files go in `DropTicket.run` (blocking): first the checkpoint with the new base is
        synced, then they are unlinked or, when no view of them is alive, kept as spares.
        """
        kept = self._first_kept(position)
        if kept == self._log.first.position:
            return None
        index = self.find_index_at_position(kept) - 1
        last = self.point_at(index)
        self._recent.clear()
        self.base = LogPoint(index, last.term, kept, last.chain_crc)
        before = self._checkpoint
        self._checkpoint = Checkpoint(
            generation=before.generation + 1,
            base=self.base,
            # At the same index the base's position counts: the other may be in a file that goes.
            synced=self.base if index >= before.synced.index else before.synced,
        )
        return DropTicket(
            checkpoints=self._checkpoints,
            checkpoint=self._checkpoint,
            retired=[
                (self._log, self._log.take_before(kept)),
                (self._index.files, self._index.take_before(self.begin_index)),
            ],
        )

    def drop_before(self, position: int) -> None:
        """Drop the whole segments below *position*; blocking. See `begin_drop`."""
        ticket = self.begin_drop(position)
        if ticket is not None:
            ticket.run()

    def reset_to(self, base: LogPoint) -> None:
        """Empty the log and let it go on from *base*, as a snapshot was installed; blocking.

        Safe against a crash at any moment: either the old log is there, or the new base. Nothing
        else may be asked of the store until this returns, but jobs begun earlier may run on.

        Raises:
            LedgerFullError: nothing changed: no room for the files.
            StorageFailedError: the disk fails; stop the process.
        """
        self._spares_wanted = 1  # it need not take what did not fit the old log
        self.prepare_next()
        self._watermark.write(0)
        self._checkpoint = Checkpoint(
            generation=self._checkpoint.generation + 1, base=base, synced=base
        )
        self._checkpoints.write(self._checkpoint)
        for ticket in self._tickets:
            ticket.index = min(ticket.index, base.index)
        self._recent.clear()
        self._log.reset(base.position)
        self._log.blank_header_at(base.position)
        self._log.sync_from(base.position)
        self._index.reset(base.index + 1)
        self.base = base
        self._move_end(base)
        self._note_synced(base.index)
        self.write_watermark()

    # -- sync and checkpoint ----------------------------------------------------------------------

    def begin_sync(self) -> SyncTicket | None:
        """Return a ticket for everything appended so far; None when nothing is new.

        Appends may go on while the ticket runs; they belong to the next one. Tickets run and finish
        in the order in which they began.
        """
        for ticket in self._tickets:
            if ticket.failure is not None:
                raise ticket.failure
        files = self._log.take_dirty()
        folder_dirty = self._log.take_folder_dirty()
        if not files and not folder_dirty:
            return None
        ticket = SyncTicket(
            self._disk, self.end.index, files, self._log.folder if folder_dirty else None
        )
        self._tickets.append(ticket)
        return ticket

    def finish_sync(self, ticket: SyncTicket, *, watermark: bool = True) -> int:
        """Take note of a ticket that has run and return the new `durable_index`.

        Args:
            ticket: the oldest that was begun and is not finished.
            watermark: whether to write it down at once; otherwise `write_watermark` is called soon.

        Raises:
            StorageFailedError: the sync failed; stop the process.
        """
        if ticket.failure is not None:
            raise ticket.failure
        assert ticket.is_done, "run() comes first"
        assert self._tickets, "the ticket is finished already"
        assert self._tickets[0] is ticket, "tickets finish in the order in which they began"
        self._tickets.popleft()
        self._sync_count += 1
        if ticket.index > self.synced_index:
            self._note_synced(ticket.index)
            if watermark:
                self.write_watermark()
        return self.durable_index

    def write_watermark(self) -> None:
        """Write down up to where the log is synced, for a start after a crash of the process."""
        self._watermark.write(self.synced_index)

    def sync(self) -> int:
        """Sync everything appended so far and return the new `durable_index`; blocking."""
        ticket = self.begin_sync()
        if ticket is None:
            return self.durable_index
        ticket.run()
        return self.finish_sync(ticket)

    def begin_checkpoint(self, commit_index: int) -> CheckpointTicket | None:
        """Return a job that shortens the next recovery; None when the last one says it all.

        Its ``run()`` (blocking) syncs log and index, then writes the checkpoint; nothing has to be
        finished on the loop. Only committed entries are covered: those are never cut again.

        Args:
            commit_index: index of the last entry known to be committed.
        """
        before = self._checkpoint
        index = min(commit_index, self.end.index)
        if index <= before.synced.index:
            return None
        synced = self.point_at(index)
        self._checkpoint = Checkpoint(
            generation=before.generation + 1, base=self.base, synced=synced
        )
        return CheckpointTicket(
            checkpoints=self._checkpoints,
            checkpoint=self._checkpoint,
            files=[*self._log.files_from(before.synced.position), *self._index.files.take_dirty()],
            covered=[
                *self._log.files_ending_within(before.synced.position, synced.position),
                *self._index.files_ending_within(before.synced.index + 1, index),
            ],
            disk=self._disk,
            folders=[self._log.folder, self._index.files.folder],
        )

    def close(self) -> None:
        """Close every file; views that are still held stay readable. Syncs nothing."""
        self._log.close()
        self._index.files.close()
        self._checkpoints.close()
        self._watermark.close()

    # -- inside -----------------------------------------------------------------------------------

    def _first_kept(self, position: int) -> int:
        """Return the start of the first segment to keep when those below *position* may go."""
        kept = self._log.first.position
        for file in self._log.files_from(kept)[1:]:
            # The segment before this one may go when its last entry is durable here.
            if file.position > position or file.position >= self.end.position:
                break
            if self.find_index_at_position(file.position) - 1 > self.synced_index:
                break
            kept = file.position
        return kept


__all__ = ["EntryNotFoundError", "LedgerStore"]
