"""The product with one deliberate bug each: what the checkers must catch, or they check nothing.

Each mutant replaces a function or two of the product while it is in use.  It names the faults it
needs, so that few seeds are enough; `hunt` runs seeds until the first catch.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import broker.client.consumer
import broker.client.queue_sender
import broker.handlers.offsets
import broker.handlers.registry
import broker.store.append_state
import broker.store.dispatch_service
import broker.store.producers
import dledger.entry
import dledger.raft.engine
import dledger.raft.following
import dledger.raft.leading
import dledger.raft.transport
import dledger.server
import dledger.store.mapped_file_queue
import dledger.store.tickets
import dledger.store.vote_file
import jepsen_like.sim.sim_disk
from broker.client.errors import NotWrittenError
from broker.store.producers import NEW_VERDICT, SequenceState, SequenceVerdict
from broker.store.state_file import decode_state, encode_state
from dledger.entry import decode_header
from dledger.store.data_folder import DataFolder
from jepsen_like.sim.mix import draw
from jepsen_like.sim.world import run_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Patch = tuple[object, str, object]  # whose attribute, its name, what takes its place


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One bug."""

    name: str
    what: str
    faults: tuple[str, ...]
    make: Callable[[], Sequence[Patch]]


POWER = ("power", "power-at-step", "kill", "isolate", "restart")
CUTS = ("isolate", "halves", "kill", "transfer", "one-way", "pause")


def _journal_never_synced() -> Sequence[Patch]:
    def run(self: Any) -> None:  # noqa: ANN401
        self.is_done = True

    return [(dledger.store.tickets.SyncTicket, "run", run)]


def _vote_never_synced() -> Sequence[Patch]:
    def write(self: Any, state: object, version: int) -> None:  # noqa: ANN401
        pass

    return [(dledger.store.vote_file.VoteFile, "_write", write)]


def _early_ack() -> Sequence[Patch]:
    def get(self: Any, peer: object) -> int:  # noqa: ANN401
        engine = self._engine
        return int(engine.store.end_index)

    def apply(self: Any) -> None:  # noqa: ANN401
        if self.is_leader:
            self._set("raftCommitIndex", max(self._get("raftCommitIndex"), self.store.end_index))
        original(self)

    original = dledger.raft.engine.RaftEngine.apply
    return [
        (dledger.raft.engine._MatchView, "__getitem__", get),  # noqa: SLF001
        (dledger.raft.engine.RaftEngine, "apply", apply),
    ]


def _follower_promises_early() -> Sequence[Patch]:
    def answer(self: Any) -> None:  # noqa: ANN401
        self._answer_due = False
        self._send_answer(next_index=self._verified_index + 1, success=True, reset=False)

    return [(dledger.raft.following.Following, "answer", answer)]


def _no_dedup() -> Sequence[Patch]:
    def reserve(self: object, *_: object) -> SequenceVerdict:
        return NEW_VERDICT

    return [(broker.store.append_state.AppendState, "reserve", reserve)]


def _dedup_by_equality() -> Sequence[Patch]:
    def reserve(
        self: Any,  # noqa: ANN401
        producer_id: int,
        topic: str,
        queue_id: int,
        first: int,
        count: int,
    ) -> SequenceVerdict:
        producer = self._producer((producer_id, topic, queue_id))
        if producer is not None and producer.last_sequence == first + count - 1:
            return SequenceVerdict(
                SequenceState.DUPLICATE,
                producer._queue_offset_of(first),  # noqa: SLF001 - a mutant knows its host
                producer.index,
            )
        return NEW_VERDICT

    return [(broker.store.append_state.AppendState, "reserve", reserve)]


def _no_barrier() -> Sequence[Patch]:
    def request_barrier(self: Any, callback: Callable[[bool], None]) -> None:  # noqa: ANN401
        callback(self.core.engine.leader_ready)

    return [(dledger.server.LedgerServer, "request_barrier", request_barrier)]


def _followers_count_as_latest() -> Sequence[Patch]:
    def request_barrier(self: object, callback: Callable[[bool], None]) -> None:
        callback(True)

    def max_offset(self: Any, session: Any, command: Any) -> None:  # noqa: ANN401
        original(self, session, command)

    handlers = broker.handlers.offsets.OffsetHandlers
    original = handlers.max_offset
    marks = [(code, False) for code, _ in original._handles_request_code]  # type: ignore[attr-defined]  # noqa: SLF001
    max_offset._handles_request_code = marks  # type: ignore[attr-defined]  # noqa: SLF001
    return [
        (dledger.server.LedgerServer, "request_barrier", request_barrier),
        (handlers, "max_offset", max_offset),
    ]


