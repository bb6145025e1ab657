"""Work on a log's files that nobody waits for: segments ahead, checkpoints, retention, states.

All of it blocks, so it is done by a worker: the next segment by itself, since appends may soon wait
for it, and the rest one job at a time.  The log may only begin behind an entry whose state the room
above keeps; such a state is also what a member behind retention is given.

A round writes a checkpoint and measures the disk; then it is decided what may go
(`dledger.store.retention`), and a second job lets it go.
"""

from __future__ import annotations

import functools
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dledger.config import FlushDiskType
from dledger.errors import LedgerFullError
from dledger.store.disk_usage import format_bytes
from dledger.store.retention import NEWEST_UNKNOWN, DropReason, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.clock import Clock
    from dledger.config import StoreConfig
    from dledger.entry import LogPoint
    from dledger.store.disk_usage import DiskUsage
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.tickets import DropTicket
    from dledger.worker import Worker

logger = logging.getLogger(__name__)

_FULL_RETRY_SECONDS = 1.0  # between two tries to allocate a segment, or looks at a full disk
# Where a sync has to wait for the disk, zeros take it for a tenth of the time as long as there are
# entries to be synced.  On a disk that is busy with these they cannot pay in the long run, as each
# byte is written twice; but most of the time it is not.
_ZEROS_REST = 9
_ZEROS_REST_SECONDS_MAX = 0.5
# Segments that go in one job: a file of 1 GiB takes some 50 ms, and the next segment may be needed.
DROPPED_AT_ONCE_MAX = 10


class StateKeeper(Protocol):
    """The state that the log up to some entry amounts to, kept by the room above.

    The ledger itself never looks inside; it carries such a state to peers behind retention.
    """

    def has_state(self, index: int) -> bool:
        """Return whether the state as of entry *index* is kept and can be loaded."""
        ...

    def load_state(self, index: int) -> bytes:
        """Return the state as of entry *index*; blocking."""
        ...

    def install_state(self, base: LogPoint, state: bytes) -> None:
        """Make *state* durable and the one to go on from; the log will be empty at *base*.

        A restart before the log itself is reset must still work with the old log.
        """
        ...

    def log_replaced(self, base: LogPoint) -> None:
        """Go on from the state installed last: the log is empty at *base* now."""
        ...

    def log_dropped(self) -> Callable[[], None]:
        """Follow the log, the base of which has moved forward.

        The new base is not on the disk yet: a crash still brings back the old one and needs the
        state that leads there.  What this returns is called on the event loop when it is; only
        then may files go.
        """
        ...

    def applied_index(self) -> int:
        """Return up to which entry the log has been taken in; nothing above may be dropped."""
        ...

    def newest_ms(self, after_index: int, upto_index: int) -> int | None:
        """Return when the newest record of some entries was stored, in ms since 1970 UTC.

        Args:
            after_index: the entry before the first of them.
            upto_index: the last of them.

        Returns:
            None when they hold no record; `NEWEST_UNKNOWN` when it takes longer to find out than
            the event loop can wait: then it is asked again.
        """
        ...


class HousekeepingHooks(Protocol):
    """Whom the log belongs to. Each is called on the event loop and ends in a pump."""

    @property
    def committed_index(self) -> int:
        """Up to where entries are committed."""
        ...

    def on_segment_prepared(self, failure: BaseException | None) -> None:
        """Hear that there is room again; or that the disk is full or broken."""
        ...

    def on_disk_measured(self, usage: DiskUsage) -> None:
        """Hear how full the disk is. The only one that is followed by another call."""
        ...

    def on_house_kept(self, failure: BaseException | None) -> None:
        """Hear that a round is done, or why not."""
        ...

    def on_state_loaded(
        self, base_index: int, state: bytes | None, failure: BaseException | None
    ) -> None:
        """Take the state that was asked for; None: the log begins behind it by now."""
        ...


class Drop(NamedTuple):
    """Segments that are out of the log, and what is left to do about them."""

    ticket: DropTicket  # lets the files go
    base_is_durable: Callable[[], None]  # to be called on the event loop after that
    reason: DropReason
    told: str  # for the log


