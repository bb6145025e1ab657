"""One node's disk: a small ext4 file system, and all that can happen to it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jepsen_like.real import ext4, leftovers
from jepsen_like.real.commands import run
from jepsen_like.real.damage import Damage, FileKind
from jepsen_like.real.power import lose_power
from jepsen_like.real.proof import LabError, Proof

if TYPE_CHECKING:
    from jepsen_like.real.namespaces import Namespace

__all__ = ["FileKind", "NodeDisk"]

_BALLOON = "balloon"
_PROBE = "probe"
_BUSY_SECONDS = 40.0  # only a machine in trouble takes longer to let go of it
_POLL_SECONDS = 0.01
# A longer time between commits of ext4's journal than its 5 s: names made or changed and not synced
# are then lost for certain, not only when the power fails soon.
_OPTIONS = "noatime,commit=60"


class NodeDisk:
    """The file system mounted at *path*; everything of the node's data lies there."""

    def __init__(
        self, name: str, *, image: Path, path: Path, namespace: Namespace, size: int, seed: int
    ) -> None:
        self.name = name
        self.path = path  # where it is mounted
        self.namespace = namespace  # whose processes use it
        self.chance = random.Random(f"{seed} disk {name}")
        self.damage = Damage(self)
        self._image = image
        self._size = size
        self._device = ""
        self._frozen_at = 0.0

    @property
    def data(self) -> Path:
        """The node's data folder; the node makes it."""
        return self.path / "data"

    # -- power ----------------------------------------------------------------------------------

    async def power_loss(self, *, is_exact: bool = False) -> Proof:
        """Lose power: all that was not synced is gone, and so are the node's processes.

        The disk is mounted again when the call returns.  See `power.lose_power`, which also does
        it to several disks in the same instant.
        """
        return (await lose_power([self], is_exact=is_exact))[0]

    async def power_loss_torn(self) -> Proof:
        """Lose power while the disk is writing: of the unsynced pages half are kept, by chance."""
        return (await lose_power([self], is_torn=True))[0]

    # -- room -----------------------------------------------------------------------------------

    async def fill(self, *, leave: int = 0) -> Proof:
        """Fill the disk but for *leave* bytes; `free` ends it.

        The proof is what the disk says to one who wants more: ENOSPC.
        """
        before = self.free_bytes
        await trio.to_thread.run_sync(self._blow_up, leave)
        code = await trio.to_thread.run_sync(self._try_to_take, leave + 64 * 1024)
        return Proof(
            what=f"full disk of {self.name}",
            took_effect=code == errno.ENOSPC,
            figures={
                "free_before": before,
                "free_after": self.free_bytes,
                "answer": _error_name(code),
            },
        )

    async def free(self) -> Proof:
        """Give the room back that `fill` took; the figures tell how much was needed meanwhile."""
        before = self.free_bytes
        await trio.to_thread.run_sync(lambda: (self.path / _BALLOON).unlink(missing_ok=True))
        return Proof(
            what=f"room on the disk of {self.name}",
            took_effect=self.free_bytes > before,
            figures={"free_before": before, "free_after": self.free_bytes},
        )

    @property
    def free_bytes(self) -> int:
        """Room for new files."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def _blow_up(self, leave: int) -> None:
        size = 0
        step = self._size
        with (self.path / _BALLOON).open("wb") as balloon:
            # Halved steps: what a file's own records take of the room is not known in advance.
            while step >= ext4.PAGE:
                if self.free_bytes - step >= leave:
                    try:
                        os.posix_fallocate(balloon.fileno(), size, step)
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        os.ftruncate(balloon.fileno(), size)
                    else:
                        size += step
                        continue
                step //= 2
            os.fsync(balloon.fileno())

    def _try_to_take(self, size: int) -> int:
        path = self.path / _PROBE
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            return error.errno or -1
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return 0

    # -- stalls, read-only ----------------------------------------------------------------------

    async def freeze(self) -> Proof:
        """Let every write and sync wait until `thaw`; not even SIGKILL ends one that waits.

        The proof is the kernel's: it refuses to freeze what is frozen.
        """
        await trio.to_thread.run_sync(ext4.freeze, self.path)
        self._frozen_at = trio.current_time()
        is_frozen = not await trio.to_thread.run_sync(ext4.freeze, self.path)
        return Proof(what=f"frozen disk of {self.name}", took_effect=is_frozen)

    async def thaw(self) -> Proof:
        """Let writes go on; the figures tell how many threads of the node had to wait."""
        waiting = self._threads_waiting()
        was_frozen = await trio.to_thread.run_sync(ext4.thaw, self.path)
        seconds = trio.current_time() - self._frozen_at if was_frozen else 0.0
        return Proof(
            what=f"thawed disk of {self.name}",
            took_effect=was_frozen,
            figures={"seconds": round(seconds, 3), "threads_waiting": waiting},
        )

    def _threads_waiting(self) -> int:
        count = 0
        for pid in self.namespace.pids():
            for path in Path(f"/proc/{pid}/task").glob("*/stat"):
                with contextlib.suppress(OSError):
                    count += path.read_text(errors="replace").rpartition(")")[2].split()[0] == "D"
        return count

    async def abort(self) -> Proof:
        """Let ext4 give up as after an error of its own: every write fails, until `remount`."""
        await run("mount", "-o", "remount,abort", str(self.path))
        code = await trio.to_thread.run_sync(self._try_to_take, ext4.PAGE)
        return Proof(
            what=f"aborted file system of {self.name}",
            took_effect=code in (errno.EROFS, errno.EIO),
            figures={"answer": _error_name(code)},
        )

    async def remount(self) -> Proof:
        """Kill the node's processes and mount the disk afresh."""
        with trio.CancelScope(shield=True):
            await leftovers.kill_inside(self.namespace)
            await self.unmount()
            await self.mount()
        code = await trio.to_thread.run_sync(self._try_to_take, ext4.PAGE)
        return Proof(
            what=f"fresh mount of the disk of {self.name}",
            took_effect=code == 0,
            figures={"answer": _error_name(code)},
        )

    # -- life -----------------------------------------------------------------------------------

    async def make(self) -> None:
        """Make the file system and mount it."""
        with self._image.open("xb") as file:
            file.truncate(self._size)
        await run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0", str(self._image))
        self._device = (await run("losetup", "--find", "--show", str(self._image))).strip()
        await trio.to_thread.run_sync(self.path.mkdir)
        await self.mount()

    async def mount(self) -> None:
        """Mount it."""
        await run("mount", "-t", "ext4", "-o", _OPTIONS, self._device, str(self.path))

    async def unmount(self) -> None:
        """Unmount it, and make sure that nobody else has it mounted.

        Raises:
            LabError: somebody keeps a file of it open, or its mount.
        """
        deadline = trio.current_time() + _BUSY_SECONDS
        while True:
            try:
                await run("umount", str(self.path))
                break
            except LabError as error:
                if "busy" not in str(error) or trio.current_time() > deadline:
                    raise LabError(f"{error}; open in: {self._holders()}") from error
            await trio.sleep(_POLL_SECONDS)
        while not await trio.to_thread.run_sync(self._is_free):
            # A copy of the table of mounts (`ip netns exec` makes one) still holds it: then the
            # next mount would find the same file system, with nothing lost.
            if trio.current_time() > deadline:
                raise LabError(f"{self._device} is mounted in another namespace too")
            await trio.sleep(_POLL_SECONDS)

    async def remove(self) -> None:
        """Unmount it and free its loop device; of what was never made nothing."""
        if self.path.is_mount():
            await trio.to_thread.run_sync(ext4.thaw, self.path)
            await self.unmount()
        for device in await leftovers.loops_of(self._image):
            await run("losetup", "-d", device)

    def _is_free(self) -> bool:
        try:
            os.close(os.open(self._device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _holders(self) -> str:
        found = []
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if link.readlink().is_relative_to(self.path):
                    found.append(link.parts[2])
        return ", ".join(sorted(set(found))) or "no process that can be seen"


def _error_name(code: int) -> str:
    return errno.errorcode.get(code, str(code)) if code else "done"