def _unknown_as_failed() -> Sequence[Patch]:
    def outcome_unknown(self: object, batch: object) -> NotWrittenError:
        return NotWrittenError("never written, says the mutant")

    return [(broker.client.queue_sender.QueueSender, "_outcome_unknown", outcome_unknown)]


def _no_crc() -> Sequence[Patch]:
    def crc32(*_: object) -> int:
        return 0

    return [(dledger.entry, "crc32", crc32)]


def _folder_never_synced() -> Sequence[Patch]:
    def sync_folder(self: object, path: str) -> None:
        pass

    return [(jepsen_like.sim.sim_disk.SimMount, "sync_folder", sync_folder)]


def _snapshot_lacks_last() -> Sequence[Patch]:
    def load_state(self: Any, index: int) -> bytes:  # noqa: ANN401
        state = decode_state(original(self, index))
        queues = [(topic, queue, max(0, end - 1)) for topic, queue, end in state.queues]
        packed = broker.store.producers.ProducerTable()
        packed.restore(state.producers)
        return encode_state(
            state.point, queues=queues, producers=packed.snapshot(), metadata=state.metadata
        )

    service = broker.store.dispatch_service.DispatchService
    original = service.load_state
    return [(service, "load_state", load_state)]


def _any_term_counts() -> Sequence[Patch]:
    def on_message(self: Any, node: Any, message: dict[str, Any]) -> None:  # noqa: ANN401
        if message["type"] == "append_answer" and self.is_leader:
            message["term"] = self.term
        original(self, node, message)

    def on_answer(self: Any, peer_id: str, message: dict[str, Any]) -> None:  # noqa: ANN401
        end = self._engine.store.end_index + 1
        message["next_index"] = min(message["next_index"], end)
        answered(self, peer_id, message)

    original = dledger.raft.engine.RaftEngine.on_message
    answered = dledger.raft.leading.Leading.on_answer
    return [
        (dledger.raft.engine.RaftEngine, "on_message", on_message),
        (dledger.raft.leading.Leading, "on_answer", on_answer),
    ]


def _no_joining() -> Sequence[Patch]:
    def open_(*args: object, **options: Any) -> object:  # noqa: ANN401
        options["joining"] = False
        return original(*args, **options)  # type: ignore[arg-type]

    original = DataFolder.open
    return [(DataFolder, "open", open_)]


def _cut_what_matches() -> Sequence[Patch]:
    def keep(self: Any, raw: memoryview, last_index: int) -> bool:  # noqa: ANN401
        store = self._engine.store
        first = decode_header(raw).index
        floor = max(store.checkpoint_commit_index, store.base.index)
        if floor < first <= store.end_index:
            store.truncate_from(first)
        return bool(original(self, raw, last_index))

    following = dledger.raft.following.Following
    original = following._keep_entries  # noqa: SLF001
    return [(following, "_keep_entries", keep)]


def _commit_before_processing() -> Sequence[Patch]:
    async def commit_done(self: Any) -> None:  # noqa: ANN401
        for queue in self._queues.values():
            queue.done = max(queue.done, queue.reader.next_offset)
        await original(self)

    consumer = broker.client.consumer.Consumer
    original = consumer._commit_done  # noqa: SLF001
    return [(consumer, "_commit_done", commit_done)]


def _offset_off_by_one() -> Sequence[Patch]:
    def next_queue_offset(self: Any, topic: str, queue_id: int) -> int:  # noqa: ANN401
        offset = self._next_offsets.get((topic, queue_id))
        if offset is None:
            offset = max(0, self._dispatched.next_queue_offset(topic, queue_id) - 1)
        return int(offset)

    return [(broker.store.append_state.AppendState, "next_queue_offset", next_queue_offset)]


def _vote_leaves_early() -> Sequence[Patch]:
    def send(self: Any, node: Any, message: object) -> bool:  # noqa: ANN401
        self._outbox.append((node.id, message))
        return True

    return [(dledger.raft.transport.EngineTransport, "send", send)]


def _tail_not_rewritten() -> Sequence[Patch]:
    def rewrite(self: object, start: int, end: int) -> None:
        pass

    return [(dledger.store.mapped_file_queue.MappedFileQueue, "rewrite", rewrite)]


