"""What a leader knows about one follower's copy of the log."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dledger.raft.pace import Pace


@dataclass(slots=True)
class Progress:
    """One follower, as seen by the leader of the current term.

    *match_index* says what the follower has durably, as proven by its answers in this term; it
    never falls while the follower keeps its disk, but with its connection to what was synced, where
    its promises do not speak of its disk.  *next_index* is where the next message starts and runs
    ahead of it by what is on the way.
    """

    next_index: int = 1
    match_index: int = 0
    # What it has told besides, when asked (`dledger.raft.levels`): for acks, and for a commit only
    # what outlives a connection.
    written_index: int = 0
    synced_index: int = 0
    # Whether its promises speak of its disk; before it has said anything, none speaks of less.
    promises_synced: bool = True
    probing: bool = True  # the follower's log is not known to agree yet: one message at a time
    inflight: deque[int] = field(default_factory=deque)  # last index of each message on its way
    append_id: int = 0  # id of the last append message sent; answers echo it
    acked_id: int = 0  # highest id that came back in this term
    reset_floor: int = 0  # refusals of messages with a lower id are stale
    last_sent_at: float = float("-inf")
    connected: bool = False
    # Ids of the last message to each peer when this one connected: newer ones prove something.
    sent_before: dict[str, int] = field(default_factory=dict)
    joining: bool = False  # the peer started empty and may not vote yet
    sent_commit_index: int = 0
    installing_base: int = 0  # base index of the snapshot on its way; 0: none
    install_offset: int = 0  # bytes of it the follower has
    probe_pending: bool = False  # a probe is on its way
    pace: Pace = field(default_factory=Pace)
    held_since: float | None = None  # since then it waits for entries, from the position on
    held_from: int = 0

    def reset_to(self, next_index: int) -> None:
        """Start over at *next_index*, one message at a time; answers on their way are stale."""
        self.next_index = next_index
        self.inflight.clear()
        self.probing = True
        self.probe_pending = False
        self.pace.forget()
        self.held_since = None
        self.reset_floor = self.append_id + 1

    def acknowledge(self, match_index: int) -> bool:
        """Note that the follower has everything up to *match_index*; return whether that is new."""
        while self.inflight and self.inflight[0] <= match_index:
            self.inflight.popleft()
        # Never backwards on success: doing so resends what is already on its way (flaw a).
        if self.next_index <= match_index:
            self.next_index = match_index + 1
        if match_index <= self.match_index:
            return False
        self.match_index = match_index
        return True
