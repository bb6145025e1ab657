"""From the files of a dead process to a log that ends with its last whole entry.

The scan begins at the checkpoint, so that a restart does not grow with the log.  It stops at the
first bytes that are not the next entry: wrong magic, index, position, term, chain or body CRC.
What lies there is

- the end: zeros, or old bytes of a recycled file or of a tail cut off;
- a torn tail, when the process died while writing; nobody was told of it, so it is cut;
- damage, when the entry is at or below the checkpoint or the watermark: it was synced, perhaps
  acknowledged and committed, and a node that silently forgot it could help to elect a leader
  without it.  Then the node does not start.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.entry import (
    FILLER_SIZE,
    EntryRef,
    LogPoint,
    check_entry,
    is_filler,
    place_entry,
    point_behind,
)
from dledger.errors import CorruptEntryError, CorruptStoreError
from dledger.store.checkpoint import CheckpointFile, WatermarkFile
from dledger.store.entry_index import EntryIndex
from dledger.store.mapped_file_queue import MappedFileQueue
from dledger.store.slot_file import REMEDY

if TYPE_CHECKING:
    from dledger.config import StoreConfig
    from dledger.entry import EntryHeader
    from dledger.store.checkpoint import Checkpoint
    from dledger.store.disk import Disk

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredLog:
    """All parts of a store, in agreement with each other and synced."""

    log: MappedFileQueue
    index: EntryIndex
    checkpoints: CheckpointFile
    watermark: WatermarkFile
    end: LogPoint
    scanned_count: int  # entries read

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that recovery began with."""
        return self.checkpoints.last


def recover(disk: Disk, config: StoreConfig, folder: str) -> RecoveredLog:
    """Open the log under *folder*, or create an empty one; blocking.

    Raises:
        CorruptStoreError: something once synced is gone or damaged; names file and remedy.
        LedgerFullError: no room for the first files.
        StorageFailedError: the disk fails.
    """
    with ExitStack() as opened:
        found = _recover(disk, config, folder, opened)
        opened.pop_all()  # they live on in what was found
    return found


def _recover(disk: Disk, config: StoreConfig, folder: str, opened: ExitStack) -> RecoveredLog:
    """Do the work of `recover`; what is opened is closed by *opened* should it fail."""
    disk.make_folder(folder)
    checkpoints = _open_checkpoint(disk, folder)
    opened.callback(checkpoints.close)
    checkpoint = checkpoints.last
    watermark = WatermarkFile.open(disk, f"{folder}/watermark")
    opened.callback(watermark.close)
    base = checkpoint.base
    synced_index = max(checkpoint.synced.index, watermark.index)

    segment_size = config.segment_size
    log = MappedFileQueue.open(
        disk,
        f"{folder}/commitlog",
        segment_size,
        start=base.position - base.position % segment_size,
        zeroes=config.zeroes_ahead,
    )
    opened.callback(log.close)
    if not log.holds(base.position):
        if synced_index > base.index:
            raise _missing(log.path_of(base.position), base.index + 1, synced_index)
        log.reset(base.position, zeroes_all=True)
    if not log.holds(checkpoint.synced.position):
        raise _missing(log.path_of(log.last.end), checkpoint.synced.index, checkpoint.synced.index)

    index = EntryIndex.open(
        disk,
        f"{folder}/index",
        file_units=config.index_file_units,
        begin_index=base.index + 1,
    )
    opened.callback(index.files.close)
    start = checkpoint.synced
    if not index.reaches(base, start):
        _log.info("%s: building the index again from entry %d on", folder, base.index + 1)
        index.reset(base.index + 1)
        start = base

    scan = _Scan(log, index, segment_size, start=start, synced_index=synced_index)
    scan.run(checkpoint.synced)
    end = scan.point
    log.blank_header_at(end.position)
    log.retire_behind(end.position)
    log.retire_leftovers()
    index.files.retire_leftovers()
    # A dead process's page cache is not durable: sync before anything is promised about it.  What
    # that process failed to sync has to be written again first, or this sync passes it over.
    log.rewrite(checkpoint.synced.position, end.position)
    log.sync_from(start.position)
    for file in index.files.take_dirty():
        file.sync()
    disk.sync_folder(index.files.folder)
    return RecoveredLog(
        log=log,
        index=index,
        checkpoints=checkpoints,
        watermark=watermark,
        end=end,
        scanned_count=scan.count,
    )


