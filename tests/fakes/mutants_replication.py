"""Mutants of what a follower keeps and promises, and of what a leader sends and believes."""

from __future__ import annotations

from dledger.core import LedgerCore
from dledger.peers import messages as wire
from dledger.raft import guarded
from dledger.raft.engine import RaftEngine
from dledger.raft.following import Following
from dledger.raft.journal import LedgerJournal
from dledger.raft.leading import Leading
from dledger.raft.pace import Pace
from dledger.raft.progress import Progress
from dledger.raft.snapshot import SnapshotReceiver
from dledger.remoting.outbox import Outbox
from dledger.store.ledger_store import LedgerStore
from dledger.store.mapped_file_queue import MappedFileQueue
from tests.fakes.mutation import mutant, put

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

    put(stack, Following, "on_append", on_append)


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

    put(stack, Following, "on_append", on_append)
    put(stack, Following, "answer", answer)


@mutant
def promises_in_a_term_not_synced(stack):
    """Flaw c: an answer leaves before the term it is given in is on the disk."""
    put(stack, RaftEngine, "vote_is_durable", property(lambda _self: True))


@mutant
def forgets_the_answer_due(stack):
    """An answer to a heartbeat takes the place of the one that waits for a sync."""
    stock = Following.answer

    def answer(self):
        due = self._engine.vote_is_durable
        stock(self)
        if due:
            self._answer_due = False

    put(stack, Following, "answer", answer)


@mutant
def commits_what_is_not_verified(stack):
    """Flaw n1: the leader's commit index is taken over for a log that may not be the leader's."""
    stock = Following.on_append

    def on_append(self, message):
        stock(self, message)
        self._engine.commit_to(message["commit_index"])

    put(stack, Following, "on_append", on_append)


@mutant
def backs_off_one_by_one(stack):
    """A refusal names the entry before, not the start of the term that disagrees."""
    put(stack, Following, "_first_disputed_index", lambda _self, previous: previous)


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

    put(stack, Following, "on_install", on_install)


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

    put(stack, SnapshotReceiver, "receive", receive)


@mutant
def only_an_allocation_makes_room(stack):
    """Segments that retention frees are ready for use, and nobody who waits for room looks."""
    put(stack, LedgerCore, "_look_for_room", lambda _self: None)


@mutant
def forgets_what_it_turned_away(stack):
    """A follower without room does not ask again when there is some."""
    put(stack, Following, "resume", lambda _self: None)


# -- leading: what is sent, what an answer proves ------------------------------------------------


@mutant
def success_moves_next_back(stack):
    """Flaw a, the other half: a success says where to go on, though more is on its way."""
    stock = Progress.acknowledge

    def acknowledge(self, match_index):
        is_news = stock(self, match_index)
        self.next_index = match_index + 1
        return is_news

    put(stack, Progress, "acknowledge", acknowledge)


@mutant
def answers_of_any_term_count(stack):
    """Flaw b: an answer to a leader of an earlier term counts for this one."""
    stock = RaftEngine.on_message

    def on_message(self, node, message):
        if message["type"] == "append_answer" and message["term"] < self.term:
            message = {**message, "term": self.term}
        stock(self, node, message)

    put(stack, RaftEngine, "on_message", on_message)


@mutant
def leader_counts_what_it_has_not_synced(stack):
    """Flaw c: the leader counts itself without asking its disk."""

    def match_index(self, peer):
        progress = self._engine.leading.progress[peer.id]
        index = 0 if progress.joining else progress.match_index
        return index if index >= self._engine.first_index_of_own_term else 0

    put(stack, guarded.MatchView, "__getitem__", match_index)
    # And publishes what is committed by the others alone, as stock does.
    stock = RaftEngine.apply

    def apply(self):
        stock(self)
        if self.is_leader:
            self.applied_index = max(self.applied_index, self.commit_index)

    put(stack, RaftEngine, "apply", apply)


