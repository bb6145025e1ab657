"""When a member stands for election: the deadline that PySyncObj keeps, set by what is known.

A leader that has been silent for an election timeout is given up; one whose connection broke is
given up at once.  How long a follower waits is drawn by lot, anew from time to time, so that those
who wait do not stand together; where it is known whose turn it is, nobody need draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dledger.raft.guarded import GuardedSyncObj, Peer

if TYPE_CHECKING:
    import random

    from dledger.clock import Clock
    from dledger.config import LedgerConfig


class ElectionTimes:
    """The part of `RaftEngine` that says by when there has to be a leader."""

    is_leader = False  # whether this node thinks it leads; another may have been elected since
    leader_id: str | None  # whom this node follows, itself when it leads, None: nobody is known
    _raft: GuardedSyncObj

    def __init__(self, *, config: LedgerConfig, clock: Clock, chance: random.Random) -> None:
        """Begin with no leader heard of.

        Args:
            config: the member's settings.
            clock: source of time, in seconds.
            chance: source of election timeouts.
        """
        raft = config.raft
        self.node_id = config.node_id
        ids = sorted(member.node_id for member in config.members)
        self._peers = {node_id: Peer(node_id, rank) for rank, node_id in enumerate(ids)}
        self._clock = clock
        self.now = clock.now  # seconds
        self._chance = chance
        self.heartbeat_seconds = raft.heartbeat_interval_ms / 1000
        self.election_seconds_min = raft.election_timeout_min_ms / 1000
        self.election_seconds_max = raft.election_timeout_max_ms / 1000
        self._election_stagger_seconds = raft.election_stagger_ms / 1000
        self.tick_wanted = True  # something has happened that PySyncObj has to look at
        self.leader_heard_at = float("-inf")
        self.leader_is_gone = False  # its connection broke, and no other has been heard of
        self._patience_seconds = 0.0  # how long this follower waits for a leader, by chance
        self._patience_drawn_at = float("-inf")  # and when that was drawn

    @property
    def has_live_leader(self) -> bool:
        """Return whether a leader was heard of within the least election timeout."""
        if self.is_leader:
            return True
        if self.leader_id is None:
            return False
        return self.now() < self.leader_heard_at + self.election_seconds_min

    @property
    def transfer_in_progress(self) -> bool:
        """Return whether the leader has asked this node to take over."""
        return bool(self._raft._SyncObj__transferInProgress)

    def next_deadline(self) -> float:
        """Return the clock's second at which `tick` has something to do at the latest."""
        if self.is_leader:
            deadline: float = self._raft._SyncObj__newAppendEntriesTime
        else:
            deadline = self._raft._SyncObj__raftElectionDeadline
        return deadline

    def hear_leader(self, leader: Peer) -> None:
        """Note that *leader* has said something in this term: wait for its next word."""
        now = self.now()
        raft = self._raft
        if now >= self.leader_heard_at + self.election_seconds_min or self.leader_id != leader.id:
            self.tick_wanted = True  # there is a leader again, or another one
            raft._SyncObj__raftLeader = leader
        self.leader_heard_at = now
        if self.leader_is_gone or now >= self._patience_drawn_at + self.heartbeat_seconds:
            self.leader_is_gone = False
            self._patience_drawn_at = now
            self._patience_seconds = raft._SyncObj__generateRaftTimeout()
        if not raft._SyncObj__transferInProgress:
            raft._SyncObj__raftElectionDeadline = now + self._patience_seconds

    def lose_leader(self, leader_id: str) -> None:
        """Note that the leader's connection broke: do not wait for the timeout."""
        self.leader_heard_at = float("-inf")
        self.leader_is_gone = True
        self.hasten_election(self._turn_to_stand(leader_id) + 0.0001)

    def short_election_timeout(self) -> float:
        """Return how long to wait for an election's outcome when the leader is known to be gone.

        PySyncObj's long one tells a dead leader from a slow one; this has to outlast one round of
        votes only.
        """
        return self.election_seconds_min * (0.25 + 0.35 * self._chance.random())

    def delay_election(self) -> None:
        """Wait an election timeout from now."""
        timeout = self._raft._SyncObj__generateRaftTimeout()
        self._raft._SyncObj__raftElectionDeadline = self.now() + timeout

    def hasten_election(self, delay_seconds: float) -> None:
        """Stand for election after *delay_seconds*, unless that is due earlier."""
        deadline = self.now() + delay_seconds if delay_seconds else float("-inf")
        self._raft._SyncObj__raftElectionDeadline = min(
            deadline, self._raft._SyncObj__raftElectionDeadline
        )

    def postpone_election(self) -> None:
        """Leave time for one round of votes of somebody else."""
        self._raft._SyncObj__raftElectionDeadline = max(
            self.now() + self.short_election_timeout(), self._raft._SyncObj__raftElectionDeadline
        )

    def stand_when_leader_is_silent(self) -> None:
        """Stand as soon as the leader has been silent for a least election timeout.

        A peer has found it so: two of a kind need not draw lots.  Whatever the leader says next
        sets the time for that anew.
        """
        self.hasten_election(self._seconds_to_silence())

    def _seconds_to_silence(self) -> float:
        """Return after how many seconds the leader, should it say nothing, is taken to be gone."""
        silent_at = self.leader_heard_at + self.election_seconds_min
        return max(silent_at - self.now(), 0.0) + 0.0001

    def _turn_to_stand(self, gone_leader: str) -> float:
        """Return after how many seconds it is this node's turn to follow a leader that died.

        All survivors hear of it at once.  Standing together they would split the vote, so they
        stand one after another, and whoever is first and has all of the log is elected alone.
        """
        survivors = [node_id for node_id in self._peers if node_id != gone_leader]
        turn = survivors.index(self.node_id) + self._chance.random() / 4
        return turn * self._election_stagger_seconds

    def cancel_transfer(self) -> None:
        """Forget that the leader asked this node to take over."""
        self._raft._SyncObj__transferInProgress = False
