"""Bugs of the client library: what a caller is told, what is sent again, what is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.client import message, queue_reader, records
from broker.client.consumer import Consumer
from broker.client.errors import NotWrittenError
from broker.client.handout import Handout
from broker.client.progress import QueueProgress
from broker.client.queue_sender import Failure, QueueSender
from broker.client.readings import Readings
from jepsen_like.mutants.grounds import CLIENTS, CUTS, HANDLING, KILLS, PICKING
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence


@mutant(on=CUTS)
def unknown_as_failed() -> Sequence[Patch]:
    """The client says not written where it does not know."""

    def outcome_unknown(self: object, batch: object) -> NotWrittenError:
        return NotWrittenError("never written, says the mutant")

    return [(QueueSender, "_outcome_unknown", outcome_unknown)]


@mutant(on=CUTS)
def resends_under_new_numbers() -> Sequence[Patch]:
    """What may be written is sent again as something new."""
    stock = QueueSender.fail

    def fail(
        self: Any, batch: Any, attempt: int, failure: Failure, reason: str, **rest: Any
    ) -> bool:
        if failure is Failure.UNCERTAIN:
            known = stock(self, batch, attempt, Failure.NOT_WRITTEN, reason, **rest)
            if known:
                self._renumber_from(batch, needs_new_id=True)
            return known
        return stock(self, batch, attempt, failure, reason, **rest)

    return [(QueueSender, "fail", fail)]


@mutant(on=CLIENTS)
def sent_counts_as_written() -> Sequence[Patch]:
    """A send whose connection breaks counts as written: the node had taken it."""
    stock = QueueSender.fail

    def fail(
        self: Any, batch: Any, attempt: int, failure: Failure, reason: str, **rest: Any
    ) -> bool:
        if failure is Failure.UNCERTAIN and batch in self.sealed:
            return bool(self.acknowledge(batch, node=batch.node, queue_offset=-1, position=-1))
        return stock(self, batch, attempt, failure, reason, **rest)

    return [(QueueSender, "fail", fail)]


@mutant(on=KILLS)
def commit_before_processing() -> Sequence[Patch]:
    """A consumer commits what it has only pulled."""
    stock = Readings._commit_done

    async def commit_done(self: Any) -> None:
        for queue in self.prefetch.progresses:
            queue.done = max(queue.done, queue.reader.next_offset)
        await stock(self)

    return [(Readings, "_commit_done", commit_done)]


@mutant(on=HANDLING)
def left_counts_as_done() -> Sequence[Patch]:
    """A message whose block ends with an error is acked as if it had ended well."""
    return [(QueueProgress, "leave", QueueProgress.ack)]


@mutant(on=HANDLING)
def pause_forgets_what_is_at_hand() -> Sequence[Patch]:
    """A paused queue pulls no more, and what was pulled before is handed out all the same."""

    def pause(self: Any, *queues: int, topic: str | None = None) -> None:
        for progress in self._readings.named(queues, topic):
            progress.reader.is_paused = True

    return [(Consumer, "pause", pause)]


@mutant(on=HANDLING)
def close_waits_for_no_commit() -> Sequence[Patch]:
    """A consumer that is closed in peace does not commit what was done since the last time."""
    stock = Readings._commit_done

    async def commit_done(self: Any) -> None:
        if not self._is_closed:
            await stock(self)

    return [(Readings, "_commit_done", commit_done)]


@mutant(on=HANDLING)
def newest_batch_first() -> Sequence[Patch]:
    """Of several batches of a queue that wait, the last one is sent first."""
    stock = QueueSender.seal

    def seal(self: Any) -> Any:
        self.pending.rotate(1)
        return stock(self)

    return [(QueueSender, "seal", seal)]


@mutant(on=HANDLING)
def bodies_stay_compressed() -> Sequence[Patch]:
    """A consumer hands out a compressed body as it is stored."""
    return [(message, "unpack", lambda body, _system_flag, *, what: body)]


@mutant(on=CLIENTS)
def a_seek_goes_on_with_what_is_at_hand() -> Sequence[Patch]:
    """A consumer that is put elsewhere hands out first what it had at hand where it was."""
    return [(Handout, "forget", lambda *_args: None)]


@mutant(on=PICKING)
def tags_are_compared_by_their_hash() -> Sequence[Patch]:
    """A consumer takes all that the node has found by the hashes of tags for what it wants."""
    stock = records.decode_run

    def decode(*args: Any, tags: frozenset[bytes] | None = None, **rest: Any) -> Any:
        return stock(*args, tags=tags and tags | {b"Aa", b"BB"}, **rest)

    return [(queue_reader, "decode_run", decode)]


@mutant(on=PICKING)
def what_is_at_hand_is_passed_over() -> Sequence[Patch]:
    """What a filter has passed over counts as done, with the messages before it still at hand."""
    return [(Handout, "has", lambda *_args, **_options: False)]