class Housekeeping:
    """Starts what is due, one job at a time."""

    def __init__(
        self,
        store: LedgerStore,
        config: StoreConfig,
        *,
        clock: Clock,
        worker: Worker,
        state_keeper: StateKeeper,
        hooks: HousekeepingHooks,
    ) -> None:
        """Make one that has nothing to do yet.

        Args:
            store: the log.
            config: its sizes and intervals.
            clock: tells when the next checkpoint is due.
            worker: runs what blocks.
            state_keeper: says what may be dropped.
            hooks: hears what became of it.
        """
        self._store = store
        self._config = config
        self._clock = clock
        self._worker = worker
        self._state_keeper = state_keeper
        self._hooks = hooks
        self._preparing = False
        self._prepare_not_before = 0.0
        self._try_not_before = 0.0  # as long as there is time
        self._zeroing = False
        self._zero_not_before = 0.0
        self._is_busy = False
        self._interval_seconds = config.checkpoint_interval_ms / 1000
        self._rests = config.flush_disk_type is FlushDiskType.SYNC_FLUSH
        self._due_at = clock.now()  # at once: a leader has to know whether its disk is full

    @property
    def is_busy(self) -> bool:
        """Return whether a checkpoint, a drop or a load is running."""
        return self._is_busy

    def next_deadline(self) -> float:
        """Return when `start_due` has something to do at the latest, as the clock's second."""
        return float("inf") if self._is_busy else self._due_at

    def start_due(self) -> None:
        """Start what is due and can be started now."""
        now, store = self._clock.now(), self._store
        if not self._preparing and (
            (store.needs_prepare and now >= self._prepare_not_before)
            or (store.may_prepare and now >= self._try_not_before)
        ):
            self._preparing = True
            self._worker.submit(store.prepare_next, self._prepared)
        if store.owes_zeros and not self._zeroing and now >= self._zero_not_before:
            self._zero_more(now)
        if self._is_busy:
            return
        if now >= self._due_at or (
            store.size_since_checkpoint >= self._config.checkpoint_size
            and store.checkpoint_commit_index < self._hooks.committed_index
        ):
            self._due_at = now + self._interval_seconds
            self._keep_house()

    def load_state(self, base_index: int) -> None:
        """Load the state at the log's base, for a peer; not while `is_busy`."""
        assert not self._is_busy
        self._is_busy = True
        loaded: list[bytes] = []

        def done(failure: BaseException | None) -> None:
            self._is_busy = False
            if base_index != self._store.base.index:
                failure = None  # retention has gone on and taken the file away meanwhile
            self._hooks.on_state_loaded(base_index, loaded[0] if loaded else None, failure)

        self._worker.submit(lambda: loaded.append(self._state_keeper.load_state(base_index)), done)

    def _prepared(self, failure: BaseException | None) -> None:
        self._preparing = False
        if isinstance(failure, LedgerFullError):
            self._try_not_before = self._clock.now() + _FULL_RETRY_SECONDS
            if not self._store.needs_prepare:
                return  # there is time for the disk to find room: nobody has to hear of it yet
            self._prepare_not_before = self._try_not_before
        self._hooks.on_segment_prepared(failure)

    def _zero_more(self, now: float) -> None:
        store, end_position = self._store, self._store.end_position
        self._zeroing = True

        def done(failure: BaseException | None) -> None:
            self._zeroing = False
            if failure is not None:
                self._hooks.on_house_kept(failure)
                return
            then = self._clock.now()
            if self._rests and store.end_position != end_position:
                rest = min((then - now) * _ZEROS_REST, _ZEROS_REST_SECONDS_MAX)
                self._zero_not_before = then + rest
            elif store.owes_zeros:
                self._zero_more(then)

        self._worker.submit(store.zero_more, done)

    def _keep_house(self) -> None:
        store = self._store
        checkpoint = store.begin_checkpoint(self._hooks.committed_index)
        # What is durable with this checkpoint, and has been read.
        copied = store.take_copied(
            min(store.checkpoint_commit_index, self._state_keeper.applied_index())
        )
        measured: list[DiskUsage] = []
        self._is_busy = True

        def work() -> None:
            if checkpoint is not None:
                checkpoint.run()
            for file in copied:
                file.leave_cache()
            measured.append(store.measure_disk())

        def done(failure: BaseException | None) -> None:
            self._is_busy = False
            drop = None
            if failure is None:
                try:
                    drop = self._go_on(measured[0])
                except BaseException as error:  # noqa: BLE001 - the hook raises it
                    failure = error
            if drop is None:
                self._hooks.on_house_kept(failure)
            else:
                self._drop(drop)

        self._worker.submit(work, done)

    def _go_on(self, usage: DiskUsage) -> Drop | None:
        self._hooks.on_disk_measured(usage)
        if usage.excess(self._config.disk_refuse_percent):
            self._due_at = min(self._due_at, self._clock.now() + _FULL_RETRY_SECONDS)
        return self._begin_drop(usage)

    def _drop(self, drop: Drop) -> None:
        self._is_busy = True

        def done(failure: BaseException | None) -> None:
            self._is_busy = False
            if failure is None:
                logger.info("%s", drop.told)
                drop.base_is_durable()
                if drop.reason is not DropReason.DISK:
                    # There may be more.  For the disk a look comes later: a file that somebody
                    # reads, or that is used again, has not made room yet.
                    self._due_at = self._clock.now()
            self._hooks.on_house_kept(failure)

        self._worker.submit(drop.ticket.run, done)

    def _begin_drop(self, usage: DiskUsage) -> Drop | None:
        """Take out of the log what may not stay, if anything."""
        found = self._find_drop(usage)
        if found is None:
            return None
        index, position, reason = found
        store = self._store
        told = self._tell(index, position, reason, usage)
        ticket = store.begin_drop(position)
        if ticket is None:
            return None
        return Drop(ticket, self._state_keeper.log_dropped(), reason, told)

    def _find_drop(self, usage: DiskUsage) -> tuple[int, int, DropReason] | None:
        """Return the entry and the position up to which the log may go, and why.

        Whole segments only, and none of them may hold what the room above has not taken in, or end
        where it kept no state.
        """
        store, keeper, segment_size = self._store, self._state_keeper, self._config.segment_size
        moment = Moment(
            config=self._config,
            log_size=store.end_position - store.base.position,
            usage=usage,
            wall_ms=self._clock.wall_ms(),
            hour=self._clock.local_hour(),
        )
        taken_in = min(self._hooks.committed_index, keeper.applied_index(), store.synced_index)
        found: tuple[int, int, DropReason] | None = None
        begin, after_index, count = store.base.position, store.base.index, 0
        while found is None or count < DROPPED_AT_ONCE_MAX:
            position = begin - begin % segment_size + segment_size
            if position >= store.end_position:
                break
            index = store.find_index_at_position(position) - 1
            if index > taken_in:
                break
            reason = moment.why(
                dropped=begin - store.base.position,
                newest_ms=functools.partial(keeper.newest_ms, after_index, index),
            )
            if reason is None:
                break
            if index > store.base.index and keeper.has_state(index):
                found = index, position, reason
            begin, after_index, count = position, index, count + 1
        return found

    def _tell(self, index: int, position: int, reason: DropReason, usage: DiskUsage) -> str:
        """Return the line for the log about a drop up to entry *index* and *position*."""
        base, segment_size = self._store.base, self._config.segment_size
        first = base.position - base.position % segment_size
        last = position - segment_size
        files = f"{first:020d}" if first == last else f"{first:020d} to {last:020d}"
        newest = self._state_keeper.newest_ms(base.index, index)
        told = "without a message"
        if newest == NEWEST_UNKNOWN:
            told = "with messages of unknown age"
        elif newest is not None:
            told = f"messages up to {datetime.fromtimestamp(newest / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
        count = (position - first) // segment_size
        return (
            f"dropped {count} segment{'s' if count > 1 else ''} ({files}, "
            f"{format_bytes(position - base.position)}), entries {base.index + 1} to {index}, "
            f"{told}: {reason.value}; {usage.percent:.1f} % of the disk were used"
        )
