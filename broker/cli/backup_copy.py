"""A node's log, copied to a backup and back into a data folder: every entry proved on its way.

A backup is a folder that looks like a data folder without what makes one a member of a group:

    commitlog/         the entries, in segments as on the node, the last one sparse
    checkpoint         says that all of it is committed, so that damage in it is found
    derived/state-N    what the entries before the first one kept amount to, if there were any
    backup.json        what it is; written last: without it the copy was cut short

There is no vote in it and no identity: a copy must not keep promises, or break them, in the name
of the node it was taken from.  `restore` says in which group it lives on, and whether it may vote.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker.cli.log_check import LogMovedError, StoredLog
from broker.store.state_file import CorruptStateError, decode_state, file_name
from dledger.entry import FILLER_SIZE, LogPoint, encode_filler
from dledger.errors import ConfigError, CorruptStoreError, FolderMismatchError
from dledger.store.checkpoint import Checkpoint, CheckpointFile
from dledger.store.data_folder import FORMAT_VERSION, DataFolder
from dledger.store.os_disk import OsDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.cli.log_check import StoredEntry
    from broker.config import NodeConfig
    from dledger.store.disk import Disk, MappedRegion

BACKUP_VERSION: Final = 1
MANIFEST: Final = "backup.json"

_TRIES = 3  # to copy a log whose beginning retention takes away meanwhile
_LEFT_BY_OTHERS = frozenset({"lock", "lost+found"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds."""

    backup_version: int
    format_version: int  # of the data folder it was taken from
    group: str
    members: str  # of the group, as peers compare them
    node_id: str
    segment_size: int  # bytes
    begin_index: int  # first entry
    end_index: int
    end_term: int
    end_position: int
    end_chain_crc: int
    entries: int
    state_index: int  # 0: the log begins at its very beginning
    is_hot: bool  # the node ran: all that is in it was committed
    taken_at_ms: int  # since 1970 UTC, when it began

    @property
    def end(self) -> LogPoint:
        """The point behind the last entry."""
        return LogPoint(self.end_index, self.end_term, self.end_position, self.end_chain_crc)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Return what *folder* says of itself.

        Raises:
            ConfigError: it is no backup, or none that was finished.
            FolderMismatchError: a newer version wrote it.
        """
        path = folder / MANIFEST
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} has no {MANIFEST}: it is no backup, or one that was cut short; take it "
                "again"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: {error}; take another backup") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{path} is no JSON object; take another backup")
        version = found.get("backup_version")
        if not isinstance(version, int) or version > BACKUP_VERSION:
            raise FolderMismatchError(
                f"{path}: backup_version is {version!r}, this program knows up to "
                f"{BACKUP_VERSION}; restore it with the newer dledger that wrote it"
            )
        values: dict[str, Any] = {}
        for item in fields(cls):
            value = found.get(item.name)
            if type(value).__name__ != item.type:
                raise ConfigError(f"{path}: {item.name} is {value!r}; take another backup")
            values[item.name] = value
        return cls(**values)

    def write(self, disk: Disk, folder: Path) -> None:
        """Put it into *folder*, durably; blocking."""
        disk.write_file_atomic(
            str(folder / MANIFEST), json.dumps(asdict(self), indent=2).encode() + b"\n"
        )


class _LogWriter:
    """Puts proved entries into segments of their own."""

    def __init__(self, disk: Disk, folder: Path, segment_size: int, *, reserve: bool) -> None:
        self._disk = disk
        self._folder = f"{folder}/commitlog"
        self._segment_size = segment_size
        self._reserve = reserve
        self._region: MappedRegion | None = None
        self._begin = 0  # position of the open segment's first byte
        disk.make_folder(self._folder)

    def open_at(self, position: int) -> None:
        """Open the segment that holds *position*, durably created."""
        self._begin = position - position % self._segment_size
        path = f"{self._folder}/{self._begin:020d}"
        if self._reserve:
            self._region = self._disk.allocate(path, self._segment_size, zero_size=0)
        else:
            self._disk.write_file_atomic(path, b"")
            os.truncate(path, self._segment_size)
            self._region = self._disk.open_region(path, writable=True)

    def add(self, entry: StoredEntry, *, behind: LogPoint) -> None:
        """Write *entry*, the next one *behind* the last."""
        position = entry.header.position
        region = self._region
        assert region is not None
        if position >= self._begin + self._segment_size:
            rest = self._begin + self._segment_size - behind.position
            if rest >= FILLER_SIZE:
                filler = encode_filler(rest)
                region.write(behind.position - self._begin, [filler], through_map=False)
            self.close()
            self.open_at(position)
            region = self._region
            assert region is not None
        region.write(position - self._begin, [entry.raw], through_map=False)

    def close(self) -> None:
        """Make what was written durable and let go of the segment."""
        if self._region is not None:
            self._region.sync()
            self._region.close()
            self._region = None


def copy_log(
    source: StoredLog,
    target: Path,
    *,
    end_index: int | None,
    reserve: bool,
    progress: Callable[[int], None] = lambda size: None,
) -> tuple[LogPoint, int]:
    """Copy the entries of *source* up to *end_index* (None: all sound ones) into *target*.

    Args:
        source: where from; every entry is checked.
        target: folder that gets ``commitlog`` and ``checkpoint``.
        end_index: last entry to copy.
        reserve: whether the segments get all their room on the disk now, as a node's must have.
        progress: called with the bytes of each entry copied.

    Returns:
        The point behind the last entry copied, and how many were.

    Raises:
        CorruptStoreError: the source is damaged, or ends before *end_index*.
        LogMovedError: retention took away what was to be copied; begin again.
        LedgerFullError, StorageFailedError: the target's disk.
    """
    disk = OsDisk()
    writer = _LogWriter(disk, target, source.segment_size, reserve=reserve)
    writer.open_at(source.base.position)
    end, count = source.base, 0
    try:
        if end_index is None or end_index > end.index:
            for entry in source.walk():
                writer.add(entry, behind=end)
                end = source.end
                count += 1
                progress(entry.header.size)
                if end.index == end_index:
                    break
    finally:
        writer.close()
    # A file that retention gave to new entries was read, perhaps: then its base has moved before.
    if StoredLog.open(source.folder).base != source.base:
        raise LogMovedError
    if end_index is not None and end.index != end_index:
        raise CorruptStoreError(
            f"{source.folder}: the log ends with entry {end.index} ({source.end_reason}), and "
            f"entries up to {end_index} are committed; take the backup from another member"
        )
    disk.sync_folder(f"{target}/commitlog")
    path = f"{target}/checkpoint"
    CheckpointFile.create(disk, path)
    checkpoints = CheckpointFile.open(disk, path)
    try:
        checkpoints.write(Checkpoint(generation=1, base=source.base, synced=end))
    finally:
        checkpoints.close()
    return end, count


def take_backup(
    config: NodeConfig,
    target: Path,
    *,
    end_index: int | None,
    taken_at_ms: int,
    progress: Callable[[int], None] = lambda size: None,
) -> Manifest:
    """Copy the log of the node of *config* into the new folder *target*.

    Args:
        config: the node's settings.
        target: must be empty, or not there.
        end_index: last entry; None for a node that does not run: all it has.
        taken_at_ms: the present.
        progress: see `copy_log`.

    Raises:
        ConfigError: *target* is not empty, or there is no log.
        CorruptStoreError: the node's log is damaged.
        LedgerFullError, StorageFailedError: the target's disk.
    """
    check_empty(target)
    disk = OsDisk()
    for _ in range(_TRIES):
        disk.make_folder(str(target))
        source = StoredLog.open(Path(config.data_folder))
        try:
            end, count = copy_log(
                source, target, end_index=end_index, reserve=False, progress=progress
            )
            _copy_state(disk, source, target)
        except (LogMovedError, FileNotFoundError):
            clear(target)
            continue
        manifest = Manifest(
            backup_version=BACKUP_VERSION,
            format_version=FORMAT_VERSION,
            group=config.group,
            members=members_of(config),
            node_id=config.node_id,
            segment_size=source.segment_size,
            begin_index=source.base.index + 1,
            end_index=end.index,
            end_term=end.term,
            end_position=end.position,
            end_chain_crc=end.chain_crc,
            entries=count,
            state_index=source.base.index,
            is_hot=end_index is not None,
            taken_at_ms=taken_at_ms,
        )
        manifest.write(disk, target)
        disk.sync_folder(str(target.parent.resolve()))
        return manifest
    raise ConfigError(
        f"retention has taken the beginning of the log away {_TRIES} times while it was copied; "
        "raise log_size_max, or copy to a faster disk"
    )


def restore(
    backup: Path,
    config: NodeConfig,
    *,
    may_vote: bool,
    progress: Callable[[int], None] = lambda size: None,
) -> Manifest:
    """Fill the empty data folder of *config* with what *backup* holds.

    Args:
        backup: a folder that `take_backup` made.
        config: whose data folder it becomes; its group may have another name.
        may_vote: true when a whole group begins anew from this backup; false for one member of a
            group that lives: it has forgotten what it promised since, and votes again when the
            leader says that it has everything.
        progress: see `copy_log`.

    Raises:
        ConfigError: it is no backup, or the data folder is not empty.
        FolderMismatchError: the backup's segment_size is not the configuration's, or it is newer.
        CorruptStoreError: the backup is damaged.
        LedgerFullError, StorageFailedError: the disk.
    """
    manifest = Manifest.read(backup)
    if manifest.format_version > FORMAT_VERSION:
        raise FolderMismatchError(
            f"{backup}: format_version is {manifest.format_version}, this program knows up to "
            f"{FORMAT_VERSION}; restore it with the newer dledger that wrote it"
        )
    if manifest.segment_size != config.store.segment_size:
        raise FolderMismatchError(
            f"{backup}: segment_size is {manifest.segment_size} in the backup and "
            f"{config.store.segment_size} in the configuration; correct it there"
        )
    target = Path(config.data_folder)
    check_empty(target)
    disk = OsDisk()
    disk.make_folder(str(target))
    lock = disk.lock_folder(str(target))
    try:
        source = StoredLog.open(backup)
        end, _ = copy_log(
            source, target, end_index=manifest.end_index, reserve=True, progress=progress
        )
        if end != manifest.end:
            raise CorruptStoreError(
                f"{backup}: the log ends with {end}, and {MANIFEST} says {manifest.end}; take "
                "another backup"
            )
        _copy_state(disk, source, target)
        DataFolder.found(
            disk,
            str(target),
            group=config.group,
            node_id=config.node_id,
            config=config.store,
            term=end.term,
            joining=not may_vote,
        )
    finally:
        lock.release()
    return manifest


def _copy_state(disk: Disk, source: StoredLog, target: Path) -> None:
    """Copy the state at the log's base: without it nothing before it is known."""
    index = source.base.index
    if not index:
        return
    path = source.folder / "derived" / file_name(index)
    data = path.read_bytes()
    try:
        point = decode_state(data).point
    except CorruptStateError as error:
        raise CorruptStoreError(f"{path}: {error}; take the backup from another member") from error
    if (point.index, point.chain_crc) != (index, source.base.chain_crc):
        raise CorruptStoreError(f"{path} is of another log; take the backup from another member")
    disk.make_folder(str(target / "derived"))
    disk.write_file_atomic(str(target / "derived" / path.name), data)


def members_of(config: NodeConfig) -> str:
    """Return the members of a group as one text; groups with the same one can meet."""
    return ",".join(sorted(f"{member.node_id}={member.peer_address}" for member in config.members))


def check_empty(folder: Path) -> None:
    """Raise `ConfigError` unless *folder* is empty or not there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name another one")
    names = sorted({path.name for path in folder.iterdir()} - _LEFT_BY_OTHERS)
    if names:
        raise ConfigError(
            f"{folder} holds {names[0]!r}; name an empty folder, or move this one aside"
        )


def clear(folder: Path) -> None:
    """Remove what a copy that was not finished left in *folder*."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
