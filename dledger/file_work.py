"""A member's files beside its log's growth: when they are looked at, and what comes of it.

The work itself is `dledger.store.housekeeping`'s and blocks in a thread; here it is said when to
look whether some is due, and the member hears what became of it: there is room again, the disk is
too full to lead with, a state for a peer has been read.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from dledger.errors import LedgerFullError
from dledger.log_syncs import raise_if_any
from dledger.store.housekeeping import Housekeeping, StateKeeper
from dledger.store.retention import refusal_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dledger.clock import Clock
    from dledger.config import StoreConfig
    from dledger.core import LedgerCore
    from dledger.entry import LogPoint
    from dledger.store.disk_usage import DiskUsage
    from dledger.worker import Worker

logger = logging.getLogger(__name__)

# It is looked whether segments, checkpoints or retention are due when the log has grown by so many
# entries or a part of a segment, when something waits for room, and at this interval.
_LOOK_COUNT = 16
_LOOKS_PER_SEGMENT = 64
_LOOK_SECONDS = 0.05


class FileHooks(Protocol):
    """Whose files they are. All are called on the event loop."""

    def on_loop(self) -> AbstractContextManager[None]:
        """Guard what runs when a job is done; behind it comes a pump."""
        ...

    def log_replaced(self, base: LogPoint) -> None:
        """Hear that the log is empty at *base*, as a snapshot was installed."""
        ...

    def fail(self, error: BaseException) -> None:
        """End the member with *error*."""
        ...


class FileWork:
    """Segments ahead, checkpoints, retention and states of one member.

    Attributes:
        disk_usage: as of the last look.
        write_refusal: why a leader should take no messages.
    """

    def __init__(
        self,
        *,
        config: StoreConfig,
        core: LedgerCore,
        clock: Clock,
        worker: Worker,
        state_keeper: StateKeeper,
        hooks: FileHooks,
    ) -> None:
        """Make it; nothing has been looked at yet.

        Args:
            config: sizes and intervals.
            core: the member, and its log.
            clock: the time.
            worker: does what blocks.
            state_keeper: the room above.
            hooks: hears what became of it.
        """
        self._config = config
        self._core = core
        self._store = core.store
        self._clock = clock
        self._state_keeper = state_keeper
        self._hooks = hooks
        self._housekeeping = Housekeeping(
            core.store,
            config,
            clock=clock,
            worker=worker,
            state_keeper=state_keeper,
            hooks=self,
        )
        self._looked_at = 0.0  # when it was last looked what files are to be worked at
        self._looked_at_end = core.store.end  # and where the log ended then
        self._look_size = config.segment_size // _LOOKS_PER_SEGMENT
        self.disk_usage: DiskUsage | None = None
        self.write_refusal: LedgerFullError | None = None

    @property
    def committed_index(self) -> int:
        """See `HousekeepingHooks`."""
        return self._core.committed_index

    def next_deadline(self) -> float:
        """Return when something is due at the latest, as the clock's second."""
        return self._housekeeping.next_deadline()

    def look_soon(self) -> None:
        """Have the next `look` not wait for anything."""
        self._looked_at = float("-inf")

    def look(self, now: float) -> None:
        """Start what is due, now and then; *now* is the clock's second, or a little before."""
        end, before, core = self._store.end, self._looked_at_end, self._core
        if (
            now >= self._looked_at + _LOOK_SECONDS
            or end.index >= before.index + _LOOK_COUNT
            or end.position >= before.position + self._look_size
            or core.waits_for_room
            or core.engine.snapshot_wanted
        ):
            self._start_due()

    def _start_due(self) -> None:
        self._looked_at, self._looked_at_end = self._clock.now(), self._store.end
        wanted = self._core.engine.snapshot_wanted
        if wanted and not self._housekeeping.is_busy:
            self._core.engine.snapshot_wanted = 0
            self._housekeeping.load_state(wanted)
        self._housekeeping.start_due()

    # -- HousekeepingHooks ------------------------------------------------------------------------

    def on_segment_prepared(self, failure: BaseException | None) -> None:
        """See `HousekeepingHooks`."""
        with self._hooks.on_loop():
            if not isinstance(failure, LedgerFullError):
                raise_if_any(failure)
                self._core.room_made()
                return
            if self._core.disk_full is None:
                logger.error("no new segment: %s", failure)
            self._core.fail_waiting(failure)

    def on_disk_measured(self, usage: DiskUsage) -> None:
        """See `HousekeepingHooks`."""
        self.disk_usage = usage
        refusal = refusal_of(self._config, usage)
        if refusal and self.write_refusal is None:
            logger.error("a leader here takes no messages: %s", refusal)
        elif not refusal and self.write_refusal is not None:
            logger.info("there is room again: %.1f %% of the disk are used", usage.percent)
        self.write_refusal = LedgerFullError(refusal) if refusal else None

    def on_house_kept(self, failure: BaseException | None) -> None:
        """See `HousekeepingHooks`."""
        with self._hooks.on_loop():
            raise_if_any(failure)

    def on_state_loaded(
        self, base_index: int, state: bytes | None, failure: BaseException | None
    ) -> None:
        """See `HousekeepingHooks`."""
        with self._hooks.on_loop():
            raise_if_any(failure)
            if state is not None:
                self._core.engine.provide_snapshot(base_index, state)

    # -- a snapshot -------------------------------------------------------------------------------

    def install(self, base: LogPoint, state: bytes) -> None:
        """Replace log and state by those of a snapshot."""
        # Blocks the loop for a few syncs: a node that needs a snapshot has nothing else to do,
        # and nobody may read or vote while its log is being replaced.
        self._state_keeper.install_state(base, state)
        self._store.reset_to(base)
        self._hooks.log_replaced(base)
        try:
            self._state_keeper.log_replaced(base)
        except LedgerFullError as error:
            # The log is another one already.  The next start derives from it, given the room.
            self._hooks.fail(error)
            raise
