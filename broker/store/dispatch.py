"""Committed entries become derived state, in log order, on leader and followers alike.

Dispatch never passes the committed index, and it stops for nothing but an entry that cannot be
taken in: then every replica would derive something wrong, so this one stops.

Source: RocketMQ ``DefaultMessageStore.ReputMessageService``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from broker.errors import CorruptRecordError
from broker.store.log_view import CHANNEL_METADATA, CHANNEL_RECORDS
from broker.store.runs import RunReader
from dledger.entry import EntryKind
from dledger.errors import PoisonEntryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.store.consume_queues import ConsumeQueues
    from broker.store.producers import ProducerTable
    from broker.store.queue_files import QueueKey
    from broker.store.runs import RecordRun
    from dledger.entry import Entry

# One go may not keep the event loop from a heartbeat, nor an election, which waits for several of
# its turns one after another. Records of one size and queue take 0.2 us each, of any size 0.6 us,
# of other clients 2 us (200 B records), an entry by itself 15 us.
DISPATCH_SIZE_MAX = 768 * 1024  # bytes: 1 to 7 ms
DISPATCH_ENTRY_COST = 12 * 1024  # bytes that take as long as an entry by itself
DISPATCH_KEY_COST = 1024  # the same for a key that is not taken by column
DISPATCH_STATE_COST = 64 * 1024  # the same for a state by itself; each byte of it counts as well

REMEDY = (
    "this version cannot take the entry in; if it was written by a newer version, start that one, "
    "else report the log, as every member holds the same bytes"
)


class Dispatcher(Protocol):
    """Takes in every run of committed records, in log order."""

    def dispatch_runs(self, runs: Sequence[RecordRun], entry: Entry) -> None:
        """Take in *runs*, all of *entry*; must not wait and may not fail for their content.

        Sends to many queues make runs of one record, thousands a second: what is done for each of
        them is to be a few lookups.
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

    def __call__(self, ends: Mapping[QueueKey, int]) -> None:
        """Messages before the ends of these queues, which are new, can be read now."""
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
        self._arrived: dict[QueueKey, int] = {}
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

    def take_arrived(self) -> dict[QueueKey, int]:
        """Return the ends of the queues that grew since the last call."""
        arrived, self._arrived = self._arrived, {}
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
        self._producers.record_runs(runs, index=entry.index)
        for dispatcher in self._dispatchers:
            dispatcher.dispatch_runs(runs, entry)
