"""PySyncObj with what is unsafe or slow in it replaced, method by method.

`GuardedSyncObj` names each flaw by its letter, and ``docs/raft-engine.md`` tells its story.  The
touch points are pinned: on another version, or another text of that version, the engine refuses
to start, and ``tests/contract`` says which touch point has moved.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import TYPE_CHECKING

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj import syncobj as library
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from dledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.raft.engine import RaftEngine
    from dledger.raft.journal import LedgerJournal
    from dledger.raft.transport import Message

PINNED_VERSION = "0.3.17"
PINNED_SOURCE_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2


def check_library() -> None:
    """Raise `LedgerError` unless PySyncObj is the one whose seams are known."""
    source = inspect.getsource(library)
    digest = hashlib.sha256(source.encode()).hexdigest()
    if VERSION != PINNED_VERSION or digest != PINNED_SOURCE_SHA256:
        raise LedgerError(
            f"pysyncobj {VERSION} (source {digest[:12]}) is not the pinned {PINNED_VERSION} "
            f"({PINNED_SOURCE_SHA256[:12]}), whose seams this engine relies on; "
            f"install pysyncobj=={PINNED_VERSION}"
        )


class Peer(Node):  # type: ignore[misc]  # PySyncObj is untyped
    """A member as PySyncObj knows it.

    Hashed by rank: string hashes differ from process to process, and with them the order in
    which a set of nodes is walked and messages are sent.
    """

    id: str = ""  # plain, where the library has a property: it is read several times a message

    def __init__(self, node_id: str, rank: int) -> None:
        super().__init__(node_id)
        self.__dict__["id"] = node_id  # by assignment it may not be changed
        self._rank = rank

    def __hash__(self) -> int:
        return self._rank

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and self._rank == other._rank


class NullPoller:
    """PySyncObj's poller, with nothing to poll: our event loop calls, it is never called."""

    def subscribe(self, *_: object) -> None:
        """Ignore."""

    def unsubscribe(self, *_: object) -> None:
        """Ignore."""

    def poll(self, timeout: float) -> None:
        """Return at once."""


class MatchView(dict[Peer, int]):
    """PySyncObj's match indexes, read from our progress and clamped to the leader's own disk.

    PySyncObj counts the leader itself without asking its disk (flaw c).  Clamped like this, an
    entry reaches a majority only when the leader has synced it too, so its sync and those of the
    followers may overlap.

    A joining member counts as having nothing: before its disk was lost it may have promised the
    same entry, or its vote, to somebody else.

    Whoever lacks this term's first entry counts as having nothing: nothing older can be committed
    by counting (Raft paper, section 5.4.2), and PySyncObj would look at every entry of the
    uncommitted tail in each tick to find that out.
    """

    def __init__(self, engine: RaftEngine) -> None:
        super().__init__()
        self._engine = engine

    def __getitem__(self, peer: Peer) -> int:
        engine = self._engine
        progress = engine.leading.progress[peer.id]
        if progress.joining:
            return 0
        index, durable_index = progress.match_index, engine.store.durable_index
        if index > durable_index:
            index = durable_index
        return index if index >= engine.first_index_of_own_term else 0


class GuardedSyncObj(SyncObj):  # type: ignore[misc]  # PySyncObj is untyped
    """PySyncObj with the methods replaced that lose entries, hang or cost too much."""

    def __init__(self, engine: RaftEngine, me: Peer, others: list[Peer], conf: SyncObjConf) -> None:
        self._engine = engine
        super().__init__(me, others, conf=conf, transport=engine.transport)
        self._SyncObj__raftMatchIndex = MatchView(engine)

    @property
    def _SyncObj__raftLeader(self) -> Peer | None:
        """Stock's own field, and the engine has the leader's id at hand."""
        return self._leader

    @_SyncObj__raftLeader.setter
    def _SyncObj__raftLeader(self, leader: Peer | None) -> None:
        self._leader = leader
        self._engine.leader_id = None if leader is None else leader.id

    def _SyncObj__onMessageReceived(self, node: Peer, message: Message) -> None:
        """Ours, because answers carry no term and appends cut what is there (flaws a, b, e)."""
        self._engine.on_message(node, message)

    def handle_stock(self, node: Peer, message: Message) -> None:
        """Give one message to PySyncObj's own handler."""
        self._engine.tick_wanted = True
        super()._SyncObj__onMessageReceived(node, message)

    def _SyncObj__sendAppendEntries(self) -> None:
        """Ours: the stock sender pipelines without bound and never finds the parting (flaw i)."""
        self._engine.on_heartbeat_due()

    def _SyncObj__applyLogEntries(self) -> bool:
        """Ours: only publishes how far the log is committed; the stock one retries for ever (j)."""
        self._engine.apply()
        return False

    def _SyncObj__doApplyCommand(self, command: object) -> None:
        """Refuse: the stock one unpickles what arrives from the network (flaw o)."""
        raise AssertionError("commands are applied by the dispatcher, never by PySyncObj")

    def _checkCommandsToApply(self) -> None:
        """Do nothing: proposals go past the library's queue of commands, so it is empty."""

    def _SyncObj__generateRaftTimeout(self) -> float:
        """Stock, unless the leader is known to be gone."""
        engine = self._engine
        if engine.leader_is_gone:
            return engine.short_election_timeout()
        timeout: float = super()._SyncObj__generateRaftTimeout()
        return timeout

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Ours: asked only before an election, so the pre-vote hangs here (flaw f)."""
        return self._engine.standing.may_stand()

    def _SyncObj__tryLogCompaction(self) -> None:
        """Do nothing: without a dump file the stock one trims the journal (flaw n4)."""

    def _SyncObj__setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        """Stock, and the engine has the term at hand."""
        super()._SyncObj__setCurrentTerm(term, voted_for)
        self._engine.term = term

    def _SyncObj__onBecomeLeader(self) -> None:
        self._engine.leading.start()
        self._engine.levels.start()
        super()._SyncObj__onBecomeLeader()
        self._engine.first_index_of_own_term = int(self._SyncObj__noopIDx)


def guard(
    engine: RaftEngine,
    me: Peer,
    others: list[Peer],
    journal: LedgerJournal,
    *,
    on_state_changed: Callable[[int, int], None],
) -> GuardedSyncObj:
    """Return PySyncObj over *journal* for *me*, set up so that nobody but *engine* drives it."""
    conf = SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=engine.heartbeat_seconds,
        raftMinTimeout=engine.election_seconds_min,
        raftMaxTimeout=engine.election_seconds_max,
        connectionTimeout=engine.election_seconds_max * 2,
        # A leader that no majority has answered for an election timeout is one no longer.
        leaderFallbackTimeout=engine.election_seconds_min,
        commandsQueueSize=0,
        journalFile=journal,
        fullDumpFile=None,
        useFork=False,
        dynamicMembershipChange=False,
        onStateChanged=on_state_changed,
    )
    stock = library.createJournal, library.createPoller
    library.createJournal = lambda given: given
    library.createPoller = lambda _kind: NullPoller()
    try:
        return GuardedSyncObj(engine, me, others, conf)
    finally:
        library.createJournal, library.createPoller = stock
