"""This node's term and vote, and whether it may vote at all.

A vote given twice in one term can elect two leaders, so nothing may leave the node that rests on a
term or vote not yet on the disk.  The event loop does not wait for that: `VoteFile.set` changes
memory and raises `VoteFile.version`; whoever wants to speak waits until `VoteFile.synced_version`
has come that far.

*joining*: the node started with an empty folder.  It may have lost its data and a vote it gave in
the present term with it; it votes again once it has caught up with the group.
"""

from __future__ import annotations

import logging
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.errors import CorruptStoreError
from dledger.store.slot_file import REMEDY, SlotFile

if TYPE_CHECKING:
    from dledger.store.disk import Disk

_log = logging.getLogger(__name__)

_STATE = struct.Struct(">q?64s")
_MAGIC = b"DLVT"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteState:
    """What must survive a crash besides the log. Source: Raft paper, figure 2, persistent state."""

    term: int  # latest term seen; 0 at first
    voted_for: str | None  # node id that got this node's vote in *term*
    joining: bool  # may not vote until it has caught up

    def __post_init__(self) -> None:
        assert self.term >= 0
        assert self.voted_for is None or 0 < len(self.voted_for.encode()) <= 64


class VoteFile:
    """The state in memory, ahead of the disk by at most what `begin_sync` would write.

    Attributes:
        joining: whether this node may not vote yet.
    """

    def __init__(self, slots: SlotFile) -> None:
        self._slots = slots
        self._state = _unpack(slots)
        self.joining = self._state.joining  # plain: each answer to a leader says it
        self._lock = threading.Lock()
        self._written_version = 0
        self.version = 0  # of the state in memory; one more for each change
        self.synced_version = 0  # of the state known to be on the disk

    @classmethod
    def open(cls, disk: Disk, folder: str, *, joining: bool) -> VoteFile:
        """Open the file ``vote`` of *folder*, or create it where there is none; blocking.

        What a dead process wrote is synced before it is believed.

        Args:
            disk: where the folder is.
            folder: the data folder; it exists.
            joining: what a new file says; one that is there knows it itself.

        Raises:
            CorruptStoreError: the file is damaged; names it and the remedy.
            LedgerFullError: no room for its 8192 bytes.
        """
        path = f"{folder}/vote"
        if not disk.exists(path):
            state = VoteState(term=0, voted_for=None, joining=joining)
            SlotFile.create(disk, path, magic=_MAGIC, version=_VERSION, payload=_pack(state))
        slots = SlotFile.open(disk, path, magic=_MAGIC, version=_VERSION)
        try:
            found = cls(slots)
            slots.write(slots.payload, sync=True)
        except BaseException:
            slots.close()
            raise
        return found

    @property
    def current_term(self) -> int:
        """Latest term this node has seen."""
        return self._state.term

    @property
    def voted_for(self) -> str | None:
        """Node id that this node voted for in `current_term`, if any."""
        return self._state.voted_for

    @property
    def is_synced(self) -> bool:
        """Whether the state in memory is on the disk."""
        return self.synced_version == self.version

    def set(self, term: int, voted_for: str | None) -> None:
        """Change term and vote in memory; a term never falls, a vote of a term never changes."""
        old = self._state
        assert term >= old.term, f"term {term} falls below {old.term}"
        assert term > old.term or old.voted_for in (None, voted_for), (
            f"voted for {old.voted_for} in term {term} already, cannot vote for {voted_for}"
        )
        self._change(VoteState(term=term, voted_for=voted_for, joining=old.joining))

    def end_joining(self, reason: str) -> None:
        """Let the node vote again, in memory; *reason* goes to the log."""
        old = self._state
        if old.joining:
            _log.info("this node may vote from now on: %s", reason)
            self._change(VoteState(term=old.term, voted_for=old.voted_for, joining=False))

    def begin_sync(self) -> VoteTicket | None:
        """Return a ticket that writes the state as it is now; None when the disk has it."""
        if self.is_synced:
            return None
        return VoteTicket(self, self._state, self.version)

    def finish_sync(self, ticket: VoteTicket) -> int:
        """Take note of a ticket that has run and return the new `synced_version`.

        Raises:
            StorageFailedError: the sync failed; stop the process.
        """
        if ticket.failure is not None:
            raise ticket.failure
        assert ticket.is_done, "run() comes first"
        self.synced_version = max(self.synced_version, ticket.version)
        return self.synced_version

    def sync(self) -> int:
        """Put the state in memory on the disk; blocking. Returns the new `synced_version`."""
        ticket = self.begin_sync()
        if ticket is None:
            return self.synced_version
        ticket.run()
        return self.finish_sync(ticket)

    def close(self) -> None:
        """Close the file."""
        self._slots.close()

    def _change(self, state: VoteState) -> None:
        if state != self._state:
            self._state = state
            self.joining = state.joining
            self.version += 1

    def _write(self, state: VoteState, version: int) -> None:
        with self._lock:
            if version > self._written_version:  # a newer one makes an older one superfluous
                self._slots.write(_pack(state), sync=True)
                self._written_version = version


class VoteTicket:
    """One write of the state as it was when the ticket began."""

    def __init__(self, file: VoteFile, state: VoteState, version: int) -> None:
        self.version = version
        self.is_done = False
        self.failure: BaseException | None = None
        self._file = file
        self._state = state

    def run(self) -> None:
        """Write and sync; blocking, made for a worker.

        Raises:
            StorageFailedError: the disk failed; stop the process, never try it again.
        """
        try:
            self._file._write(self._state, self.version)  # noqa: SLF001 - the file's own ticket
        except BaseException as error:
            self.failure = error
            raise
        self.is_done = True


def _pack(state: VoteState) -> bytes:
    return _STATE.pack(state.term, state.joining, (state.voted_for or "").encode())


def _unpack(slots: SlotFile) -> VoteState:
    term, joining, voted_for = _STATE.unpack(slots.payload_of(_STATE.size))
    try:
        name = voted_for.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise CorruptStoreError(
            f"{slots.path}: voted_for is no name ({error.reason}); {REMEDY}"
        ) from error
    if term < 0:
        raise CorruptStoreError(f"{slots.path}: term {term} is below zero; {REMEDY}")
    return VoteState(term=term, voted_for=name or None, joining=joining)
