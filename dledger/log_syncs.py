"""The syncs of one member: when its log and its vote file are made durable, beside the event loop.

One sync of the log at a time: what is appended meanwhile is the next one's, which is how many
entries come to share one.  With SYNC_FLUSH the next begins as soon as there is something for it,
with ASYNC_FLUSH at an interval, or when the engine wants one.  A promise of the vote file never
waits for the log.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from dledger.config import FlushDiskType
from dledger.measures import COUNT_BOUNDS, SECONDS_BOUNDS, Histogram

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dledger.clock import Clock
    from dledger.config import LedgerConfig
    from dledger.raft.engine import RaftEngine
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.tickets import SyncTicket
    from dledger.store.vote_file import VoteFile, VoteTicket
    from dledger.worker import Worker

logger = logging.getLogger(__name__)


class SyncHooks(Protocol):
    """Whose log it is. All are called on the event loop."""

    def on_log_synced(self) -> None:
        """Hear that more of the log is durable, and that the engine knows."""
        ...

    def on_lead_left(self) -> None:
        """Hear that this member has left the lead, as its disk has stalled."""
        ...

    def on_loop(self) -> AbstractContextManager[None]:
        """Guard what runs when a job is done; behind it comes a pump."""
        ...

    def fail(self, error: BaseException) -> None:
        """End the member with *error*."""
        ...


class LogSyncs:
    """Starts the syncs that are due, and takes note of their ends.

    Attributes:
        is_each: whether every entry is synced before it counts (SYNC_FLUSH).
        ticket: of the sync of the log that is running.
        due_at: second of the clock at which the log is synced again with ASYNC_FLUSH.
        seconds_last: how long the last sync of the log took.
        seconds: how long they all did.
        entries: how many entries shared one.
    """

    def __init__(
        self,
        *,
        config: LedgerConfig,
        store: LedgerStore,
        votes: VoteFile,
        engine: RaftEngine,
        clock: Clock,
        log_worker: Worker,
        vote_worker: Worker,
        hooks: SyncHooks,
    ) -> None:
        """Make one that has nothing to do yet; arguments as of `LedgerServer`."""
        self._store = store
        self._votes = votes
        self._engine = engine
        self._clock = clock
        self._log_worker = log_worker
        self._vote_worker = vote_worker
        self._hooks = hooks
        self.is_each = config.store.flush_disk_type is FlushDiskType.SYNC_FLUSH
        self._interval_seconds = config.store.flush_interval_ms / 1000
        self._stalled_after = config.raft.election_timeout_max_ms / 1000  # seconds
        self.ticket: SyncTicket | None = None
        self._started_at = 0.0
        self.due_at = 0.0
        self._vote_syncing = False
        self.seconds_last = 0.0
        self.seconds = Histogram(SECONDS_BOUNDS)
        self.entries = Histogram(COUNT_BOUNDS)

    def start_due(self, now: float) -> None:
        """Start what is due and can be started; *now* is the clock's second."""
        if not self._vote_syncing and self._votes.synced_version != self._votes.version:
            vote_ticket = self._votes.begin_sync()
            if vote_ticket is not None:
                self._vote_syncing = True
                self._vote_worker.submit(
                    vote_ticket.run, lambda failure: self._vote_synced(vote_ticket, failure)
                )
        if self.ticket is not None:
            self._judge_slow(now)
        elif (
            self.is_each
            or now >= self.due_at
            or (self._engine.sync_wanted > self._store.synced_index)
        ):
            self.due_at = now + self._interval_seconds
            ticket = self._store.begin_sync()
            if ticket is not None:
                self.ticket = ticket
                self._started_at = now
                self._log_worker.submit(ticket, lambda failure: self._log_synced(ticket, failure))

    def finish_last(self) -> None:
        """Take note of the sync that ran when the loop ended: nobody was told any more.

        Raises:
            StorageFailedError: it failed.
        """
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            self._store.finish_sync(ticket)

    def _judge_slow(self, now: float) -> None:
        """Leave the lead to a node whose disk works, when this one's has stalled too long."""
        engine, ticket, limit = self._engine, self.ticket, self._stalled_after
        if engine.storage_stalled or not self.is_each or now - self._started_at <= limit:
            return
        # It is this node that may have stood still: the sync has ended, and nobody has been told.
        self._log_worker.take_up()
        if ticket is None or ticket.is_done or ticket.failure is not None:
            return
        logger.warning("a sync of the log has been running for more than %.1f s", limit)
        engine.storage_stalled = True
        if engine.is_leader and engine.peer_ids:
            engine.abdicate()
            self._hooks.on_lead_left()

    def _log_synced(self, ticket: SyncTicket, failure: BaseException | None) -> None:
        if self.ticket is not ticket:
            return  # `finish_last` was quicker
        self.ticket = None
        try:
            raise_if_any(failure)
            store = self._store
            synced_before = store.synced_index
            seconds = self._clock.now() - self._started_at
            store.finish_sync(ticket, watermark=False)
            self._engine.storage_stalled = False
            self._engine.log_synced()
            self._hooks.on_log_synced()
            # For none of this an answer waits; the watermark is a hint.
            self.seconds_last = seconds
            self.seconds.observe(seconds)
            self.entries.observe(max(store.synced_index - synced_before, 0))
            store.write_watermark()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the member raises it
            self._hooks.fail(error)

    def _vote_synced(self, ticket: VoteTicket, failure: BaseException | None) -> None:
        self._vote_syncing = False
        with self._hooks.on_loop():
            raise_if_any(failure)
            self._votes.finish_sync(ticket)
            self._engine.vote_synced()


def raise_if_any(failure: BaseException | None) -> None:
    """Raise what a worker's job raised."""
    if failure is not None:
        raise failure
