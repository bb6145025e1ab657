"""CRC-32 as zlib computes it: of entries, records and files.

Every byte of a message is summed up five times on its way to three nodes, so it counts how: ISA-L
folds 16 bytes at a time with carry-less multiplication, zlib looks each up in tables; 1 KiB takes
0.07 and 0.40 us. Both give the same number.
"""

from __future__ import annotations

__all__ = ["CRC_BY", "crc32"]

try:
    from isal.isal_zlib import crc32
except ImportError:  # it has no wheel for every kind of machine
    from zlib import crc32

    CRC_BY = "zlib"
else:
    CRC_BY = "isal"
