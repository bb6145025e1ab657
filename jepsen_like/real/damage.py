"""Bytes of one stopped node's files, changed as a failing disk does."""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.proof import LabError, Proof

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jepsen_like.real.node_disk import NodeDisk

_CHUNK = 4096


class FileKind(enum.Enum):
    """What a file of a data folder is for (docs/file-formats.md); the value finds it there."""

    COMMITLOG = "commitlog/[0-9]*"
    INDEX = "index/[0-9]*"
    CONSUME_QUEUE = "derived/consumequeue/*/*/[0-9]*"
    STATE = "derived/state-*[0-9]"
    VOTE = "vote"
    CHECKPOINT = "checkpoint"
    WATERMARK = "watermark"
    IDENTITY = "identity.json"


class Damage:
    """What can be done to the files of one disk whose node does not run.

    Every change is drawn by the disk's own chance, is on the disk when the call returns, and is
    told by its proof: file, place, bytes before and after.
    """

    def __init__(self, disk: NodeDisk) -> None:
        self._disk = disk
        self._remembered: dict[Path, bytes] = {}

    def files(self, kind: FileKind) -> list[Path]:
        """Return the node's files of that kind, the oldest first."""
        found = self._disk.data.glob(kind.value)
        return sorted(path for path in found if path.suffix != ".tmp")

    async def flip_bits(self, kind: FileKind, *, count: int = 2) -> Proof:
        """Flip *count* bits of one file, in bytes up to the last that is not zero."""
        return await self._change(kind, "bits flipped", lambda path: self._flip(path, count))

    async def truncate(self, kind: FileKind) -> Proof:
        """Cut one file at a place drawn by chance, before the end of its data."""
        return await self._change(kind, "file cut", self._truncate)

    async def remember(self, kind: FileKind) -> Proof:
        """Copy the files of that kind, for `restore_old_chunk`; the node may run."""
        found = await trio.to_thread.run_sync(
            lambda: {path: path.read_bytes() for path in self.files(kind)}
        )
        self._remembered |= found
        return Proof(
            what=f"{kind.name.lower()} files of {self._disk.name} remembered",
            took_effect=bool(found),
            figures={"files": len(found), "bytes": sum(map(len, found.values()))},
        )

    async def restore_old_chunk(self, kind: FileKind) -> Proof:
        """Put 4 KiB of one file back to what they were at `remember`, where they differ now."""
        return await self._change(kind, "old chunk restored", self._restore)

    async def remove(self, kind: FileKind) -> Proof:
        """Remove one file."""
        return await self._change(kind, "file removed", self._remove)

    # -- one file -------------------------------------------------------------------------------

    async def _change(
        self,
        kind: FileKind,
        what: str,
        change: Callable[[Path], dict[str, int | float | str] | None],
    ) -> Proof:
        """Do *change* to the files in an order drawn by chance, until one has what it needs."""
        disk = self._disk
        if pids := disk.namespace.pids():
            raise LabError(f"{disk.name} runs (pid {pids}): its files are not to be damaged now")
        paths = self.files(kind)
        disk.chance.shuffle(paths)
        figures = None
        for path in paths:
            figures = await trio.to_thread.run_sync(change, path)
            if figures is not None:
                figures = {"file": str(path.relative_to(disk.data)), **figures}
                break
        return Proof(
            what=f"{what} in {kind.name.lower()} of {disk.name}",
            took_effect=figures is not None,
            figures=figures or {"files": len(paths)},
        )

    def _flip(self, path: Path, count: int) -> dict[str, int | float | str] | None:
        data = path.read_bytes()
        end = len(data.rstrip(b"\0"))
        if end == 0:
            return None
        bits = sorted(self._disk.chance.sample(range(8 * end), min(count, 8 * end)))
        changed = bytearray(data)
        for bit in bits:
            changed[bit // 8] ^= 1 << bit % 8
        places = sorted({bit // 8 for bit in bits})
        for place in places:
            _write(path, place, bytes(changed[place : place + 1]))
        return {
            "bytes": " ".join(str(place) for place in places),
            "before": " ".join(f"{data[place]:02x}" for place in places),
            "after": " ".join(f"{path.read_bytes()[place]:02x}" for place in places),
        }

    def _truncate(self, path: Path) -> dict[str, int | float | str] | None:
        data = path.read_bytes()
        end = len(data.rstrip(b"\0"))
        if end == 0:
            return None
        size = self._disk.chance.randrange(end)
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
        return {"size_before": len(data), "data_before": end, "size_after": path.stat().st_size}

    def _restore(self, path: Path) -> dict[str, int | float | str] | None:
        old, now = self._remembered.get(path, b""), path.read_bytes()
        places = [
            place
            for place in range(0, min(len(old), len(now)), _CHUNK)
            if old[place : place + _CHUNK] != now[place : min(place + _CHUNK, len(old))]
        ]
        if not places:
            return None
        place = self._disk.chance.choice(places)
        chunk = old[place : min(place + _CHUNK, len(now))]
        _write(path, place, chunk)
        changed = sum(a != b for a, b in zip(chunk, now[place:], strict=False))
        return {"byte": place, "size": len(chunk), "bytes_changed": changed}

    def _remove(self, path: Path) -> dict[str, int | float | str] | None:
        size = path.stat().st_size
        path.unlink()
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return {"size_before": size}


def _write(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, place)
        os.fsync(file.fileno())
