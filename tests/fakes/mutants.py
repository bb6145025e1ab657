"""The engine with one mend taken out, by name: what a test that guards the mend has to notice.

Each mutant is the smallest change that brings a flaw of ``docs/raft-engine.md`` back.  `mutated`
puts one in for the time of a ``with`` block; `against` runs a scenario on the product, where it has
to pass, and on the mutants named, where it has to fail.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from pysyncobj import syncobj as library

from dledger.core import LedgerCore
from dledger.errors import LedgerError
from dledger.peers import messages as wire
from dledger.raft import engine as engine_module
from dledger.raft.engine import RaftEngine
from dledger.raft.following import Following
from dledger.raft.journal import LedgerJournal
from dledger.raft.leading import Leading
from dledger.raft.progress import Progress
from dledger.raft.standing import Standing
from dledger.raft.transport import EngineTransport
from dledger.remoting.outbox import Outbox
from dledger.store.ledger_store import LedgerStore
from dledger.store.mapped_file_queue import MappedFileQueue
from dledger.store.vote_file import VoteFile, VoteTicket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How a mutant shows: a check of the test, of the cluster or of the product itself.
CAUGHT = (AssertionError, LedgerError, pytest.fail.Exception)

MUTANTS: dict[str, Callable[[contextlib.ExitStack], None]] = {}


def mutant(
    apply: Callable[[contextlib.ExitStack], None],
) -> Callable[[contextlib.ExitStack], None]:
    """Register a mutant under its function's name."""
    MUTANTS[apply.__name__] = apply
    return apply


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """Run what is inside with one mend taken out."""
    with contextlib.ExitStack() as stack:
        MUTANTS[name](stack)
        yield


