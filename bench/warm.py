"""Memory that the machine has at hand, for whatever is measured.

A virtual machine may give free memory back to its host within a second.  The first use of a page
then waits for the host: 7 to 9 us instead of 0.6, on the machine that docs/performance.md tells of,
and brokers write nothing but fresh pages.  How much of its memory such a machine has at hand is
chance, and moves rates by up to two times between runs of the same program.

So a process of its own fills memory beforehand, and lets go of it while a load runs, as much as the
load has taken.  Free memory stays as it was, and what is taken next is what was let go last.
On a machine that keeps its memory this changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MIB = 1024 * 1024
_CUSHION = 64 * _MIB  # let go at once, for what is taken between two looks
_LOOK_SECONDS = 0.005
_REPORTING = Path("/sys/module/page_reporting")  # of Linux: free pages are told to the host
# Bytes a second that no load is known to exceed: three logs, queues and what is on its way.
_RATE_SMALL = 512 * _MIB
_RATE_LARGE = 1024 * _MIB
_LARGE_BODY = 512


class Reservoir:
    """Filled memory, let go piece by piece."""

    def __init__(self, size: int) -> None:
        """Fill *size* bytes, rounded down to MiB.

        Raises:
            OSError: that is more than half of what programs may still have.
        """
        if size > _memory("MemAvailable") // 2:
            # Nothing else bounds a file in memory but the kernel, by ending processes.
            raise OSError(f"{size // _MIB} MiB of memory are not to be had")
        self._fd = os.memfd_create("bench-warm")
        self._left = size // _MIB * _MIB
        self._free_wanted: int | None = None
        piece = b"\1" * _MIB
        for at in range(0, self._left, _MIB):
            os.pwrite(self._fd, piece, at)

    @property
    def left(self) -> int:
        """Bytes still held."""
        return self._left

    def follow(self, free: int) -> None:
        """Let go of as much as is missing; *free* is the machine's free memory now, in bytes.

        The first call says what there was at the beginning.
        """
        if self._free_wanted is None:
            self._free_wanted = free + min(_CUSHION, self._left)
        missing = min(self._free_wanted - free, self._left)
        if missing > 0:
            # From the end: a file that is cut needs no look at what stays.
            self._left -= min(-(-missing // _MIB) * _MIB, self._left)
            os.ftruncate(self._fd, self._left)

    def close(self) -> None:
        """Let go of the rest."""
        os.close(self._fd)


def free_memory() -> int:
    """Return the machine's free memory, in bytes; what caches hold is not free."""
    return _memory("MemFree")


def gives_memory_back() -> bool:
    """Say whether this machine tells its host which pages are free."""
    return _REPORTING.exists()


def taken_at_most(body_size: int, seconds: float) -> int:
    """Return the memory that a load of writes may take, in bytes; 0 where nothing is to be done."""
    if not gives_memory_back():
        return 0
    most = int(seconds * (_RATE_LARGE if body_size >= _LARGE_BODY else _RATE_SMALL))
    return min(most, _memory("MemAvailable") // 4)


@contextlib.contextmanager
def warm_memory(size: int) -> Iterator[int | None]:
    """Have *size* bytes at hand for what runs inside; yield the pid of the process that holds them.

    With 0 there is none.

    Raises:
        OSError: there is not so much memory.
    """
    if not size:
        yield None
        return
    with subprocess.Popen(
        [sys.executable, "-m", "bench.warm", str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what it could not do is told below
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"filled\n":
                raise OSError(f"{size // _MIB} MiB of memory could not be filled beforehand")
            process.stdin.write(b"\n")
            process.stdin.flush()
            yield process.pid
        finally:
            process.kill()


def _memory(what: str) -> int:
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == what:
                return int(value.split()[0]) * 1024
    raise OSError(f"/proc/meminfo has no {what}")


def _serve(
    size: int,
    *,
    look: Callable[[], int] = free_memory,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    starter = os.getppid()
    reservoir = Reservoir(size)
    print("filled", flush=True)
    sys.stdin.buffer.readline()
    while reservoir.left and os.getppid() == starter:  # killed, it would leave this behind
        reservoir.follow(look())
        pause(_LOOK_SECONDS)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
