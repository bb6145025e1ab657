"""One member of a group without any I/O: messages, proposals and time in; what to do out.

`LedgerCore` puts the pieces of `dledger.raft` together with what the engine does not know: which
proposals wait for which entry, the fence of a leadership transfer, when a member that started
empty may vote, and a disk that has stopped answering.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dledger.entry import body_size_limit
from dledger.errors import (
    EntryTooLargeError,
    LedgerBusyError,
    LedgerError,
    LedgerFullError,
    NotLeaderError,
    OutcomeUnknownError,
)
from dledger.measures import SECONDS_BOUNDS, Histogram
from dledger.raft.engine import RaftEngine
from dledger.raft.journal import Proposal
from dledger.raft.level_waits import LevelWaits

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from dledger.clock import Clock
    from dledger.config import LedgerConfig
    from dledger.durability import Durability
    from dledger.entry import LogPoint
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.vote_file import VoteFile

Message = dict[str, Any]

logger = logging.getLogger(__name__)


class Role(enum.Enum):
    """What a member is at the moment."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    JOINING = "joining"  # follows, but may not vote yet: it started with an empty folder


class AppendProposal(Proposal, Protocol):
    """A proposal that hears its end, exactly once, by one of the two calls."""

    def on_committed(self, index: int, term: int) -> None:
        """Hear that the entry is committed, on as many disks as the flush mode says."""
        ...

    def on_failed(self, error: LedgerError) -> None:
        """Hear that nothing was written (`NotLeaderError`), or may be (`OutcomeUnknownError`)."""
        ...


@dataclass(slots=True)
class _Transfer:
    target: str
    deadline: float
    done: Callable[[LedgerError | None], None]
    asked: bool = False


