"""The state files of one node: which there are, which can be used, which may go.

A state is written at each segment boundary and kept for as long as the log begins no later: it is
what a node starts from when its other files are lost, and what a peer behind retention gets.  The
periodic ones between only shorten a restart; the two latest of them are kept.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.store.state_file import (
    CorruptStateError,
    DerivedSnapshot,
    decode_state,
    file_name,
    index_of_file,
)

if TYPE_CHECKING:
    from broker.store.log_view import LogView
    from dledger.entry import LogPoint
    from dledger.store.disk import Disk

PERIODIC_KEPT = 2

_log = logging.getLogger("broker.store")


class StateFiles:
    """State files by the index of the last entry they take in."""

    def __init__(self, disk: Disk, folder: str) -> None:
        """Make the folder if it is missing; `look` says what is in it."""
        self._disk = disk
        self._folder = folder
        disk.make_folder(folder)
        self._indexes: set[int] = set()
        self._boundaries: set[int] = set()
        self._superseded: list[int] = []

    @property
    def indexes(self) -> list[int]:
        """Entries a state file is there for, the latest first."""
        return sorted(self._indexes, reverse=True)

    @property
    def boundaries(self) -> list[int]:
        """Those of them that are the last of their segment, ascending."""
        return sorted(self._boundaries)

    def look(self, log: LogView, *, segment_size: int) -> None:
        """Look what is there and tell states at segment boundaries from the others; blocking."""
        found = (index_of_file(name) for name in self._disk.list_folder(self._folder))
        self._indexes = {index for index in found if index is not None}
        self._boundaries.clear()
        self._superseded.clear()
        base, end = log.base.index, log.end_index
        for index in self._indexes:
            if index == base:
                self._boundaries.add(index)
            elif base < index < end:
                (following,) = log.entries(index + 1, index + 1)
                if following.position % segment_size == 0:
                    self._boundaries.add(index)

    def load(self, index: int, point: LogPoint) -> DerivedSnapshot | None:
        """Return the state of *index* if it is sound and of the history of *point*; blocking.

        None otherwise; the reason is logged.
        """
        path = self.path(index)
        try:
            snapshot = decode_state(self._disk.read_file(path))
        except CorruptStateError as error:
            _log.warning("%s: %s; taking an older state", path, error)
            return None
        found = snapshot.point
        if (found.index, found.term, found.chain_crc) != (index, point.term, point.chain_crc):
            _log.warning("%s: it belongs to another log; taking an older state", path)
            return None
        return snapshot

    def read(self, index: int) -> bytes:
        """Return the bytes of a state file; blocking."""
        return self._disk.read_file(self.path(index))

    def write(self, index: int, data: bytes) -> None:
        """Write a state file durably; blocking."""
        self._disk.write_file_atomic(self.path(index), data)

    def unlink(self, indexes: list[int]) -> None:
        """Remove state files; blocking."""
        for index in indexes:
            self._disk.unlink(self.path(index))

    def add(self, index: int, *, is_boundary: bool) -> None:
        """Take note of a state written; what it supersedes may then be removed."""
        self._indexes.add(index)
        if is_boundary:
            self._boundaries.add(index)
        periodic = [other for other in self.indexes if other not in self._boundaries]
        self._superseded += self._give_up(periodic[PERIODIC_KEPT:])

    def take_superseded(self) -> list[int]:
        """Return the states no longer needed, to be removed with `unlink`."""
        superseded, self._superseded = self._superseded, []
        return superseded

    def drop_before(self, base_index: int) -> list[int]:
        """Return the states before the log's base, which nothing can follow any more."""
        return self._give_up([index for index in self._indexes if index < base_index])

    def path(self, index: int) -> str:
        """Return the path of the state file of entry *index*."""
        return f"{self._folder}/{file_name(index)}"

    def _give_up(self, indexes: list[int]) -> list[int]:
        self._indexes.difference_update(indexes)
        self._boundaries.difference_update(indexes)
        return indexes
