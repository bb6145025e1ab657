"""A node's log read from its files, whether the node runs or not, and changed by nothing here.

`StoredLog.walk` proves every entry as a starting node would: length, position, chain and body CRC.
Behind the last entry lie zeros, old bytes of a recycled file or half an entry of a process at work;
they are damage only at or below the index that checkpoint and watermark say was synced.

`compare` walks several logs side by side and holds their bytes against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dledger.entry import (
    FILLER_SIZE,
    LOG_START,
    LogPoint,
    check_entry,
    is_filler,
    place_entry,
    point_behind,
)
from dledger.errors import ConfigError, CorruptEntryError, CorruptStoreError
from dledger.store.checkpoint import FIRST_CHECKPOINT, CheckpointFile, WatermarkFile
from dledger.store.os_disk import OsDisk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dledger.entry import EntryHeader
    from dledger.store.checkpoint import Checkpoint
    from dledger.store.disk import DiskFile

_TRIES = 3  # to read a small file that a running node may be writing
_DEPTH_MAX = 3  # folders between what the user names and the log


class LogMovedError(Exception):
    """Retention took the bytes away while they were read: start again."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One proved entry and its bytes, header first."""

    header: EntryHeader
    raw: memoryview

    @property
    def body(self) -> memoryview:
        """The bytes behind the header."""
        return self.raw[len(self.raw) - self.header.body_size :]


@dataclass(slots=True, kw_only=True)
class Comparison:
    """How far one log agrees with the first of those compared."""

    name: str
    identical_index: int  # last entry that both hold with the same bytes; 0: none
    compared: int = 0  # entries
    difference: str = ""  # what is wrong behind it; "" when nothing is
    end_index: int = 0


@dataclass(slots=True)
class StoredLog:
    """The log in one data folder, as its files were when they were read."""

    folder: Path  # holds commitlog/
    segment_size: int  # bytes
    checkpoint: Checkpoint
    synced_index: int  # last entry known to have been synced
    end: LogPoint = field(default=LOG_START)  # how far `walk` has come
    end_reason: str = ""  # why `walk` ended there

    @classmethod
    def open(cls, folder: Path) -> StoredLog:
        """Find the log in or below *folder*.

        Raises:
            ConfigError: there is none, or more than one.
            CorruptStoreError: checkpoint or segments are damaged; names the file.
        """
        folder = find_log_folder(folder)
        segments = _segment_paths(folder)
        sizes = {path.stat().st_size for path in segments.values()}
        if len(sizes) != 1:
            raise CorruptStoreError(
                f"{folder}/commitlog: files of {', '.join(map(str, sorted(sizes)))} bytes; "
                "all segments of a log have one size"
            )
        checkpoint = _read_checkpoint(folder)
        return cls(
            folder=folder,
            segment_size=sizes.pop(),
            checkpoint=checkpoint,
            synced_index=max(checkpoint.synced.index, _read_watermark(folder)),
        )

    @property
    def base(self) -> LogPoint:
        """The point behind the last entry that retention has dropped."""
        return self.checkpoint.base

    def segment_sizes(self) -> dict[int, int]:
        """Return the size in bytes of each segment file, by the position it begins at."""
        return {
            position: path.stat().st_size
            for position, path in sorted(_segment_paths(self.folder).items())
        }

    def walk(self) -> Iterator[StoredEntry]:
        """Yield every entry from the base on; then `end` and `end_reason` are set.

        Raises:
            CorruptStoreError: an entry that was synced is damaged or missing.
            LogMovedError: retention removed what was about to be read.
        """
        self.end = self.base
        segment = self._open_segment(self.end.position)
        while segment is not None:
            position = self.end.position
            place, rest = position, segment[position % self.segment_size :]
            if is_filler(rest, 0, room=len(rest)):
                place = position + len(rest)
                segment = self._open_segment(place)
                if segment is None:
                    break
                rest = segment
            elif not any(rest[:FILLER_SIZE]):
                break
            try:
                header = self._check(rest, place)
            except CorruptEntryError as error:
                self._stop(str(error))
                return
            self.end = point_behind(header)
            yield StoredEntry(header, rest[: header.size])
        self._stop("the log ends here")

    def _check(self, rest: memoryview, place: int) -> EntryHeader:
        """Return the header at the start of *rest*, proved to be the next entry's at *place*."""
        size_max = self.segment_size - FILLER_SIZE
        header = check_entry(rest, 0, after=self.end, position=place, size_max=size_max)
        fits = place_entry(
            self.end.position, entry_size=header.size, segment_size=self.segment_size
        )
        if fits != place:
            raise CorruptEntryError(
                f"entry {header.index}: position is {place}, but it fits at {fits}"
            )
        return header

    def _open_segment(self, position: int) -> memoryview | None:
        """Return the bytes of the file that begins at or covers *position*; None: no such file."""
        disk = _ReadOnlyDisk()
        path = self._path_of(position)
        if not disk.exists(path):
            return None
        region = disk.open_region(path, writable=False)
        view = region.view(0, region.size)
        region.close()  # the view keeps the bytes, and lets go of them when it goes
        return view

    def _path_of(self, position: int) -> str:
        return f"{self.folder}/commitlog/{position - position % self.segment_size:020d}"

    def _stop(self, reason: str) -> None:
        """End the walk here, unless the next entry was synced once."""
        self.end_reason = reason
        index = self.end.index + 1
        if index > self.synced_index:
            return
        if _read_checkpoint(self.folder).base.index >= index:
            raise LogMovedError
        raise CorruptStoreError(
            f"{self._path_of(self.end.position)}: entry {index}, behind position "
            f"{self.end.position}, is damaged ({reason}), but entries up to {self.synced_index} "
            "were synced; if the other members are healthy stop the node, move its data folder "
            "aside and start it: it is filled again from its peers"
        )


