"""What ext4 and its kernel do on demand: lose all that is not synced, stand still, go on.

The numbers are from the kernel's ``include/uapi/linux/fs.h`` and ``fs/ext4/ext4.h``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from jepsen_like.real.proof import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_LOGFLUSH = 1  # the journal is written first
_NOLOGFLUSH = 2  # nothing more is written
_FREEZE = 0xC0045877  # FIFREEZE
_THAW = 0xC0045878  # FITHAW
_SYNC_RANGE = 1 | 2 | 4  # wait before, write, wait after
PAGE = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def shut_down(path: Path, *, writes_journal: bool = False) -> None:
    """Cut the file system off its disk, as a power failure does; only an unmount comes after it."""
    with _folder(path) as fd:
        flag = _LOGFLUSH if writes_journal else _NOLOGFLUSH
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", flag))


def freeze(path: Path) -> bool:
    """Let all that writes wait; whether it did not before."""
    return _toggle(path, _FREEZE, errno.EBUSY)


def thaw(path: Path) -> bool:
    """Let it go on; whether it waited."""
    return _toggle(path, _THAW, errno.EINVAL)


def sync_pages(fd: int, first: int, count: int) -> None:
    """Write *count* pages to the disk, and not the size or place of the file they belong to."""
    if _libc.sync_file_range(
        fd, ctypes.c_int64(first * PAGE), ctypes.c_int64(count * PAGE), _SYNC_RANGE
    ):
        code = ctypes.get_errno()
        raise OSError(code, f"sync_file_range: {os.strerror(code)}")


def _toggle(path: Path, request: int, code_already: int) -> bool:
    with _folder(path) as fd:
        try:
            fcntl.ioctl(fd, request, 0)
        except OSError as error:
            if error.errno == code_already:
                return False
            raise
    return True


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    if not path.is_mount():
        # Whatever lies below would be hit: the machine's own file system.
        raise LabError(f"{path} is not mounted")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
