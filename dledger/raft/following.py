"""The follower's half of replication: what to keep of a leader's message, and what to answer.

Replaces PySyncObj's append handler (raft-engine.md, flaws a, n1 and the one-by-one backoff).
Entries that are here already are never cut, and an answer promises only what is durable: it is
given at once for a heartbeat, and again when a sync has made more of the leader's log durable.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dledger.entry import HEADER_SIZE, decode_header
from dledger.errors import CorruptEntryError, LedgerFullError, SafetyViolationError
from dledger.raft.snapshot import SnapshotReceiver

if TYPE_CHECKING:
    from dledger.raft.engine import RaftEngine

Message = dict[str, Any]

logger = logging.getLogger(__name__)


class Following:
    """What this node has of the current leader's log."""

    def __init__(self, engine: RaftEngine) -> None:
        self._engine = engine
        self._term = 0  # of the leader that `_verified_index` is about
        self._verified_index = 0  # up to here this log is that leader's
        self._answer_id = 0
        self._answer_due = False
        self._told_commit_index = 0  # by the last append message
        # The leader wants to know more than what is promised; see `dledger.raft.levels`.
        self._tells_more = False
        self.waiting_for_room = False  # entries were turned away: no segment to put them in
        self._receiver = SnapshotReceiver()

    def on_append(self, message: Message) -> None:
        """Take an append message of the current leader, whose term is the current one."""
        engine = self._engine
        store = engine.store
        if self._term != engine.term:
            self._enter_term()
        self._answer_id = message["id"]
        self._told_commit_index = message["commit_index"]
        raw = memoryview(message["entries"])
        previous, previous_term = message["prev_index"], message["prev_term"]
        last_index, base_index, end_index = message["last_index"], store.base.index, store.end_index
        if previous > end_index:
            if self.waiting_for_room:
                self._say_alive()
            else:
                self._refuse(end_index + 1)
            return
        if previous >= base_index:
            if store.term_at(previous) != previous_term:
                self._refuse(self._first_disputed_index(previous))
                return
            self._verify_to(previous)
        elif last_index <= base_index:
            # What lies before the base was committed before it was dropped, so it agrees.
            self._verify_to(base_index)
        if raw.nbytes and not (
            self._append(raw, last_index)
            if previous == end_index  # mostly: all of it is new
            else self._keep_entries(raw, last_index)
        ):
            return
        if last_index > store.end_index:
            raise CorruptEntryError(
                f"an append message of {engine.leader_id} ends before its entry {last_index}"
            )
        if last_index >= base_index and last_index > self._verified_index:
            self._verified_index = last_index
        commit_index = self._told_commit_index
        if commit_index > engine.commit_index:
            verified_index = self._verified_index
            engine.commit_to(commit_index if commit_index < verified_index else verified_index)
        if "admit_index" in message and (admit_index := message["admit_index"]) >= 0:
            self._admit(admit_index)
        tell_written = "tell_written" in message and message["tell_written"]
        self._tells_more = tell_written or "sync_index" in message
        if "sync_index" in message:
            sync_index = min(message["sync_index"], self._verified_index)
            engine.sync_wanted = max(engine.sync_wanted, sync_index)
        if raw.nbytes and store.durable_index < self._verified_index and not tell_written:
            self._answer_due = True  # one answer when the sync is done
        else:
            self.answer()

    def _enter_term(self) -> None:
        if self._term != self._engine.term:
            self._term = self._engine.term
            self._verified_index = 0
            self._answer_due = False
            self._tells_more = False
            self._engine.sync_wanted = 0
            self.waiting_for_room = False

    def _verify_to(self, index: int) -> None:
        if index > self._verified_index:
            self._verified_index = index

    def _first_disputed_index(self, previous: int) -> int:
        """Return where to go on looking: the start of the whole term that disagrees.

        Going back entry by entry costs a round each (500 divergent entries took 100 s).
        Source: Raft paper, end of section 5.3.
        """
        engine = self._engine
        if previous <= engine.commit_index:
            raise SafetyViolationError(
                f"leader {engine.leader_id} of term {engine.term} disagrees with entry {previous}, "
                f"which is committed here (commit index {engine.commit_index}); stop this node, "
                "keep its data folder and compare it with `dledger log verify --against`"
            )
        store = engine.store
        return max(engine.commit_index + 1, store.first_index_of_term(store.term_at(previous)))

    def _keep_entries(self, raw: memoryview, last_index: int) -> bool:
        """Append what of *raw* is new here; return whether all of it is here now."""
        engine = self._engine
        store = engine.store
        offset = 0
        while offset < raw.nbytes:
            if raw.nbytes - offset < HEADER_SIZE:
                raise CorruptEntryError(
                    f"an append message of {engine.leader_id} ends inside an entry's header"
                )
            header = decode_header(raw, offset)
            if header.index > store.end_index:
                break
            if header.index > store.base.index and store.term_at(header.index) != header.term:
                if header.index <= engine.commit_index:
                    raise SafetyViolationError(
                        f"leader {engine.leader_id} of term {engine.term} would replace entry "
                        f"{header.index}, which is committed here (commit index "
                        f"{engine.commit_index}); stop this node and keep its data folder"
                    )
                logger.info(
                    "cut the log from entry %d (term %d): the leader of term %d has others",
                    header.index,
                    store.term_at(header.index),
                    engine.term,
                )
                store.truncate_from(header.index)
                break
            if header.size < HEADER_SIZE:
                raise CorruptEntryError(
                    f"entry {header.index} from {engine.leader_id} claims a size of {header.size}"
                )
            offset += header.size
        rest = raw[offset:]
        return not rest.nbytes or self._append(rest, last_index)

    def _append(self, raw: memoryview, last_index: int) -> bool:
        """Append *raw*, which goes on where the log ends; return whether there was room for it."""
        store = self._engine.store
        count = last_index - store.end_index
        if not store.fits(raw.nbytes, entry_count=count):
            # Say that we are alive and no more; the window keeps the leader from going on, and it
            # is asked again when there is room (`resume`).
            self.waiting_for_room = True
            self._say_alive()
            return False
        coming_size = 0
        if self._told_commit_index > last_index and count > 0:
            # The rest of what is committed, if its entries are as large as these.
            coming_size = (self._told_commit_index - last_index) * raw.nbytes // count
        store.append_raw(raw, coming_size=coming_size)
        return True

    def _refuse(self, next_index: int) -> None:
        """Tell the leader that the logs part before what it sent; *next_index* may fit."""
        self._answer_due = False
        self._send_answer(next_index=next_index, success=False, reset=True)

    def _say_alive(self) -> None:
        """Answer without a promise and without asking for anything."""
        self._send_answer(next_index=1, success=False, reset=False)

    def answer(self) -> None:
        """Promise what is both the leader's and durable; wait while the term itself is not."""
        engine = self._engine
        if not engine.vote_is_durable:
            self._answer_due = True
            return
        store, verified_index = engine.store, self._verified_index
        match_index = store.durable_index
        if match_index > verified_index:
            match_index = verified_index
        # The rest is promised when its sync is done, not when the next message happens to come.
        self._answer_due = match_index < verified_index and match_index < store.end_index
        if not self._tells_more:
            self._send_answer(next_index=match_index + 1, success=True, reset=False)
            return
        synced_index = min(verified_index, store.synced_index)
        self._answer_due |= synced_index < engine.sync_wanted
        self._send_answer(
            next_index=match_index + 1,
            success=True,
            reset=False,
            written_index=min(verified_index, store.end_index),
            synced_index=synced_index,
        )

    def _send_answer(self, *, next_index: int, success: bool, reset: bool, **more: int) -> None:
        engine = self._engine
        leader_id = engine.leader_id
        if leader_id is None or leader_id == engine.node_id:
            return
        engine.send(
            leader_id,
            {
                "type": "append_answer",
                "term": engine.term,
                "id": self._answer_id,
                "next_index": next_index,
                "success": success,
                "reset": reset,
                "joining": engine.votes.joining,
                **more,
            },
        )

    def after_sync(self) -> None:
        """Answer what waited for a sync of the log or of the vote file."""
        if self._answer_due and self._term == self._engine.term:
            self.answer()

    def resume(self) -> None:
        """Ask for what was turned away, now that there is room for it."""
        if self.waiting_for_room and self._term == self._engine.term:
            self.waiting_for_room = False
            self._refuse(self._engine.store.end_index + 1)

    def _admit(self, admit_index: int) -> None:
        engine = self._engine
        # On its disk, with ASYNC_FLUSH as well: that it may vote is written there at once, and
        # would come back from a power loss without the entries that it is for.
        if engine.joining and min(self._verified_index, engine.store.synced_index) >= admit_index:
            engine.become_voter(f"caught up to entry {admit_index}")

    # -- snapshots ------------------------------------------------------------------------------

    def on_install(self, message: Message) -> None:
        """Take a piece of the state at the leader's base, needed where its log has been dropped."""
        engine = self._engine
        store = engine.store
        self._enter_term()
        self._answer_id = message["id"]
        base = message["base"]
        known = base.index <= engine.commit_index or (
            base.index <= store.end_index
            and base.index >= store.base.index
            and store.term_at(base.index) == base.term
        )
        if known:
            # Nothing to install: an old or needless snapshot must not touch the log (flaw n1).
            self._receiver.forget()
            self._verify_to(base.index)
            engine.commit_to(min(base.index, store.end_index))
            self._answer_install(base.index, offset=0, done=True)
            return
        state = self._receiver.receive(message)
        if state is None:
            self._answer_install(base.index, offset=self._receiver.offset, done=False)
            return
        logger.info("installing the state at entry %d from %s", base.index, engine.leader_id)
        try:
            engine.install(base, state)
        except LedgerFullError as error:
            # Either nothing has changed, and with the next heartbeat the leader asks how far we
            # are and sends the state again; or the server has failed and says so.
            logger.error("cannot install the state at entry %d: %s", base.index, error)
            return
        self._verify_to(base.index)
        self._answer_install(base.index, offset=0, done=True)

    def _answer_install(self, base_index: int, *, offset: int, done: bool) -> None:
        engine = self._engine
        if engine.leader_id is None:
            return
        engine.send(
            engine.leader_id,
            {
                "type": "install_answer",
                "term": engine.term,
                "id": self._answer_id,
                "base_index": base_index,
                "offset": offset,
                "done": done,
                "joining": engine.joining,
            },
        )
