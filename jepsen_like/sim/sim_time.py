"""Virtual time: when nobody has anything to do, the next thing that is due is due now.

trio asks its clock how long to sleep whenever all tasks wait; that is the moment to move time on.
Besides trio's deadlines there are timers here that call a plain function, which spares a task and
a cancel scope for every frame that travels.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

import trio
import trio.abc
from trio._core._run import GLOBAL_RUN_CONTEXT

if TYPE_CHECKING:
    from collections.abc import Callable


_IDLE_MAX = 1000


class SimTime(trio.abc.Clock):
    """A clock for `trio.run` that only moves when everybody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = 0
        self._idle_count = 0

    def start_clock(self) -> None:
        """See `trio.abc.Clock`."""

    def current_time(self) -> float:
        """See `trio.abc.Clock`."""
        return self.seconds

    def call_at(self, time: float, action: Callable[[], object]) -> None:
        """Call *action* at *time*, or right when all wait if that is past; it must not wait."""
        self._numbers += 1
        heapq.heappush(self._timers, (time, self._numbers, action))

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See `trio.abc.Clock`; moves time on to *deadline* or the next timer.

        Timers are called one after another until one of them wakes a task: most only note that
        bytes have arrived where nobody waits for them, and need no turn of trio's loop.
        """
        timers = self._timers
        runner = GLOBAL_RUN_CONTEXT.runner
        while timers and timers[0][0] <= deadline:
            self._idle_count = 0
            time, _, action = heapq.heappop(timers)
            if time > self.seconds:
                self.seconds = time
            action()
            if runner.runq:
                return 0.0
            deadline = runner.deadlines.next_deadline()
        if deadline > self.seconds:
            if deadline == math.inf:
                # trio itself wakes its tasks through a socket at the end of a run.
                self._idle_count += 1
                assert self._idle_count < _IDLE_MAX, "everybody waits, and for nothing"
                return 0.0
            self.seconds = deadline
        self._idle_count = 0
        return 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is due at all: only what comes from outside can wake anybody."""
        return self._idle_count > 0


def current_sim_time() -> SimTime:
    """Return the clock of the running `trio.run`."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, SimTime)
    return clock
