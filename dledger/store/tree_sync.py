"""Many small files made durable by one call: a sync of the file system they lie on.

Thousands of files synced one after another wait for the file system's journal thousands of times:
8,000 of them take four seconds and more (ext4, virtual disk), together 0.1 to 0.4.

syncfs(2) says that a write failed only where the kernel keeps account of that for the whole file
system, since Linux 5.8, and surely only to descriptors that were open before it failed.  So a tree
is opened before the first write to it, and where this is not known to hold nothing is opened.

A descriptor opened later is told, too, as long as nobody has been.  So before the first tree of a
process on a file system there is one sync whose error is only logged: a node that starts again once
a disk is mended would stop a second time.  From then on every failure of that file system counts,
whoever wrote.

Source: Linux ``fs/sync.c``, ``errseq_set`` in ``mapping_set_error``, and ``errseq_sample``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import sys
import threading

_KERNEL_MIN = (5, 8)
# Magics of statfs(2): those whose syncfs is known to write all data, and to tell of failures.
_EXT, _XFS = 0xEF53, 0x58465342
_STATFS_SIZE = 256  # bytes; `struct statfs` begins with the magic, and has 120 here

_heard_out: set[int] = set()  # file systems (st_dev) whose failures before this process are told

_log = logging.getLogger("dledger.store")


class OpenTree:
    """A folder whose file system is synced; see `dledger.store.disk.FileTree`."""

    def __init__(self, path: str, fd: int, library: ctypes.CDLL) -> None:
        self._path = path
        self._fd = fd
        self._library = library
        self._lock = threading.Lock()  # of the number, which the system gives away once closed

    def sync(self) -> None:
        """Make all below durable; blocking.

        Raises:
            OSError: the system's word for what failed, now or since the tree was opened.
        """
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the tree is closed")
            # Another number for the same open folder, failures it was told of included: `close` may
            # come meanwhile.
            fd = os.dup(self._fd)
        try:
            if self._library.syncfs(ctypes.c_int(fd)):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            # Past the drive's cache also where the file system had nothing of its own to write.
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the folder; from any thread, a sync that runs goes on to its end."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def open_tree(path: str) -> OpenTree | None:
    """Return the folder *path*; None where a sync of its file system would not tell of failures.

    Blocking: the first on a file system syncs it.

    Raises:
        OSError: it cannot be opened.
    """
    library = _library()
    if library is None:
        return None
    fd = _open_folder(path)
    if _magic_of(library, fd) not in (_EXT, _XFS):
        os.close(fd)
        return None
    device = os.fstat(fd).st_dev
    if device in _heard_out:
        return OpenTree(path, fd, library)
    before = OpenTree(path, fd, library)
    try:
        before.sync()
    except OSError as error:
        _log.warning(
            "%s: a write to its file system failed before this start: %s", path, error.strerror
        )
    finally:
        before.close()
    _heard_out.add(device)
    return OpenTree(path, _open_folder(path), library)


def _open_folder(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


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
