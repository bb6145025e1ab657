"""Many small files made durable by one call: a sync of the file system they lie on.

Thousands of files synced one after another wait for the file system's journal thousands of times:
8,000 of them take four seconds and more (ext4, virtual disk), together 0.1 to 0.4.

syncfs(2) says that a write failed only where the kernel keeps account of that for the whole file
system, since Linux 5.8, and to descriptors that were open before it failed.  So a tree is opened
before the first write to it, and where this is not known to hold nothing is opened.

Source: Linux ``fs/sync.c`` and ``errseq_set`` in ``mapping_set_error``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys

_KERNEL_MIN = (5, 8)
# Magics of statfs(2): those whose syncfs is known to write all data, and to tell of failures.
_EXT, _XFS = 0xEF53, 0x58465342
_STATFS_SIZE = 256  # bytes; `struct statfs` begins with the magic, and has 120 here


class OpenTree:
    """A folder whose file system is synced; see `dledger.store.disk.FileTree`."""

    def __init__(self, path: str, fd: int, library: ctypes.CDLL) -> None:
        self._path = path
        self._fd = fd
        self._library = library

    def sync(self) -> None:
        """Make all below durable; blocking.

        Raises:
            OSError: the system's word for what failed, now or since the tree was opened.
        """
        if self._library.syncfs(ctypes.c_int(self._fd)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        # Past the drive's cache also where the file system had nothing of its own to write.
        os.fsync(self._fd)

    def close(self) -> None:
        """Let go of the folder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_tree(path: str) -> OpenTree | None:
    """Return the folder *path*; None where a sync of its file system would not tell of failures.

    Raises:
        OSError: it cannot be opened.
    """
    library = _library()
    if library is None:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if _magic_of(library, fd) in (_EXT, _XFS):
        return OpenTree(path, fd, library)
    os.close(fd)
    return None


def _library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release is None or (int(release[1]), int(release[2])) < _KERNEL_MIN:
        return None
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None, use_errno=True)
        library.syncfs, library.fstatfs  # noqa: B018 - looked up here, or not to be had
        return library
    return None


def _magic_of(library: ctypes.CDLL, fd: int) -> int:
    """Return which file system *fd* lies on; 0 where the system does not say."""
    found = ctypes.create_string_buffer(_STATFS_SIZE)
    if library.fstatfs(ctypes.c_int(fd), found):
        return 0
    return ctypes.c_ulong.from_buffer(found).value & 0xFFFFFFFF
