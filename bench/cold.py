"""Files out of the page cache, and what is read from the disk afterwards."""

from __future__ import annotations

import os
from pathlib import Path


def drop_cached(folder: Path) -> int:
    """Have the kernel forget the pages of all files below *folder*; return their bytes.

    Only what is on disk can be forgotten, so each file is synced first; and no process may have
    it mapped, as pages in use stay.
    """
    size = 0
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        file = os.open(path, os.O_RDWR)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            size += os.fstat(file).st_size
        finally:
            os.close(file)
    return size


def read_from_disk(pid: int) -> int:
    """Return the bytes that a process has had from the disk so far, through mappings as well."""
    for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0
