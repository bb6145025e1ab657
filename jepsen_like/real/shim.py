"""Calls to the disk that are slow, fail, lie, or are the last thing a process does.

`shim.c` is put before the C library in a node's process (LD_PRELOAD) and does what a small mapped
file tells it, at once; the same file counts what it did.  It lies in the lab's folder, outside
the node's disk, and outlives the process.
"""

from __future__ import annotations

import enum
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.commands import run
from jepsen_like.real.proof import Proof

if TYPE_CHECKING:
    from collections.abc import Iterable

LIBRARY = "shim.so"
_SOURCE = Path(__file__).with_name("shim.c")
_KILL_PART_SIZE = 128

# As `struct control` of shim.c lays it out: 8 bytes each.
_ATTACHED, CLOCK_TURN, _DEVICE, _KILL_CALLS, _KILL_LEFT, _KILLED, _KILLED_CALL = range(0, 56, 8)
_KILL_PART = 64
CLOCKS = _KILL_PART + _KILL_PART_SIZE
CLOCK_SIZE = 48
_CALLS = CLOCKS + 2 * CLOCK_SIZE
_CALL_SIZE = 64
_SEEN, _SLOW_US, _SLOWED, _FAIL_LEFT, _FAIL_CODE, _FAILED, _LIE, _LIED = range(0, 64, 8)


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
STEPS = (*SYNCS, Call.RENAME, Call.UNLINK, Call.WRITE, Call.TRUNCATE, Call.ALLOCATE)

_EIO = 5
_SIZE = _CALLS + len(Call) * _CALL_SIZE
_COUNTED = {"calls": _SEEN, "slowed": _SLOWED, "failed": _FAILED, "lied": _LIED}
_compiled: dict[str, bytes] = {}  # by source: once per process is enough


async def compile_library(folder: Path) -> None:
    """Compile the shim into *folder*.

    Raises:
        LabError: the compiler refuses.
    """
    source = await trio.to_thread.run_sync(_SOURCE.read_text)
    target = folder / LIBRARY
    if source not in _compiled:
        await run(
            "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(target),
            str(_SOURCE), "-ldl", "-lpthread",
        )  # fmt: skip
        _compiled[source] = await trio.to_thread.run_sync(target.read_bytes)
    else:
        await trio.to_thread.run_sync(target.write_bytes, _compiled[source])


class Shim:
    """The hand on the shims of one node's processes, those that run and those to come."""

    def __init__(self, name: str, path: Path, library: Path, *, device: int) -> None:
        """Make the control file.

        Args:
            name: of the node.
            path: the control file.
            library: the compiled shim.
            device: ``st_dev`` of the node's disk: only calls on its files are touched (and msync,
                of which nobody can tell).
        """
        self.name = name
        self._path = path
        self._library = library
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self.put(_DEVICE, device)
        self._before = self.counts()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to run with the shim."""
        return {"LD_PRELOAD": str(self._library), "JL_SHIM": str(self._path)}

    # -- what is to happen ----------------------------------------------------------------------

    def slow(self, milliseconds: float, calls: Iterable[Call] = SYNCS) -> None:
        """Let every one of *calls* take so much longer, from now on; 0 ends it."""
        self._mark()
        for call in calls:
            self.put(_place(call, _SLOW_US), int(milliseconds * 1000))

    def fail(self, count: int, calls: Iterable[Call] = SYNCS, *, code: int = _EIO) -> None:
        """Let the next *count* of each of *calls* fail with the errno *code* (5: EIO)."""
        self._mark()
        for call in calls:
            self.put(_place(call, _FAIL_CODE), code)
            self.put(_place(call, _FAIL_LEFT), count)

    def lie(self, calls: Iterable[Call] = SYNCS) -> None:
        """Let *calls* do nothing and succeed, from now on."""
        self._mark()
        for call in calls:
            self.put(_place(call, _LIE), 1)

    def kill_before(
        self, steps: int, calls: Iterable[Call] = STEPS, *, path_part: str = ""
    ) -> None:
        """Let the process kill itself (SIGKILL) before the *steps*-th of *calls* from now on.

        Args:
            steps: 1 is the very next.
            calls: which are counted.
            path_part: count only those on a file with that in its path.
        """
        part = path_part.encode()
        assert steps >= 1
        assert len(part) < _KILL_PART_SIZE
        self._mark()
        self.put(_KILL_LEFT, 0)
        self._map[_KILL_PART : _KILL_PART + _KILL_PART_SIZE] = part.ljust(_KILL_PART_SIZE, b"\0")
        self.put(_KILL_CALLS, sum(1 << call for call in set(calls)))
        self.put(_KILL_LEFT, steps)

    def clear(self) -> None:
        """End it all; the counts stay, and so do the clocks."""
        self.put(_KILL_LEFT, 0)
        for call in Call:
            for field in (_SLOW_US, _FAIL_LEFT, _LIE):
                self.put(_place(call, field), 0)

    # -- what has happened ----------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Return what the shims have done since the lab began, by name; and ``attached``."""
        found = {"attached": self.get(_ATTACHED), "killed": self.get(_KILLED)}
        for call in Call:
            for name, field in _COUNTED.items():
                found[f"{name} {call.name.lower()}"] = self.get(_place(call, field))
        return found

    @property
    def kill_count(self) -> int:
        """How many processes have killed themselves before a step since the lab began."""
        return self.get(_KILLED)

    @property
    def killed_call(self) -> Call | None:
        """Before which call the last process killed itself."""
        return Call(self.get(_KILLED_CALL)) if self.get(_KILLED) else None

    def proof(self, what: str) -> Proof:
        """Return what has been done since the last `slow`, `fail`, `lie` or `kill_before`.

        It took effect when a call was slowed, failed or lied about, or a process was killed.
        """
        now = self.counts()
        grown = {name: now[name] - self._before[name] for name in now}
        done = {
            name: count
            for name, count in grown.items()
            if count and name.split()[0] in ("slowed", "failed", "lied", "killed")
        }
        figures: dict[str, int | float | str] = {**done}
        if grown["killed"] and self.killed_call is not None:
            figures["killed_before"] = self.killed_call.name.lower()
        figures["calls"] = sum(grown[f"calls {call.name.lower()}"] for call in Call)
        return Proof(what=f"{what} of {self.name}", took_effect=bool(done), figures=figures)

    def _mark(self) -> None:
        self._before = self.counts()

    # -- the control file -----------------------------------------------------------------------

    def get(self, place: int) -> int:
        """Return the number at *place* of the control file."""
        return int(struct.unpack_from("<q", self._map, place)[0])

    def put(self, place: int, value: int) -> None:
        """Write a number; the shims see it at once, and whole."""
        struct.pack_into("<q", self._map, place, value)

    def put_float(self, place: int, value: float) -> None:
        """Write a number with a fraction."""
        struct.pack_into("<d", self._map, place, value)


def _place(call: Call, field: int) -> int:
    return _CALLS + call * _CALL_SIZE + field
