"""Followers that no commit needs hear of small entries a little later, several at a time.

A majority commits.  Of three members that is the leader with one follower; nobody waits for what
the other one does.  Where they share a machine it does it in front of those that are waited for
all the same: it receives, writes, syncs and answers on the processors and the disk they need.  So
whoever is quickest is sent an entry at once and the rest, the *reserve*, some milliseconds later
with what has come by then: one message, one sync and one answer for all of it.  The Paxos
literature calls it thrifty (Moraru, Andersen, Kaminsky: EPaxos, SOSP 2013, section 6).

What counts for a commit is what it was.  Nobody is held back when it could matter:

- more than the entry itself is not committed yet, or those in front lack something, or are away;
- the reserve is to tell of more than a commit: somebody waits for every copy;
- as much has come together that it is work by itself.

One in front that stalls holds an entry up for `HOLD_SECONDS`: by then the reserve has it too, and
whoever answers first is in front from then on.  So that the quicker ones are, now and then an entry
goes to all at once.  And where the first answer is late the next entries go to all for a while, the
longer the more often that happens: with a processor that others keep busy, or a slow disk, the
quickest of several followers is worth more than what it costs to ask them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dledger.config import HoldBack

if TYPE_CHECKING:
    from dledger.config import LedgerConfig
    from dledger.raft.engine import RaftEngine
    from dledger.raft.progress import Progress

# Shorter than a commit may take to be announced, which goes the same way then.
HOLD_SECONDS = 0.004
HOLD_SIZE_MAX = 8 * 1024  # bytes of entries
# Of so many times that somebody could be held back once nobody is; a prime, or of several it would
# always be the same one's turn.
RACE_EACH = 31
PATIENCE_SECONDS = 0.002  # an answer that takes longer is late: a scheduler's slice is 3 ms
REST_SECONDS_MIN, REST_SECONDS_MAX = 0.02, 1.0  # nobody is held back for so long then
_SHRINKS_BY = 0.98  # the next rest, with each answer in time: it grows when one of 35 is late


class Reserve:
    """Who of the followers is in front, and who may wait."""

    def __init__(self, engine: RaftEngine, config: LedgerConfig) -> None:
        self._engine = engine
        self._front: tuple[str, ...] = tuple(engine.peer_ids[: engine.majority - 1])
        here = config.member.host
        self._may_wait = frozenset(
            member.node_id
            for member in config.members
            if member.node_id != config.node_id
            and (
                config.raft.hold_back is HoldBack.ALWAYS
                or (config.raft.hold_back is HoldBack.AUTO and member.host == here)
            )
        )
        self.is_kept = bool(self._may_wait)  # whether anybody is ever held back
        self._hold_count = 0
        self._alone_index = 0  # last entry held back from somebody, until those in front have it
        self._alone_since = 0.0
        self._rest_seconds = REST_SECONDS_MIN
        self._rests_until = float("-inf")

    @property
    def front(self) -> tuple[str, ...]:
        """Who is sent everything at once: with the leader a majority, the last to answer first."""
        return self._front

    def start(self) -> None:
        """Forget what the last leadership held back."""
        self._alone_index = 0

    def holds(self, peer_id: str, progress: Progress) -> bool:
        """Return whether a follower is to wait for what it has not been sent yet.

        If so the engine looks again in time.
        """
        engine = self._engine
        store, end = engine.store, engine.store.end
        if (
            peer_id in self._front
            or peer_id not in self._may_wait
            or progress.probing
            or progress.joining
            or end.index > engine.commit_index + 1
            or engine.ticked_at < self._rests_until
            or not self._is_front_in_step()
        ):
            return False
        levels, next_index = engine.levels, progress.next_index
        if levels.sync_wanted >= next_index or levels.written_wanted >= next_index:
            return False
        now = engine.ticked_at
        if progress.held_since is None:
            if next_index < end.index:
                return False  # behind already
            self._hold_count += 1
            position = store.locate(next_index).position
            if not self._hold_count % RACE_EACH or end.position - position > HOLD_SIZE_MAX:
                return False
            progress.held_since, progress.held_from = now, position
            engine.look_by(now + HOLD_SECONDS)
        elif (
            now >= progress.held_since + HOLD_SECONDS
            or end.position - progress.held_from > HOLD_SIZE_MAX
        ):
            return False
        if end.index > self._alone_index:
            self._alone_index, self._alone_since = end.index, now
        return True

    def _is_front_in_step(self) -> bool:
        progress_of, commit_index = self._engine.leading.progress, self._engine.commit_index
        for peer_id in self._front:
            progress = progress_of[peer_id]
            if (
                not progress.connected
                or progress.probing
                or progress.joining
                or progress.match_index < commit_index
            ):
                return False
        return True

    def answered(self, peer_id: str, progress: Progress) -> None:
        """Note that a follower has what is not committed yet; the quickest ones are in front."""
        front, match_index = self._front, progress.match_index
        is_awaited = match_index >= self._alone_index > self._engine.commit_index
        is_new = peer_id not in front
        if progress.joining or not (is_awaited or is_new):
            return
        have_it = sum(
            other.match_index >= match_index for other in self._engine.leading.progress.values()
        )
        if is_awaited and have_it >= len(front):
            self._alone_index = 0
            self._note_time(self._engine.now())
        if is_new and have_it <= len(front):
            self._front = (peer_id, *front[:-1])

    def _note_time(self, now: float) -> None:
        """Note that enough followers have what was held back from others."""
        if now <= self._alone_since + PATIENCE_SECONDS:
            self._rest_seconds = max(self._rest_seconds * _SHRINKS_BY, REST_SECONDS_MIN)
        else:
            self._rests_until = now + self._rest_seconds
            self._rest_seconds = min(self._rest_seconds * 2, REST_SECONDS_MAX)
