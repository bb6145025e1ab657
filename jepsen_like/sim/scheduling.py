"""What trio leaves to chance, taken from the seed; and processes that are stopped for a while.

trio starts a batch of tasks in the order of a coin it tosses, and sorts by identity first unless
told otherwise: both are set here.  A stopped process (SIGSTOP) is one whose tasks are not taken up:
whatever wakes them is kept until it goes on, and finds that time has passed.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from trio._core import _run as trio_run

import broker.handlers.group as group_module
from jepsen_like.sim.sim_time import SimTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableSequence

# Of every task the process that it belongs to; None for the simulator's own and the clients'.
PROCESS: ContextVar[SimProcess | None] = ContextVar("PROCESS", default=None)

_POLL_EVERY = 512  # turns of trio's loop between looks at the world outside: an interrupt
_RUNNER: Any = trio_run.Runner
_RESCHEDULE = _RUNNER.reschedule
_stopped: set[SimProcess] = set()


class SimProcess:
    """What may be stopped as a whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._held: list[Callable[[], object]] = []

    @property
    def is_stopped(self) -> bool:
        """Whether it runs nothing."""
        return self in _stopped

    @property
    def held_count(self) -> int:
        """How many of its tasks were woken and wait for it to go on."""
        return len(self._held)

    def stop(self) -> None:
        """Run none of its tasks until `resume`."""
        _stopped.add(self)
        _RUNNER.reschedule = _reschedule_unless_stopped  # it costs every task's every step

    def resume(self) -> None:
        """Run the tasks that were woken meanwhile."""
        _stopped.discard(self)
        if not _stopped:
            _RUNNER.reschedule = _RESCHEDULE
        held, self._held = self._held, []
        for action in held:
            action()

    def hold(self, action: Callable[[], object]) -> None:
        """Do *action*, which belongs to the stopped process, when it goes on."""
        self._held.append(action)


def _reschedule_unless_stopped(self: Any, task: Any, *value: Any) -> None:  # noqa: ANN401
    process = task.context.get(PROCESS)
    if process is not None and process.is_stopped:
        # As `Runner.reschedule` does: from now on nobody can abort its sleep.
        process.hold(lambda: self.reschedule(task, *value))
        task._abort_func = None  # noqa: SLF001
        task.custom_sleep_data = None
        return
    _RESCHEDULE(self, task, *value)


class _Dice(random.Random):
    """Decides in what order a batch of tasks runs; most batches are one or two."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """See `random.Random`."""
        if len(x) == 2:
            if self.random() < 0.5:
                x.reverse()
        elif len(x) > 2:
            super().shuffle(x)


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Have trio decide by *seed* inside, and let `SimProcess` stop tasks."""
    module: Any = trio_run
    group: Any = group_module
    manager: Any = module.TheIOManager
    before = (
        module._ALLOW_DETERMINISTIC_SCHEDULING,  # noqa: SLF001 - trio has no public switch
        module._r,  # noqa: SLF001
        manager.get_events,
        group.resident_size,
    )
    get_events = manager.get_events
    turns = 0

    def get_events_seldom(self: Any, timeout: float) -> Any:  # noqa: ANN401
        nonlocal turns
        turns += 1
        clock = trio_run.GLOBAL_RUN_CONTEXT.runner.clock
        assert isinstance(clock, SimTime)
        # Nothing of a run comes from outside but the end of it and an interrupt.
        if clock.is_idle or turns % _POLL_EVERY == 0:
            return get_events(self, 0.0)
        return []

    module._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    module._r = _Dice(seed)  # noqa: SLF001
    manager.get_events = get_events_seldom
    group.resident_size = lambda: 0  # the size of *this* process, which differs from run to run
    try:
        yield
    finally:
        (
            module._ALLOW_DETERMINISTIC_SCHEDULING,  # noqa: SLF001
            module._r,  # noqa: SLF001
            manager.get_events,
            group.resident_size,
        ) = before
        _stopped.clear()
        _RUNNER.reschedule = _RESCHEDULE
