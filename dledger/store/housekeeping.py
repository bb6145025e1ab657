"""Work on a log's files that nobody waits for: segments ahead, checkpoints, retention, states.

All of it blocks, so it is done by a worker: the next segment by itself, since appends may soon wait
for it, and the rest one job at a time.  The log may only begin behind an entry whose state the room
above keeps; such a state is also what a member behind retention is given.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from dledger.errors import LedgerFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.clock import Clock
    from dledger.config import StoreConfig
    from dledger.entry import LogPoint
    from dledger.store.ledger_store import LedgerStore
    from dledger.worker import Worker

logger = logging.getLogger(__name__)

_FULL_RETRY_SECONDS = 1.0  # between two tries to allocate a segment on a full disk


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


class HousekeepingHooks(Protocol):
    """Whom the log belongs to. Each is called on the event loop and ends in a pump."""

    @property
    def committed_index(self) -> int:
        """Up to where entries are committed."""
        ...

    def on_segment_prepared(self, failure: BaseException | None) -> None:
        """Hear that there is room again; or that the disk is full or broken."""
        ...

    def on_house_kept(self, failure: BaseException | None) -> None:
        """Hear that a checkpoint or drop is done, or why not."""
        ...

    def on_state_loaded(
        self, base_index: int, state: bytes | None, failure: BaseException | None
    ) -> None:
        """Take the state that was asked for; None: the log begins behind it by now."""
        ...


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
        self._is_busy = False
        self._interval_seconds = config.checkpoint_interval_ms / 1000
        self._due_at = clock.now() + self._interval_seconds

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
        if store.needs_prepare and not self._preparing and now >= self._prepare_not_before:
            self._preparing = True
            self._worker.submit(store.prepare_next, self._prepared)
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
            self._prepare_not_before = self._clock.now() + _FULL_RETRY_SECONDS
        self._hooks.on_segment_prepared(failure)

    def _keep_house(self) -> None:
        jobs: list[Callable[[], None]] = []
        checkpoint = self._store.begin_checkpoint(self._hooks.committed_index)
        if checkpoint is not None:
            jobs.append(checkpoint.run)
        drop = self._begin_drop()
        if drop is not None:
            jobs.append(drop[0])
        if not jobs:
            return
        self._is_busy = True

        def work() -> None:
            for job in jobs:
                job()

        def done(failure: BaseException | None) -> None:
            self._is_busy = False
            if drop is not None and failure is None:
                drop[1]()
            self._hooks.on_house_kept(failure)

        self._worker.submit(work, done)

    def _begin_drop(self) -> tuple[Callable[[], None], Callable[[], None]] | None:
        """Take out of the log what `log_size_max` no longer allows, if anything.

        Return the job that makes it durable and what is to be called on the loop after it.
        """
        size_max = self._config.log_size_max
        store = self._store
        if not size_max or store.end_position - store.base.position <= size_max:
            return None
        segment_size = self._config.segment_size
        # Whole segments only, and none that the room above has not taken in and kept a state of.
        position = -(-(store.end_position - size_max) // segment_size) * segment_size
        taken_in = min(self._hooks.committed_index, self._state_keeper.applied_index())
        while position > store.base.position:
            index = store.find_index_at_position(position) if position < store.end_position else 0
            base_index = index - 1
            if store.base.index < base_index <= taken_in and self._state_keeper.has_state(
                base_index
            ):
                ticket = store.begin_drop(position)
                if ticket is None:
                    return None
                return ticket.run, self._state_keeper.log_dropped()
            position -= segment_size
        return None
