"""Bugs of the client library: what a caller is told, what is sent again, what is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.client.consumer import Consumer
from broker.client.errors import NotWrittenError
from broker.client.queue_sender import Failure, QueueSender
from jepsen_like.mutants.grounds import CLIENTS, CUTS, KILLS
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
    stock = Consumer._commit_done

    async def commit_done(self: Any) -> None:
        for queue in self._queues.values():
            queue.done = max(queue.done, queue.reader.next_offset)
        await stock(self)

    return [(Consumer, "_commit_done", commit_done)]
