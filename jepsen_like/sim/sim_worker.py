"""A worker whose jobs take virtual time instead of a thread.

A sync promises what was written before it *began*: jobs of the workers named in `EARLY` run at the
beginning of their time, and what they sync is on the platter only at its end.  Other jobs run at
the end of theirs.  A power loss in between finds the platter without them.
"""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING

from jepsen_like.sim.scheduling import PROCESS
from jepsen_like.sim.sim_open import ProcessGoneError
from jepsen_like.sim.sim_time import current_sim_time

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from jepsen_like.sim.sim_disk import SimMount

EARLY = ("sync", "vote")


class DiskSpeed:
    """How long jobs on one disk take; a stalled disk finishes nothing until it goes on."""

    def __init__(self, chance: random.Random, *, mean_seconds: float) -> None:
        self.mean_seconds = mean_seconds
        self.slowdown = 1.0
        self.is_stalled = False
        self._chance = chance
        self._time = current_sim_time()
        self._waiting: list[Callable[[], None]] = []

    def stall(self) -> None:
        """Finish nothing from now on."""
        self.is_stalled = True

    def go_on(self) -> None:
        """Work again."""
        self.is_stalled = False
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            self._time.call_at(self._time.seconds, action)

    def after_one_job(self, action: Callable[[], None]) -> None:
        """Call *action* when one job has taken its time."""
        base = self.mean_seconds * self.slowdown
        seconds = base * 0.3 + self._chance.expovariate(1 / base) * 0.7
        self._time.call_at(self._time.seconds + seconds, lambda: self._call_unless_stalled(action))

    def _call_unless_stalled(self, action: Callable[[], None]) -> None:
        if self.is_stalled:
            self._waiting.append(action)
        else:
            action()


class _Item:
    """One job on its way."""

    def __init__(
        self, job: Callable[[], None], done: Callable[[BaseException | None], None]
    ) -> None:
        self.job = job
        self.done = done
        self.failure: BaseException | None = None
        self.has_run = False
        self.to_finish: list[Callable[[], None]] = []


class SimWorker:
    """See `dledger.worker.Worker`; belongs to the process of the task that makes it."""

    def __init__(self, name: str, *, mount: SimMount, speed: DiskSpeed) -> None:
        self._is_early = name.rpartition("-")[2] in EARLY
        self._mount = mount
        self._speed = speed
        self._items: deque[_Item] = deque()
        self._context = copy_context()
        self._process = PROCESS.get()

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """See `Worker.submit`."""
        self._items.append(_Item(job, done))
        if len(self._items) == 1:
            self._begin()

    def take_up(self) -> None:
        """See `Worker.take_up`. Jobs that have run know it."""

    def drain(self) -> None:
        """See `Worker.drain`."""
        for item in self._items:
            self._run(item)
            self._finish(item)

    def close(self) -> None:
        """See `Worker.close`."""

    def _begin(self) -> None:
        item = self._items[0]
        if self._is_early:
            try:
                self._run(item)
            except ProcessGoneError:
                return  # its disk has told everybody
        self._speed.after_one_job(self._end)

    def _end(self) -> None:
        if self._mount.is_dead:
            return
        if self._process is not None and self._process.is_stopped:
            self._process.hold(self._end)
            return
        item = self._items[0]
        try:
            self._run(item)
        except ProcessGoneError:
            return
        self._finish(item)
        self._items.popleft()
        # The next job waits for nothing that comes of this one.
        if self._items:
            self._begin()
        self._context.copy().run(item.done, item.failure)

    def _run(self, item: _Item) -> None:
        if item.has_run:
            return
        item.has_run = True
        if self._is_early:
            self._mount.gathered = item.to_finish
        try:
            item.job()
        except ProcessGoneError:
            raise
        except BaseException as error:  # noqa: BLE001 - the worker's caller hears it
            item.failure = error
        finally:
            self._mount.gathered = None

    def _finish(self, item: _Item) -> None:
        for finish in item.to_finish:
            finish()
        item.to_finish.clear()
