"""Java's hash of strings of any length: the short in a loop, the long by column.

A client may write keys and tags of 32 KB.  A loop over their characters takes 3 ms for each, and
every node has to take them in on its event loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from broker.message.tags import java_string_hash

LONG_MIN = 100  # characters from which on a column is faster

HashArray = np.ndarray[Any, np.dtype[np.uint32]]


def string_hash(text: str) -> int:
    """Return what `java_string_hash` does."""
    if len(text) < LONG_MIN:
        return java_string_hash(text)
    units = np.frombuffer(text.encode("utf-16-be", "surrogatepass"), ">u2").astype(np.uint32)
    result = int((units * powers(len(units))[len(units) - 1 :: -1]).sum(dtype=np.uint32))
    return result - (1 << 32) if result & 0x80000000 else result


def powers(count: int) -> HashArray:
    """Return 31 to the power of 0, 1, ... *count*, or more of them, in 32 bits."""
    global _known
    if len(_known) <= count:
        found = [1]
        # Twice as many as there were: lengths that grow by one do not make all of them anew.
        for _ in range(max(count, 2 * len(_known), 256)):
            found.append(found[-1] * 31 & 0xFFFFFFFF)
        _known = np.array(found, np.uint32)
    return _known


_known: HashArray = np.array([1], np.uint32)
