"""One node's disk: a small ext4 file system, and all that can happen to it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from jepsen_like.real.commands import run
from jepsen_like.real.proof import LabError, Proof

if TYPE_CHECKING:
    from pathlib import Path

    from jepsen_like.real.namespaces import Namespace


class FileKind(enum.Enum):
    """What a file of a data folder is for (docs/file-formats.md)."""

    COMMITLOG = "commitlog"
    INDEX = "index"
    CONSUME_QUEUE = "consumequeue"
    STATE = "state"
    VOTE = "vote"
    CHECKPOINT = "checkpoint"
    WATERMARK = "watermark"
    IDENTITY = "identity"


class NodeDisk:
    """The file system mounted at *path*; everything of the node's data lies there."""

    def __init__(
        self, name: str, *, image: Path, path: Path, namespace: Namespace, size: int, seed: int
    ) -> None:
        self.name = name
        self.path = path  # where it is mounted; put the data folder at path / "data"
        self._image = image
        self._namespace = namespace
        self._size = size
        self._seed = seed
        self._device = ""

    # -- power ----------------------------------------------------------------------------------

    async def power_loss(self) -> Proof:
        """Lose power: all that was not synced is gone, and so are the node's processes.

        The disk is mounted again when the call returns; the processes (all of the node's
        namespace) have been killed.  Figures: ``bytes_lost`` (written before, not there after),
        ``files_changed``, ``witness_bytes_lost`` (of a file written just before and not synced).
        """
        raise LabError(f"disk of {self.name}: not built yet")

    async def power_loss_torn(self) -> Proof:
        """Lose power while the disk is writing: of the unsynced pages some are kept by chance."""
        raise LabError(f"disk of {self.name}: not built yet")

    # -- room, stalls, read-only ----------------------------------------------------------------

    async def fill(self, *, leave: int = 0) -> Proof:
        """Fill the disk but for *leave* bytes; `free` ends it."""
        raise LabError(f"disk of {self.name}: not built yet: {leave}")

    async def free(self) -> Proof:
        """Give the room back that `fill` took."""
        raise LabError(f"disk of {self.name}: not built yet")

    async def freeze(self) -> Proof:
        """Let every write and sync wait until `thaw` (fsfreeze)."""
        raise LabError(f"disk of {self.name}: not built yet")

    async def thaw(self) -> Proof:
        """Let writes go on."""
        raise LabError(f"disk of {self.name}: not built yet")

    async def abort(self) -> Proof:
        """Let ext4 give up as after an error of its own: EROFS for every write, until `remount`."""
        raise LabError(f"disk of {self.name}: not built yet")

    async def remount(self) -> Proof:
        """Kill the node's processes and mount the disk afresh, without losing anything."""
        raise LabError(f"disk of {self.name}: not built yet")

    # -- damage, of a node that does not run ----------------------------------------------------

    def files(self, kind: FileKind) -> list[Path]:
        """Return the node's files of that kind, the oldest first."""
        raise LabError(f"disk of {self.name}: not built yet: {kind}")

    async def flip_bits(self, kind: FileKind, *, count: int = 2) -> Proof:
        """Flip *count* bits of one file, in bytes that hold data."""
        raise LabError(f"disk of {self.name}: not built yet: {kind}, {count}")

    async def truncate(self, kind: FileKind) -> Proof:
        """Cut one file at a place drawn by chance, before the end of its data."""
        raise LabError(f"disk of {self.name}: not built yet: {kind}")

    async def remember(self, kind: FileKind) -> Proof:
        """Copy the files of that kind as they are now, for `restore_old_chunk`."""
        raise LabError(f"disk of {self.name}: not built yet: {kind}")

    async def restore_old_chunk(self, kind: FileKind) -> Proof:
        """Put 4 KiB of one file back to what they were at `remember`."""
        raise LabError(f"disk of {self.name}: not built yet: {kind}")

    # -- life -----------------------------------------------------------------------------------

    async def make(self) -> None:
        """Make the file system and mount it."""
        with self._image.open("xb") as file:
            file.truncate(self._size)
        await run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0", str(self._image))
        self._device = (await run("losetup", "--find", "--show", str(self._image))).strip()
        self.path.mkdir()
        await self._mount()

    async def remove(self) -> None:
        """Unmount it and free its loop device; of what was never made nothing."""
        if self.path.is_mount():
            await run("umount", str(self.path))
        if self._device:
            await run("losetup", "-d", self._device)
            self._device = ""

    async def _mount(self) -> None:
        await run("mount", "-t", "ext4", "-o", "noatime", self._device, str(self.path))
