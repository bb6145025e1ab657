"""A small record that is replaced in place, and is whole after any crash.

Two slots of one sector each take turns; the newer valid one counts.  A record never needs new
room, so that a full disk can neither stop a vote nor the retention that would free it.

    offset 0, 4096    magic 4 bytes, version uint16, size uint16, sequence uint64,
                      payload of *size* bytes, CRC-32 of all that; the rest of 512 bytes is zero

A sector is written whole or not at all, and the write under way goes to the older slot.  So a slot
whose CRC is wrong was damaged afterwards, and no guess is made which record was the last.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

from dledger.checksum import crc32
from dledger.errors import CorruptStoreError

if TYPE_CHECKING:
    from dledger.store.disk import Disk, DiskFile

SLOT_SIZE = 512
SLOT_OFFSETS = (0, 4096)
FILE_SIZE = 8192
PAYLOAD_SIZE_MAX = SLOT_SIZE - 20

_HEAD = struct.Struct(">4sHHQ")
_CRC = struct.Struct(">I")

REMEDY = (
    "stop the node; if the other members are healthy move the data folder aside and start: "
    "the node is filled again from its peers"
)


class SlotFile:
    """Two slots; `write` may be called from any thread, one call after another."""

    def __init__(self, file: DiskFile, *, magic: bytes, version: int) -> None:
        self._file = file
        self._magic = magic
        self._version = version
        self._lock = threading.Lock()
        self._sequence, self.payload = self._read()

    @classmethod
    def create(cls, disk: Disk, path: str, *, magic: bytes, version: int, payload: bytes) -> None:
        """Put a file at *path* whose two slots both hold *payload*; blocking.

        Raises:
            LedgerFullError: no room for its 8192 bytes.
        """
        content = bytearray(FILE_SIZE)
        for sequence, offset in enumerate(SLOT_OFFSETS):
            slot = _encode(magic, version, sequence, payload)
            content[offset : offset + SLOT_SIZE] = slot
        disk.write_file_atomic(path, bytes(content))

    @classmethod
    def open(
        cls, disk: Disk, path: str, *, magic: bytes, version: int, through_map: bool = False
    ) -> SlotFile:
        """Open *path* and read the newest record into `payload`.

        Args:
            disk: where it is.
            path: of the file.
            magic: its first four bytes.
            version: of its format.
            through_map: see `Disk.open_file`; for what may be lost when the process is killed.

        Raises:
            CorruptStoreError: a slot is damaged, or of a version we do not know.
        """
        file = disk.open_file(path, through_map=through_map)
        try:
            return cls(file, magic=magic, version=version)
        except BaseException:
            file.close()
            raise

    @property
    def path(self) -> str:
        """Return where the file is, for messages."""
        return self._file.path

    def payload_of(self, size: int) -> bytes:
        """Return `payload`, which must have *size* bytes to be read.

        Raises:
            CorruptStoreError: it has another size, sound as it is.
        """
        if len(self.payload) != size:
            raise CorruptStoreError(
                f"{self.path}: the newest record is sound, but has {len(self.payload)} bytes where "
                f"this program writes {size}; {REMEDY}"
            )
        return self.payload

    def write(self, payload: bytes, *, sync: bool) -> None:
        """Replace the record; blocking with *sync*.

        Raises:
            StorageFailedError: the write or the sync failed; stop the process.
        """
        with self._lock:
            self._sequence += 1
            slot = _encode(self._magic, self._version, self._sequence, payload)
            self._file.write_at(SLOT_OFFSETS[self._sequence % 2], slot)
            if sync:
                self._file.sync()
            self.payload = payload

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> tuple[int, bytes]:
        content = self._file.read_all()
        if len(content) != FILE_SIZE:
            raise CorruptStoreError(
                f"{self._file.path}: {len(content)} bytes instead of {FILE_SIZE}; {REMEDY}"
            )
        return max(self._decode(content, offset) for offset in SLOT_OFFSETS)

    def _decode(self, content: bytes, offset: int) -> tuple[int, bytes]:
        magic, version, size, sequence = _HEAD.unpack_from(content, offset)
        end = offset + _HEAD.size + min(size, PAYLOAD_SIZE_MAX)
        (crc,) = _CRC.unpack_from(content, end)
        rest = content[end + _CRC.size : offset + SLOT_SIZE]
        if magic != self._magic or crc != crc32(content[offset:end]) or any(rest):
            raise CorruptStoreError(
                f"{self._file.path}: the slot at byte {offset} is damaged; {REMEDY}"
            )
        if version != self._version:
            raise CorruptStoreError(
                f"{self._file.path}: format version {version}, this program knows "
                f"{self._version}; start the version of dledger that wrote it"
            )
        return sequence, content[offset + _HEAD.size : end]


def _encode(magic: bytes, version: int, sequence: int, payload: bytes) -> bytes:
    assert len(payload) <= PAYLOAD_SIZE_MAX
    record = _HEAD.pack(magic, version, len(payload), sequence) + payload
    return (record + _CRC.pack(crc32(record))).ljust(SLOT_SIZE, b"\0")
