"""Writing files that grow: those of consume queues and of the key index.

Nothing is allocated ahead.  What is written may be lost or torn by a crash until it is synced, so
whoever reads such a file trusts it no further than a state says that was written after the sync.
"""

from __future__ import annotations

import threading
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from dledger.errors import LedgerFullError, StorageFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.entry import Buffer
    from dledger.store.disk import Disk, FileTree

SYNCED_EACH_MAX = 64  # files; for more their whole file system is synced, where that can be had
FREE_SIZE_MIN = 1024 * 1024  # bytes left alone, so that a write never finds the disk full halfway

_PATH = attrgetter("path")


class Piece(NamedTuple):
    """Bytes to be written at one place of one file."""

    path: str
    offset: int
    data: Buffer


class GrowingFiles:
    """Files below one folder; used only by jobs, which run one at a time, but for `close`."""

    def __init__(self, disk: Disk, folder: str) -> None:
        self._disk = disk
        self._folder = folder
        self._unsynced: set[str] = set()
        self._unsynced_folders: set[str] = set()  # that hold a name which is not durable yet
        self._tree: FileTree | None = None  # opened before the first of the unsynced was written
        self._is_closed = False
        self._lock = threading.Lock()  # of the last two: `close` may come while a job runs

    def write(self, pieces: Iterable[Piece], *, size: int) -> None:
        """Write *pieces*; blocking. They are durable only after `sync`.

        Args:
            pieces: those of one file one behind the other, as each run of them opens it.
            size: bytes of all of them.

        Raises:
            LedgerFullError: there is no room; nothing was written, the same may be tried again.
            StorageFailedError: the disk failed.
        """
        if not size:
            return
        self._disk.make_folder(self._folder)
        free = self._disk.free_bytes(self._folder)
        if free < size + FREE_SIZE_MIN:
            raise LedgerFullError(
                f"{self._folder}: no room for {size} bytes, {free} are free; free some disk space, "
                "or set log_size_max so that old segments are dropped"
            )
        if self._tree is None and not self._unsynced:
            self._open_tree()
        write = self._disk.write_file
        for path, group in groupby(pieces, _PATH):
            parts = [(piece.offset, piece.data) for piece in group]
            if not write(path, parts):
                self._create(path)
                if not write(path, parts):
                    raise StorageFailedError(f"{path}: gone as soon as it was made")
            self._unsynced.add(path)

    def sync(self) -> None:
        """Make everything written durable; blocking."""
        tree = self._tree
        if tree is not None and len(self._unsynced) > SYNCED_EACH_MAX:
            tree.sync()
        else:
            self._sync_each()
        self.forget_unsynced()

    def _sync_each(self) -> None:
        for path in sorted(self._unsynced):
            if self._disk.exists(path):
                file = self._disk.open_file(path)
                try:
                    file.sync()
                finally:
                    file.close()
        # The deepest first, so that what is durable is never below what is not.
        for folder in sorted(self._unsynced_folders, reverse=True):
            self._disk.sync_folder(folder)

    def _create(self, path: str) -> None:
        """Make an empty file; its name is as durable as its bytes, after `sync`.

        To make each durable at once would cost four syncs for each new queue, thousands where a
        thousand topics get their first message, and the state that counts on them is written later.
        """
        folder = path.rpartition("/")[0]
        while folder != self._folder and not self._disk.exists(folder):
            folder = folder.rpartition("/")[0]
            self._unsynced_folders.add(folder)
        self._unsynced_folders.add(path.rpartition("/")[0])
        self._disk.create_file(path)

    def unlink(self, paths: Iterable[str]) -> None:
        """Remove files; blocking. Views of them stay readable."""
        for path in paths:
            self._disk.unlink(path)
            self._unsynced.discard(path)

    def forget_unsynced(self) -> None:
        """Take note that nothing is left to be made durable, or that all files are gone."""
        self._unsynced.clear()
        self._unsynced_folders.clear()
        self._close_tree()

    def close(self) -> None:
        """Let go of what waits for the next sync, for good: from now on they go file by file.

        A job may run meanwhile, and others after it: a node closes its files without waiting.
        """
        with self._lock:
            self._is_closed = True
        self._close_tree()

    def _open_tree(self) -> None:
        if not self._is_closed:
            tree = self._disk.open_tree(self._folder)
            if tree is not None and not self._keep(tree):
                tree.close()

    def _keep(self, tree: FileTree) -> bool:
        """Keep *tree* until the next sync; not if `close` came while it was opened."""
        with self._lock:
            if not self._is_closed:
                self._tree = tree
            return not self._is_closed

    def _close_tree(self) -> None:
        with self._lock:
            tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()
