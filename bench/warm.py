"""Memory that the machine has at hand, for whatever is measured.

A virtual machine may give free memory back to its host within seconds.  The first use of a page
then waits for the host: 7 to 9 us instead of 0.6, on the machine that docs/performance.md tells of,
and brokers write nothing but fresh pages.  How much of its memory such a machine has at hand is
chance, and moves rates by up to two times between runs of the same program.

Linux tells the host of free memory by blocks of 2 MiB, and takes what is wanted from the smallest
blocks that do.  So before each load memory is filled, and all of it is let go but a little in each
2 MiB: what becomes free lies in blocks that nobody tells the host of, and is taken first.  It is
the memory of this process and no file's, which Linux would begin to write to the disk.
On a machine that keeps its memory this changes nothing.
"""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 1024 * 1024
_BLOCK = 2 * _MIB
_KEPT = 128 * 1024  # bytes of each
_REPORTING = Path("/sys/module/page_reporting")  # of Linux: free pages are told to the host
# Bytes a second that no load is known to exceed: three logs, queues and what is on its way.
_RATE_SMALL = 1024 * _MIB
_RATE_LARGE = 1536 * _MIB
_LARGE_BODY = 512


def gives_memory_back() -> bool:
    """Say whether this machine tells its host which pages are free."""
    return _REPORTING.exists()


def taken_at_most(body_size: int, seconds: float) -> int:
    """Return the memory that a load of writes may take, in bytes; 0 where nothing is to be done."""
    if not gives_memory_back():
        return 0
    most = int(seconds * (_RATE_LARGE if body_size >= _LARGE_BODY else _RATE_SMALL))
    return min(most, _memory_available() // 3)


@contextlib.contextmanager
def warm_memory(size: int) -> Iterator[int]:
    """Have *size* bytes at hand for what runs inside; yield how many are kept from it for that.

    With 0 nothing is done.

    Raises:
        OSError: there is not so much memory.
    """
    if not size:
        yield 0
        return
    if size > _memory_available() // 2:
        raise OSError(f"{size // _MIB} MiB of memory are not to be had")
    begins = range(0, size, _BLOCK)
    with mmap.mmap(-1, len(begins) * _BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as filled:
        # A part of a large page cannot be let go by itself.
        filled.madvise(mmap.MADV_NOHUGEPAGE)
        block = b"\1" * _BLOCK
        for begin in begins:
            filled[begin : begin + _BLOCK] = block
        for begin in begins:
            filled.madvise(mmap.MADV_DONTNEED, begin, _BLOCK - _KEPT)
        yield len(begins) * _KEPT


def _memory_available() -> int:
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")
