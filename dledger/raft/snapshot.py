"""The small state at a leader's base, carried in pieces to a peer that is behind retention.

Only what the log before the base amounted to travels here; the entries after it follow as
entries.  PySyncObj's own dump transfer continues in mid-file after a reconnect and answers
success for a broken file (raft-engine.md, flaw n3), so each piece names its place and the whole
carries a CRC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dledger.checksum import crc32

if TYPE_CHECKING:
    from dledger.entry import LogPoint


def chunk_message(
    *, term: int, message_id: int, base: LogPoint, snapshot: bytes, offset: int, chunk_size: int
) -> dict[str, Any]:
    """Return the message with the piece of *snapshot* that starts at *offset*, maybe empty."""
    return {
        "type": "install",
        "term": term,
        "id": message_id,
        "base": base,
        "offset": offset,
        "total": len(snapshot),
        "crc": crc32(snapshot),
        "data": memoryview(snapshot)[offset : offset + chunk_size],
    }


class SnapshotReceiver:
    """Collects the pieces of one snapshot, in order, from one leader."""

    def __init__(self) -> None:
        self._key: tuple[int, int, int, int] | None = None  # term, base index, total, crc
        self._data = bytearray()

    @property
    def offset(self) -> int:
        """Bytes collected so far: where the next piece has to start."""
        return len(self._data)

    def forget(self) -> None:
        """Drop what was collected."""
        self._key = None
        self._data = bytearray()

    def receive(self, message: dict[str, Any]) -> bytes | None:
        """Take one piece; return the whole state once it is complete and its CRC is right."""
        key = (message["term"], message["base"].index, message["total"], message["crc"])
        if key != self._key:
            self.forget()
            self._key = key
        if message["offset"] == len(self._data):
            self._data += message["data"]
        if len(self._data) < message["total"]:
            return None
        state = bytes(self._data)
        crc = message["crc"]
        self.forget()
        if len(state) != message["total"] or crc32(state) != crc:
            return None  # start over from offset 0
        return state