def against(*names: str) -> Callable[[Callable[[], None]], Callable[[str], None]]:
    """Turn a scenario into a test: the product passes it, each mutant named does not."""
    for name in names:
        assert name in MUTANTS, name

    def decorate(scenario: Callable[[], None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("engine", ["product", *names])
        @functools.wraps(scenario)
        def test(engine: str) -> None:
            if engine == "product":
                scenario()
                return
            with mutated(engine), pytest.raises(CAUGHT):
                scenario()

        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look for its arguments
        test.scenario, test.mutants = scenario, names  # type: ignore[attr-defined]
        return test

    return decorate


def _put(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.enter_context(mock.patch.object(owner, name, value))


# -- following: what is kept, what is promised ---------------------------------------------------


@mutant
def cuts_what_matches(stack):
    """Flaw a, one half: everything behind ``prev`` goes, whether it matches or not."""
    stock = Following.on_append

    def on_append(self, message):
        store, previous = self._engine.store, message["prev_index"]
        if (
            store.base.index <= previous < store.end_index
            and store.term_at(previous) == message["prev_term"]
        ):
            store.truncate_from(previous + 1)
        stock(self, message)

    _put(stack, Following, "on_append", on_append)


@mutant
def promises_what_is_not_synced(stack):
    """Flaw c: an answer says what was written, not what is on the disk."""

    stock = Following.on_append

    def on_append(self, message):
        stock(self, message)
        if self._answer_due:
            self.answer()

    def answer(self):
        self._answer_due = False
        self._send_answer(next_index=self._verified_index + 1, success=True, reset=False)

    _put(stack, Following, "on_append", on_append)
    _put(stack, Following, "answer", answer)


@mutant
def promises_in_a_term_not_synced(stack):
    """Flaw c: an answer leaves before the term it is given in is on the disk."""
    _put(stack, RaftEngine, "vote_is_durable", property(lambda _self: True))


@mutant
def forgets_the_answer_due(stack):
    """An answer to a heartbeat takes the place of the one that waits for a sync."""
    stock = Following.answer

    def answer(self):
        due = self._engine.vote_is_durable
        stock(self)
        if due:
            self._answer_due = False

    _put(stack, Following, "answer", answer)


@mutant
def commits_what_is_not_verified(stack):
    """Flaw n1: the leader's commit index is taken over for a log that may not be the leader's."""
    stock = Following.on_append

    def on_append(self, message):
        stock(self, message)
        self._engine.commit_to(message["commit_index"])

    _put(stack, Following, "on_append", on_append)


@mutant
def backs_off_one_by_one(stack):
    """A refusal names the entry before, not the start of the term that disagrees."""
    _put(stack, Following, "_first_disputed_index", lambda _self, previous: previous)


@mutant
def installs_what_is_known(stack):
    """Flaw n: a snapshot is installed even where the log has all of it."""

    def on_install(self, message):
        engine = self._engine
        self._enter_term()
        self._answer_id = message["id"]
        state = self._receiver.receive(message)
        if state is None:
            self._answer_install(message["base"].index, offset=self._receiver.offset, done=False)
            return
        engine.install(message["base"], state)
        self._verify_to(message["base"].index)
        self._answer_install(message["base"].index, offset=0, done=True)

    _put(stack, Following, "on_install", on_install)


@mutant
def believes_any_snapshot(stack):
    """Flaw n3: pieces are strung together as they come, and nothing is checked."""

    def receive(self, message):
        self._data += message["data"]
        if len(self._data) < message["total"]:
            return None
        state = bytes(self._data)
        self.forget()
        return state

    from dledger.raft.snapshot import SnapshotReceiver

    _put(stack, SnapshotReceiver, "receive", receive)


@mutant
def forgets_what_it_turned_away(stack):
    """A follower without room does not ask again when there is some."""
    _put(stack, Following, "resume", lambda _self: None)


# -- leading: what is sent, what an answer proves ------------------------------------------------


@mutant
def success_moves_next_back(stack):
    """Flaw a, the other half: a success says where to go on, though more is on its way."""
    stock = Progress.acknowledge

    def acknowledge(self, match_index):
        is_news = stock(self, match_index)
        self.next_index = match_index + 1
        return is_news

    _put(stack, Progress, "acknowledge", acknowledge)


@mutant
def answers_of_any_term_count(stack):
    """Flaw b: an answer to a leader of an earlier term counts for this one."""
    stock = RaftEngine.on_message

    def on_message(self, node, message):
        if message["type"] == "append_answer" and message["term"] < self.term:
            message = {**message, "term": self.term}
        stock(self, node, message)

    _put(stack, RaftEngine, "on_message", on_message)


@mutant
def leader_counts_what_it_has_not_synced(stack):
    """Flaw c: the leader counts itself without asking its disk."""

    def match_index(self, peer):
        progress = self._engine.leading.progress[peer.id]
        index = 0 if progress.joining else progress.match_index
        return index if index >= self._engine.first_index_of_own_term else 0

    _put(stack, engine_module._MatchView, "__getitem__", match_index)
    # And publishes what is committed by the others alone, as stock does.
    stock = RaftEngine.apply

    def apply(self):
        stock(self)
        if self.is_leader:
            self.applied_index = max(self.applied_index, self.commit_index)

    _put(stack, RaftEngine, "apply", apply)


@mutant
def old_refusals_count(stack):
    """The livelock: refusals of messages sent before the last step back are honoured again."""
    stock = Progress.reset_to

    def reset_to(self, next_index):
        stock(self, next_index)
        self.reset_floor = 0

    _put(stack, Progress, "reset_to", reset_to)


@mutant
def sends_on_while_searching(stack):
    """The livelock: all of the backlog is sent though the place where logs part is not known."""
    stock = Progress.reset_to

    def reset_to(self, next_index):
        stock(self, next_index)
        self.probing = False
        self.reset_floor = 0

    _put(stack, Progress, "reset_to", reset_to)


@mutant
def has_no_window(stack):
    """Flaw i: whatever is not acknowledged yet is sent again with each heartbeat, all of it."""

    def send_entries(self, peer_id):
        engine, progress = self._engine, self.progress[peer_id]
        progress.next_index = max(progress.match_index, engine.store.base.index) + 1
        sent = False
        while progress.connected and progress.next_index <= engine.store.end_index:
            raw, last = engine.store.raw_range(progress.next_index, size_max=engine.append_size_max)
            self._send_append(peer_id, progress, raw, last)
            progress.next_index = last + 1
            sent = True
        return sent

    _put(stack, Leading, "_send_entries", send_entries)


@mutant
def keeps_what_a_peer_had_proven(stack):
    """A peer that comes back with less than it had acknowledged is asked for the rest for ever."""
    stock = Leading.connected

    def connected(self, peer_id, *, joining, last_index):
        stock(self, peer_id, joining=joining, last_index=1 << 60)

    _put(stack, Leading, "connected", connected)


@mutant
def snapshot_follows_the_old_offset(stack):
    """Flaw n3: after a reconnect a snapshot goes on in the middle, whatever the peer has."""
    stock = Leading.on_install_answer

    def on_install_answer(self, peer_id, message):
        before = self.progress[peer_id].install_offset
        stock(self, peer_id, {**message, "offset": max(message["offset"], before)})

    _put(stack, Leading, "on_install_answer", on_install_answer)


# -- standing for election -----------------------------------------------------------------------


@mutant
def votes_are_not_held(stack):
    """Flaw c: a vote leaves before it is on the disk."""

    def send(self, node, message):
        self._outbox.append((node.id, message))
        return True

    _put(stack, EngineTransport, "send", send)


@mutant
def votes_are_not_synced(stack):
    """Flaw c: the vote file is written, but never synced."""

    def run(self):
        from dledger.store.vote_file import _pack

        self._file._slots.write(_pack(self._state), sync=False)
        self.is_done = True

    _put(stack, VoteTicket, "run", run)


@mutant
def every_vote_counts(stack):
    """Flaw d: a second vote of the same peer counts, too."""
    _put(stack, Standing, "is_new_vote", lambda _self, _peer_id, _term: True)


@mutant
def old_leaders_hear_nothing(stack):
    """Flaw e: a message of an older term is dropped without a word."""
    stock = RaftEngine._on_leader_message

    def on_leader_message(self, node, message):
        if message["term"] >= self.term:
            stock(self, node, message)

    _put(stack, RaftEngine, "_on_leader_message", on_leader_message)


@mutant
def no_pre_vote(stack):
    """Flaw f: whoever hears nothing for a while starts an election."""
    stock = Standing.may_stand

    def may_stand(self):
        self._won_term = self._engine.term
        return stock(self)

    _put(stack, Standing, "may_stand", may_stand)


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

    _put(stack, Standing, "on_pre_vote_answer", on_pre_vote_answer)


@mutant
def a_broken_connection_hastens_nothing(stack):
    """Survivors of a leader wait out the whole timeout."""

    def hasten_election(self, delay_seconds):
        if not delay_seconds:
            self._raft._SyncObj__raftElectionDeadline = float("-inf")

    _put(stack, RaftEngine, "hasten_election", hasten_election)


@mutant
def leads_on_without_a_majority(stack):
    """Flaw f: PySyncObj's own thirty seconds before a leader without answers steps down."""
    stock = engine_module.SyncObjConf

    def conf(**options):
        return stock(**{**options, "leaderFallbackTimeout": 30.0})

    _put(stack, engine_module, "SyncObjConf", conf)


@mutant
def never_abdicates(stack):
    """A leader whose disk hangs goes on sending heartbeats."""
    _put(stack, RaftEngine, "abdicate", lambda _self: None)


# -- who may vote --------------------------------------------------------------------------------


@mutant
def no_joining(stack):
    """A member that starts empty votes at once, as in the Raft paper, where no disk is lost."""
    stock = VoteFile.open.__func__

    def open_file(cls, disk, folder, *, joining):
        return stock(cls, disk, folder, joining=False)

    _put(stack, VoteFile, "open", classmethod(open_file))


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

    _put(stack, engine_module._MatchView, "__getitem__", match_index)
    _put(stack, Leading, "_heard_from", heard_from)
    _put(stack, Leading, "_check_barriers", check_barriers)


@mutant
def admits_on_old_answers(stack):
    """Answers that were on their way when a member came count as given since then."""
    stock = Leading.connected

    def connected(self, peer_id, *, joining, last_index):
        stock(self, peer_id, joining=joining, last_index=last_index)
        progress = self.progress[peer_id]
        progress.sent_before = {other: p.acked_id for other, p in self.progress.items()}

    _put(stack, Leading, "connected", connected)


@mutant
def admits_at_once(stack):
    """A leader admits whoever comes, whatever it has, without asking anybody."""
    _put(stack, Leading, "_admit_index", lambda _self, _progress: 0)


# -- proposals -----------------------------------------------------------------------------------


@mutant
def proposals_may_stay_in_the_queue(stack):
    """PySyncObj's queue is emptied against a clock that runs."""

    def propose(self, proposal):
        self._enter()
        self._raft._applyCommand(proposal, None)
        self._raft._checkCommandsToApply()
        return self.store.end_index

    _put(stack, RaftEngine, "propose", propose)


@mutant
def leader_is_always_ready(stack):
    """Flaw l: a leader serves before its first entry is committed."""
    _put(stack, RaftEngine, "leader_ready", property(lambda self: self.is_leader))


@mutant
def nobody_hears_of_a_lost_lead(stack):
    """Proposals of a lost leadership are dropped without a word."""

    def fail_all(self):
        self._inflight.clear()
        self._waiting.clear()

    _put(stack, LedgerCore, "_fail_all", fail_all)


@mutant
def a_callback_that_raises_is_called_again(stack):
    """Flaw j: the entry is taken off the list only after its callback has returned."""

    def finish_committed(self):
        while self._inflight and self._inflight[0][0] <= self.engine.applied_index:
            index, term, proposal = self._inflight[0]
            proposal.on_committed(index, term)
            self._inflight.popleft()
            self._pending_size -= proposal.body_size

    _put(stack, LedgerCore, "_finish_committed", finish_committed)


@mutant
def whatever_has_the_index_is_acknowledged(stack):
    """A proposal is told of success when its index is committed, whichever entry is there."""

    def finish_committed(self):
        while self._inflight and self._inflight[0][0] <= self.engine.applied_index:
            index, term, proposal = self._inflight.popleft()
            self._pending_size -= proposal.body_size
            proposal.on_committed(index, term)

    def keep(self):
        return None

    _put(stack, LedgerCore, "_finish_committed", finish_committed)
    _put(stack, LedgerCore, "_fail_all", keep)


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

    _put(stack, LedgerCore, "transfer", transfer)
    _put(stack, LedgerCore, "propose", propose)


@mutant
def reads_without_asking(stack):
    """A leader answers reads without making sure that it still leads."""

    def request_barrier(self, callback):
        callback(self.engine.leader_ready)

    _put(stack, LedgerCore, "request_barrier", request_barrier)


@mutant
def old_answers_confirm_reads(stack):
    """Any answer confirms a read, also one to a message sent before the question."""

    def start_barriers(self):
        if self._barriers_wanted:
            floors = dict.fromkeys(self.progress, 0)
            self._barriers.append((floors, self._barriers_wanted))
            self._barriers_wanted = []
            self._check_barriers()

    _put(stack, Leading, "start_barriers", start_barriers)


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

    _put(stack, RaftEngine, "tick", tick)


# -- disk and wire -------------------------------------------------------------------------------


@mutant
def commit_index_is_not_clamped(stack):
    """Flaw k: a commit index from disk is believed though the log ends before it."""
    stock = LedgerJournal.__init__

    def init(self, store, votes, *, commit_index):
        stock(self, store, votes, commit_index=commit_index)
        self._commit_index = commit_index

    _put(stack, LedgerJournal, "__init__", init)


@mutant
def a_cut_does_not_void_syncs(stack):
    """A sync that began before a truncation speaks for what came after it (ra, issue 516)."""
    stock = LedgerStore.truncate_from

    def truncate_from(self, index):
        kept = [(ticket, ticket.index) for ticket in self._tickets]
        stock(self, index)
        for ticket, ticket_index in kept:
            ticket.index = ticket_index

    _put(stack, LedgerStore, "truncate_from", truncate_from)


@mutant
def believes_the_page_cache(stack):
    """A restart takes for durable what the dead process had only written."""
    _put(stack, MappedFileQueue, "sync_from", lambda _self, _position: None)


@mutant
def fields_are_not_checked(stack):
    """Flaw o: what comes from the wire is believed."""
    _put(stack, wire, "_checked", lambda _kind, _name, value, _wanted: value)


@mutant
def peer_buffers_have_no_limit(stack):
    """A peer that does not read costs memory without end."""
    _put(stack, Outbox, "_overflow", lambda _self: None)


assert library.VERSION  # mutants patch our side only; PySyncObj itself stays as it is
