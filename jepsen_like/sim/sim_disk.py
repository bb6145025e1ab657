"""A disk in memory: a page cache over a platter, names over files, and everything that can fail.

A *mount* is what one life of one process has of it.  When the process dies its mount does nothing
any more, whatever tasks on their way out still ask of it; the disk stays.

Written bytes are in the page cache at once and durable once a sync that began later is through.
Names are durable once their folder is synced; at a power loss a folder keeps a prefix of the
changes made since.  `SimFile.after_power_loss` decides about bytes.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from broker.testing.memory_names import MemoryNames
from dledger.errors import FolderInUseError, LedgerFullError, StorageFailedError
from dledger.store.disk_usage import DiskUsage
from jepsen_like.sim.sim_file import SimFile
from jepsen_like.sim.sim_open import ProcessGoneError, SimLock, SimOpenFile, SimRegion, SimTree

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from dledger.entry import Buffer
    from jepsen_like.sim.trace import Trace


class SimDisk:
    """One node's disk; outlives the node's processes."""

    def __init__(self, name: str, chance: random.Random, trace: Trace) -> None:
        self.name = name
        self.capacity = 1 << 40  # bytes
        self.size = 0  # bytes of the file system as it is told; 0: so many that it is empty
        self.chance = chance
        self.trace = trace
        self.is_syncing_folders = True  # a mutant's lie
        self.sync_errors = 0  # so many syncs to come fail
        self.lost_pages = 0  # at power losses, of what was not synced
        self.die_in_steps: int | None = None  # the process dies before so many more steps
        self.die_at = ""  # counting only steps that name this
        self.on_written: Callable[[str, bytes], None] = lambda _path, _data: None
        self.on_death: Callable[[], None] = lambda: None
        self.on_wipe: Callable[[], None] = lambda: None
        self.names: MemoryNames[SimFile] = MemoryNames()
        self._boot = 1
        self._locked: set[str] = set()

    def mount(self) -> SimMount:
        """Return what the next process has of the disk."""
        self._locked.clear()
        self.die_in_steps = None
        self.die_at = ""
        return SimMount(self)

    def lose_power(self) -> None:
        """Forget what is not durable, as far as chance will have it."""
        self._boot += 1
        self.names.lose_power(self.chance, self._survive)
        self.trace.add(f"power {self.name} {self.lost_pages}")

    def _survive(self, file: SimFile) -> SimFile:
        after, lost = file.after_power_loss(self.chance)
        self.lost_pages += lost
        return after

    def wipe(self) -> None:
        """Be a new disk."""
        self.on_wipe()
        self.names.clear()
        self._boot += 1

    def on_platter(self, path: str, start: int, end: int) -> bool:
        """Whether those bytes of a file, and its name, would outlive a power loss as they are."""
        file = self.files.get(path)
        return (
            file is not None
            and self.names.durable.get(path) is file
            and file.durable[start:end] == file.cache[start:end]
        )

    def read_platter(self, path: str) -> bytes:
        """Return what of a file would outlive a power loss."""
        file = self.names.durable.get(path)
        return b"" if file is None else bytes(file.durable)

    @property
    def files(self) -> dict[str, SimFile]:
        """All files by path, as processes see them."""
        return self.names.files

    @property
    def used(self) -> int:
        """Bytes in files."""
        return sum({id(file): file.size for file in self.files.values()}.values())

    def boot_id(self) -> str:
        """Name the run of the machine."""
        return f"{self.name} boot {self._boot}"

    def lock(self, path: str) -> None:
        """Hold a folder.

        Raises:
            FolderInUseError: it is held.
        """
        if path in self._locked:
            raise FolderInUseError(f"{path}: another process uses this data folder")
        self._locked.add(path)

    def unlock(self, path: str) -> None:
        """Let go of a folder."""
        self._locked.discard(path)

    def begin_folder_sync(self, path: str) -> Callable[[], None]:
        """Take what a sync of the folder promises; the result makes it durable."""
        mine = self.names.unsynced(lambda folder: folder == path)
        if not self.is_syncing_folders:
            return lambda: None
        return lambda: self.names.make_durable(mine)


class SimMount:
    """See `dledger.store.disk.Disk`."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.is_dead = False
        # While a job runs whose syncs take time, they are gathered here instead of being done.
        self.gathered: list[Callable[[], None]] | None = None

    # -- what every call goes through -----------------------------------------------------------

    def step(self, what: str) -> bool:
        """Note a step; whether the process is alive to do it.

        Raises:
            ProcessGoneError: it dies right here.
        """
        if self.is_dead:
            return False
        disk = self.disk
        if disk.die_in_steps is not None and disk.die_at in what:
            if disk.die_in_steps <= 0:
                disk.die_in_steps = None
                self.is_dead = True
                disk.trace.add(f"dies {disk.name} before {what}")
                disk.on_death()
                raise ProcessGoneError(what)
            disk.die_in_steps -= 1
        return True

    def sync_file(self, path: str, file: SimFile) -> None:
        """Sync one file, now or when the job is through."""
        if not self.step(f"sync {path}"):
            return
        disk = self.disk
        disk.trace.add(f"sync {disk.name} {path}")
        if disk.sync_errors:
            disk.sync_errors -= 1
            file.fail_sync()
            raise StorageFailedError(f"{path}: sync: Input/output error (simulated)")
        self._finish(file.begin_sync())

    def _finish(self, finish: Callable[[], None]) -> None:
        if self.gathered is None:
            finish()
        else:
            self.gathered.append(finish)

    def _check_room(self, path: str, size: int) -> None:
        if size > self.free_bytes(path):
            raise LedgerFullError(
                f"{path}: no room for {size} bytes, {self.free_bytes(path)} are free (simulated)"
            )

    # -- Disk -----------------------------------------------------------------------------------

    def create_file(self, path: str) -> None:
        """See `Disk.create_file`."""
        self.make_folder(posixpath.dirname(path))
        if self.step(f"create {path}"):
            self.disk.names.change({path: SimFile()})

    def make_folder(self, path: str) -> None:
        """See `Disk.make_folder`."""
        self.disk.names.make_folder(path)

    def list_folder(self, path: str) -> list[str]:
        """See `Disk.list_folder`."""
        return self.disk.names.list_folder(path)

    def exists(self, path: str) -> bool:
        """See `Disk.exists`."""
        return self.disk.names.exists(path)

    def file_size(self, path: str) -> int:
        """See `Disk.file_size`."""
        return self.disk.names.find(path, "stat").size

    def allocate(self, path: str, size: int, *, zero_size: int) -> SimRegion:
        """See `Disk.allocate`."""
        assert 0 <= zero_size <= size
        self._check_room(path, size)
        file = SimFile(size)
        if self.step(f"allocate {path}"):
            self.disk.names.change({path + ".tmp": file})
        self.sync_file(path, file)
        if not self.is_dead:
            self.rename(path + ".tmp", path)
            self.sync_folder(posixpath.dirname(path))
        return SimRegion(self, path, file)

    def open_region(self, path: str, *, writable: bool) -> SimRegion:
        """See `Disk.open_region`."""
        return SimRegion(self, path, self.disk.names.find(path, "open"))

    def open_file(self, path: str, *, through_map: bool = False) -> SimOpenFile:
        """See `Disk.open_file`."""
        return SimOpenFile(self, path, self.disk.names.find(path, "open"))

    def write_file(self, path: str, parts: Iterable[tuple[int, Buffer]]) -> bool:
        """See `Disk.write_file`."""
        if path not in self.disk.files:
            return False
        file = self.open_file(path)
        for offset, data in parts:
            file.write_at(offset, data)
        return True

    def read_file(self, path: str) -> bytes:
        """See `Disk.read_file`."""
        file = self.disk.names.find(path, "read")
        return file.read(0, file.size)

    def write_file_atomic(self, path: str, data: bytes) -> None:
        """See `Disk.write_file_atomic`."""
        self._check_room(path, len(data))
        if not self.step(f"write {path}"):
            return
        file = SimFile()
        self.disk.names.change({path + ".tmp": file})
        file.write(0, bytes(data))
        self.disk.on_written(path, data)
        self.sync_file(path, file)
        self.rename(path + ".tmp", path)
        self.sync_folder(posixpath.dirname(path))

    def rename(self, source: str, target: str) -> None:
        """See `Disk.rename`."""
        if self.step(f"rename {source} {target}"):
            self.disk.names.change({target: self.disk.names.find(source, "rename"), source: None})

    def unlink(self, path: str) -> None:
        """See `Disk.unlink`."""
        if self.step(f"unlink {path}") and path in self.disk.files:
            self.disk.names.change({path: None})

    def sync_folder(self, path: str) -> None:
        """See `Disk.sync_folder`."""
        if self.step(f"sync {path}/"):
            self._finish(self.disk.begin_folder_sync(path))

    def open_tree(self, path: str) -> SimTree:
        """See `Disk.open_tree`."""
        return SimTree(self, path)

    def sync_below(self, path: str) -> None:
        """Sync all files below a folder, and their names."""
        for name, file in list(self.disk.files.items()):
            if name.startswith(path + "/"):
                self.sync_file(name, file)
        names = self.disk.names
        changed = names.unsynced(lambda folder: folder == path or folder.startswith(path + "/"))
        for folder in dict.fromkeys(folder for folder, _ in changed):
            self.sync_folder(folder)

    def free_bytes(self, path: str) -> int:
        """See `Disk.free_bytes`."""
        return max(self.disk.capacity - self.disk.used, 0)

    def disk_usage(self, path: str) -> DiskUsage:
        """See `Disk.disk_usage`."""
        used = self.disk.used
        return DiskUsage(used=used, available=max((self.disk.size or 1 << 40) - used, 0))

    def lock_folder(self, path: str) -> SimLock:
        """See `Disk.lock_folder`."""
        self.disk.lock(path)
        return SimLock(self, path)

    def boot_id(self) -> str:
        """See `Disk.boot_id`."""
        return self.disk.boot_id()
