"""Bugs of what a follower keeps, of what a leader believes, and of what counts as committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dledger.core import LedgerCore
from dledger.entry import HEADER_SIZE, decode_header
from dledger.raft import guarded
from dledger.raft.engine import RaftEngine
from dledger.raft.following import Following
from dledger.raft.leading import Leading
from dledger.raft.snapshot import SnapshotReceiver
from jepsen_like.mutants.grounds import (
    BEHIND,
    CUTS,
    LOST_DISKS,
    OLD_TERMS,
    PIECES,
    QUICK_CUTS,
    SLOW_CUTS,
)
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence


# -- what counts as committed ----------------------------------------------------------------------


@mutant(on=CUTS)
def early_ack() -> Sequence[Patch]:
    """Acknowledged when the leader has appended."""
    stock = RaftEngine.apply

    def match_index(self: Any, peer: object) -> int:
        return int(self._engine.store.end_index)

    def apply(self: Any) -> None:
        if self.is_leader:
            self._raft._SyncObj__raftCommitIndex = max(self.commit_index, self.store.end_index)
        stock(self)

    return [(guarded.MatchView, "__getitem__", match_index), (RaftEngine, "apply", apply)]


@mutant(on=OLD_TERMS)
def commits_entries_of_older_terms() -> Sequence[Patch]:
    """An entry of an older term counts as committed by being on a majority (paper, figure 8)."""
    stock = RaftEngine.tick

    def tick(self: Any) -> None:
        if self.is_leader:
            having = [p.match_index for p in self.leading.progress.values()]
            having = sorted([self.store.durable_index, *having], reverse=True)
            index = min(having[self.majority - 1], self.store.durable_index)
            if index > self.commit_index:
                self._raft._SyncObj__raftCommitIndex = index
        stock(self)

    return [(RaftEngine, "tick", tick)]


@mutant(on=CUTS)
def commits_what_is_not_verified() -> Sequence[Patch]:
    """A leader's commit index is taken over for a log that may not be the leader's."""
    stock = Following.on_append

    def on_append(self: Any, message: Any) -> None:
        stock(self, message)
        self._engine.commit_to(message["commit_index"])

    return [(Following, "on_append", on_append)]


@mutant(on=QUICK_CUTS)
def whatever_has_the_index_is_acknowledged() -> Sequence[Patch]:
    """A proposal hears of success when its index is committed, whichever entry is there."""

    def finish_committed(self: Any) -> None:
        while self._inflight and self._inflight[0][0] <= self.engine.applied_index:
            index, term, _, proposal = self._inflight.popleft()
            self._pending_size -= proposal.body_size
            proposal.on_committed(index, term)

    def fail_all(self: object) -> None:
        pass

    return [
        (LedgerCore, "_finish_committed", finish_committed),
        (LedgerCore, "_fail_all", fail_all),
    ]


# -- what a leader believes ------------------------------------------------------------------------


@mutant(on=CUTS)
def sent_counts_as_answered() -> Sequence[Patch]:
    """A follower is believed to have whatever was sent to it."""
    stock = Leading._send_append

    def send_append(self: Any, peer_id: str, progress: Any, raw: Any, last_index: int) -> None:
        stock(self, peer_id, progress, raw, last_index)
        if not progress.probing:
            progress.match_index = max(progress.match_index, last_index)

    return [(Leading, "_send_append", send_append)]


# -- what a follower keeps -------------------------------------------------------------------------


@mutant(on=SLOW_CUTS)
def cuts_what_matches() -> Sequence[Patch]:
    """A follower cuts its log behind each append, though what is there matches (stock)."""
    stock = Following.on_append

    def on_append(self: Any, message: Any) -> None:
        store, previous = self._engine.store, message["prev_index"]
        if (
            max(store.base.index, store.checkpoint_commit_index) <= previous < store.end_index
            and store.term_at(previous) == message["prev_term"]
        ):
            store.truncate_from(previous + 1)
        stock(self, message)

    return [(Following, "on_append", on_append)]


@mutant(on=CUTS)
def conflicts_are_kept() -> Sequence[Patch]:
    """A follower passes over entries it has by index alone, whatever their term."""

    def keep_entries(self: Any, raw: memoryview, last_index: int) -> bool:
        store = self._engine.store
        offset = 0
        while offset + HEADER_SIZE <= raw.nbytes:
            header = decode_header(raw, offset)
            if header.index > store.end_index:
                break
            offset += header.size
        rest = raw[offset:]
        if rest.nbytes:
            if not store.fits(rest.nbytes, entry_count=last_index - store.end_index):
                self.waiting_for_room = True
                self._say_alive()
                return False
            store.append_raw(rest)
        return True

    return [(Following, "_keep_entries", keep_entries)]


@mutant(on=CUTS)
def previous_entry_is_not_compared() -> Sequence[Patch]:
    """A follower does not look whether the entry before an append is the leader's."""
    stock = Following.on_append

    def on_append(self: Any, message: Any) -> None:
        store, previous = self._engine.store, message["prev_index"]
        if store.base.index <= previous <= store.end_index:
            message = {**message, "prev_term": store.term_at(previous)}
        stock(self, message)

    return [(Following, "on_append", on_append)]


# -- snapshots -------------------------------------------------------------------------------------


@mutant(on=BEHIND)
def nobody_behind_is_helped() -> Sequence[Patch]:
    """A member behind retention is sent nothing."""

    def send_install(self: object, peer_id: str) -> bool:
        return False

    return [(Leading, "_send_install", send_install)]


@mutant(on=PIECES)
def believes_any_snapshot() -> Sequence[Patch]:
    """Pieces of a snapshot are strung together as they come, and nothing is checked."""

    def receive(self: Any, message: Any) -> bytes | None:
        self._data += message["data"]
        if len(self._data) < message["total"]:
            return None
        state = bytes(self._data)
        self.forget()
        return state

    return [(SnapshotReceiver, "receive", receive)]


# -- the pace --------------------------------------------------------------------------------------


@mutant(on=LOST_DISKS)
def who_is_far_behind_rests_for_ever() -> Sequence[Patch]:
    """A member that was away is sent one piece of the old, and no second one."""

    def rests(self: object, progress: object) -> bool:
        return True

    return [(Leading, "_rests", rests)]
