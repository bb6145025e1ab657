"""Bugs of who may vote, who leads, and what a reader is told by whoever believes to lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.handlers.offsets import OffsetHandlers
from dledger.raft import guarded
from dledger.raft.engine import RaftEngine
from dledger.raft.leading import Leading
from dledger.server import LedgerServer
from dledger.store.vote_file import VoteFile
from jepsen_like.mutants.grounds import CONTESTED, CUTS, KILLS, LOST_DISKS, ROLLING, STALE
from jepsen_like.mutants.mutant import Patch, mutant
from jepsen_like.mutants.opening import opens_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# -- votes -----------------------------------------------------------------------------------------


@mutant(on=CONTESTED)
def votes_twice() -> Sequence[Patch]:
    """Whoever asks gets a vote, also the second candidate of a term."""
    stock_message, stock_set = RaftEngine.on_message, VoteFile.set

    def on_message(self: Any, node: Any, message: Any) -> None:
        if message["type"] == "request_vote" and not self.is_candidate:
            self._raft._SyncObj__votedForNodeId = None
        stock_message(self, node, message)

    def set_(self: Any, term: int, voted_for: str | None) -> None:
        if term == self._state.term:
            self._state = type(self._state)(term=term, voted_for=None, joining=self._state.joining)
        stock_set(self, term, voted_for)

    return [(RaftEngine, "on_message", on_message), (VoteFile, "set", set_)]


@mutant(on=CUTS)
def votes_for_shorter_logs() -> Sequence[Patch]:
    """A vote is given without comparing logs, and so is a pre-vote."""
    stock = RaftEngine.on_message

    def on_message(self: Any, node: Any, message: Any) -> None:
        if message["type"] in ("request_vote", "pre_vote"):
            message = {**message, "last_log_index": 1 << 50, "last_log_term": 1 << 50}
        stock(self, node, message)

    return [(RaftEngine, "on_message", on_message)]


@mutant(on=LOST_DISKS)
def no_joining() -> Sequence[Patch]:
    """A member that lost its disk votes at once."""
    stock = VoteFile.open.__func__  # type: ignore[attr-defined]

    def open_file(cls: Any, disk: Any, folder: str, *, joining: bool) -> Any:
        return stock(cls, disk, folder, joining=False)

    return [(VoteFile, "open", classmethod(open_file))]


@mutant(on=LOST_DISKS)
def joining_members_count() -> Sequence[Patch]:
    """What a member promises before it is admitted counts for commits, reads and the lead."""

    def match_index(self: Any, peer: Any) -> int:
        engine = self._engine
        index = min(engine.leading.progress[peer.id].match_index, engine.store.durable_index)
        return int(index) if index >= engine.first_index_of_own_term else 0

    def heard_from(self: Any, peer_id: str, message: Any) -> None:
        progress = self.progress[peer_id]
        progress.joining = message["joining"]
        progress.acked_id = max(progress.acked_id, message["id"])
        self._engine.note_answer(peer_id)
        self._check_barriers()

    def check_barriers(self: Any) -> None:
        while self._barriers:
            floors, callbacks = self._barriers[0]
            acks = sum(self.progress[p].acked_id >= floor for p, floor in floors.items())
            if 1 + acks < self._engine.majority:
                return
            self._barriers.popleft()
            for callback in callbacks:
                callback(True)

    return [
        (guarded.MatchView, "__getitem__", match_index),
        (Leading, "_heard_from", heard_from),
        (Leading, "_check_barriers", check_barriers),
    ]


@mutant(on=LOST_DISKS)
def admits_at_once() -> Sequence[Patch]:
    """A leader admits whoever comes, whatever it has, without asking anybody."""

    def admit_index(self: object, progress: object) -> int:
        return 0

    return [(Leading, "_admit_index", admit_index)]


# -- reads -----------------------------------------------------------------------------------------


@mutant(on=STALE)
def no_barrier() -> Sequence[Patch]:
    """A leader tells the end of a queue without asking whether it still leads."""

    def request_barrier(self: Any, callback: Callable[[bool], None]) -> None:
        callback(self.core.engine.leader_ready)

    return [(LedgerServer, "request_barrier", request_barrier)]


@mutant(on=STALE)
def old_answers_confirm_reads() -> Sequence[Patch]:
    """Any answer confirms a read, also one to a message sent before the question."""

    def start_barriers(self: Any) -> None:
        if self._barriers_wanted:
            self._barriers.append((dict.fromkeys(self.progress, 0), self._barriers_wanted))
            self._barriers_wanted = []
            self._check_barriers()

    return [(Leading, "start_barriers", start_barriers)]


@mutant(on=CUTS)
def serves_before_its_first_entry() -> Sequence[Patch]:
    """A new leader answers before it knows what its predecessors have committed (flaw l)."""
    return [
        (RaftEngine, "leader_ready", property(lambda self: self.is_leader, lambda *_: None)),
        opens_at_once(),
    ]


@mutant(on=KILLS)
def reads_wait_for_whoever_is_connected() -> Sequence[Patch]:
    """A read asked for while no peer is connected waits for nobody, for ever, and so do later ones.

    The product was like that until the simulator met it on this ground.
    """

    def start_barriers(self: Any) -> None:
        if not self._barriers_wanted:
            return
        floors: dict[str, int] = {}
        for peer_id, progress in self.progress.items():
            if progress.connected:
                self._send_empty(peer_id)
                floors[peer_id] = progress.append_id
        self._barriers.append((floors, self._barriers_wanted))
        self._barriers_wanted = []
        self._check_barriers()

    return [(Leading, "start_barriers", start_barriers)]


def _on_any_node(handler: Any) -> Any:
    """Return *handler* marked as one that every node serves."""

    def serve(self: Any, session: Any, command: Any) -> None:
        handler(self, session, command)

    serve._handles_request_code = [  # type: ignore[attr-defined]
        (code, False) for code, _ in handler._handles_request_code
    ]
    return serve


def _proved(self: object, callback: Callable[[bool], None]) -> None:
    callback(True)


@mutant(on=CUTS)
def followers_count_as_latest() -> Sequence[Patch]:
    """Whoever is asked tells the end of a queue."""
    return [
        (LedgerServer, "request_barrier", _proved),
        (OffsetHandlers, "max_offset", _on_any_node(OffsetHandlers.max_offset)),
    ]


# -- the lead --------------------------------------------------------------------------------------


# -- handing over ----------------------------------------------------------------------------------


@mutant(on=ROLLING)
def hands_over_to_nobody() -> Sequence[Patch]:
    """A hand-over holds up all that is sent and asks nobody to take over."""

    def ask_to_take_over(self: Any, peer_id: str) -> None:
        pass

    return [(RaftEngine, "ask_to_take_over", ask_to_take_over)]
