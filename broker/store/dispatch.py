"""Committed entries become derived state, in log order, on leader and followers alike.

Dispatch never passes the committed index, and it stops for nothing but an entry that cannot be
taken in: then every replica would derive something wrong, so this one stops.

Source: RocketMQ ``DefaultMessageStore.ReputMessageService``.
"""

from __future__ import annotations

from itertools import repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any, Protocol

from broker.errors import CorruptRecordError
from broker.store.entry_batch import read_entries
from broker.store.log_view import CHANNEL_METADATA, CHANNEL_RECORDS
from broker.store.runs import RunReader
from dledger.entry import HEADER_SIZE, EntryKind
from dledger.errors import PoisonEntryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.store.consume_queue import ConsumeQueue
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView
    from broker.store.producers import ProducerTable
    from broker.store.runs import RecordRun
    from dledger.entry import Entry, LogPoint

# One go may not keep the event loop from a heartbeat, nor an election, which waits for several of
# its turns one after another. Records of one size and queue take 0.2 us each, of any size 0.6 us,
# of other clients 2 us (200 B records), an entry by itself 15 us.
DISPATCH_SIZE_MAX = 768 * 1024  # bytes: 1 to 7 ms
DISPATCH_ENTRY_COST = 12 * 1024  # bytes that take as long as an entry by itself
DISPATCH_SMALL_COST = 3 * 1024  # the same for one of some small entries that are read together
SMALL_SIZE_MAX = 64 * 1024  # bytes of entries that are read together
SMALL_COUNT_MAX = 64  # of them
DISPATCH_KEY_COST = 1024  # the same for a key that is not taken by column
DISPATCH_STATE_COST = 64 * 1024  # the same for a state by itself; each byte of it counts as well

REMEDY = (
    "this version cannot take the entry in; if it was written by a newer version, start that one, "
    "else report the log, as every member holds the same bytes"
)


class Dispatcher(Protocol):
    """Takes in every run of committed records, in log order."""

    def dispatch_runs(self, runs: Sequence[RecordRun], body: memoryview) -> None:
        """Take in *runs*, of an entry or of some; must not wait and may not fail for their content.

        Their properties lie in *body*, which is not to be kept.  Sends to many queues make runs of
        one record, thousands a second: what is done for each of them is to be a few lookups.
        """
        ...


class MetadataMachine(Protocol):
    """State that changes by commands in the log. `broker.metadata.state_machine` has it."""

    def apply_entry(self, body: memoryview) -> list[Any]:
        """Apply the commands of one entry; return what each came to.

        Raises:
            PoisonEntryError: a command cannot be applied by this version.
        """
        ...

    def take_deleted_topics(self) -> list[str]:
        """Return the topics deleted since the last call, whose messages are to go."""
        ...

    def take_trimmed_queues(self) -> list[tuple[str, int, int]]:
        """Return topic, queue id and new beginning of queues trimmed since the last call."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state in plain values; the same on every node."""
        ...

    def restore(self, snapshot: dict[str, Any] | None) -> None:
        """Become what `snapshot` was taken of; None: as before the first command."""
        ...


class ArrivalListener(Protocol):
    """Hears of new messages, once for each batch."""

    def __call__(self, queues: Sequence[ConsumeQueue]) -> None:
        """These queues have new messages, which can be read now; one may be named repeatedly."""
        ...


class DeletedListener(Protocol):
    """Hears of topics that are gone."""

    def __call__(self, topic: str) -> None:
        """No message of *topic* can be read any more."""
        ...


class AppliedListener(Protocol):
    """Hears what the commands of one metadata entry came to."""

    def __call__(self, index: int, results: list[Any]) -> None:
        """Entry *index* is applied; *results* has one item for each of its commands."""
        ...


