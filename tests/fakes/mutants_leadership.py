"""Mutants of who may vote, who leads, and what a proposer or reader is told."""

from __future__ import annotations

from pysyncobj import SyncObj

from dledger.core import LedgerCore
from dledger.raft import guarded
from dledger.raft.engine import RaftEngine
from dledger.raft.leading import Leading
from dledger.raft.standing import Standing
from dledger.raft.transport import EngineTransport
from dledger.store.vote_file import VoteFile, VoteTicket, _pack
from tests.fakes.mutation import mutant, put

# -- standing for election -----------------------------------------------------------------------


@mutant
def votes_are_not_held(stack):
    """Flaw c: a vote leaves before it is on the disk."""

    def send(self, node, message):
        self.outbox.append((node.id, message))
        return True

    put(stack, EngineTransport, "send", send)


@mutant
def votes_are_not_synced(stack):
    """Flaw c: the vote file is written, but never synced."""

    def run(self):

        self._file._slots.write(_pack(self._state), sync=False)
        self.is_done = True

    put(stack, VoteTicket, "run", run)


@mutant
def every_vote_counts(stack):
    """Flaw d: a second vote of the same peer counts, too."""
    put(stack, Standing, "is_new_vote", lambda _self, _peer_id, _term: True)


@mutant
def old_leaders_hear_nothing(stack):
    """Flaw e: a message of an older term is dropped without a word."""
    stock = RaftEngine._on_leader_message

    def on_leader_message(self, node, message):
        if message["term"] >= self.term:
            stock(self, node, message)

    put(stack, RaftEngine, "_on_leader_message", on_leader_message)


@mutant
def no_pre_vote(stack):
    """Flaw f: whoever hears nothing for a while starts an election."""
    stock = Standing.may_stand

    def may_stand(self):
        self._won_term = self._engine.term
        return stock(self)

    put(stack, Standing, "may_stand", may_stand)


@mutant
def nobody_gives_way(stack):
    """Of two that ask for pre-votes at the same time both stand."""
    put(stack, Standing, "_gives_way_to", lambda self, peer_id, message: False)


@mutant
def who_was_turned_away_waits(stack):
    """Who asked for a pre-vote while the leader seemed alive asks again when its timer is out."""
    put(stack, Standing, "leader_lost", lambda self: None)


@mutant
def longer_logs_wait_for_their_turn(stack):
    """A member asked by one with a shorter log says no and waits for its own timer."""
    put(stack, Standing, "_stand_in_place_of", lambda self, peer_id: None)


@mutant
def who_grants_a_pre_vote_stands_too(stack):
    """A member that has just helped another one to stand stands against it."""
    put(stack, RaftEngine, "postpone_election", lambda self: None)


@mutant
def silence_is_found_alone(stack):
    """What a peer says of a silent leader changes nothing: each waits out a timer of its own."""
    put(stack, RaftEngine, "stand_when_leader_is_silent", lambda self: None)


@mutant
def slow_votes_are_given_up(stack):
    """While its votes wait for the disk, a member starts anew, or helps others to."""
    put(stack, RaftEngine, "vote_is_under_way", False)


@mutant
def late_pre_votes_count(stack):
    """Pre-votes that come after a leader was heard of start an election all the same."""

    def on_pre_vote_answer(self, peer_id, message):
        engine = self._engine
        if message["term"] > engine.term:
            engine.step_down(message["term"])
            return
        if message["round"] != self._round or not message["granted"] or engine.is_leader:
            return
        self._granted.add(peer_id)
        if len(self._granted) >= engine.majority and self._round:
            self._round += 1
            self._won_term = engine.term
            engine.hasten_election(0.0)

    put(stack, Standing, "on_pre_vote_answer", on_pre_vote_answer)
    put(stack, Standing, "leader_heard", lambda self: None)


@mutant
def a_broken_connection_hastens_nothing(stack):
    """Survivors of a leader wait out the whole timeout."""

    def hasten_election(self, delay_seconds):
        if not delay_seconds:
            self._raft._SyncObj__raftElectionDeadline = float("-inf")

    put(stack, RaftEngine, "hasten_election", hasten_election)


@mutant
def a_replaced_connection_counts_as_lost(stack):
    """A leader that has connected anew is taken to be gone, and others are told so."""
    put(stack, RaftEngine, "peer_replaced", RaftEngine.peer_disconnected)


@mutant
def leads_on_without_a_majority(stack):
    """Flaw f: PySyncObj's own thirty seconds before a leader without answers steps down."""
    stock = guarded.SyncObjConf

    def conf(**options):
        return stock(**{**options, "leaderFallbackTimeout": 30.0})

    put(stack, guarded, "SyncObjConf", conf)


@mutant
def never_abdicates(stack):
    """A leader whose disk hangs goes on sending heartbeats."""
    put(stack, RaftEngine, "abdicate", lambda _self: None)


# -- who may vote --------------------------------------------------------------------------------


@mutant
def no_joining(stack):
    """A member that starts empty votes at once, as in the Raft paper, where no disk is lost."""
    stock = VoteFile.open.__func__

    def open_file(cls, disk, folder, *, joining):
        return stock(cls, disk, folder, joining=False)

    put(stack, VoteFile, "open", classmethod(open_file))


