"""How far a broadcasting consumer has come, in a file of its own machine.

Every member of a broadcasting group gets everything, so the group has no offsets; each member may
keep its own.  The file is JSON, written whole beside the old one and put in its place:

    {"version": 1, "group": "g", "broker_group": "orders",
     "offsets": {"topic": {"0": 17, "1": 4}}}

Source: RocketMQ ``LocalFileOffsetStore``, which keeps ``offsets.json`` for each client and group.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.client.errors import OffsetFileError
from broker.client.offsets import Offsets
from broker.client.starts import Starts

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # on Windows nothing keeps two consumers from one file
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

if TYPE_CHECKING:
    from broker.client.requests import Requests
    from broker.client.starts import Start

VERSION = 1
_NOT_ONE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_ANEW = "delete it to begin with what comes from then on"

Table = dict[str, dict[int, int]]  # offsets by topic and queue


class OffsetFile:
    """One file, and the offsets in it; nobody else opens it meanwhile."""

    def __init__(self, path: str | os.PathLike[str], *, group: str) -> None:
        """Name the file, in which "~" is the user's home; `open` it."""
        self.path = Path(path).expanduser()
        self.offsets: Table = {}
        self.broker_group = ""  # of which they are; "": not known yet
        self._group = group
        self._is_dirty = False
        self._lock: int | None = None
        self._saving = trio.Lock()

    async def open(self, broker_group: str) -> None:
        """Read the file, if there is one.

        Args:
            broker_group: whose topics are read; offsets of another one say nothing.

        Raises:
            OffsetFileError: it is another's, cannot be read or written, or holds no offsets.
        """
        await trio.to_thread.run_sync(self._open, broker_group)

    def put(self, topic: str, queue: int, queue_offset: int) -> None:
        """Take note that all below *queue_offset* is done; a lower one than is known is ignored."""
        queues = self.offsets.setdefault(topic, {})
        if queue_offset > queues.get(queue, -1):
            queues[queue] = queue_offset
            self._is_dirty = True

    async def save(self) -> None:
        """Write what is new; when this returns it is on the disk.

        Raises:
            OffsetFileError: it cannot be written; the next call tries again.
        """
        async with self._saving:
            if not self._is_dirty:
                return
            self._is_dirty = False
            try:
                await trio.to_thread.run_sync(self._write, self._encode())
            except BaseException:
                self._is_dirty = True
                raise

    def close(self) -> None:
        """Let others have the file."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self, broker_group: str) -> None:
        try:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._take()
                data = self.path.read_bytes() if self.path.exists() else None
            except OSError as error:
                raise OffsetFileError(f"{self.path}: cannot be read: {error.strerror}") from error
            if data is not None:
                self._decode(data)
            if broker_group and self.broker_group not in ("", broker_group):
                raise OffsetFileError(
                    f"{self.path} holds offsets in broker group {self.broker_group}, and the topic "
                    f"is in {broker_group}; name another file, or {_ANEW}"
                )
        except BaseException:
            self.close()
            raise
        self.broker_group = broker_group or self.broker_group

    def _take(self) -> None:
        if not HAS_LOCKS:
            return
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise OffsetFileError(
                f"{self.path} is another consumer's, which is open; each has a file of its own"
            ) from error
        self._lock = lock

    def _decode(self, data: bytes) -> None:
        try:
            content = json.loads(data)
            version = content["version"]
            if type(version) is not int or version < 1:
                raise ValueError(f"version {version!r}")
            if version > VERSION:
                raise OffsetFileError(
                    f"{self.path}: version is {version}, this program knows up to {VERSION}; use "
                    "the newer program"
                )
            group = content["group"]
            offsets = {
                str(topic): {int(queue): _offset(value) for queue, value in queues.items()}
                for topic, queues in content["offsets"].items()
            }
            broker_group = str(content["broker_group"])
        except _NOT_ONE as error:
            raise OffsetFileError(
                f"{self.path} is no file of offsets: {type(error).__name__}: {error}; restore it, "
                f"or {_ANEW}"
            ) from error
        if group != self._group:
            raise OffsetFileError(
                f"{self.path} holds the offsets of group {group!r}, and not of {self._group!r}; "
                "name another file"
            )
        self.offsets, self.broker_group = offsets, broker_group

    def _encode(self) -> bytes:
        content = {
            "version": VERSION,
            "group": self._group,
            "broker_group": self.broker_group,
            "offsets": {
                topic: {str(queue): offset for queue, offset in sorted(queues.items())}
                for topic, queues in sorted(self.offsets.items())
            },
        }
        return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"

    def _write(self, data: bytes) -> None:
        """Put *data* in the file's place: whoever reads it finds the old content or the new."""
        fresh = self.path.with_name(f"{self.path.name}.new")
        try:
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise OffsetFileError(f"{self.path}: cannot be written: {error.strerror}") from error


class FileOffsets(Offsets):
    """Stands where a group's offsets do: where queues end is asked, how far one is is in a file."""

    def __init__(self, requests: Requests, file: OffsetFile) -> None:
        super().__init__(requests)
        self._file = file

    async def progress(self, group: str, topic: str, queue: int) -> tuple[int | None, int]:
        """See `Offsets.progress`; nobody puts such a member elsewhere."""
        await trio.lowlevel.checkpoint()
        return self._file.offsets.get(topic, {}).get(queue), 0

    async def commit(
        self,
        group: str,
        topic: str,
        queue: int,
        queue_offset: int,
        *,
        epoch: int | None = None,
    ) -> bool:
        """See `Offsets.commit`; it is in the file once that is saved."""
        await trio.lowlevel.checkpoint()
        self._file.put(topic, queue, queue_offset)
        return True


class FileStarts(Starts):
    """Where such a member begins: where it stopped, or the first time with what comes from now."""

    def __init__(self, offsets: FileOffsets, others: Starts, file: OffsetFile) -> None:
        super().__init__(offsets, others.lookup, others.clock)
        # As it was when it was opened: what is read now has begun since.
        self._known = frozenset(file.offsets)

    async def _find(self, group: str, topic: str, queue: int, start: Start) -> int:
        if start == "committed" and topic not in self._known:
            start = "last"
        return await super()._find(group, topic, queue, start)


def _offset(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no offset")
    return value


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
