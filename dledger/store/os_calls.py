"""What every file of ours asks of the operating system, where systems differ: write, sync, lock.

The only place that knows which calls there are; `dledger.store.os_files` and `os_disk` ask here.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from typing import TYPE_CHECKING

from dledger.errors import StorageFailedError

try:
    import fcntl
except ImportError:  # Windows, where no node runs; `dledger log` reads what was brought there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dledger.entry import Buffer

FDATASYNC_SEES_MAP = sys.platform == "linux"
CAN_ADVISE = hasattr(mmap, "MADV_RANDOM")
# Elsewhere the advice may throw away what was written, or there is none.
CAN_LEAVE_CACHE = sys.platform == "linux"
_HAS_PWRITEV = hasattr(os, "pwritev")
_HAS_FDATASYNC = hasattr(os, "fdatasync")  # not macOS
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync skips the drive's cache


def write_parts(fd: int, parts: Sequence[Buffer], offset: int) -> int:
    """Write *parts* at *offset* as far as the system takes them; return how many bytes it took."""
    if _HAS_PWRITEV:
        return os.pwritev(fd, parts, offset)
    return os.pwrite(fd, b"".join(parts), offset)  # macOS before 11


def sync_data(fd: int) -> None:
    """Make the bytes of a file durable, and its size where that has changed."""
    if _FULL_SYNC is None and _HAS_FDATASYNC:
        os.fdatasync(fd)
    else:
        sync_all(fd)


def sync_all(fd: int) -> None:
    """Make a file or folder durable: past the drive's cache where the system stops before it."""
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(fd, _FULL_SYNC)
        except OSError as error:
            # Network file systems and some folders do not know it, and then fsync is all there is.
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
        else:
            return
    os.fsync(fd)


def has_locks() -> bool:
    """Return whether this system has locks that end with the process that holds them."""
    return fcntl is not None


def lock(fd: int) -> None:
    """Lock a file against every other process; raises where one holds it."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def failing(path: str, verb: str) -> Iterator[None]:
    """Turn the system's error into ours, with the path and what was tried."""
    try:
        yield
    except OSError as error:
        raise failure(path, verb, error) from error


def failure(path: str, verb: str, error: OSError) -> StorageFailedError:
    """Return our error for the system's, with the path and what was tried.

    Where every microsecond counts: `failing` takes five calls when nothing fails.
    """
    return StorageFailedError(
        f"{path}: {verb}: {error.strerror or error}; check the disk, then restart the node"
    )
