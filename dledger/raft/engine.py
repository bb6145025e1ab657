"""PySyncObj as the Raft engine; only this file, `election_times` and `guarded` reach inside it.

PySyncObj 0.3.17 keeps the elections, terms and votes, the commit rule and the timers.
What is unsafe or slow in it is replaced in `dledger.raft.guarded`; here it is driven, but for the
deadline after which a member stands, which is set in `election_times`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pysyncobj import syncobj as library

from dledger.raft.election_times import ElectionTimes
from dledger.raft.following import Following
from dledger.raft.guarded import CANDIDATE, FOLLOWER, LEADER, Peer, check_library, guard
from dledger.raft.journal import LedgerJournal
from dledger.raft.leading import COMMIT_NOTICE_SECONDS, Leading
from dledger.raft.levels import Levels
from dledger.raft.reserve import Reserve
from dledger.raft.standing import Standing
from dledger.raft.transport import EngineTransport, Message

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from dledger.clock import Clock
    from dledger.config import LedgerConfig
    from dledger.entry import LogPoint
    from dledger.raft.journal import Proposal
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.vote_file import VoteFile


class RaftEngine(ElectionTimes):
    """Raft for one node: messages and ticks in, messages and a committed index out.

    Not to be entered from two threads.  It never waits, reads no clock but the one given, and
    sends nothing itself: `transport` collects what is to be sent.
    """

    # What is read several times for each message is a plain attribute, kept up where the library
    # changes its own: in one place each, which `tests/contract` counts.
    term: int  # the current one
    is_candidate = False  # whether this node is standing for election
    # Whether this node leads and its first entry is applied (flaw l): before that it does not know
    # what its predecessors have committed.
    leader_ready = False
    first_index_of_own_term = 0  # of the no-op with which this leadership, or the last one, began

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
        """Build the engine over an opened store.

        Args:
            config: the member's settings.
            store: the recovered log.
            votes: the opened vote file.
            commit_index: from the last checkpoint; entries up to it are known to be committed.
            clock: source of time, in seconds.
            chance: source of election timeouts.
            install: makes a received state and its base durable, both or none.
        """
        check_library()
        super().__init__(config=config, clock=clock, chance=chance)
        raft = config.raft
        self.peer_ids = [node_id for node_id in self._peers if node_id != config.node_id]
        self.majority = len(self._peers) // 2 + 1
        self.store = store
        self.append_window = raft.append_window
        self.append_size_max = raft.append_size_max
        self.votes = votes
        self._install = install
        self._stopped_leading = False
        self.commit_wanted = True  # more may have reached a majority
        self.ticked_at = clock.now()  # when `tick` was called last
        self.storage_stalled = False  # set by the server: a sync hangs, so do not stand
        self._snapshot: tuple[int, bytes] | None = None
        self.snapshot_wanted = 0  # base index of the state that a peer needs; 0: none
        self.sync_wanted = 0  # up to here the log is to be synced now, also with ASYNC_FLUSH
        self.transport = EngineTransport(votes)
        self.leading = Leading(self)
        self.reserve = Reserve(self, config)
        self.levels = Levels(self, config.store.flush_disk_type)
        self.following = Following(self)
        self.standing = Standing(self)
        journal = LedgerJournal(store, votes, commit_index=commit_index)
        self._enter()
        self._raft = guard(
            self,
            self._peers[self.node_id],
            [self._peers[peer_id] for peer_id in self.peer_ids],
            journal,
            on_state_changed=self._on_state_changed,
        )
        self.term = int(self._raft._SyncObj__raftCurrentTerm)
        self.commit_index: int = journal.getRaftCommitIndex()
        self._raft._SyncObj__raftCommitIndex = self.commit_index
        self.applied_index = self.commit_index
        self._raft._SyncObj__raftLastApplied = self.applied_index
        if not self.peer_ids:
            self._raft._SyncObj__raftElectionDeadline = float("-inf")  # nobody else could lead

    # -- inside PySyncObj -----------------------------------------------------------------------

    def _enter(self) -> None:
        """Put our clock and chance where the library looks: per call, as nodes share the module."""
        library.monotonicTime = self._clock.now
        library.random = self._chance

    # -- what this node is ----------------------------------------------------------------------

    def situation(self) -> tuple[object, ...]:
        """Return all that role, term and leader depend on, to be compared with an older answer.

        As of the last `tick`; cheap, where the properties are not.
        """
        return (
            self.is_leader,
            self.is_candidate,
            self.term,
            self.leader_id,
            self.votes.joining,
            self.leader_ready,
            self.leader_id is not None
            and self.ticked_at < self.leader_heard_at + self.election_seconds_min,
        )

    @property
    def joining(self) -> bool:
        """Return whether this node started empty and may not vote yet."""
        return self.votes.joining

    @property
    def vote_is_durable(self) -> bool:
        """Return whether term and vote are on disk as they are in memory."""
        return self.votes.synced_version >= self.votes.version

    @property
    def vote_is_under_way(self) -> bool:
        """Return whether a vote of this node's is not on disk yet, and with it not sent."""
        return not self.vote_is_durable and self.votes.voted_for is not None

    # -- driving it -----------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what time and arrived messages call for: elect, commit, apply, send.

        PySyncObj's own tick runs when its timer is due or something has happened that it has to
        look at; between that only what has become committed or durable is counted and published.
        """
        now = self.ticked_at = self.now()
        if self.commit_wanted or self.tick_wanted:
            self.commit_wanted = False
            if self.is_leader:
                self._count_commit()
        if not self.tick_wanted and now <= self.next_deadline():
            self.apply()
            return
        self.tick_wanted = False
        self._enter()
        library.monotonicTime = lambda: now  # no time passes inside a tick
        if self.is_leader:
            self.leading.start_barriers()
        self._raft._onTick(0.0)
        if self._stopped_leading:
            self._stopped_leading = False
            self.leading.stop()

    def _count_commit(self) -> None:
        """Commit what a majority has, by the marks that PySyncObj's tick would count by.

        Without its walk, entry by entry: a mark says that all up to it is there, so the walk ends
        with the least mark of the best majority.  Nor is there one through what predecessors left
        behind, hundreds of thousands of entries after a restart of the whole group: once a majority
        has this term's first entry, all before it is committed with it.
        """
        raft = self._raft
        if self.peer_ids:
            mark_of = raft._SyncObj__raftMatchIndex
            marks = [mark_of[self._peers[peer_id]] for peer_id in self.peer_ids]
            marks.sort(reverse=True)
            index = marks[self.majority - 2]  # this node itself is one of them
        else:
            index = self.store.durable_index
        if index > self.commit_index and index >= self.first_index_of_own_term:
            raft._SyncObj__raftCommitIndex = index

    def propose(self, proposal: Proposal) -> int:
        """Append *proposal* as the leader; return its index.

        The caller has checked `is_leader` and that the store has room.
        """
        assert self.is_leader
        # What PySyncObj does with a command, without its queue: that is emptied for one heartbeat
        # interval by its clock, and were the process paused between two looks at it, the proposal
        # would stay there while its proposer is told of another entry's end.
        index = self.store.end_index + 1
        self._raft._SyncObj__raftLog.add(proposal, index, self.term)
        assert self.store.end_index == index
        if not self.peer_ids:
            self.commit_wanted = True  # its own copy is the majority; with others, answers make one
        return index

    def send_new_entries(self) -> None:
        """Send what was proposed since the last time, as far as the windows allow."""
        if self.is_leader:
            self.leading.send_new_entries()

    def receive(self, peer_id: str, message: Message) -> None:
        """Take one message of a peer, already checked for its form."""
        self._enter()
        self.on_message(self._peers[peer_id], message)

    def peer_connected(
        self, peer_id: str, *, joining: bool, last_index: int, promises_synced: bool
    ) -> None:
        """Note that a peer, whose log ends with *last_index*, is reachable anew."""
        self._enter()
        self.transport.connected(self._peers[peer_id])
        self.leading.connected(
            peer_id, joining=joining, last_index=last_index, promises_synced=promises_synced
        )
        self.tick_wanted = True
        if self.is_leader:
            self.leading.send_heartbeats()

    def peer_disconnected(self, peer_id: str) -> None:
        """Note that a peer's connection broke; if it led, do not wait for the timeout."""
        self._end_connection(peer_id)
        if peer_id == self.leader_id and not self.is_leader:
            self.lose_leader(peer_id)
            self.standing.leader_lost()

    def peer_replaced(self, peer_id: str) -> None:
        """Note that another connection takes the place of a peer's; `peer_connected` follows.

        If the peer led, it most likely still does and is about to say so, and a member that is cut
        off from it must not be told that it is gone.  If it has started anew it leads no longer:
        who says nothing is given up as one that has fallen silent.
        """
        self._end_connection(peer_id)
        if peer_id == self.leader_id and not self.is_leader:
            self.hasten_election(max(self._seconds_to_silence(), self.heartbeat_seconds))

    def _end_connection(self, peer_id: str) -> None:
        self._enter()
        self.tick_wanted = True
        self.transport.disconnected(self._peers[peer_id])
        self.transport.drop_held(peer_id)
        self.leading.disconnected(peer_id)
        self.standing.peer_lost(peer_id)

    def log_synced(self) -> None:
        """Note that more of the log is durable."""
        if not self.peer_ids or (self.is_leader and self.leading.has_uncommitted_answers):
            self.commit_wanted = True
        self.following.after_sync()

    def vote_synced(self) -> None:
        """Note that term and vote are durable: let go what waited for that."""
        self.tick_wanted = True
        self.transport.release_votes(self.term)
        if (
            self.votes.voted_for is not None
            and self.vote_is_durable
            and not (self.is_leader or self.transfer_in_progress)
        ):
            self.delay_election()  # the vote leaves only now, and the outcome is a message away
        self.following.after_sync()

    # -- messages -------------------------------------------------------------------------------

    def on_message(self, node: Peer, message: Message) -> None:
        """Sort one message: whose handler, and whether its term still counts."""
        kind = message["type"]
        peer_id = node.id
        if kind == "append_entries" or kind == "install":
            self._on_leader_message(node, message)
        elif kind == "append_answer" or kind == "install_answer":
            if message["term"] > self.term:
                self.step_down(message["term"])
            elif message["term"] == self.term and self.is_leader:
                if kind == "append_answer":
                    self.leading.on_answer(peer_id, message)
                else:
                    self.leading.on_install_answer(peer_id, message)
        elif kind == "pre_vote":
            self.standing.on_pre_vote(peer_id, message)
        elif kind == "pre_vote_answer":
            self.standing.on_pre_vote_answer(peer_id, message)
        elif kind == "request_vote":
            if self.joining:
                if message["term"] > self.term:
                    self.step_down(message["term"])
            else:
                self._raft.handle_stock(node, message)
        elif kind == "response_vote":
            if message["term"] == self.term and self.standing.is_new_vote(peer_id, self.term):
                self._raft.handle_stock(node, message)
        else:
            assert kind == "timeout_now", kind
            self._raft.handle_stock(node, message)

    def _on_leader_message(self, node: Peer, message: Message) -> None:
        if message["term"] < self.term:
            # Tell the sender that its time is over; stock drops this silently (flaw e).
            self.send(
                node.id,
                {
                    "type": "append_answer",
                    "term": self.term,
                    "id": message["id"],
                    "next_index": 1,
                    "success": False,
                    "reset": False,
                    "joining": self.joining,
                },
            )
            return
        if message["term"] > self.term:
            self.step_down(message["term"])
        assert not self.is_leader, "two leaders in one term"
        if self.is_candidate:
            self._raft._SyncObj__setState(FOLLOWER)
        self.hear_leader(node)
        if self.standing.wants_to_lead:
            self.standing.leader_heard()
        if message["type"] == "append_entries":
            self.following.on_append(message)
        else:
            self.following.on_install(message)

    def send(self, peer_id: str, message: Message) -> None:
        """Put a message into the outbox that waits for no vote."""
        self.transport.outbox.append((peer_id, message))

    # -- what the halves of replication ask for -------------------------------------------------

    def step_down(self, term: int) -> None:
        """Adopt a higher *term* as a follower of nobody."""
        assert term > self.term
        self.tick_wanted = True
        self._raft._SyncObj__setCurrentTerm(term, None)
        self._raft._SyncObj__raftLeader = None
        self._raft._SyncObj__transferInProgress = False
        self._raft._SyncObj__setState(FOLLOWER)

    def note_answer(self, peer_id: str) -> None:
        """Count a peer as alive for the leader's check that a majority still listens."""
        self._raft._SyncObj__lastResponseTime[self._peers[peer_id]] = self.now()

    def commit_to(self, index: int) -> None:
        """As a follower, take over how far the leader has committed; never backwards."""
        if index > self.store.end_index:
            index = self.store.end_index
        if index > self.commit_index:
            self.commit_index = index
            self._raft._SyncObj__raftCommitIndex = index

    def apply(self) -> None:
        """Publish what is both committed and durable here."""
        commit_index: int = self._raft._SyncObj__raftCommitIndex
        if commit_index > self.commit_index:
            self.commit_index = commit_index
            if self.is_leader:
                self.leading.committed_at = self.ticked_at
                self.look_by(self.ticked_at + COMMIT_NOTICE_SECONDS)
        index, durable_index = self.commit_index, self.store.durable_index
        if index > durable_index:
            index = durable_index
        if index > self.applied_index:
            self.applied_index = index
            self._raft._SyncObj__raftLastApplied = index
        if self.is_leader and not self.leader_ready:
            self.leader_ready = self.applied_index >= self.first_index_of_own_term

    def send_again_at(self, due: float) -> None:
        """As `look_by`, outside of a step, where *due* lies ahead."""
        if self.now() < due and self.look_by(due):
            self.tick_wanted = True  # so that whoever drives this asks anew for the deadline

    def look_by(self, due: float) -> bool:
        """As the leader, see at *due* at the latest who is to be sent something; whether sooner."""
        if due >= self._raft._SyncObj__newAppendEntriesTime:
            return False
        self._raft._SyncObj__newAppendEntriesTime = due
        return True

    def on_heartbeat_due(self) -> None:
        """Send to whoever has heard nothing for too long; set the time for the next look."""
        self._raft._SyncObj__newAppendEntriesTime = self.leading.send_heartbeats()

    def ask_to_take_over(self, peer_id: str) -> None:
        """Ask a caught-up follower to stand at once (Raft dissertation 3.10, TimeoutNow)."""
        self.send(peer_id, {"type": "timeout_now", "term": self.term})

    def abdicate(self) -> None:
        """Stop leading without a new term: this node's disk no longer keeps up."""
        if self.is_leader:
            self._raft._SyncObj__setState(FOLLOWER)
            self._raft._SyncObj__raftLeader = None

    def become_voter(self, reason: str) -> None:
        """Let this node vote from now on; kept with the vote."""
        self.votes.end_joining(reason)
        self.tick_wanted = True

    def snapshot_at_base(self) -> bytes | None:
        """Return the state at the store's base, or None and have it read."""
        base_index = self.store.base.index
        if self._snapshot is not None and self._snapshot[0] == base_index:
            return self._snapshot[1]
        self._snapshot = None
        self.snapshot_wanted = base_index
        return None

    def provide_snapshot(self, base_index: int, state: bytes) -> None:
        """Take the state that `snapshot_wanted` asked for."""
        self.snapshot_wanted = 0
        self._snapshot = (base_index, state)

    def install(self, base: LogPoint, state: bytes) -> None:
        """Replace log and state by what a snapshot says; afterwards the log is empty at *base*."""
        self._install(base, state)
        self.commit_index = self.applied_index = base.index
        self._raft._SyncObj__raftCommitIndex = base.index
        self._raft._SyncObj__raftLastApplied = base.index

    def _on_state_changed(self, old: int, new: int) -> None:
        self.is_leader, self.is_candidate = new == LEADER, new == CANDIDATE
        self.leader_ready = False
        self.tick_wanted = True
        if old == LEADER:
            self._stopped_leading = True
            self.delay_election()  # the deadline is as old as the leadership
