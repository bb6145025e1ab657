"""Jobs that the store begins on the event loop and that a worker runs: they only touch files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.worker import DataSync

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.store.checkpoint import Checkpoint, CheckpointFile
    from dledger.store.disk import Disk
    from dledger.store.mapped_file import MappedFile
    from dledger.store.mapped_file_queue import MappedFileQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What a dashboard wants to know of a store."""

    log_size: int  # bytes between the first byte kept and the end
    segment_count: int
    spare_count: int  # segments ready for use
    appended_count: int  # entries since the start of the process
    appended_size: int  # bytes since the start of the process
    sync_count: int
    truncation_count: int
    free_size: int  # bytes left on the disk


class SyncTicket(DataSync):
    """One sync of everything that was appended when it began."""

    def __init__(
        self, disk: Disk, index: int, files: Sequence[MappedFile], folder: str | None
    ) -> None:
        self.index = index  # last entry it speaks for; a truncation meanwhile lowers it
        self.is_done = False
        self.failure: BaseException | None = None
        self._disk = disk
        self._files = files
        self._folder = folder

    def run(self) -> None:
        """Sync; blocking, made for a worker.

        Raises:
            StorageFailedError: the sync failed; stop the process, never try it again.
        """
        try:
            for file in self._files:
                file.sync()
            if self._folder is not None:
                self._disk.sync_folder(self._folder)
        except BaseException as error:
            self.failure = error
            raise
        self.is_done = True

    def __call__(self) -> None:
        """See `run`."""
        self.run()

    def begin(self) -> int | None:
        """See `DataSync`. Mostly one file was written to; where a segment ended there are two."""
        if len(self._files) == 1 and self._folder is None:
            return self._files[0].begin_sync()
        return None

    def end(self, error: OSError | None) -> None:
        """See `DataSync`."""
        try:
            self._files[0].end_sync(error)
        except BaseException as failure:
            self.failure = failure
            raise
        self.is_done = True

    def take_back(self) -> None:
        """See `DataSync`."""
        self._files[0].end_sync(None)


class CheckpointTicket:
    """One checkpoint: what it speaks of is synced first."""

    def __init__(
        self,
        *,
        checkpoints: CheckpointFile,
        checkpoint: Checkpoint,
        files: Sequence[MappedFile],
        covered: Sequence[MappedFile],
        disk: Disk,
        folders: Sequence[str],
    ) -> None:
        self._checkpoints = checkpoints
        self._checkpoint = checkpoint
        self._files = files
        self._covered = covered  # of which no later checkpoint speaks, as this one covers them
        self._disk = disk
        self._folders = folders

    def run(self) -> None:
        """Sync log and index, then write the checkpoint; blocking, made for a worker.

        A sync of the log may run at the same time, and must not lose its failure to this one: what
        it speaks for would be promised without being there.

        Raises:
            StorageFailedError: the disk failed; stop the process.
        """
        for file in self._files:
            file.sync(beside=True)
        for folder in self._folders:
            self._disk.sync_folder(folder)
        self._checkpoints.write(self._checkpoint)
        for file in self._covered:
            file.settled()


class DropTicket:
    """Files that retention has taken out of the log."""

    def __init__(
        self,
        *,
        checkpoints: CheckpointFile,
        checkpoint: Checkpoint,
        retired: Sequence[tuple[MappedFileQueue, Sequence[MappedFile]]],
    ) -> None:
        self._checkpoints = checkpoints
        self._checkpoint = checkpoint
        self._retired = retired

    def run(self) -> None:
        """Write the new base, then let the files go; blocking, made for a worker.

        Raises:
            StorageFailedError: the disk failed; stop the process.
        """
        # A crash in between leaves files below the base, which the next start removes.
        self._checkpoints.write(self._checkpoint)
        for queue, files in self._retired:
            queue.retire(files)
