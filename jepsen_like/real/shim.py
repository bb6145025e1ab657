"""Calls to the disk that are slow, fail, lie, or are the last thing a process does.

`shim.c` is put before the C library in a node's process (LD_PRELOAD) and does what a small mapped
file tells it, at once; the same file counts what it did.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.proof import LabError, Proof

if TYPE_CHECKING:
    from pathlib import Path

LIBRARY = "shim.so"


class Call(enum.IntEnum):
    """What can be interfered with."""

    FSYNC = 0  # of a file
    FSYNC_FOLDER = 1
    FDATASYNC = 2
    MSYNC = 3
    RENAME = 4
    UNLINK = 5
    WRITE = 6  # pwrite, pwritev, write
    TRUNCATE = 7
    ALLOCATE = 8  # posix_fallocate


SYNCS = (Call.FSYNC, Call.FSYNC_FOLDER, Call.FDATASYNC, Call.MSYNC)
STEPS = (*SYNCS, Call.RENAME, Call.UNLINK, Call.WRITE)


async def compile_library(folder: Path) -> None:
    """Compile the shim into *folder*."""
    await trio.lowlevel.checkpoint()


class Shim:
    """The hand on one node's shim."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    def environment(self, library: Path) -> dict[str, str]:
        """Return what a process needs in its environment."""
        return {}

    def slow(self, milliseconds: float, calls: tuple[Call, ...] = SYNCS) -> None:
        """Let every one of *calls* take so much longer, from now on; 0 ends it."""
        raise LabError(f"shim of {self.name}: not built yet: {milliseconds}, {calls}")

    def fail(self, count: int, calls: tuple[Call, ...] = SYNCS, *, code: int = 5) -> None:
        """Let the next *count* of each of *calls* fail with the errno *code* (5: EIO)."""
        raise LabError(f"shim of {self.name}: not built yet: {count}, {calls}, {code}")

    def lie(self, calls: tuple[Call, ...] = SYNCS) -> None:
        """Let *calls* do nothing and succeed, from now on."""
        raise LabError(f"shim of {self.name}: not built yet: {calls}")

    def kill_before(
        self, steps: int, calls: tuple[Call, ...] = STEPS, *, path_part: str = ""
    ) -> None:
        """Let the process kill itself (SIGKILL) before the *steps*-th of *calls* from now on.

        Args:
            steps: 1 is the very next.
            calls: which are counted.
            path_part: count only those on a file with that in its path.
        """
        raise LabError(f"shim of {self.name}: not built yet: {steps}, {calls}, {path_part}")

    def clear(self) -> None:
        """End it all; the counters stay."""
        raise LabError(f"shim of {self.name}: not built yet")

    def proof(self, what: str) -> Proof:
        """Return what it has done since the last `slow`, `fail`, `lie` or `kill_before`."""
        raise LabError(f"shim of {self.name}: not built yet: {what}")