class _Scan:
    """The walk from one point to the end of the log."""

    def __init__(
        self,
        log: MappedFileQueue,
        index: EntryIndex,
        segment_size: int,
        *,
        start: LogPoint,
        synced_index: int,
    ) -> None:
        self.point = start
        self.count = 0
        self._log = log
        self._index = index
        self._segment_size = segment_size
        self._synced_index = synced_index

    def run(self, checkpoint: LogPoint) -> None:
        """Walk to the end, index what is passed, and check that the walk passes *checkpoint*."""
        while True:
            if self.point.index == checkpoint.index and self.point != checkpoint:
                raise CorruptStoreError(
                    f"{self._log.path_of(self.point.position)}: the log has {self.point} where the "
                    f"checkpoint has {checkpoint}; {REMEDY}"
                )
            try:
                header = self._next_header()
            except CorruptEntryError as error:
                self._stop(str(error))
                return
            if header is None:
                self._stop("the log ends here")
                return
            ref = EntryRef(header.index, header.term, header.position, header.size, header.kind)
            self._index.reserve(ref.index)
            self._index.write([ref])
            self.point = point_behind(header)
            self.count += 1

    def _next_header(self) -> EntryHeader | None:
        """Return the next entry's header, or None where the bytes are plainly no entry."""
        position = self.point.position
        file = self._log.find(position)
        rest = file.view(position, file.end - position)
        if not is_filler(rest, 0, room=len(rest)):
            if not any(rest[:FILLER_SIZE]):
                return None
            size_max = len(rest) - FILLER_SIZE
            return check_entry(rest, 0, after=self.point, position=position, size_max=size_max)
        if not self._log.holds(file.end):
            return None
        rest = self._log.find(file.end).bytes
        header = check_entry(
            rest,
            0,
            after=self.point,
            position=file.end,
            size_max=self._segment_size - FILLER_SIZE,
        )
        fits = place_entry(position, entry_size=header.size, segment_size=self._segment_size)
        if fits != file.end:
            raise CorruptEntryError(
                f"entry {header.index}: position is {file.end}, but it fits at {fits}"
            )
        return header

    def _stop(self, reason: str) -> None:
        """End the log here, unless more of it was synced.

        Raises:
            CorruptStoreError: the next entry was synced once.
        """
        position, index = self.point.position, self.point.index + 1
        path = self._log.path_of(position)
        if index <= self._synced_index:
            raise CorruptStoreError(
                f"{path}: entry {index}, behind position {position}, is damaged ({reason}); "
                f"entries up to {self._synced_index} were synced, so this is no torn tail; {REMEDY}"
            )
        _log.info(
            "%s: the log ends with entry %d at position %d; behind it: %s",
            path,
            self.point.index,
            position,
            reason,
        )


def _open_checkpoint(disk: Disk, folder: str) -> CheckpointFile:
    path = f"{folder}/checkpoint"
    if not disk.exists(path):
        segments = f"{folder}/commitlog"
        names = disk.list_folder(segments) if disk.exists(segments) else []
        positions = [int(name) for name in names if name.isdecimal()]
        if positions and min(positions) > 0:
            raise CorruptStoreError(
                f"{path} is missing, and without it nobody knows what came before position "
                f"{min(positions)}; {REMEDY}"
            )
        CheckpointFile.create(disk, path)
    checkpoints = CheckpointFile.open(disk, path)
    try:
        checkpoints.write_again()
    except BaseException:
        checkpoints.close()
        raise
    return checkpoints


def _missing(path: str, index: int, synced_index: int) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path} is missing, with entry {index}; entries up to {synced_index} were synced; {REMEDY}"
    )
