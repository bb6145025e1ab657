"""Bugs of the broker: duplicates, queue offsets, groups' offsets, dispatch, states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.handlers.offsets import OffsetHandlers
from broker.handlers.registry import answer
from broker.metadata.consumer_offsets import ConsumerOffsets
from broker.protocol.headers import UpdateConsumerOffsetRequest
from broker.protocol.response_code import ResponseCode
from broker.store.append_queue import AppendQueue
from broker.store.append_state import AppendState
from broker.store.derived_jobs import StateJob
from broker.store.dispatch_service import DispatchService
from broker.store.producers import (
    NEW_VERDICT,
    ProducerTable,
    SequenceState,
    SequenceVerdict,
    check_sequence,
)
from broker.store.state_file import decode_state, encode_state
from dledger.notices import Notices
from dledger.remoting.command import response
from dledger.store.housekeeping import Housekeeping
from jepsen_like.mutants.grounds import (
    BEHIND,
    CLIENTS,
    CUTS,
    RESTARTS,
    SLOWLY_BEHIND,
    UNITS,
)
from jepsen_like.mutants.mutant import Patch, mutant
from jepsen_like.mutants.opening import opens_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.store.state_file import DerivedSnapshot

# -- duplicates ------------------------------------------------------------------------------------


@mutant(on=CUTS)
def no_dedup() -> Sequence[Patch]:
    """Every batch is new."""

    def reserve(self: object, *_: object) -> SequenceVerdict:
        return NEW_VERDICT

    return [(AppendState, "reserve", reserve)]


@mutant(on=CLIENTS)
def dedup_by_equality() -> Sequence[Patch]:
    """Only the very last batch of a producer is known again."""

    def reserve(
        self: Any, producer_id: int, topic: str, queue_id: int, first: int, count: int
    ) -> SequenceVerdict:
        producer = self._producer((producer_id, topic, queue_id))
        if producer is not None and producer.last_sequence == first + count - 1:
            return SequenceVerdict(
                SequenceState.DUPLICATE, producer._queue_offset_of(first), producer.index
            )
        return NEW_VERDICT

    return [(AppendState, "reserve", reserve)]


@mutant(on=CUTS)
def dedup_forgets_at_failover() -> Sequence[Patch]:
    """A new leader knows only what was sent to itself."""

    def producer(self: Any, key: Any) -> Any:
        return self._producers.get(key)

    def reserve(
        self: Any, producer_id: int, topic: str, queue_id: int, first: int, count: int
    ) -> SequenceVerdict:
        if self._producer((producer_id, topic, queue_id)) is None:
            return NEW_VERDICT
        return stock(self, producer_id, topic, queue_id, first, count)

    stock = AppendState.reserve
    return [(AppendState, "_producer", producer), (AppendState, "reserve", reserve)]


@mutant(on=RESTARTS)
def dedup_forgets_at_restart() -> Sequence[Patch]:
    """A restart that begins with a state file begins without producers."""
    stock, check = ProducerTable.restore, AppendState.reserve

    def restore(self: Any, snapshot: list[Any]) -> None:
        stock(self, [snapshot[0], []])

    def reserve(
        self: Any, producer_id: int, topic: str, queue_id: int, first: int, count: int
    ) -> SequenceVerdict:
        verdict = check(self, producer_id, topic, queue_id, first, count)
        return NEW_VERDICT if verdict.state is SequenceState.UNKNOWN else verdict

    return [(ProducerTable, "restore", restore), (AppendState, "reserve", reserve)]


@mutant(on=CLIENTS)
def dedup_forgets_what_waits() -> Sequence[Patch]:
    """What is handed in and not yet appended is not known again when it is sent once more."""

    def reserve(
        self: Any, producer_id: int, topic: str, queue_id: int, first: int, count: int
    ) -> SequenceVerdict:
        verdict = check_sequence(self._producer((producer_id, topic, queue_id)), first, count)
        # What follows something that waits has to pass, or nothing would ever be pipelined.
        return NEW_VERDICT if verdict.state is SequenceState.GAP else verdict

    return [(AppendState, "reserve", reserve)]


# -- queue offsets ---------------------------------------------------------------------------------


@mutant(on=CUTS)
def offset_off_by_one() -> Sequence[Patch]:
    """A new leader recounts queue offsets one too low."""

    def first_offset(self: Any, topic: str, queue_id: int) -> int:
        return int(max(0, self._dispatched.next_queue_offset(topic, queue_id) - 1))

    return [(AppendState, "_first_offset", first_offset)]


@mutant(on=CUTS)
def tail_not_recounted() -> Sequence[Patch]:
    """A new leader appends at once, and knows of its log only what it has dispatched."""
    return [opens_at_once(_EmptyBehind)]


class _EmptyBehind:
    """A log in which nothing is found."""

    def __init__(self, log: Any) -> None:
        self._log = log

    @property
    def end_index(self) -> int:
        return int(self._log.end_index)

    def entries(self, first_index: int, last_index: int) -> tuple[()]:
        return ()


# -- dispatch --------------------------------------------------------------------------------------


@mutant(on=CUTS)
def dispatches_what_is_not_committed() -> Sequence[Patch]:
    """A follower takes in its log to the end, committed or not."""
    stock = Notices.publish

    def publish(self: Any) -> None:
        stock(self)
        core = self._core
        for watcher in () if core.engine.is_leader else self._commit_watchers:
            if isinstance(getattr(watcher, "__self__", None), DispatchService):
                watcher(core.store.end_index)

    return [(Notices, "publish", publish)]


@mutant(on=UNITS)
def queue_files_never_synced() -> Sequence[Patch]:
    """A state is written down before the units that it counts on are on the disk."""

    def run(self: Any) -> None:
        for flush in self._flushes:
            flush.run()
        self._states.write(self._index, self._data)
        self._states.unlink(self._superseded)

    return [(StateJob, "run", run)]


# -- consumer groups -------------------------------------------------------------------------------


@mutant(on=CUTS)
def offsets_not_replicated() -> Sequence[Patch]:
    """A leader keeps a group's offsets to itself."""

    def update(self: Any, session: Any, command: Any) -> None:
        header = UpdateConsumerOffsetRequest.decode(command.ext_fields)
        self._offsets._commit(
            {
                "group": header.consumer_group,
                "topic": header.topic,
                "queues": [[header.queue_id, header.commit_offset]],
            }
        )
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    update._handles_request_code = OffsetHandlers.update._handles_request_code  # type: ignore[attr-defined]
    return [(OffsetHandlers, "update", update)]


