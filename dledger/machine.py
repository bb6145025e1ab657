"""What differs between operating systems, in one place; the disk's part is in `store.os_calls`.

Linux is where this runs in earnest.  macOS lacks some of it and is fit for development.  Windows
has neither the locks nor the positioned writes that a store stands on, and is refused at the start.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dledger.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

try:
    import resource as _resource_module
except ImportError:  # Windows; WebAssembly
    _resource: ModuleType | None = None
else:
    _resource = _resource_module

_PROC_MAPS = Path("/proc/self/maps")
_HUGE_PAGE = 2 * 1024 * 1024
_MADV_COLLAPSE = 25  # of Linux; Python has no name for it
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
# Bytes of a block from which on it has a mapping of its own, all pages of which are new each time:
# more than a receive, an entry or a message to a follower takes.
_MAPPED_SIZE_MIN = 16 * 1024 * 1024
FREE_MAX = 16 * 1024 * 1024  # bytes at the heap's end: some of the largest entries
_IS_POSIX = os.name == "posix"
_PROC_STATUS = Path("/proc/self/status")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def check_supported() -> None:
    """Raise `ConfigError` where no node can run, before anything else fails in riddles."""
    if not _IS_POSIX:
        raise ConfigError(
            f"a node does not run on {sys.platform}: it needs POSIX file locks and writes; use "
            "Linux, or macOS for development (on Windows: WSL 2, or a container)"
        )


def open_files_limits() -> tuple[int | None, int | None]:
    """Return how many files this process may have open, and up to what it may raise that.

    None: as many as it likes, or nobody knows.
    """
    if _resource is None:
        return None, None
    soft, hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
    unlimited = _resource.RLIM_INFINITY
    return (None if soft == unlimited else soft, None if hard == unlimited else hard)


def raise_open_files_limit(wanted: int) -> int | None:
    """Let this process have *wanted* files open, or as many as the system lets it.

    Returns:
        How many it may have open now; None: as many as it likes, or nobody knows.
    """
    soft, hard = open_files_limits()
    if soft is None or soft >= wanted:
        return soft
    assert _resource is not None
    allowed = wanted if hard is None else min(wanted, hard)
    limits = allowed, _resource.RLIM_INFINITY if hard is None else hard
    try:
        _resource.setrlimit(_resource.RLIMIT_NOFILE, limits)
    except (OSError, ValueError):  # macOS has a limit of its own (kern.maxfilesperproc)
        return soft
    return allowed


def resident_size() -> int:
    """Return this process' resident memory in bytes, mapped files aside where the system tells.

    Without ``/proc`` it is the most there ever was, mapped files and all; 0 where nothing tells.
    """
    try:
        status = _PROC_STATUS.read_text(encoding="ascii")
    except OSError:
        if _resource is None:
            return 0
        peak: int = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
    # Kernels before 4.5 do not tell anonymous pages apart.
    found = sizes.get("RssAnon")
    return int(found.split()[0]) * 1024 if found else 0


def give_back_memory() -> bool:
    """Give memory that is free in this process back to the system; whether there is a way to.

    Blocking, some milliseconds: whoever allocates meanwhile waits.  Only glibc has it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


def bound_free_memory() -> bool:
    """Let this process keep no more than 16 MiB of free memory at the heap's end.

    By itself glibc keeps twice as much as the largest block ever freed, up to 64 MiB: a node that
    has once had 16 MiB under way for a slow client would keep as much for good.

    Returns:
        Whether there is a way to; only glibc has it.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    # With either of them set, neither grows any more.
    return bool(
        set_option(_M_MMAP_THRESHOLD, _MAPPED_SIZE_MIN) and set_option(_M_TRIM_THRESHOLD, FREE_MAX)
    )


def use_huge_pages() -> int:
    """Lay what this process has in memory into pages of 2 MiB, where the system can (Linux 6.1).

    What is used all the time then needs a few entries of the processor's address cache instead of
    thousands, each of which costs double in a virtual machine.  Blocking, 10 to 20 ms.

    Returns:
        How many bytes lie in such pages now; 0 where it cannot be had.
    """
    try:
        maps = _PROC_MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
        advise = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return 0
    advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    moved = 0
    for line in maps:
        place, access, _, _, inode, *name = line.split(maxsplit=5)
        if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue  # a file, or a stack
        begin, end = (int(part, 16) for part in place.split("-"))
        first = -(-begin // _HUGE_PAGE) * _HUGE_PAGE
        for at in range(first, end - _HUGE_PAGE + 1, _HUGE_PAGE):
            if advise(at, _HUGE_PAGE, _MADV_COLLAPSE) == 0:
                moved += _HUGE_PAGE
    return moved


def boot_id() -> str:
    """Name this run of the machine; empty where there is no way to know."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # no Linux: the watermark then counts for nothing, the checkpoint for all
