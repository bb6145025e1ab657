"""What a lab leaves behind when it is killed with SIGKILL, found by name and swept away.

Everything of a lab is named ``jl<pid>``, and its folder says which process made it.  What belongs
to a process that still runs is left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import trio

from broker.cli.processes import ProcessMark, read_pid_file, write_pid_file
from jepsen_like.real import ext4
from jepsen_like.real.cgroups import cgroup_folders
from jepsen_like.real.commands import run
from jepsen_like.real.namespaces import NAMESPACE_FOLDER, Namespace
from jepsen_like.real.proof import LabError

_OWNED = re.compile(r"jl(\d+)(x\d+)?(-.*)?\Z")
_OWNER = "owner.pid"
_SECONDS = 40.0
_POLL_SECONDS = 0.01


def default_base() -> Path:
    """Return the folder in which labs make theirs: memory if the system has it mounted."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def write_owner(folder: Path, mark: ProcessMark) -> None:
    """Write into the lab's folder whose it is."""
    write_pid_file(folder / _OWNER, mark)


async def sweep(base: Path) -> list[str]:
    """Remove what dead labs left; return the prefixes of those.

    Args:
        base: the folder in which labs have made their folders.
    """
    dead = dead_prefixes(base)
    for prefix in dead:
        # Another lab may sweep at the same time: what is gone meanwhile is as it should be.
        await _remove(base, prefix)
    return dead


def dead_prefixes(base: Path) -> list[str]:
    """Return the prefixes of labs whose process has ended, by what they left."""
    found = [path.name for path in base.glob("jl*")]
    if NAMESPACE_FOLDER.is_dir():
        found += [path.name for path in NAMESPACE_FOLDER.glob("jl*")]
    found += [path.name for path in cgroup_folders("jl*")]
    prefixes = {name.partition("-")[0] for name in found if _OWNED.match(name)}
    return sorted(prefix for prefix in prefixes if not _is_owned(base, prefix))


def _is_owned(base: Path, prefix: str) -> bool:
    match = _OWNED.match(prefix)
    assert match is not None
    if (base / prefix / _OWNER).exists():
        return read_pid_file(base / prefix / _OWNER) is not None
    return Path(f"/proc/{match[1]}").exists()  # just being made, or half removed


async def _remove(base: Path, prefix: str) -> None:
    mounts = mounts_under(base / prefix)
    for mount in mounts:
        ext4.thaw(mount)  # what waits for a frozen disk cannot even be killed
    if NAMESPACE_FOLDER.is_dir():
        for path in NAMESPACE_FOLDER.glob(f"{prefix}-*"):
            await remove_namespace(path.name)
    folder = base / prefix
    for mount in mounts:
        await run("umount", str(mount))
    for device in await loops_under(folder):
        await run("losetup", "-d", device)
    if folder.exists():
        await trio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
    for group in cgroup_folders(f"{prefix}-*"):
        with contextlib.suppress(FileNotFoundError):
            group.rmdir()


async def remove_namespace(full_name: str) -> None:
    """Kill what runs inside and remove it; nothing when it is not there."""
    namespace = Namespace("", full_name, "")
    if not namespace.path.exists():
        return
    await kill_inside(namespace)
    await run("ip", "netns", "del", full_name)


async def kill_inside(namespace: Namespace) -> None:
    """SIGKILL every process in the namespace and wait until none is left.

    Raises:
        LabError: one does not die.
    """
    deadline = trio.current_time() + _SECONDS
    while pids := await trio.to_thread.run_sync(_live_pids, namespace):
        if trio.current_time() > deadline:
            raise LabError(f"processes {pids} in {namespace.full_name} do not die")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await trio.sleep(_POLL_SECONDS)


def _live_pids(namespace: Namespace) -> list[int]:
    return [pid for pid in namespace.pids() if ProcessMark.of(pid) is not None]


def mounts_under(folder: Path) -> list[Path]:
    """Return what is mounted below *folder*, the deepest first."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    paths = [Path(line.split()[1]) for line in lines]
    return sorted((path for path in paths if folder in path.parents), reverse=True)


async def loops_under(folder: Path) -> list[str]:
    """Return the loop devices whose file lies in *folder*."""
    return [device for device, path in await _loops() if folder in path.parents]


async def loops_of(image: Path) -> list[str]:
    """Return the loop devices whose file is *image*."""
    return [device for device, path in await _loops() if path == image]


async def _loops() -> list[tuple[str, Path]]:
    listed = await run("losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE")
    found = [line.split(maxsplit=1) for line in listed.splitlines()]
    return [(line[0], Path(line[1])) for line in found if len(line) == 2]