class LedgerCore:
    """Decides; never waits, never touches socket or thread."""

    def __init__(
        self,
        *,
        config: LedgerConfig,
        store: LedgerStore,
        votes: VoteFile,
        commit_index: int,
        clock: Clock,
        chance: random.Random,
        install: Callable[[LogPoint, bytes], None],
    ) -> None:
        """Build one member over its opened files; see `RaftEngine` for the arguments."""
        self.config = config
        self.store = store
        self.votes = votes
        self.engine = RaftEngine(
            config=config,
            store=store,
            votes=votes,
            commit_index=commit_index,
            clock=clock,
            chance=chance,
            install=install,
        )
        self._clock = clock
        self._pending_size_max = config.raft.pending_size_max
        self._body_size_max = body_size_limit(config.store.segment_size)
        self._transfer_seconds = config.raft.transfer_timeout_ms / 1000
        self._inflight: deque[tuple[int, int, float, AppendProposal]] = deque()
        self._waiting: deque[AppendProposal] = deque()
        self._pending_size = 0
        self._settled_index = -1  # applied when `step` was through
        self._level_waits = LevelWaits(self.engine.levels)
        self._transfer: _Transfer | None = None
        self._connected: set[str] = set()
        self._empty_peers: set[str] = set()
        self.disk_full: LedgerFullError | None = None
        self.append_seconds = Histogram(SECONDS_BOUNDS)  # from append to commit, as leader
        if self.engine.joining and not self.engine.peer_ids:
            self.engine.become_voter("it is the only member")

    # -- what it is -----------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """Return this member's role."""
        if self.engine.is_leader:
            return Role.LEADER
        if self.engine.joining:
            return Role.JOINING
        return Role.CANDIDATE if self.engine.is_candidate else Role.FOLLOWER

    @property
    def committed_index(self) -> int:
        """Return up to where entries are committed and durable here: what may be shown."""
        return self.engine.applied_index

    @property
    def inflight_count(self) -> int:
        """Return how many entries are proposed here and not committed yet."""
        return len(self._inflight)

    @property
    def unfinished_count(self) -> int:
        """Return how many proposals have not heard their end: on their way, or held back."""
        return len(self._inflight) + len(self._waiting)

    @property
    def pending_size(self) -> int:
        """Return bytes of bodies that are proposed and not committed yet."""
        return self._pending_size

    @property
    def connected_peers(self) -> frozenset[str]:
        """Return the ids of the members that are reachable."""
        return frozenset(self._connected)

    # -- events ---------------------------------------------------------------------------------

    def peer_connected(
        self, peer_id: str, *, joining: bool, last_index: int, promises_synced: bool = False
    ) -> None:
        """Take up a member whose handshake is done; over another connection than before, perhaps.

        Args:
            peer_id: who it is.
            joining: it started empty and may not vote yet.
            last_index: end of its log.
            promises_synced: whether what it promises is on its disk (SYNC_FLUSH).
        """
        if peer_id in self._connected:
            self.engine.peer_replaced(peer_id)
        self._connected.add(peer_id)
        if last_index == 0:
            self._empty_peers.add(peer_id)
        else:
            self._empty_peers.discard(peer_id)
        self.engine.peer_connected(
            peer_id, joining=joining, last_index=last_index, promises_synced=promises_synced
        )
        if (
            self.engine.joining
            and self.store.end_index == 0
            and len(self._empty_peers) == len(self.engine.peer_ids)
        ):
            # Nobody holds anything, so nothing can have been promised: the group is new.
            self.engine.become_voter("every member is empty: the group is new")

    def peer_lost(self, peer_id: str) -> None:
        """Note that the connection to a member broke."""
        self._connected.discard(peer_id)
        self.engine.peer_disconnected(peer_id)

    def receive(self, peer_id: str, message: Message) -> None:
        """Take one message of a connected member."""
        self.engine.receive(peer_id, message)

    def propose(self, proposal: AppendProposal) -> None:
        """Take one entry to append; its end is told to it later.

        Raises:
            NotLeaderError: another member leads, or nobody does, or this one has just begun.
            LedgerBusyError: too much is waiting to be committed already.
            LedgerFullError: the disk has no room for it.
            EntryTooLargeError: no segment holds it, or no frame brings it to a follower.
        """
        engine = self.engine
        if not engine.is_leader:
            leader = engine.leader_id
            raise NotLeaderError(
                f"node {engine.node_id} is not the leader"
                + (f"; {leader} is" if leader else ", and none is elected at the moment"),
                leader_id=leader,
            )
        if not engine.leader_ready:
            raise NotLeaderError(
                f"node {engine.node_id} was elected just now and is not ready yet", leader_id=None
            )
        size = proposal.body_size
        if size > self._body_size_max:
            raise EntryTooLargeError(
                f"an entry of {size} bytes is over the limit of {self._body_size_max}; send less "
                "at a time"
            )
        if self._pending_size and self._pending_size + size > self._pending_size_max:
            raise LedgerBusyError(
                f"{self._pending_size} bytes wait to be committed on node {engine.node_id}, the "
                f"limit is pending_size_max = {self._pending_size_max}; send again later"
            )
        if self.disk_full is not None:
            raise self.disk_full
        if self._transfer is not None or self._waiting or not self.store.has_room(size):
            self._waiting.append(proposal)
        else:
            self._append(proposal)
        self._pending_size += size

    def await_level(
        self,
        index: int,
        level: Durability,
        *,
        deadline: float,
        done: Callable[[Durability | None], None],
    ) -> None:
        """Call *done* when entry *index*, appended by this leader, has reached *level*.

        At *deadline* it hears what was reached until then, but not before the entry is committed,
        unless the leader's copy is all that is asked for.  None: the lead was lost before that.

        Args:
            index: of an entry of this leader's log.
            level: another one than comes with the commit.
            deadline: second of the clock; not below that of an earlier call.
            done: called once, from `step`.
        """
        self._level_waits.add(index, level, deadline=deadline, done=done)

    def _append(self, proposal: AppendProposal) -> None:
        index = self.engine.propose(proposal)
        self._inflight.append((index, self.engine.term, self._clock.now(), proposal))

    def request_barrier(self, callback: Callable[[bool], None]) -> None:
        """Call back with true once a majority has confirmed that this node leads *now*.

        What was committed anywhere before this call is then committed here (ReadIndex).
        """
        if self.engine.leader_ready:
            self.engine.leading.request_barrier(callback)
        else:
            callback(False)

    def transfer(self, target: str | None, done: Callable[[LedgerError | None], None]) -> None:
        """Hand the leadership to *target*, or to the member that has most; no request fails.

        New proposals wait behind the fence; the target is asked only when everything proposed
        before is committed and the target has all of it.
        """
        engine = self.engine
        progress = engine.leading.progress
        if not engine.leader_ready:
            done(NotLeaderError("only the leader can hand over", leader_id=engine.leader_id))
            return
        if self._transfer is not None:
            done(LedgerBusyError(f"a transfer to {self._transfer.target} is under way"))
            return
        if target == engine.node_id:
            done(None)
            return
        if target is not None and target not in progress:
            members = ", ".join(member.node_id for member in self.config.members)
            done(LedgerError(f"{target} is no member; members are {members}"))
            return
        able = [
            (progress[peer_id].match_index, peer_id)
            for peer_id in engine.peer_ids
            if peer_id in self._connected and not progress[peer_id].joining
        ]
        if target is None and able:
            target = max(able)[1]
        if target is None or all(peer_id != target for _, peer_id in able):
            done(LedgerError(f"{target or 'no member'} is connected and able to take over"))
            return
        self._transfer = _Transfer(target, self._clock.now() + self._transfer_seconds, done)

    # -- one step -------------------------------------------------------------------------------

    def step(self) -> None:
        """Let time pass and messages take effect; then collect `take_outbox` and publish."""
        engine = self.engine
        if self.disk_full is not None or engine.following.waiting_for_room:
            self._look_for_room()
        engine.tick()
        if engine.is_leader:
            if self._waiting:
                self._resume_waiting()
            if self._transfer is not None:
                self._go_on_with_transfer()
            engine.send_new_entries()
        elif self._level_waits.count:
            # Before anything else: what is not in flight any more was committed while this node
            # led, but once a new leader has replaced entries that is true no longer.
            uncommitted = {item[0] for item in self._inflight if not self._is_committed(*item[:2])}
            self._level_waits.give_up(lambda index: index not in uncommitted)
        self._settled_index = engine.applied_index
        if self._inflight:
            self._finish_committed()
        if not engine.is_leader:
            if self._inflight or self._waiting:
                self._fail_all()
            if self._transfer is not None:
                self._go_on_with_transfer()
        elif self._level_waits.count:
            self.store.write_out()  # it may be this member's own copy that is waited for
            self._level_waits.finish(self._clock.now(), committed_index=engine.applied_index)

    def next_deadline(self) -> float:
        """Return when `step` has something to do at the latest, as the clock's second."""
        deadline = self.engine.next_deadline()
        if self._transfer is not None:
            deadline = min(deadline, self._transfer.deadline)
        if self._level_waits.count:
            deadline = min(deadline, self._level_waits.next_deadline)
        return deadline

    def take_outbox(self) -> list[tuple[str, Message]]:
        """Return (peer id, message) pairs to send, in order."""
        return self.engine.transport.take_outbox()

    @property
    def waits_for_room(self) -> bool:
        """Whether somebody waits for a segment: proposals, or what a leader sent."""
        return bool(self._waiting) or self.engine.following.waiting_for_room

    @property
    def leads_quietly(self) -> bool:
        """Whether this is a leader for which `step` does nothing before something else happens."""
        engine = self.engine
        return engine.is_leader and not (
            engine.tick_wanted
            or engine.commit_wanted
            or engine.transport.outbox
            or engine.snapshot_wanted
            or self._transfer is not None
            or self._waiting
            or self._level_waits.count
            or engine.applied_index != self._settled_index
        )

    @property
    def follows_quietly(self) -> bool:
        """Whether this is a follower for which `step` does no more than publish what is committed.

        That is, until something else happens or time has passed.
        """
        engine = self.engine
        return not (
            engine.is_leader
            or engine.tick_wanted
            or engine.sync_wanted > self.store.synced_index
            or engine.following.waiting_for_room
            or engine.transport.outbox
            or engine.snapshot_wanted
            or self._transfer is not None
            or self._inflight
            or self._waiting
            or self._level_waits.count
        )

    def _resume_waiting(self) -> None:
        while (
            self._waiting
            and self._transfer is None
            and self.engine.leader_ready
            and self.store.has_room(self._waiting[0].body_size)
        ):
            self._append(self._waiting.popleft())

    def _finish_committed(self) -> None:
        engine = self.engine
        committed, now = engine.applied_index, engine.ticked_at
        while self._inflight and self._inflight[0][0] <= committed:
            index, term, appended_at, proposal = self._inflight.popleft()
            self._pending_size -= proposal.body_size
            self.append_seconds.observe(now - appended_at)
            if not self._is_committed(index, term):
                proposal.on_failed(
                    OutcomeUnknownError(f"entry {index} of term {term} was replaced or dropped")
                )
            else:
                proposal.on_committed(index, term)

    def _is_committed(self, index: int, term: int) -> bool:
        """Whether what was appended here is committed, and still there, not replaced."""
        return (
            self.store.base.index < index <= self.engine.applied_index
            and self.store.term_at(index) == term
        )

    def _fail_all(self) -> None:
        leader = self.engine.leader_id
        inflight, waiting = self._inflight, self._waiting
        self._inflight, self._waiting = deque(), deque()
        self._pending_size = 0
        for index, term, _, proposal in inflight:
            proposal.on_failed(
                OutcomeUnknownError(
                    f"node {self.engine.node_id} lost the lead of term {term} before entry {index} "
                    "was committed; it may still be"
                )
            )
        for proposal in waiting:
            proposal.on_failed(
                NotLeaderError(
                    f"node {self.engine.node_id} lost the lead before it appended anything",
                    leader_id=leader,
                )
            )

    def fail_waiting(self, error: LedgerFullError) -> None:
        """Refuse what waits for room that the disk does not have, and all that comes after."""
        self.disk_full = error
        while self._waiting:
            proposal = self._waiting.popleft()
            self._pending_size -= proposal.body_size
            proposal.on_failed(error)

    def room_made(self) -> None:
        """Note that another segment is ready."""
        self.disk_full = None
        self.engine.following.resume()

    def _look_for_room(self) -> None:
        """Notice room that nobody allocated: retention turns old segments into new ones."""
        if not self.store.needs_prepare:
            self.room_made()

    def _go_on_with_transfer(self) -> None:
        transfer = self._transfer
        if transfer is None:
            return
        engine = self.engine
        if not engine.is_leader:
            if engine.leader_id is None and self._clock.now() < transfer.deadline:
                return  # the election is under way
            self._transfer = None
            if engine.leader_id == transfer.target:
                transfer.done(None)
            else:
                transfer.done(LedgerError(f"the lead went to {engine.leader_id or 'nobody yet'}"))
            return
        if self._clock.now() >= transfer.deadline:
            self._transfer = None
            logger.warning("handing over to %s took too long; leading on", transfer.target)
            transfer.done(LedgerError(f"{transfer.target} did not take over in time"))
            self._resume_waiting()
            return
        caught_up = (
            engine.leading.progress[transfer.target].match_index == self.store.end_index
            and not self._inflight
        )
        if not transfer.asked and caught_up:
            transfer.asked = True
            engine.ask_to_take_over(transfer.target)
