"""Zeros to write to files, which take no memory.

A page that was mapped and never written is the system's own page of zeros, however many there are.
Zeros on the heap are as many pages as they fill once somebody writes near them, or lays the heap
into large pages (`dledger.machine.use_huge_pages`).

Not more than 128 KiB are written by one call.  Linux takes memory for a file in blocks as large as
what is written; large ones are cut from what has been free for long, small ones are what somebody
let go of lately.  On a virtual machine that gives its free memory back, the host has to find the
former first: 9 us for 4 KiB by the mebibyte, 0.6 us by 64 or 128 KiB, and below that the calls
themselves cost more.
"""

from __future__ import annotations

import mmap
from typing import Final

ZEROS_SIZE: Final = 128 * 1024  # written by one call
ZERO_PIECE: Final = 1024 * 1024  # written and synced, before somebody else gets a turn

if hasattr(mmap, "MAP_PRIVATE"):
    # Not shared: that would be a file in memory, whose pages are its own. To read only: nobody can
    # write to it, and nothing that cares for memory in use takes it for that.
    _mapped = mmap.mmap(
        -1, ZEROS_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ
    )
    ZEROS: Final = memoryview(_mapped)
else:  # Windows, where no node runs but the package can be imported
    ZEROS = memoryview(bytes(ZEROS_SIZE))  # type: ignore[misc]
