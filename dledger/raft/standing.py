"""Whether to stand for election: a pre-vote first, so that one cut link elects nobody.

PySyncObj starts an election whenever its timer runs out, which makes a node behind one broken
link depose a healthy leader again and again.  Its only hook before an election is the question
whether it is connected to anyone; the answer here is "yes" only when a majority would vote.

Source: Raft dissertation, section 9.6; raft-engine.md, fix f.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dledger.raft.engine import RaftEngine

Message = dict[str, Any]


class Standing:
    """The pre-vote round of this node, and its answers to those of others."""

    def __init__(self, engine: RaftEngine) -> None:
        self._engine = engine
        self.wants_to_lead = False  # it has asked, and heard of no leader since
        self._round = 0
        self._granted: set[str] = set()
        self._is_asking = False  # a round of this node's own is open
        self._unanswered: set[str] = set()  # who has not answered the last round yet
        # Who was told no as a leader was alive here: when, and what was asked.
        self._turned_away: dict[str, tuple[float, Message]] = {}
        self._won_term: int | None = None  # a majority would elect this node out of this term
        self._voters: set[str] = set()
        self._voters_term = 0

    def may_stand(self) -> bool:
        """Return whether to start an election now; if not, ask the others first."""
        engine = self._engine
        won, self._won_term = self._won_term, None
        if engine.joining or engine.storage_stalled or not engine.store.has_room(0):
            # A node that may not vote, or has no room for the no-op of a new leader, waits.
            engine.cancel_transfer()
            engine.delay_election()
            return False
        if not engine.peer_ids or engine.transfer_in_progress or won == engine.term:
            return True
        if engine.vote_is_under_way:
            engine.delay_election()  # an election is not over before its votes are on disk
            return False
        self._round += 1
        self._granted = {engine.node_id}
        self.wants_to_lead = self._is_asking = True
        self._unanswered = set(engine.peer_ids)
        engine.delay_election()
        for peer_id in engine.peer_ids:
            engine.send(
                peer_id,
                {
                    "type": "pre_vote",
                    "term": engine.term,
                    "round": self._round,
                    "last_log_index": engine.store.end_index,
                    "last_log_term": engine.store.end_term,
                },
            )
        return False

    def on_pre_vote(self, peer_id: str, message: Message) -> None:
        """Say whether this node would vote for the peer, without promising anything.

        Two that ask at the same time would both be told yes, and then split the vote, again and
        again where links are long: their tries have to lie a round of both apart.  So of two whose
        logs are equal the one with the higher id gives way; whose log is shorter does so anyway.

        No member waits for a timer where another one knows better.  Who is told no because a
        leader is alive is answered again when that one is gone: the first to see a leader die asks
        those who have not seen it yet.  And who is told no for its shorter log will need the votes
        of those who have a longer one, so these stand at once.
        """
        engine = self._engine
        store = engine.store
        has_leader = engine.has_live_leader
        has_all = (message["last_log_term"], message["last_log_index"]) >= (
            store.end_term,
            store.end_index,
        )
        granted = (
            not engine.joining
            and not has_leader
            and message["term"] >= engine.term
            and has_all
            and not engine.vote_is_under_way
        )
        engine.send(
            peer_id,
            {
                "type": "pre_vote_answer",
                "term": engine.term,
                "round": message["round"],
                "granted": granted,
            },
        )
        if granted:
            if not self._is_asking:
                engine.postpone_election()  # the peer will stand, and both would split the vote
            elif self._gives_way_to(peer_id, message):
                self._close_round()
                engine.delay_election()
        elif engine.is_leader:
            pass
        elif has_leader:
            self._turned_away[peer_id] = engine.now(), message
            engine.stand_when_leader_is_silent()
        elif not has_all:
            self._stand_in_place_of(peer_id)

    def _stand_in_place_of(self, peer_id: str) -> None:
        """Stand at once: the peer thinks the leader is gone, and its log is shorter than ours."""
        if not self._engine.is_candidate and peer_id not in self._unanswered:
            self._engine.hasten_election(0.0)

    def leader_lost(self) -> None:
        """Answer anew who was told no as long as the leader seemed to be alive."""
        turned_away, self._turned_away = self._turned_away, {}
        for peer_id, (asked_at, message) in turned_away.items():
            if self._engine.now() - asked_at < self._engine.election_seconds_max:
                self.on_pre_vote(peer_id, message)

    def peer_lost(self, peer_id: str) -> None:
        """Forget what a peer asked over a connection that broke, and expect no answer over it."""
        self._turned_away.pop(peer_id, None)
        self._unanswered.discard(peer_id)

    def leader_heard(self) -> None:
        """Want to lead no longer: whatever was asked, and won, is over."""
        self.wants_to_lead = False
        self._close_round()
        self._unanswered.clear()
        self._won_term = None

    def _gives_way_to(self, peer_id: str, message: Message) -> bool:
        store = self._engine.store
        theirs = (message["last_log_term"], message["last_log_index"])
        ours = (store.end_term, store.end_index)
        return theirs > ours or (theirs == ours and peer_id < self._engine.node_id)

    def _close_round(self) -> None:
        self._round += 1  # answers that come later belong to nobody
        self._is_asking = False

    def on_pre_vote_answer(self, peer_id: str, message: Message) -> None:
        """Count an answer of the running round; a majority starts the election at once."""
        engine = self._engine
        is_of_this_round = message["round"] == self._round
        if is_of_this_round:
            self._unanswered.discard(peer_id)
        if message["term"] > engine.term:
            engine.step_down(message["term"])
            return
        if not is_of_this_round or not message["granted"] or engine.has_live_leader:
            return
        self._granted.add(peer_id)
        if len(self._granted) >= engine.majority and self._round:
            self._close_round()
            self._won_term = engine.term
            engine.hasten_election(0.0)

    def is_new_vote(self, peer_id: str, term: int) -> bool:
        """Return whether this is the peer's first vote in *term* (PySyncObj counts every one)."""
        if term != self._voters_term:
            self._voters_term = term
            self._voters = set()
        if peer_id in self._voters:
            return False
        self._voters.add(peer_id)
        return True
