"""What the files of a disk held at two instants, compared byte by byte."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

Contents = dict[str, bytes]  # by the path below the root


def read_contents(root: Path) -> Contents:
    """Return all files below *root*; the processes that write them may run on."""
    found: Contents = {}
    for path in sorted(root.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if path.is_file():
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What is not as it was."""

    bytes_lost: int
    files_lost: int  # not there any more
    files_changed: int  # there, with other bytes or another size


def compare(before: Contents, after: Contents, *, is_exact: bool) -> Difference:
    """Return what was there *before* and is not *after*.

    Args:
        before: the older.
        after: the newer.
        is_exact: nothing was written between the two but what is looked for.  Otherwise only
            bytes that are zero or gone count as lost: whatever else there is now may be newer.
    """
    bytes_lost = files_lost = files_changed = 0
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            files_lost += 1
        elif new != old:
            files_changed += 1
        else:
            continue
        had, has = _padded(old, new or b"")
        is_lost = (had != has) if is_exact else (had != 0) & (has == 0)
        bytes_lost += int(np.count_nonzero(is_lost))
    return Difference(bytes_lost=bytes_lost, files_lost=files_lost, files_changed=files_changed)


def _padded(old: bytes, new: bytes) -> tuple[np.ndarray, np.ndarray]:
    had = np.frombuffer(old, np.uint8)
    has = np.frombuffer(new[: len(old)], np.uint8)
    return had, np.pad(has, (0, len(had) - len(has)))
