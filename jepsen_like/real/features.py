"""What this machine allows: tried out, and what is missing told by name, with the remedy."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jepsen_like.real import ext4
from jepsen_like.real.cgroups import find_controller
from jepsen_like.real.commands import run_now
from jepsen_like.real.leftovers import default_base
from jepsen_like.real.namespaces import Namespace
from jepsen_like.real.proof import LabError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXIT_SKIPPED = 77  # automake's "not run", also of other test harnesses

_ROOM = 256 << 20  # disks of three nodes, and their logs
_TRIAL_DISK_SIZE = 4 << 20

_TOOLS = {
    "ip": "apt install iproute2",
    "ethtool": "apt install ethtool",
    "nsenter": "apt install util-linux",
    "mkfs.ext4": "apt install e2fsprogs",
    "losetup": "apt install mount",
    "mount": "apt install mount",
    "gcc": "apt install gcc libc6-dev",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One thing the laboratory uses."""

    name: str
    is_there: bool
    is_needed: bool  # without it no lab at all; otherwise only the faults that use it are missing
    remedy: str  # what to do about it

    def __str__(self) -> str:
        if self.is_there:
            return f"{self.name}: yes"
        return f"{self.name}: MISSING{' (needed)' if self.is_needed else ''}; {self.remedy}"


@functools.cache
def probe() -> tuple[Feature, ...]:
    """Try out what the machine allows; leaves nothing behind."""
    found = [
        _feature(
            "root", os.geteuid() == 0, "namespaces, mounts and loop devices are root's: use sudo"
        ),
        *(_feature(tool, shutil.which(tool) is not None, how) for tool, how in _TOOLS.items()),
    ]
    if any(not feature.is_there for feature in found):
        return tuple(found)  # nothing else can be tried
    # Named as a lab of this process: swept away with those if we are killed meanwhile.
    folder = default_base() / f"jl{os.getpid()}x0"
    folder.mkdir()
    try:
        found += [_try(*attempt) for attempt in _attempts(folder)]
    finally:
        shutil.rmtree(folder)
    for controller, use in (("memory", "memory limits"), ("cpu", "processor limits")):
        found.append(
            _feature(
                f"control groups: {controller}",
                find_controller(controller) is not None,
                f"no {use}; mount the controller under /sys/fs/cgroup",
                is_needed=False,
            )
        )
    return tuple(found)


def missing() -> list[str]:
    """Return what a lab cannot do without and does not find, each with its remedy."""
    return [str(feature) for feature in probe() if feature.is_needed and not feature.is_there]


def require() -> None:
    """Return when a lab can be made here; else say on stderr why not and exit with 77."""
    reasons = missing()
    for reason in reasons:
        print(f"real processes: {reason}", file=sys.stderr)
    if reasons:
        raise SystemExit(EXIT_SKIPPED)


def _feature(name: str, is_there: bool, remedy: str, *, is_needed: bool = True) -> Feature:
    return Feature(name=name, is_there=is_there, is_needed=is_needed, remedy=remedy)


def _try(name: str, attempt: Callable[[], None], remedy: str) -> Feature:
    try:
        attempt()
    except (LabError, OSError) as error:
        return _feature(name, False, f"{remedy} ({error})")
    return _feature(name, True, "")


def _attempts(folder: Path) -> list[tuple[str, Callable[[], None], str]]:
    """Return what is tried: its name, how, and the remedy when it fails."""
    return [
        (
            "room for the disks",
            _try_room,
            f"make room, {_ROOM >> 20} MiB at least",
        ),
        (
            "network namespaces, veth, packet sockets",
            _try_network,
            "use a kernel with CONFIG_NET_NS, CONFIG_VETH and CONFIG_PACKET, and in a container "
            "the capabilities NET_ADMIN, NET_RAW and SYS_ADMIN",
        ),
        (
            "loop devices, ext4, its shutdown call, fsfreeze",
            lambda: _try_disk(folder),
            "load the modules loop and ext4; a container needs SYS_ADMIN and /dev/loop*",
        ),
        (
            "the C compiler",
            lambda: _try_compiler(folder),
            "apt install gcc libc6-dev",
        ),
    ]


def _try_room() -> None:
    folder = default_base()
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < _ROOM:
        raise LabError(f"{folder} has less than {_ROOM >> 20} MiB free")


def _try_network() -> None:
    space = Namespace("probe", f"jl{os.getpid()}-probe", "")
    run_now("ip", "netns", "add", space.full_name)
    try:
        run_now(
            "ip", "link", "add", "p0", "netns", space.full_name,
            "type", "veth", "peer", "name", "p1", "netns", space.full_name,
        )  # fmt: skip
        with space.entered():
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
            run_now("ethtool", "-K", "p0", "tx", "off", "gso", "off", "gro", "off")
    finally:
        run_now("ip", "netns", "del", space.full_name)


def _try_disk(folder: Path) -> None:
    image, path = folder / "image", folder / "disk"
    with image.open("wb") as file:
        file.truncate(_TRIAL_DISK_SIZE)
    path.mkdir()
    run_now("mkfs.ext4", "-q", str(image))
    run_now("mount", "-t", "ext4", "-o", "loop", str(image), str(path))
    try:
        if not ext4.freeze(path) or not ext4.thaw(path):
            raise LabError("fsfreeze has no effect")
        ext4.shut_down(path)
        with contextlib.suppress(OSError):
            (path / "file").write_bytes(b"1")
            raise LabError("a file system that was shut down takes writes")
    finally:
        run_now("umount", str(path))


def _try_compiler(folder: Path) -> None:
    source = folder / "trial.c"
    source.write_text("#include <pthread.h>\nint trial(void) { return 0; }\n")
    run_now("gcc", "-shared", "-fPIC", "-o", str(folder / "trial.so"), str(source))


def main() -> int:
    """Print what is there and what is not."""
    for feature in probe():
        print(feature)
    return EXIT_SKIPPED if missing() else 0


if __name__ == "__main__":
    sys.exit(main())