class Dispatch:
    """Takes entries in one after another."""

    def __init__(
        self,
        *,
        queues: ConsumeQueues,
        producers: ProducerTable,
        metadata: MetadataMachine,
        segment_size: int,
        dispatchers: Sequence[Dispatcher] = (),
    ) -> None:
        self._queues = queues
        self._producers = producers
        self._metadata = metadata
        self._segment_size = segment_size
        self._dispatchers = dispatchers
        self._reader = RunReader()
        self._arrived: list[ConsumeQueue] = []
        self._deleted: list[str] = []

    def begins_segment(self, entry: Entry) -> bool:
        """Whether *entry* is the first of a segment."""
        return entry.position % self._segment_size == 0

    def take_in(self, entry: Entry) -> list[Any] | None:
        """Dispatch one entry; return what its commands came to if it holds commands.

        Raises:
            PoisonEntryError: names index and position.
        """
        if self.begins_segment(entry):
            self._producers.expire()
        if entry.kind == EntryKind.NOOP:
            return None
        try:
            if entry.channel == CHANNEL_RECORDS:
                self._take_in_records(entry)
                return None
            if entry.channel == CHANNEL_METADATA:
                return self._take_in_commands(entry)
            raise PoisonEntryError(f"channel {entry.channel} is unknown")
        except (CorruptRecordError, PoisonEntryError) as error:
            raise PoisonEntryError(
                f"entry {entry.index} at position {entry.position}: {error}; {REMEDY}"
            ) from error

    def take_in_small(
        self, log: LogView, after: LogPoint, *, committed_index: int, size_max: int
    ) -> LogPoint | None:
        """Dispatch the next few entries together if they are small ones with records.

        Args:
            log: where they are.
            after: the point that is reached so far, behind an entry.
            committed_index: the last that may be taken in.
            size_max: as many bytes may they count as, about.

        Returns:
            The point behind the last; None where the next entry has to be looked at by itself.

        Raises:
            PoisonEntryError: names the entry.
            CorruptStoreError: the entry is damaged here.
        """
        position, index = after.position, after.index + 1
        room = self._segment_size - position % self._segment_size
        size = min(log.end_position - position, SMALL_SIZE_MAX, room)
        # Of a segment only the last point is left where its entries were dropped.
        if room == self._segment_size or size < HEADER_SIZE or after.index == log.base.index:
            return None
        raw = log.bytes_at(position, size)
        count_max = min(SMALL_COUNT_MAX, 1 + size_max // DISPATCH_SMALL_COST)
        batch = read_entries(
            self._reader,
            raw,
            position,
            index=index,
            last_index=min(committed_index, after.index + count_max),
        )
        if batch is None:
            return None
        left = iter(batch.runs)
        try:
            self._queues.put_runs(left, self._arrived)
        except PoisonEntryError as error:
            found = batch.indexes[-1 - length_hint(left)]
            log.verify(found, found)  # damaged here alone, or on every member
            raise PoisonEntryError(f"entry {found}: {error}; {REMEDY}") from error
        self._producers.record_runs(batch.runs, indexes=batch.indexes)
        for dispatcher in self._dispatchers:
            dispatcher.dispatch_runs(batch.runs, raw)
        return batch.end

    def take_arrived(self) -> list[ConsumeQueue]:
        """Return the queues that grew since the last call, once for each run."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def take_deleted(self) -> list[str]:
        """Return the topics deleted since the last call."""
        deleted, self._deleted = self._deleted, []
        return deleted

    def _take_in_commands(self, entry: Entry) -> list[Any]:
        results = self._metadata.apply_entry(entry.body)
        for topic in self._metadata.take_deleted_topics():
            self._queues.delete_topic(topic)
            self._deleted.append(topic)
        for topic, queue_id, offset in self._metadata.take_trimmed_queues():
            self._queues.trim(topic, queue_id, offset)
        return results

    def _take_in_records(self, entry: Entry) -> None:
        runs = list(self._reader.runs(entry.body, entry.body_position))
        self._queues.put_runs(runs, self._arrived)
        self._producers.record_runs(runs, indexes=repeat(entry.index))
        for dispatcher in self._dispatchers:
            dispatcher.dispatch_runs(runs, entry.body)
