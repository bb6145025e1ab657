"""The key index of a node: which records have which key. RocketMQ's ``IndexService``.

It is derived state, beside the consume queues: every node makes it from the committed log, and the
same log gives the same bytes.  To that end a file never spans two segments of the log, so that
what is derived again from behind retention begins where a file begins.

Entries gather in memory; a job beside the event loop writes them down.  Searching is in
`broker.store.index_search`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from broker.store.growing_files import GrowingFiles
from broker.store.index_file import ENTRY_SIZE, GrowingIndexFile, IndexShape
from broker.store.index_folder import (
    NAME_MS_MAX,
    IndexFileInfo,
    IndexFolder,
    IndexSnapshot,
)
from broker.store.index_keys import RawKeys, take_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.store.columns import IntArray
    from broker.store.growing_files import Piece
    from broker.store.hashing import HashArray
    from broker.store.runs import RecordRun
    from dledger.store.disk import Disk

SLOT_COUNT = 500_000  # a tenth of RocketMQ's: 2 MB of memory, and files of 42 MB
ENTRY_COUNT = 2_000_000
_SLOT_COUNT_MIN = 8
# Small segments cannot fill large files, which would be mostly slots: bytes of log for each.
_LOG_PER_SLOT = 512
_LOG_PER_ENTRY = 128
_NAME_MS_LATEST = NAME_MS_MAX - 1_000_000_000  # of a time taken as it is: names have room to ascend
_SETTLE_COUNT = 4096  # keys that wait to be put into their slots together
_SETTLE_SIZE = 256 * 1024  # bytes of them: a client may write keys of 32 KB


def shape_for(
    segment_size: int, *, slot_count: int = SLOT_COUNT, entry_count: int = ENTRY_COUNT
) -> IndexShape:
    """Return the shape of files for segments of that size; at most what is asked for."""
    return IndexShape(
        slot_count=min(slot_count, max(segment_size // _LOG_PER_SLOT, _SLOT_COUNT_MIN)),
        entry_count=min(entry_count, max(segment_size // _LOG_PER_ENTRY, 4 * _SLOT_COUNT_MIN)),
    )


class KeyIndex:
    """Takes in runs of records, and says what is in it; see `broker.store.dispatch.Dispatcher`."""

    def __init__(self, disk: Disk, folder: str, shape: IndexShape, *, segment_size: int) -> None:
        self.shape = shape
        self.segment_size = segment_size
        self._folder = IndexFolder(disk, folder, shape)
        self.files = GrowingFiles(disk, folder)
        self._sealed: list[IndexFileInfo] = []  # in the order of the log
        self._growing: list[GrowingIndexFile] = []  # the last goes on, the others are not written
        self._last = IndexSnapshot(shape=shape)  # of the last file, whether it is kept or not
        self._segment = -1  # of the log, that the file which goes on belongs to
        self._raw = RawKeys()
        self._batches: list[tuple[HashArray, IntArray, IntArray]] = []
        self._unsettled = 0
        self._unflushed_size = 0
        self.singly_count = 0  # keys taken one by one so far, which takes 1 us each
        self.last_position = -1  # of the last run taken in that has a key
        self.last_timestamp_ms = 0  # when it was stored

    @property
    def unflushed_size(self) -> int:
        """Bytes of entries no job has been given yet."""
        return self._unflushed_size

    @property
    def sealed(self) -> list[IndexFileInfo]:
        """The files that are done and written, in the order of the log."""
        return self._sealed

    @property
    def growing(self) -> list[GrowingIndexFile]:
        """The files that have something in memory, in the order of the log, up to date."""
        self.settle()
        return self._growing

    @property
    def paths(self) -> list[str]:
        """Files that what is kept of the log has, in its order."""
        return [info.path for info in self._sealed] + [file.path for file in self.growing]

    def dispatch_runs(self, runs: Iterable[RecordRun], body: memoryview) -> None:
        """Take in the keys of *runs*; see `Dispatcher`."""
        for run in runs:
            begins = run.properties_begins
            count = len(begins)
            if count and (count > 1 or begins[0] < run.properties_ends[0]):
                self._dispatch_run(run, body)

    def _dispatch_run(self, run: RecordRun, body: memoryview) -> None:
        before = len(self._raw)
        batch = take_keys(run, body, self._raw)
        added = len(self._raw) - before
        self.singly_count += added
        if batch is not None:
            self._take_raw()
            added += len(batch)
            times = np.full(len(batch), batch.store_timestamp_ms, np.int64)
            self._batches.append((batch.hashes, batch.positions, times))
        if added:
            self._unsettled += added
            self._unflushed_size += ENTRY_SIZE * added
            self.last_position = run.first_position
            self.last_timestamp_ms = run.store_timestamp_ms
            self._settle_if_due()

    def _settle_if_due(self) -> None:
        if self._unsettled >= _SETTLE_COUNT or self._raw.size >= _SETTLE_SIZE:
            self.settle()

    def settle(self) -> None:
        """Put what has gathered into its files."""
        if not self._unsettled:
            return
        self._take_raw()
        hashes = np.concatenate([batch[0] for batch in self._batches])
        positions = np.concatenate([batch[1] for batch in self._batches])
        times = np.concatenate([batch[2] for batch in self._batches])
        self._batches.clear()
        self._unsettled = 0
        segments = positions // self.segment_size
        begins = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(hashes)]
        for begin, end in pairwise(begins):
            segment = int(segments[begin])
            at = begin
            while at < end:
                if segment != self._segment or not self._growing or not self._growing[-1].room:
                    self._begin_file(int(times[at]))
                    self._segment = segment
                file = self._growing[-1]
                until = min(end, at + file.room)
                file.add(hashes[at:until], positions[at:until], times[at:until])
                at = until

    def snapshot(self) -> IndexSnapshot:
        """Say how far the index is."""
        self.settle()
        if self._growing:
            file = self._growing[-1]
            header = file.header
            self._last = replace(
                self._last,
                entry_count=file.count,
                begin_timestamp=header.begin_timestamp,
                end_timestamp=header.end_timestamp,
            )
        return self._last

    def begin_flush(self) -> IndexFlush:
        """Return the job that brings everything so far to the files; jobs run in order."""
        self.settle()
        pieces: list[Piece] = []
        ends: list[tuple[GrowingIndexFile, int]] = []
        for file in self._growing:
            pieces += file.begin_flush()
            ends.append((file, file.count))
        self._unflushed_size = 0
        return IndexFlush(self, pieces, ends)

    def finish_flush(self, ends: list[tuple[GrowingIndexFile, int]]) -> None:
        """Take note of what files hold, and let go of the memory of those that are done."""
        for file, count in ends:
            file.finish_flush(count)
        while len(self._growing) > 1 and self._growing[0].is_written:
            file = self._growing.pop(0)
            self._sealed.append(IndexFileInfo(file.path, file.header))

    def drop_below_position(self, position: int) -> list[str]:
        """Forget files whose records all lie before *position*; return their paths."""
        self.snapshot()  # what is told of the last file stays
        dropped = [info.path for info in self._sealed if info.header.end_position < position]
        self._sealed = [info for info in self._sealed if info.header.end_position >= position]
        for file in list(self._growing):
            if file.is_written and file.header.end_position < position:
                self._growing.remove(file)
                dropped.append(file.path)
        return dropped

    def load(
        self,
        snapshot: IndexSnapshot,
        *,
        files_before: int | None,
        begin_position: int,
        end_position: int,
    ) -> bool:
        """Become the index of *snapshot*, if the files hold as much; blocking.

        Args:
            snapshot: how far the index is to be.
            files_before: files begun before the log's base; None when nobody knows.
            begin_position: of the log's base.
            end_position: where the log ended when *snapshot* was taken.

        Returns:
            Whether they do. If not, only `restart` or another `load` may follow.
        """
        self._clear()
        loaded = self._folder.load(
            snapshot,
            files_before=files_before,
            begin_position=begin_position,
            end_position=end_position,
        )
        if loaded is None:
            return False
        self._sealed = loaded.sealed
        self._last = snapshot
        if loaded.growing is not None:
            header = loaded.growing.header
            self._growing = [loaded.growing]
            self._segment = header.begin_position // self.segment_size
            self.last_position = header.end_position
            self.last_timestamp_ms = header.end_timestamp
        return True

    def restart(self, before: IndexSnapshot | None) -> None:
        """Remove all files and begin anew behind *before*; blocking."""
        self._clear()
        self._folder.unlink_all()
        self.files.forget_unsynced()
        if before is not None:
            self._last = replace(before, shape=self.shape)

    def _clear(self) -> None:
        self._sealed = []
        self._growing = []
        self._last = IndexSnapshot(shape=self.shape)
        self._segment = -1
        self._raw = RawKeys()
        self._batches.clear()
        self._unsettled = 0
        self._unflushed_size = 0
        self.last_position = -1
        self.last_timestamp_ms = 0

    def _take_raw(self) -> None:
        if len(self._raw):
            self._batches.append(self._raw.take())

    def _begin_file(self, timestamp_ms: int) -> None:
        name_ms = max(min(timestamp_ms, _NAME_MS_LATEST), self._last.name_ms + 1)
        self._last = IndexSnapshot(
            file_count=self._last.file_count + 1, name_ms=name_ms, shape=self.shape
        )
        path = self._folder.path(name_ms)
        self._growing.append(GrowingIndexFile(path, self.shape, name_ms=name_ms))


class IndexFlush:
    """Entries on their way to the files; see `KeyIndex.begin_flush`."""

    def __init__(
        self, index: KeyIndex, pieces: list[Piece], ends: list[tuple[GrowingIndexFile, int]]
    ) -> None:
        self._index = index
        self._pieces = pieces
        self._ends = ends

    def run(self) -> None:
        """Write; blocking, beside the event loop. Raises as `GrowingFiles.write`."""
        pieces = self._pieces
        self._index.files.write(pieces, size=sum(len(piece.data) for piece in pieces))

    def finish(self) -> None:
        """Take note on the event loop that `run` is done."""
        self._index.finish_flush(self._ends)
