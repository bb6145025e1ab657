"""Keeps dispatch going: woken by commits, beside the path of the acknowledgements.

To take in an entry by itself costs as much as it took to replicate it, and nobody may be waiting to
read it.  So a few small entries may wait for one another, some milliseconds, unless somebody wants
to know what is in them: `catch_up` comes before any request that could tell.

Also the ledger's `StateKeeper`: what the log amounts to at its base, for members behind retention.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from broker.store.derived_jobs import StateJob
from broker.store.segment_times import SegmentTimes
from dledger.errors import LedgerError, LedgerFullError
from dledger.measures import SECONDS_BOUNDS, Histogram
from dledger.remoting.alarm import Alarm

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from broker.store.derived import DerivedState
    from broker.store.derived_jobs import Job
    from dledger.clock import Clock
    from dledger.entry import LogPoint
    from dledger.worker import Worker

logger = logging.getLogger(__name__)

FULL_RETRY_SECONDS = 5.0  # after the disk was found full
# Entries that nobody waits for are taken in together, after so long or when there are so many.
PAUSE_SECONDS = 0.025
PAUSE_COUNT_MAX = 256  # entries: half a millisecond of work
PAUSE_SIZE_MAX = 64 * 1024  # bytes of log
# A state writes to the file of each queue that has grown: with thousands of them it takes seconds,
# in which the thread and the event loop share the interpreter.  So it may take a tenth of the time,
# and the log of a minute, at the most, is taken in again by a start behind a crash.
STATE_SHARE = 10
STATE_SECONDS_MAX = 60.0  # from one to the next, where `state_interval_seconds` is not more


class DispatchService:
    """Takes committed entries into the derived state and gets its blocking work done."""

    def __init__(
        self,
        derived: DerivedState,
        *,
        clock: Clock,
        worker: Worker,
        state_interval_seconds: float,
        dispatched: Callable[[], None],
        is_urgent: Callable[[], bool] = lambda: True,
    ) -> None:
        """Make a service that has not begun.

        Args:
            derived: what is kept up.
            clock: tells when the next state is due.
            worker: runs what blocks; used by nobody else.
            state_interval_seconds: between two states written down; more where one takes long.
            dispatched: called after each batch taken in.
            is_urgent: whether nothing may wait for company; when that becomes so, `end_pause`.
        """
        self._derived = derived
        self._clock = clock
        self._worker = worker
        self._state_interval_seconds = state_interval_seconds
        self._dispatched = dispatched
        self._is_urgent = is_urgent
        # Whoever waits for what has been committed to be taken in is in one of these.
        self.waiting: Sequence[Collection[object]] = ()
        self._log = derived.log
        self._committed_index = 0
        self._is_pausing = False  # a few entries wait for more of them
        self._pause_index = self._pause_position = 0  # to which they may do so
        self._is_turning = False
        self._alarm = Alarm(self._on_time)
        self._is_woken = True  # a turn is due, the first one too
        self._state_at = clock.now() + state_interval_seconds
        self.state_seconds = Histogram(SECONDS_BOUNDS)  # from the beginning of each to its end
        self._running: list[Job] = []
        self._generation = 0  # of the log; what was begun before a replacement is void
        self._failure: BaseException | None = None
        self._times = SegmentTimes(derived.log)
        self._refused: list[list[Job]] = []  # work the disk had no room for, in order
        self._retry_at = 0.0

    def committed_to(self, index: int) -> None:
        """Hear that entries up to *index* may be taken in."""
        if index > self._committed_index:
            self._committed_index = index
        if self._is_pausing:
            can_wait = self.may_wait(index)
        else:
            can_wait = not any(self.waiting) and self._begin_pause(index)
        if not can_wait:
            self._wake_up()

    def may_wait(self, index: int) -> bool:
        """Return whether some entries wait for more already, and those up to *index* may, too."""
        return (
            self._is_pausing
            and index < self._pause_index
            and self._log.end_position < self._pause_position
            and not any(self.waiting)
        )

    def catch_up(self) -> None:
        """Take in at once what only waits for more to come; a failure ends `run`."""
        if self._is_pausing and not self._is_turning and self._failure is None:
            try:
                if not self._turn():
                    self._wake_up()
            except BaseException as error:  # noqa: BLE001 - `run` raises it
                self._failure = error
                self._wake_up()

    def end_pause(self) -> None:
        """Take in soon what only waits for more to come."""
        if self._is_pausing:
            self._wake_up()

    def _begin_pause(self, index: int) -> bool:
        """Whether what is committed up to *index* may wait for more."""
        if self._is_woken or self._failure is not None or self._is_urgent():
            return False
        derived = self._derived
        self._pause_index = derived.dispatched_index + PAUSE_COUNT_MAX
        self._pause_position = derived.dispatched_position + PAUSE_SIZE_MAX
        if index >= self._pause_index or self._log.end_position >= self._pause_position:
            return False
        self._is_pausing = True
        pause_end = trio.current_time() + PAUSE_SECONDS
        if pause_end < self._alarm.due:
            self._alarm.set(pause_end)
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dispatch until cancelled.

        Raises:
            LedgerError: an entry cannot be taken in, or the disk fails; the node has to stop.
        """
        self._alarm.set(-math.inf)
        task_status.started()
        await self._alarm.run()

    def _on_time(self) -> None:
        is_through = self._turn()
        self._is_woken |= not is_through
        self._alarm.set(-math.inf if self._is_woken else self._next_due())

    def _turn(self) -> bool:
        """Take in some of what is committed, start what is due; whether nothing is left."""
        if self._failure is not None:
            raise self._failure
        self._is_woken = self._is_pausing = False
        self._is_turning = True
        try:
            derived = self._derived
            before = derived.dispatched_index
            if before < self._committed_index:
                derived.dispatch_up_to(self._committed_index)
                self._dispatched()
            self._start_jobs()
            return not before < derived.dispatched_index < self._committed_index
        finally:
            self._is_turning = False

    def _wake_up(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._alarm.set(-math.inf)

    def _next_due(self) -> float:
        """Return when the next job is due, by the loop's clock."""
        if self._running and not self._refused:
            return math.inf  # the end of what runs wakes
        due_at = self._retry_at if self._refused else self._state_at
        return trio.current_time() + max(due_at - self._clock.now(), 0.0) + 0.001

    def _start_jobs(self) -> None:
        if self._refused and self._clock.now() >= self._retry_at:
            refused, self._refused = self._refused, []
            for jobs in refused:
                self._submit(jobs)
        due = self._clock.now() >= self._state_at
        if self._running or not (due or self._derived.needs_flush):
            return
        if due:
            self._state_at = self._clock.now() + self._state_interval_seconds
        self._run_jobs(self._derived.begin_jobs(with_state=due))

    def _run_jobs(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        self._running += jobs
        self._submit(jobs)

    def _submit(self, jobs: list[Job]) -> None:
        generation, begun = self._generation, self._clock.now()

        def work() -> None:
            for job in jobs:
                job.run()

        def done(failure: BaseException | None) -> None:
            if generation != self._generation:
                return
            if isinstance(failure, LedgerFullError):
                # Nothing is lost: the log has it all, and what was derived is still in memory.
                logger.warning("%s; trying again in %.0f s", failure, FULL_RETRY_SECONDS)
                self._refused.append(jobs)
                self._retry_at = self._clock.now() + FULL_RETRY_SECONDS
                self._wake_up()
                return
            self._running = [job for job in self._running if job not in jobs]
            if failure is not None:
                self._failure = failure
            else:
                if any(isinstance(job, StateJob) for job in jobs):
                    seconds = self._clock.now() - begun
                    self.state_seconds.observe(seconds)
                    rested_at = begun + min(STATE_SHARE * seconds, STATE_SECONDS_MAX)
                    self._state_at = max(self._state_at, rested_at)
                for job in jobs:
                    job.finish()
            self._wake_up()

        self._worker.submit(work, done)

    def oldest_ms(self) -> int | None:
        """Return when the oldest message of the log was stored; see `SegmentTimes.oldest_ms`."""
        return self._times.oldest_ms()

    def write_down(self) -> None:
        """Write the state as it is; blocking, for a node that stops and does nothing more.

        Without room on the disk it is left: the next start derives it again.  So is one that a
        failure has stopped halfway through an entry: its files may be ahead of its point.
        """
        self._worker.drain()
        self._generation += 1
        if self._failure is not None:
            logger.error("the derived state is not written down: %r", self._failure)
            return
        try:
            # A state may count on nothing the disk had no room for: what was refused goes first,
            # and to run a job again does no harm.
            for job in [*self._running, *self._derived.begin_jobs(with_state=True)]:
                job.run()
        except LedgerFullError as error:
            logger.warning("%s; the next start takes longer", error)

    # -- StateKeeper ----------------------------------------------------------------------------

    def has_state(self, index: int) -> bool:
        """See `StateKeeper`."""
        return index in self._derived.boundary_indexes

    def load_state(self, index: int) -> bytes:
        """See `StateKeeper`."""
        return self._derived.read_state(index)

    def applied_index(self) -> int:
        """See `StateKeeper`."""
        return self._derived.dispatched_index

    def newest_ms(self, after_index: int, upto_index: int) -> int | None:
        """See `StateKeeper`."""
        return self._times.newest_ms(after_index, upto_index)

    def log_dropped(self) -> Callable[[], None]:
        """See `StateKeeper`."""
        self._times.forget()
        job = self._derived.begin_drop(lambda found: self._run_jobs([found]))
        generation = self._generation

        def base_is_durable() -> None:
            if generation == self._generation:
                self._run_jobs([job])

        return base_is_durable

    def install_state(self, base: LogPoint, state: bytes) -> None:
        """See `StateKeeper`."""
        # The jobs of the old log must be through before its files are given another meaning.
        self._worker.drain()
        self._generation += 1
        self._running = []
        self._refused = []
        point = self._derived.save_state_of_peer(state)
        if (point.index, point.term) != (base.index, base.term):
            raise LedgerError(
                f"the state received is that of entry {point.index}, the log begins at {base.index}"
            )

    def log_replaced(self, base: LogPoint) -> None:
        """See `StateKeeper`."""
        self._times.forget()
        try:
            self._derived.reopen(base.index)
        except LedgerFullError as error:
            # What was derived belongs to a log that is gone: nothing may be dispatched behind it.
            self._failure = error
            self._wake_up()
            raise
        self._committed_index = max(self._committed_index, base.index)
        logger.info("took over the state at entry %d from the leader", base.index)
        self._dispatched()
        self._wake_up()
