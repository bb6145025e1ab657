"""Up to which entry the leader's log has reached each level of durability.

Committing has nothing to do with it: what is committed is decided by the match indexes alone, as
ever.  A level only says when an answer may leave, and most answers leave at the commit, for which
nothing is computed here.  For the others a follower has to say more than its promise: with
``SYNC_FLUSH`` what it has written and not synced yet, with ``ASYNC_FLUSH`` what it has synced.  It
says so when the leader's messages ask for it, and they ask only while somebody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dledger.config import FlushDiskType
from dledger.durability import BEST_FIRST, Copies, Durability

if TYPE_CHECKING:
    from dledger.raft.engine import RaftEngine
    from dledger.raft.progress import Progress


class Levels:
    """The leader's view of who has what, and where."""

    def __init__(self, engine: RaftEngine, flush_disk_type: FlushDiskType) -> None:
        self._engine = engine
        self._promises_synced = flush_disk_type is FlushDiskType.SYNC_FLUSH
        # Followers are asked to sync, or to tell what they have written, up to these entries.
        self.sync_wanted = 0
        self.written_wanted = 0
        self.all_wanted = 0  # somebody waits for every copy of this entry, or did

        # What is true of every committed entry: no more than the laxest member promises.
        self.of_commit = self._least_promise()

    def start(self) -> None:
        """Forget what the last leadership was asked for."""
        self.sync_wanted = self.written_wanted = self.all_wanted = 0

    def peer_connected(self) -> None:
        """Look again at what members promise: one of them may have other settings now."""
        self.of_commit = self._least_promise()

    def _least_promise(self) -> Durability:
        synced = self._promises_synced and all(
            progress.promises_synced for progress in self._engine.leading.progress.values()
        )
        return Durability(Copies.MAJORITY, synced)

    def want(self, level: Durability, index: int) -> None:
        """Have followers say what is needed to know when entry *index* has reached *level*."""
        if level.copies is Copies.ALL:
            self.all_wanted = max(self.all_wanted, index)
        if level.synced:
            # The server of this very node looks at it, too: with ASYNC_FLUSH it has to sync now.
            self._engine.sync_wanted = max(self._engine.sync_wanted, index)
            if level.copies is not Copies.LEADER:
                self.sync_wanted = max(self.sync_wanted, index)
        elif level.copies is not Copies.LEADER:
            self.written_wanted = max(self.written_wanted, index)

    def reached(self, level: Durability) -> int:
        """Return up to which entry *level* has been reached; call on a leader."""
        engine = self._engine
        own = engine.store.synced_index if level.synced else engine.store.end_index
        if level.copies is Copies.LEADER:
            return own
        committed = engine.applied_index
        if level == self.of_commit:
            return committed
        marks = [own, *(_mark(progress, level) for progress in engine.leading.progress.values())]
        if level.copies is Copies.ALL:
            return min(*marks, committed) if len(marks) > 1 else min(own, committed)
        marks.sort(reverse=True)
        mark = marks[engine.majority - 1]
        # A majority that has it in memory is enough for that level, with SYNC_FLUSH long before
        # the commit; on disk it counts only once it is committed.
        return min(mark, committed) if level.synced else max(mark, committed)

    def best_of(self, index: int) -> Durability:
        """Return the best level that entry *index* has reached."""
        for level in BEST_FIRST[:-1]:
            if index <= self.reached(level):
                return level
        return BEST_FIRST[-1]


def _mark(progress: Progress, level: Durability) -> int:
    """Return up to where a follower's copies are as *level* wants them.

    One whose disk was lost counts when it may vote again, for this as for the commit.
    """
    if progress.joining:
        return 0
    if not level.synced:
        return max(progress.match_index, progress.written_index)
    if progress.promises_synced:
        return max(progress.match_index, progress.synced_index)
    return progress.synced_index
