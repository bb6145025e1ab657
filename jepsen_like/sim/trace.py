"""What a run did, as one hash: equal for equal seeds, in any process.

Every frame on the network, every sync of a disk and every line of the history goes in, each with
its virtual time to the last bit; the first difference between two runs changes all that follows.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING

from jepsen_like.sim.sim_time import current_sim_time

if TYPE_CHECKING:
    from jepsen_like.sim.sim_time import SimTime

_STAMP = struct.Struct("<dI")


class Trace:
    """The running hash."""

    def __init__(self, *, keep_lines: bool = False) -> None:
        """Begin; with *keep_lines* the lines are kept too, to find where two runs part."""
        self.lines: list[str] | None = [] if keep_lines else None
        self.count = 0
        self._hash = hashlib.sha256()
        self._time: SimTime | None = None

    def add(self, what: str, data: bytes = b"") -> None:
        """Take in that *what* happened now."""
        self.count += 1
        if self._time is None:
            self._time = current_sim_time()
        seconds, crc = self._time.seconds, zlib.crc32(data)
        self._hash.update(_STAMP.pack(seconds, crc) + what.encode())
        if self.lines is not None:
            self.lines.append(f"{seconds.hex()} {what} {crc:08x} {data[:600]!r}\n")

    @property
    def digest(self) -> str:
        """The hash of everything so far, 16 hexadecimal digits of it."""
        return self._hash.hexdigest()[:16]