@mutant(on=CUTS)
def offsets_acknowledged_early() -> Sequence[Patch]:
    """A commit of a group's offset is acknowledged before its entry is committed."""
    stock = AppendQueue.put_command

    def put_command(self: Any, command: Any, done: Callable[[int, Any], None]) -> None:
        if command.kind != "offset.commit":
            stock(self, command, done)
            return
        stock(self, command, lambda _index, _error: None)
        done(0, None)

    return [(AppendQueue, "put_command", put_command)]


# -- states ----------------------------------------------------------------------------------------


def _with_state(change: Callable[[DerivedSnapshot], dict[str, Any]]) -> Sequence[Patch]:
    """Have a member behind retention get a state that is changed."""
    stock = DispatchService.load_state

    def load_state(self: Any, index: int) -> bytes:
        state = decode_state(stock(self, index))
        packed = ProducerTable()
        packed.restore(state.producers)
        parts = {
            "queues": state.queues,
            "producers": packed.snapshot(),
            "metadata": state.metadata,
            "key_index": state.key_index,
            **change(state),
        }
        return encode_state(state.point, **parts)

    return [(DispatchService, "load_state", load_state)]


@mutant(on=BEHIND)
def snapshot_lacks_last() -> Sequence[Patch]:
    """A state sent to a member behind retention lacks the last record of each queue."""
    return _with_state(
        lambda state: {"queues": [(topic, q, max(0, end - 1)) for topic, q, end in state.queues]}
    )


@mutant(on=BEHIND)
def snapshot_lacks_producers() -> Sequence[Patch]:
    """A state sent to a member behind retention lacks what producers have sent."""
    return _with_state(lambda _: {"producers": ProducerTable().snapshot()})


@mutant(on=BEHIND)
def snapshot_lacks_offsets() -> Sequence[Patch]:
    """A state sent to a member behind retention lacks the offsets of consumer groups."""
    return _with_state(lambda state: {"metadata": {**state.metadata, ConsumerOffsets.name: []}})


@mutant(on=SLOWLY_BEHIND)
def drops_what_is_not_taken_in() -> Sequence[Patch]:
    """Retention goes by size alone, whether or not there is a state of what it drops."""
    stock = Housekeeping._begin_drop

    def begin_drop(self: Any, usage: Any) -> Any:
        keeper = self._state_keeper
        self._state_keeper = _YesSayer(keeper, self._store.end_index)
        try:
            return stock(self, usage)
        finally:
            self._state_keeper = keeper

    return [(Housekeeping, "_begin_drop", begin_drop)]


class _YesSayer:
    """A keeper of states that says it has taken in and kept everything."""

    def __init__(self, keeper: Any, end_index: int) -> None:
        self._keeper = keeper
        self._end_index = end_index

    def has_state(self, index: int) -> bool:
        return True

    def applied_index(self) -> int:
        return self._end_index

    def newest_ms(self, after_index: int, upto_index: int) -> Any:
        return self._keeper.newest_ms(after_index, upto_index)

    def log_dropped(self) -> Any:
        return self._keeper.log_dropped()
