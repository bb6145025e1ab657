"""Which files a disk in memory has: as processes see it, and as it would outlive a power loss."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Generic, TypeVar

from dledger.errors import StorageFailedError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

File = TypeVar("File")
Change = tuple[str, dict[str, File | None]]  # the folder, and what each name then means


class MemoryNames(Generic[File]):
    """Names over files, in folders; a change of names is durable once its folder is synced."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.durable: dict[str, File] = {}
        self._folders: set[str] = {"/", ""}  # durable as soon as they are made
        self._changes: list[Change[File]] = []  # not durable, oldest first

    def clear(self) -> None:
        """Have none any more."""
        self.files.clear()
        self.durable.clear()
        self._changes.clear()
        self._folders = {"/", ""}

    # -- looking --------------------------------------------------------------------------------

    def find(self, path: str, verb: str) -> File:
        """Return the file *path*.

        Raises:
            StorageFailedError: there is none; *verb* says what for it was wanted.
        """
        if path not in self.files:
            raise StorageFailedError(f"{path}: {verb}: No such file or directory")
        return self.files[path]

    def exists(self, path: str) -> bool:
        """See `dledger.store.disk.Disk.exists`."""
        return path in self.files or path in self._folders

    def list_folder(self, path: str) -> list[str]:
        """See `dledger.store.disk.Disk.list_folder`."""
        if path not in self._folders:
            raise StorageFailedError(f"{path}: list: No such file or directory")
        names = {posixpath.basename(p) for p in self.files if posixpath.dirname(p) == path}
        names |= {posixpath.basename(p) for p in self._folders if posixpath.dirname(p) == path}
        return sorted(names - {""})

    # -- changing -------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        """See `dledger.store.disk.Disk.make_folder`."""
        while path not in self._folders:
            self._folders.add(path)
            path = posixpath.dirname(path)

    def change(self, names: dict[str, File | None]) -> None:
        """Give names of one folder to files, or take them away."""
        self._changes.append((posixpath.dirname(next(iter(names))), names))
        _put(self.files, names)

    def unsynced(self, is_meant: Callable[[str], bool]) -> list[Change[File]]:
        """Return the changes that are not durable in the folders that are meant, oldest first."""
        return [change for change in self._changes if is_meant(change[0])]

    def make_durable(self, changes: Sequence[Change[File]]) -> None:
        """Have *changes*, as far as they are not durable by now, outlive a power loss."""
        meant = set(map(id, changes))  # two may say the same, one of them later
        for change in self._changes:
            if id(change) in meant:
                _put(self.durable, change[1])
        self._changes = [change for change in self._changes if id(change) not in meant]

    def lose_power(self, chance: random.Random, survive: Callable[[File], File]) -> None:
        """Forget what is not durable, as far as *chance* will have it.

        Args:
            chance: says of each change whether it reached the platter.
            survive: returns what is left of a file; called once for each.
        """
        stopped: set[str] = set()
        for folder, names in self._changes:
            # A folder's journal is replayed in order: once one change is lost, so are the later.
            if folder not in stopped and chance.random() < 0.5:
                _put(self.durable, names)
            else:
                stopped.add(folder)
        self._changes.clear()
        fates: dict[int, File] = {}
        for path, file in self.durable.items():
            if id(file) not in fates:
                fates[id(file)] = survive(file)
            self.durable[path] = fates[id(file)]
        self.files = dict(self.durable)


def _put(into: dict[str, File], names: dict[str, File | None]) -> None:
    for path, file in names.items():
        if file is None:
            into.pop(path, None)
        else:
            into[path] = file
