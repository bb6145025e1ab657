"""The Raft log as PySyncObj sees it: a list of ``(command, index, term)`` laid over the store.

The Raft log *is* the commit log, so this journal keeps nothing of its own.  It answers from the
store's index, and gives `None` for the command of a stored entry: nobody above reads commands
through the engine, and reading them here would pull every entry into memory several times.

Element 0 is the store's *base*, the last entry that is no longer (or never was) kept.  PySyncObj
wants its log never to be empty, and the base is what the first kept entry is checked against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from dledger.entry import HEADER_SIZE, EntryKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.remoting.command import Buffer
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.vote_file import VoteFile

NO_OP_COMMAND = b"\x01"  # _COMMAND_TYPE.NO_OP of PySyncObj

JournalItem: TypeAlias = tuple["bytes | Proposal | None", int, int]


class Proposal(Protocol):
    """What a proposer wants as one entry, encoded only when its place is known."""

    @property
    def channel(self) -> int:
        """The entry's channel; the ledger does not look into it."""
        ...

    @property
    def body_size(self) -> int:
        """Bytes that `encode` will return; at least 1."""
        ...

    def encode(self, body_position: int) -> Sequence[Buffer]:
        """Return the entry's body, the first byte of which comes to lie at *body_position*.

        Called once, synchronously, when the entry is appended on the leader; offsets may be given
        out here, as entries are encoded in the order of the log.
        """
        ...

    def on_appended(self, index: int, term: int) -> None:
        """Hear which entry this proposal became; not committed yet."""
        ...


class LedgerJournal:
    """PySyncObj's ``Journal`` over `LedgerStore` and `VoteFile`.

    Source: ``pysyncobj.journal.Journal``.  It is not subclassed, because its only content is
    method names, and importing it would bring pickle into this room.
    """

    def __init__(self, store: LedgerStore, votes: VoteFile, *, commit_index: int) -> None:
        self._store = store
        self._votes = votes
        # A commit index from a checkpoint can never lie behind the log's end, as the checkpoint
        # was written after that log was synced; the store has checked it (raft-engine flaw k).
        self._commit_index = max(store.base.index, min(commit_index, store.end_index))

    def __len__(self) -> int:
        return self._store.end_index - self._store.base.index + 1

    def __getitem__(self, item: int | slice) -> JournalItem | list[JournalItem]:
        store = self._store
        if item == -1:
            end = store.end
            return (None, end.index, end.term)
        if isinstance(item, slice):
            start, stop, step = item.indices(len(self))
            return [self._item(store.base.index + n) for n in range(start, stop, step)]
        if item == 0:
            return (None, store.base.index, store.base.term)
        if not 0 < item < len(self):
            raise IndexError(item)
        return self._item(store.base.index + item)

    def _item(self, index: int) -> JournalItem:
        return (None, index, self._store.term_at(index))

    def add(self, command: bytes | Proposal, idx: int, term: int) -> None:
        """Append on the leader: a no-op, or a proposal that is encoded for its place right here."""
        store = self._store
        assert idx == store.end_index + 1, (idx, store.end_index)
        if isinstance(command, bytes):
            assert command == NO_OP_COMMAND, "only no-ops are appended as bytes"
            store.append(kind=EntryKind.NOOP, channel=0, term=term, body=(), body_size=0)
            return
        position = store.position_for(command.body_size)
        body = command.encode(position + HEADER_SIZE)
        store.append(
            kind=EntryKind.NORMAL,
            channel=command.channel,
            term=term,
            body=body,
            body_size=command.body_size,
            may_wait=True,
        )
        command.on_appended(idx, term)

    def clear(self) -> None:
        """Refuse: the engine empties a log only through its dump files, which are not used."""
        raise AssertionError("PySyncObj may not clear the commit log")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Refuse: a follower's log is cut by `dledger.raft.following` alone."""
        raise AssertionError("PySyncObj may not cut the commit log")

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Refuse: entries are dropped by retention alone."""
        raise AssertionError("PySyncObj may not drop entries of the commit log")

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember the commit index; it reaches the disk with the next checkpoint."""
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        """Return the last commit index set, or that of the checkpoint at start."""
        return self._commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Change term and vote in memory; what depends on it is held until the file is synced."""
        self._votes.set(term, votedForNodeId)

    def getCurrentTerm(self) -> int:
        """Return the term of the vote file."""
        return self._votes.current_term

    def getVotedForNodeId(self) -> str | None:
        """Return whom this node voted for in the current term, if anyone."""
        return self._votes.voted_for

    def onOneSecondTimer(self) -> None:
        """Do nothing: flushing has its own clock in the server."""

    def _destroy(self) -> None:
        """Do nothing: the server closes the store."""