@mutant
def old_refusals_count(stack):
    """The livelock: refusals of messages sent before the last step back are honoured again."""
    stock = Progress.reset_to

    def reset_to(self, next_index):
        stock(self, next_index)
        self.reset_floor = 0

    put(stack, Progress, "reset_to", reset_to)


@mutant
def sends_on_while_searching(stack):
    """The livelock: all of the backlog is sent though the place where logs part is not known."""
    stock = Progress.reset_to

    def reset_to(self, next_index):
        stock(self, next_index)
        self.probing = False
        self.reset_floor = 0

    put(stack, Progress, "reset_to", reset_to)


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

    put(stack, Leading, "_send_entries", send_entries)


@mutant
def keeps_what_a_peer_had_proven(stack):
    """A peer that comes back with less than it had acknowledged is asked for the rest for ever."""
    stock = Leading.connected

    def connected(self, peer_id, *, joining, last_index, promises_synced):
        stock(
            self,
            peer_id,
            joining=joining,
            last_index=1 << 60,
            promises_synced=promises_synced,
        )

    put(stack, Leading, "connected", connected)


@mutant
def snapshot_follows_the_old_offset(stack):
    """Flaw n3: after a reconnect a snapshot goes on in the middle, whatever the peer has."""
    stock = Leading.on_install_answer

    def on_install_answer(self, peer_id, message):
        before = self.progress[peer_id].install_offset
        stock(self, peer_id, {**message, "offset": max(message["offset"], before)})

    put(stack, Leading, "on_install_answer", on_install_answer)


# -- disk and wire -------------------------------------------------------------------------------


@mutant
def commit_index_is_not_clamped(stack):
    """Flaw k: a commit index from disk is believed though the log ends before it."""
    stock = LedgerJournal.__init__

    def init(self, store, votes, *, commit_index):
        stock(self, store, votes, commit_index=commit_index)
        self._commit_index = commit_index

    put(stack, LedgerJournal, "__init__", init)


@mutant
def a_cut_does_not_void_syncs(stack):
    """A sync that began before a truncation speaks for what came after it (ra, issue 516)."""
    stock = LedgerStore.truncate_from

    def truncate_from(self, index):
        kept = [(ticket, ticket.index) for ticket in self._tickets]
        stock(self, index)
        for ticket, ticket_index in kept:
            ticket.index = ticket_index

    put(stack, LedgerStore, "truncate_from", truncate_from)


@mutant
def believes_the_page_cache(stack):
    """A restart takes for durable what the dead process had only written."""
    put(stack, MappedFileQueue, "sync_from", lambda _self, _position: None)


@mutant
def fields_are_not_checked(stack):
    """Flaw o: what comes from the wire is believed."""
    put(stack, wire, "_checked", lambda _kind, _name, value, _wanted: value)


@mutant
def peer_buffers_have_no_limit(stack):
    """A peer that does not read costs memory without end."""
    put(stack, Outbox, "give_up", lambda _self, _whose, _limit: None)


@mutant
def nobody_far_behind_rests(stack):
    """A member that was away takes all it can get, and takes it from whoever sends."""
    put(stack, Leading, "_rests", lambda self, progress: False)


@mutant
def who_is_far_behind_rests_for_ever(stack):
    """While the group is busy, a member that was away is sent no second piece."""
    put(stack, Pace, "is_due", lambda self, end, *, is_idle, now: False)


@mutant
def rests_however_few_the_others_are(stack):
    """A member that was away rests though without it no majority is connected."""
    put(stack, Leading, "_can_commit_without", lambda self, progress: True)


@mutant
def rests_though_nothing_is_committed(stack):
    """A member that was away rests though nobody sends, or what is sent waits for it."""

    def rests(self, progress):
        engine, is_idle = self._engine, not progress.inflight
        return not progress.pace.is_due(
            engine.store.end_position, is_idle=is_idle, now=engine.now()
        ) and self._can_commit_without(progress)

    put(stack, Leading, "_rests", rests)


@mutant
def forgets_the_reserve(stack):
    """Who is held back is looked for with the next entry or heartbeat, not in milliseconds."""
    put(stack, RaftEngine, "look_by", lambda self, due: False)
