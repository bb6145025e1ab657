"""What a run did, as one hash: equal for equal seeds, in any process.

Every frame on the network, every sync of a disk and every line of the history goes in, each with
its virtual time to the last bit; the first difference between two runs changes all that follows.
"""

from __future__ import annotations

import hashlib
import zlib

import trio


class Trace:
    """The running hash."""

    def __init__(self, *, keep_lines: bool = False) -> None:
        """Begin; with *keep_lines* the lines are kept too, to find where two runs part."""
        self.lines: list[str] | None = [] if keep_lines else None
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, what: str, data: bytes = b"") -> None:
        """Take in that *what* happened now."""
        self.count += 1
        line = f"{trio.current_time().hex()} {what} {zlib.crc32(data):08x}\n"
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(line.rstrip() + " " + repr(data[:600]) + "\n")

    @property
    def digest(self) -> str:
        """The hash of everything so far, 16 hexadecimal digits of it."""
        return self._hash.hexdigest()[:16]