def compare(first: StoredLog, others: Sequence[tuple[str, StoredLog]]) -> list[Comparison]:
    """Hold the bytes of *others* against *first*, entry by entry.

    A log that is merely longer or shorter than *first* is no difference: whoever knows what must be
    there compares `Comparison.identical_index`.

    Raises:
        CorruptStoreError: one of the logs is damaged.
        LogMovedError: retention removed what was about to be read.
    """
    return [_compare_two(first, name, other) for name, other in others]


def _compare_two(first: StoredLog, name: str, other: StoredLog) -> Comparison:
    begin = max(first.base.index, other.base.index) + 1
    result = Comparison(name=name, identical_index=0)
    ours = (entry for entry in first.walk() if entry.header.index >= begin)
    theirs = (entry for entry in other.walk() if entry.header.index >= begin)
    for left in ours:
        right = next(theirs, None)
        if right is None:
            break
        if left.raw != right.raw:
            result.difference = describe_difference(left, right)
            break
        result.identical_index = left.header.index
        result.compared += 1
    for _ in theirs:  # to its end, so that damage there is found and its length is known
        pass
    result.end_index = other.end.index
    if not result.compared and not result.difference:
        result.difference = (
            f"no entry in common: it holds entries {other.base.index + 1} to {other.end.index}, "
            f"the first log {first.base.index + 1} to {first.end.index}"
        )
    return result


def describe_difference(left: StoredEntry, right: StoredEntry) -> str:
    """Say in which entry, and in what of it, two logs part."""
    for name in ("term", "position", "size", "kind", "channel"):
        ours, theirs = getattr(left.header, name), getattr(right.header, name)
        if ours != theirs:
            return f"entry {left.header.index}: {name} is {theirs} there and {ours} here"
    at = next(n for n, (one, two) in enumerate(zip(left.raw, right.raw, strict=True)) if one != two)
    return (
        f"entry {left.header.index}: byte {at} of it, at position {left.header.position + at}, is "
        f"{right.raw[at]:#04x} there and {left.raw[at]:#04x} here"
    )


def find_log_folder(folder: Path) -> Path:
    """Return the one folder in or below *folder* that holds a ``commitlog`` folder.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name a node's data folder")
    if folder.name == "commitlog":
        return folder.parent
    for depth in range(_DEPTH_MAX):
        found = sorted(path.parent for path in folder.glob("*/" * depth + "commitlog"))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(map(str, found))
            raise ConfigError(f"{folder} holds more than one log; name one of {names}")
    raise ConfigError(f"{folder}: no log below it; name a node's data folder (it holds commitlog/)")


def _segment_paths(folder: Path) -> dict[int, Path]:
    paths = {
        int(path.name): path
        for path in (folder / "commitlog").iterdir()
        if path.name.isdecimal() and len(path.name) == 20
    }
    if not paths:
        raise ConfigError(f"{folder}/commitlog holds no segment; the log was never begun")
    return paths


def _read_checkpoint(folder: Path) -> Checkpoint:
    path = folder / "checkpoint"
    if not path.exists():
        if min(_segment_paths(folder)) > 0:
            raise CorruptStoreError(
                f"{path} is missing, and without it nobody knows what came before the first segment"
            )
        return FIRST_CHECKPOINT
    for _ in range(_TRIES - 1):
        try:
            return CheckpointFile.open(_ReadOnlyDisk(), str(path)).last
        except CorruptStoreError:  # perhaps caught in the middle of a write
            continue
    return CheckpointFile.open(_ReadOnlyDisk(), str(path)).last


def _read_watermark(folder: Path) -> int:
    """Return the last index synced in this boot of the machine; 0 where nothing tells."""
    path = folder / "watermark"
    for _ in range(_TRIES):
        if not path.exists():
            break
        try:
            return WatermarkFile.open(_ReadOnlyDisk(), str(path)).index
        except (CorruptStoreError, _ReadOnlyError):
            continue
    return 0


class _ReadOnlyError(Exception):
    """The store wanted to repair something, which is not ours to do."""


class _ReadOnlyDisk(OsDisk):
    """The system's disk, of which this module may only read."""

    def open_file(self, path: str, *, through_map: bool = False) -> DiskFile:
        return _ReadOnlyFile(path)

    def write_file_atomic(self, path: str, data: bytes) -> None:
        raise _ReadOnlyError(path)


class _ReadOnlyFile:
    def __init__(self, path: str) -> None:
        self.path = path

    def read_all(self) -> bytes:
        return Path(self.path).read_bytes()

    def read_at(self, offset: int, size: int) -> bytes:
        return self.read_all()[offset : offset + size]

    def write_at(self, offset: int, data: bytes) -> None:
        raise _ReadOnlyError(self.path)

    def sync(self) -> None:
        raise _ReadOnlyError(self.path)

    def close(self) -> None:
        pass
