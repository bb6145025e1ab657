"""Where recovery begins, and how far a broken entry is damage rather than a torn tail.

The *checkpoint* is synced: the base of the log, and a committed point up to which log and index are
on the disk.  A restart scans from there, so its time does not grow with the log.

The *watermark* is written after each sync, but not synced itself: it outlives the process, not the
machine.  An entry at or below it was acknowledged; if it is broken after a restart, somebody
damaged it.  It only speaks in the boot of the machine in which it was written: after a power loss
its page may be older than the truncation that lowered it.
"""

from __future__ import annotations

import logging
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.entry import LOG_START, LogPoint
from dledger.errors import CorruptStoreError
from dledger.store.slot_file import REMEDY, SlotFile

if TYPE_CHECKING:
    from dledger.store.disk import Disk

_log = logging.getLogger(__name__)

_CHECKPOINT = struct.Struct(">QQQQIQQQI")
_WATERMARK = struct.Struct(">Q64s")
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is certain to be on the disk."""

    generation: int  # one more for each checkpoint begun; an older one never replaces a newer
    base: LogPoint
    synced: LogPoint  # everything up to here is committed, synced and indexed


FIRST_CHECKPOINT = Checkpoint(generation=0, base=LOG_START, synced=LOG_START)


class CheckpointFile:
    """The checkpoint on disk; `write` may be called from any thread."""

    def __init__(self, slots: SlotFile) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        generation, *numbers = _CHECKPOINT.unpack(slots.payload_of(_CHECKPOINT.size))
        self.last = Checkpoint(
            generation=generation,
            base=LogPoint(*numbers[:4]),
            synced=LogPoint(*numbers[4:]),
        )
        base, synced = self.last.base, self.last.synced
        if (base.index, base.term, base.position) > (synced.index, synced.term, synced.position):
            raise CorruptStoreError(
                f"{slots.path}: the log begins behind {base} and is synced up to {synced}; {REMEDY}"
            )

    @classmethod
    def create(cls, disk: Disk, path: str) -> None:
        """Put the checkpoint of an empty log at *path*; blocking."""
        SlotFile.create(
            disk, path, magic=b"DLCK", version=_VERSION, payload=_pack(FIRST_CHECKPOINT)
        )

    @classmethod
    def open(cls, disk: Disk, path: str) -> CheckpointFile:
        """Open *path*; whoever goes on from it calls `write_again` first.

        Raises:
            CorruptStoreError: it is damaged; names file and remedy.
        """
        slots = SlotFile.open(disk, path, magic=b"DLCK", version=_VERSION)
        try:
            return cls(slots)
        except BaseException:
            slots.close()
            raise

    def write_again(self) -> None:
        """Write and sync what a dead process may have failed to sync; blocking.

        Raises:
            StorageFailedError: the disk fails.
        """
        self._slots.write(self._slots.payload, sync=True)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, durably, unless a newer one is there already; blocking."""
        with self._lock:
            if checkpoint.generation > self.last.generation:
                self._slots.write(_pack(checkpoint), sync=True)
                self.last = checkpoint

    def close(self) -> None:
        """Close the file."""
        self._slots.close()


class WatermarkFile:
    """The last index synced, for the eyes of a recovery in the same boot."""

    def __init__(self, slots: SlotFile, boot_id: str, index: int) -> None:
        self._slots = slots
        self._boot_id = boot_id.encode()
        self.index = index  # as found; 0 when there is none to be believed

    @classmethod
    def open(cls, disk: Disk, path: str) -> WatermarkFile:
        """Open *path*, or make a new one where it is missing or unreadable; blocking."""
        boot_id = disk.boot_id()
        index = 0
        try:
            if not disk.exists(path):
                cls._create(disk, path)
            slots = cls._open(disk, path)
        except CorruptStoreError as error:
            _log.warning("%s; going on without it, as it is only a hint", error)
            cls._create(disk, path)
            slots = cls._open(disk, path)
        found_index, found_boot = _WATERMARK.unpack(slots.payload)
        if boot_id and found_boot.rstrip(b"\0") == boot_id.encode():
            index = found_index
        return cls(slots, boot_id, index)

    def write(self, index: int) -> None:
        """Set the watermark; not durable, and cheap enough for every sync."""
        self._slots.write(_WATERMARK.pack(index, self._boot_id), sync=False)

    def close(self) -> None:
        """Close the file."""
        self._slots.close()

    @classmethod
    def _open(cls, disk: Disk, path: str) -> SlotFile:
        # Written after each sync: a system call for that was a twentieth of a lone message.
        slots = SlotFile.open(disk, path, magic=b"DLWM", version=_VERSION, through_map=True)
        try:
            slots.payload_of(_WATERMARK.size)
        except BaseException:
            slots.close()
            raise
        return slots

    @classmethod
    def _create(cls, disk: Disk, path: str) -> None:
        SlotFile.create(
            disk, path, magic=b"DLWM", version=_VERSION, payload=_WATERMARK.pack(0, b"")
        )


def _pack(checkpoint: Checkpoint) -> bytes:
    return _CHECKPOINT.pack(
        checkpoint.generation,
        *_numbers(checkpoint.base),
        *_numbers(checkpoint.synced),
    )


def _numbers(point: LogPoint) -> tuple[int, int, int, int]:
    return (point.index, point.term, point.position, point.chain_crc)
