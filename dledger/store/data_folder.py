"""The folder that one node calls its own: held, recognised, filled for the first time.

    lock           held by the running process
    identity.json  whose data this is and how it is laid out; written last, when all else is there
    vote           `dledger.store.vote_file`
    checkpoint, watermark, commitlog/, index/    `dledger.store.ledger_store`

A folder with an identity must have its vote file: without it the node could vote twice in a term.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dledger.errors import CorruptStoreError, FolderMismatchError
from dledger.store.checkpoint import CheckpointFile
from dledger.store.disk import TEMPORARY_SUFFIX
from dledger.store.slot_file import REMEDY
from dledger.store.vote_file import VoteFile

if TYPE_CHECKING:
    from dledger.config import StoreConfig
    from dledger.store.disk import Disk, FolderLock

FORMAT_VERSION = 1

# What a first start that was cut short may have left behind.
_FIRST_NAMES = ("lock", "vote", "checkpoint")


class DataFolder:
    """A data folder held by this process, and the vote file in it."""

    def __init__(self, path: str, lock: FolderLock, vote: VoteFile, *, is_new: bool) -> None:
        self.path = path
        self.vote = vote
        self.is_new = is_new  # this start created it
        self._lock = lock

    @classmethod
    def open(
        cls,
        disk: Disk,
        path: str,
        *,
        group: str,
        node_id: str,
        config: StoreConfig,
        joining: bool,
    ) -> DataFolder:
        """Take hold of folder *path*, creating it where there is none; blocking.

        Args:
            disk: where the folder is.
            path: the data folder.
            group: name of the group; an old folder must name the same, as with *node_id* and the
                sizes of *config*.
            node_id: this node's name in the group.
            config: sizes of the files.
            joining: what the vote file of a new folder says; see `dledger.store.vote_file`.

        Raises:
            FolderInUseError: another process holds it.
            FolderMismatchError: it belongs to another node, group, layout or format; nothing was
                changed.
            CorruptStoreError: something of it is missing or damaged.
            LedgerFullError: no room for the first files.
        """
        disk.make_folder(path)
        lock = disk.lock_folder(path)
        try:
            expected = _identity(group, node_id, config)
            identity = f"{path}/identity.json"
            is_new = not disk.exists(identity)
            if is_new:
                _check_empty(disk, path)
                VoteFile.open(disk, path, joining=joining).close()
                CheckpointFile.create(disk, f"{path}/checkpoint")
                _write_identity(disk, path, expected)
            else:
                _check(identity, disk.read_file(identity), expected)
            if not disk.exists(f"{path}/vote"):
                raise CorruptStoreError(
                    f"{path}/vote is missing: without it this node could vote twice in one term; "
                    f"{REMEDY}"
                )
            if not disk.exists(f"{path}/checkpoint") and not disk.exists(f"{path}/commitlog"):
                raise CorruptStoreError(
                    f"{path}: checkpoint and commitlog are missing: whoever removed the log must "
                    f"not leave the vote; {REMEDY}"
                )
            return cls(path, lock, VoteFile.open(disk, path, joining=joining), is_new=is_new)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def found(
        disk: Disk,
        path: str,
        *,
        group: str,
        node_id: str,
        config: StoreConfig,
        term: int,
        joining: bool,
    ) -> None:
        """Make folder *path*, into which a log was copied, the data folder of a node; blocking.

        Args:
            disk: where the folder is.
            path: holds a log and its checkpoint, and no vote or identity yet.
            group: whose data it is from now on, as with *node_id* and *config*.
            node_id: see *group*.
            config: see *group*.
            term: of the last entry; no vote was given in it, as far as this folder knows.
            joining: whether the node may not vote before the leader says so; false is for a group
                of which no member remembers more than this folder does.

        Raises:
            LedgerFullError: no room.
        """
        assert not disk.exists(f"{path}/identity.json")
        vote = VoteFile.open(disk, path, joining=joining)
        try:
            vote.set(term, None)
            vote.sync()
        finally:
            vote.close()
        _write_identity(disk, path, _identity(group, node_id, config))

    def close(self) -> None:
        """Close the vote file and let go of the folder."""
        self.vote.close()
        self._lock.release()


def _identity(group: str, node_id: str, config: StoreConfig) -> dict[str, object]:
    return {
        "format_version": FORMAT_VERSION,
        "group": group,
        "node_id": node_id,
        "segment_size": config.segment_size,
        "index_file_units": config.index_file_units,
    }


def _write_identity(disk: Disk, path: str, identity: dict[str, object]) -> None:
    content = json.dumps(identity, indent=2).encode() + b"\n"
    disk.write_file_atomic(f"{path}/identity.json", content)


def _check_empty(disk: Disk, path: str) -> None:
    names = [name for name in disk.list_folder(path) if not name.endswith(TEMPORARY_SUFFIX)]
    strange = [name for name in names if name not in _FIRST_NAMES]
    if strange:
        raise FolderMismatchError(
            f"{path} holds {strange[0]!r} but no identity.json, so it is no data folder of this "
            "program; name an empty folder, or one that does not exist yet"
        )


def _check(path: str, content: bytes, expected: dict[str, object]) -> None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptStoreError(f"{path} is no JSON ({error}); {REMEDY}") from error
    if not isinstance(found, dict):
        raise CorruptStoreError(f"{path} is no JSON object; {REMEDY}")
    version = found.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CorruptStoreError(f"{path}: format_version is {version!r}; {REMEDY}")
    if version > FORMAT_VERSION:
        raise FolderMismatchError(
            f"{path}: format_version is {version}, this program knows up to {FORMAT_VERSION}; "
            "start the newer dledger that wrote the folder"
        )
    for field, value in expected.items():
        if found.get(field) != value:
            raise FolderMismatchError(
                f"{path}: {field} is {found.get(field)!r} in the data folder and {value!r} in the "
                f"configuration; correct {field} there, or give this node an empty data folder"
            )