_ALL = (
    Mutant(
        name="journal-never-synced",
        what="a sync of the log does nothing",
        faults=POWER,
        make=_journal_never_synced,
    ),
    Mutant(
        name="vote-never-synced",
        what="term and vote stay in memory",
        faults=("kill", "power", "crash-loop", "transfer", "isolate"),
        make=_vote_never_synced,
    ),
    Mutant(
        name="early-ack",
        what="acknowledged when the leader has appended",
        faults=CUTS,
        make=_early_ack,
    ),
    Mutant(
        name="follower-promises-early",
        what="a follower answers before its sync",
        faults=("power", "slow-disk", "stalled-disk", "isolate"),
        make=_follower_promises_early,
    ),
    Mutant(name="no-dedup", what="every batch is new", faults=CUTS, make=_no_dedup),
    Mutant(
        name="dedup-by-equality",
        what="only the very last batch is known again",
        faults=(*CUTS, "client-cut"),
        make=_dedup_by_equality,
    ),
    Mutant(
        name="no-barrier",
        what="a leader tells the end of a queue without asking whether it still leads",
        faults=("isolate", "halves", "pause", "one-way"),
        make=_no_barrier,
    ),
    Mutant(
        name="followers-count-as-latest",
        what="whoever is asked tells the end of a queue",
        faults=CUTS,
        make=_followers_count_as_latest,
    ),
    Mutant(
        name="unknown-as-failed",
        what="the client says not written where it does not know",
        faults=(*CUTS, "client-cut"),
        make=_unknown_as_failed,
    ),
    Mutant(name="no-crc", what="no CRC of entries", faults=("bit-rot", "kill"), make=_no_crc),
    Mutant(
        name="folder-never-synced",
        what="files are synced, their names are not",
        faults=POWER,
        make=_folder_never_synced,
    ),
    Mutant(
        name="snapshot-lacks-last",
        what="a state sent to a member behind retention lacks the last record of each queue",
        faults=("lost-disk", "isolate", "kill"),
        make=_snapshot_lacks_last,
    ),
    Mutant(
        name="any-term-counts",
        what="answers of older terms count for a new leader",
        faults=(*CUTS, "wire"),
        make=_any_term_counts,
    ),
    Mutant(
        name="no-joining",
        what="a member that lost its disk votes at once",
        faults=("lost-disk", "isolate", "halves", "one-way", "stalled-disk"),
        make=_no_joining,
    ),
    Mutant(
        name="cut-what-matches",
        what="a follower cuts its log at each append that begins below its end",
        faults=(*CUTS, "power", "wire"),
        make=_cut_what_matches,
    ),
    Mutant(
        name="commit-before-processing",
        what="a consumer commits what it has only pulled",
        faults=("kill", "client-cut"),
        make=_commit_before_processing,
    ),
    Mutant(
        name="offset-off-by-one",
        what="a new leader recounts queue offsets one too low",
        faults=CUTS,
        make=_offset_off_by_one,
    ),
    Mutant(
        name="tail-not-rewritten",
        what="a restart believes what the dead process failed to sync",
        faults=("failed-sync", "power", "power-at-step", "kill"),
        make=_tail_not_rewritten,
    ),
    Mutant(
        name="vote-leaves-early",
        what="a vote leaves before it is on the disk",
        faults=("power-at-step", "kill-at-step", "power", "slow-disk", "stalled-disk", "isolate"),
        make=_vote_leaves_early,
    ),
)

MUTANTS = {mutant.name: mutant for mutant in _ALL}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Have the bug inside.

    Raises:
        KeyError: there is none of that name.
    """
    with ExitStack() as stack:
        for target, attribute, replacement in MUTANTS[name].make():
            stack.enter_context(patch.object(target, attribute, replacement))
        yield


def hunt(
    names: Iterable[str], *, seeds: int, fault_seconds: float, tell: Callable[[str], object]
) -> int:
    """Run every mutant until it is caught; return 1 when one of them never is."""
    uncaught = []
    for name in names or MUTANTS:
        caught = _first_catch(MUTANTS[name], seeds=seeds, fault_seconds=fault_seconds)
        if caught is None:
            uncaught.append(name)
            tell(f"{name:28} NOT CAUGHT in {seeds} seeds")
        else:
            seed, kinds = caught
            tell(f"{name:28} seed {seed}: {', '.join(kinds)}")
    return 1 if uncaught else 0


def _first_catch(
    mutant: Mutant, *, seeds: int, fault_seconds: float
) -> tuple[int, list[str]] | None:
    for seed in range(1, seeds + 1):
        mix = draw(seed, fault_seconds=fault_seconds, only=mutant.faults)
        if mix.node_count == 1 or mix.is_async:
            continue  # most of the bugs cannot show there
        # Faults thick and fast, on moderate load: the rare coincidence is what is looked for.
        load = replace(mix.load, send_rate=25.0)
        mix = replace(mix, gap_mean=0.6, hold_max=min(mix.hold_max, 4.0), load=load)
        with mutated(mutant.name):
            outcome = run_seed(mix)
        if not outcome.is_valid:
            return seed, sorted({anomaly.kind for anomaly in outcome.anomalies})
    return None