@mutant
def joining_members_count(stack):
    """What a member promises before it is admitted counts for commits, reads and the lead."""

    def match_index(self, peer):
        engine = self._engine
        index = min(engine.leading.progress[peer.id].match_index, engine.store.durable_index)
        return index if index >= engine.first_index_of_own_term else 0

    def heard_from(self, peer_id, message):
        progress = self.progress[peer_id]
        progress.joining = message["joining"]
        progress.acked_id = max(progress.acked_id, message["id"])
        self._engine.note_answer(peer_id)
        self._check_barriers()

    def check_barriers(self):
        while self._barriers:
            floors, callbacks = self._barriers[0]
            acks = sum(self.progress[p].acked_id >= floor for p, floor in floors.items())
            if 1 + acks < self._engine.majority:
                return
            self._barriers.popleft()
            for callback in callbacks:
                callback(True)

    put(stack, guarded.MatchView, "__getitem__", match_index)
    put(stack, Leading, "_heard_from", heard_from)
    put(stack, Leading, "_check_barriers", check_barriers)


@mutant
def admits_on_old_answers(stack):
    """Answers that were on their way when a member came count as given since then."""
    stock = Leading.connected

    def connected(self, peer_id, *, joining, **said):
        stock(self, peer_id, joining=joining, **said)
        progress = self.progress[peer_id]
        progress.sent_before = {other: p.acked_id for other, p in self.progress.items()}

    put(stack, Leading, "connected", connected)


@mutant
def admits_at_once(stack):
    """A leader admits whoever comes, whatever it has, without asking anybody."""
    put(stack, Leading, "_admit_index", lambda _self, _progress: 0)


# -- proposals -----------------------------------------------------------------------------------


@mutant
def proposals_may_stay_in_the_queue(stack):
    """PySyncObj's queue is emptied against a clock that runs."""

    def propose(self, proposal):
        self._enter()
        self._raft._applyCommand(proposal, None)
        SyncObj._checkCommandsToApply(self._raft)
        return self.store.end_index

    put(stack, RaftEngine, "propose", propose)


@mutant
def leader_is_always_ready(stack):
    """Flaw l: a leader serves before its first entry is committed."""
    put(stack, RaftEngine, "leader_ready", property(lambda self: self.is_leader, lambda *_: None))


@mutant
def nobody_hears_of_a_lost_lead(stack):
    """Proposals of a lost leadership are dropped without a word."""

    def fail_all(self):
        self._inflight.clear()
        self._waiting.clear()

    put(stack, LedgerCore, "_fail_all", fail_all)


@mutant
def a_callback_that_raises_is_called_again(stack):
    """Flaw j: the entry is taken off the list only after its callback has returned."""

    def finish_committed(self):
        while self._inflight and self._inflight[0][0] <= self.engine.applied_index:
            index, term, _, proposal = self._inflight[0]
            proposal.on_committed(index, term)
            self._inflight.popleft()
            self._pending_size -= proposal.body_size

    put(stack, LedgerCore, "_finish_committed", finish_committed)


@mutant
def whatever_has_the_index_is_acknowledged(stack):
    """A proposal is told of success when its index is committed, whichever entry is there."""

    def finish_committed(self):
        while self._inflight and self._inflight[0][0] <= self.engine.applied_index:
            index, term, _, proposal = self._inflight.popleft()
            self._pending_size -= proposal.body_size
            proposal.on_committed(index, term)

    def keep(self):
        return None

    put(stack, LedgerCore, "_finish_committed", finish_committed)
    put(stack, LedgerCore, "_fail_all", keep)


@mutant
def transfers_without_a_fence(stack):
    """Flaw q: the target is asked at once, and new proposals go on."""
    stock_transfer, stock_propose = LedgerCore.transfer, LedgerCore.propose

    def transfer(self, target, done):
        stock_transfer(self, target, done)
        if self._transfer is not None:
            self.engine.ask_to_take_over(self._transfer.target)
            self._transfer.asked = True

    def propose(self, proposal):
        under_way, self._transfer = self._transfer, None
        stock_propose(self, proposal)
        self._transfer = under_way

    put(stack, LedgerCore, "transfer", transfer)
    put(stack, LedgerCore, "propose", propose)


@mutant
def reads_without_asking(stack):
    """A leader answers reads without making sure that it still leads."""

    def request_barrier(self, callback):
        callback(self.engine.leader_ready)

    put(stack, LedgerCore, "request_barrier", request_barrier)


@mutant
def old_answers_confirm_reads(stack):
    """Any answer confirms a read, also one to a message sent before the question."""

    def start_barriers(self):
        if self._barriers_wanted:
            floors = dict.fromkeys(self.progress, 0)
            self._barriers.append((floors, self._barriers_wanted))
            self._barriers_wanted = []
            self._check_barriers()

    put(stack, Leading, "start_barriers", start_barriers)


@mutant
def commits_entries_of_older_terms(stack):
    """Raft paper, figure 8: an entry of an older term counts as committed by being on a majority.

    The rule is PySyncObj's; the mutant takes it away by committing what a majority has.
    """
    stock = RaftEngine.tick

    def tick(self):
        if self.is_leader:
            matches = sorted(
                [self.store.durable_index]
                + [p.match_index for p in self.leading.progress.values()],
                reverse=True,
            )
            index = min(matches[self.majority - 1], self.store.durable_index)
            if index > self.commit_index:
                self._raft._SyncObj__raftCommitIndex = index
        stock(self)

    put(stack, RaftEngine, "tick", tick)
