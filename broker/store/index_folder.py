"""The files of the key index on the disk: their names, and which of them a start can use.

    <folder>/<yyyyMMddHHmmssSSS>

A file is named by the store time of its first entry (UTC), or by the millisecond after the name
before it when clocks fell or a millisecond was not enough: names ascend with the log.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from broker.store.index_file import (
    ENTRY,
    ENTRY_SIZE,
    HEADER_SIZE,
    SLOT_SIZE,
    GrowingIndexFile,
    IndexHeader,
    IndexShape,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.store.disk import Disk

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME = re.compile(r"\d{17}\Z", re.ASCII)
NAME_MS_MAX = 253_402_300_799_999  # the last millisecond of the year 9999

_log = logging.getLogger("broker.store")


class IndexFileInfo(NamedTuple):
    """A file that nothing is added to any more."""

    path: str
    header: IndexHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSnapshot:
    """How far the index is; a part of the state that is written down.

    All but the shape follows from the log alone, for one shape.
    """

    file_count: int = 0  # files begun since the log's first entry
    name_ms: int = 0  # of the last one's name
    entry_count: int = 0  # in the last one
    begin_timestamp: int = 0  # of the last one
    end_timestamp: int = 0
    shape: IndexShape

    def to_plain(self) -> list[int]:
        """Return plain values for the state file."""
        return [
            self.file_count,
            self.name_ms,
            self.entry_count,
            self.begin_timestamp,
            self.end_timestamp,
            self.shape.slot_count,
            self.shape.entry_count,
        ]

    @classmethod
    def from_plain(cls, plain: Any) -> IndexSnapshot:  # noqa: ANN401 - whatever a file holds
        """Return what `to_plain` was called on.

        Raises:
            ValueError, TypeError: *plain* is something else.
        """
        files, name_ms, entries, begin, end, slot_count, entry_max = plain
        numbers = (files, name_ms, entries, slot_count, entry_max)
        if not all(type(number) is int for number in (*numbers, begin, end)) or min(numbers) < 0:
            raise ValueError(f"{plain!r:.200} is no index and its end")
        if slot_count < 1 or entries > entry_max or name_ms > NAME_MS_MAX:
            raise ValueError(f"{plain!r:.200} is no index and its end")
        return cls(
            file_count=files,
            name_ms=name_ms,
            entry_count=entries,
            begin_timestamp=begin,
            end_timestamp=end,
            shape=IndexShape(slot_count=slot_count, entry_count=entry_max),
        )


class LoadedIndex(NamedTuple):
    """What a start found: the files that are done, and the one that goes on."""

    sealed: list[IndexFileInfo]
    growing: GrowingIndexFile | None


def file_name(name_ms: int) -> str:
    """Return the name that tells *name_ms*, in milliseconds since 1970."""
    time = _EPOCH + timedelta(milliseconds=name_ms)
    return f"{time:%Y%m%d%H%M%S}{time.microsecond // 1000:03d}".rjust(17, "0")


def name_ms_of(name: str) -> int | None:
    """Return the milliseconds that a file's name tells; None when it is not one's."""
    if not _NAME.match(name):
        return None
    try:
        time = datetime.strptime(name[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (time - _EPOCH) // timedelta(milliseconds=1) + int(name[14:])


class IndexFolder:
    """The folder of one node's key index; every method blocks."""

    def __init__(self, disk: Disk, folder: str, shape: IndexShape) -> None:
        self._disk = disk
        self._folder = folder
        self._shape = shape

    def path(self, name_ms: int) -> str:
        """Return the path of the file of that name."""
        return f"{self._folder}/{file_name(name_ms)}"

    def unlink_all(self) -> None:
        """Remove every file."""
        if self._disk.exists(self._folder):
            for name in self._disk.list_folder(self._folder):
                self._disk.unlink(f"{self._folder}/{name}")

    def load(
        self,
        snapshot: IndexSnapshot,
        *,
        files_before: int | None,
        begin_position: int,
        end_position: int,
    ) -> LoadedIndex | None:
        """Return what the files hold of *snapshot*; None when they do not hold all of it.

        What they hold beyond it, or from before the log's base, is removed.

        Args:
            snapshot: how far the index is to be.
            files_before: files begun before the log's base; None when nobody knows: then what is
                there counts as all there is.
            begin_position: of the log's base.
            end_position: where the log ended when *snapshot* was taken.
        """
        if snapshot.shape != self._shape:
            _log.warning(
                "%s: its files have %d slots and %d entries, the settings say %d and %d",
                self._folder,
                snapshot.shape.slot_count,
                snapshot.shape.entry_count,
                self._shape.slot_count,
                self._shape.entry_count,
            )
            return None
        names = sorted(name_ms for name_ms in map(name_ms_of, self._names()) if name_ms is not None)
        known = [name_ms for name_ms in names if name_ms <= snapshot.name_ms]
        if files_before is None:
            kept = [name_ms for name_ms in known if self._begins_at(name_ms) >= begin_position]
        else:
            wanted = max(snapshot.file_count - files_before, 0)
            kept = known[-wanted:] if wanted else []
            if len(kept) != wanted:
                return None
        if kept and kept[-1] != snapshot.name_ms:
            return None
        sealed: list[IndexFileInfo] = []
        begin = begin_position
        for name_ms in kept[:-1]:
            info = self._sealed(self.path(name_ms))
            if info is None or not begin <= info.header.begin_position <= info.header.end_position:
                return None
            begin = info.header.end_position
            sealed.append(info)
        growing: GrowingIndexFile | None = None
        if kept:
            growing = self._growing(snapshot)
            if growing is None or not (
                begin <= growing.header.begin_position
                and growing.header.end_position < end_position
            ):
                return None
        self._unlink(set(names).difference(kept))
        return LoadedIndex(sealed, growing)

    def _names(self) -> list[str]:
        return self._disk.list_folder(self._folder) if self._disk.exists(self._folder) else []

    def _unlink(self, names: Iterable[int]) -> None:
        for name_ms in sorted(names):
            self._disk.unlink(self.path(name_ms))

    def _begins_at(self, name_ms: int) -> int:
        """Return the position of a file's first record; -1 when it has no header."""
        header = self._header(self.path(name_ms))
        return -1 if header is None else header.begin_position

    def _header(self, path: str) -> IndexHeader | None:
        file = self._disk.open_file(path)
        try:
            return IndexHeader.decode(file.read_at(0, HEADER_SIZE))
        finally:
            file.close()

    def _sealed(self, path: str) -> IndexFileInfo | None:
        """Return a file that is done; None when it is not whole."""
        header = self._header(path)
        if header is None or not 1 <= header.entry_count <= self._shape.entry_count:
            return None
        if self._disk.file_size(path) < self._shape.entry_at(header.entry_count + 1):
            return None
        return IndexFileInfo(path, header)

    def _growing(self, snapshot: IndexSnapshot) -> GrowingIndexFile | None:
        """Return the last file with the entries *snapshot* knows of; None if they do not fit."""
        path, shape, count = self.path(snapshot.name_ms), self._shape, snapshot.entry_count
        if not count:
            return None
        file = self._disk.open_file(path)
        try:
            slots = file.read_at(HEADER_SIZE, SLOT_SIZE * shape.slot_count)
            data = file.read_at(shape.entry_at(1), ENTRY_SIZE * count)
        finally:
            file.close()
        if len(data) != ENTRY_SIZE * count:
            return None
        entries = np.frombuffer(data, ENTRY)
        header = IndexHeader(
            snapshot.begin_timestamp,
            snapshot.end_timestamp,
            int(entries["position"][0]),
            int(entries["position"][-1]),
            0,
            count + 1,
        )
        growing = GrowingIndexFile(path, shape, name_ms=snapshot.name_ms)
        return growing if growing.load(entries, header, slots) else None
