"""What trio leaves to chance, taken from the seed; and processes that are stopped for a while.

trio starts a batch of tasks in the order of a coin it tosses, and sorts by identity first unless
told otherwise: both are set here.  A stopped process (SIGSTOP) is one whose tasks are not taken up:
whatever wakes them is kept until it goes on, and finds that time has passed.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from trio._core import _run as trio_run

import broker.handlers.group as group_module

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of every task the process that it belongs to; None for the simulator's own and the clients'.
PROCESS: ContextVar[SimProcess | None] = ContextVar("PROCESS", default=None)


class SimProcess:
    """What may be stopped as a whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_stopped = False
        self._held: list[tuple[Any, Any, tuple[Any, ...]]] = []

    def stop(self) -> None:
        """Run none of its tasks until `resume`."""
        self.is_stopped = True

    def resume(self) -> None:
        """Run the tasks that were woken meanwhile."""
        self.is_stopped = False
        held, self._held = self._held, []
        for runner, task, value in held:
            runner.reschedule(task, *value)

    def hold(self, runner: Any, task: Any, value: tuple[Any, ...]) -> None:  # noqa: ANN401
        """Keep what wakes one of its tasks."""
        self._held.append((runner, task, value))


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Have trio decide by *seed* inside, and let `SimProcess` stop tasks."""
    module: Any = trio_run
    group: Any = group_module
    runner = module.Runner
    original = runner.reschedule
    resident_size = group.resident_size
    before = module._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001 - trio has no public switch

    def reschedule(self: Any, task: Any, *value: Any) -> None:  # noqa: ANN401
        process = task.context.get(PROCESS)
        if process is not None and process.is_stopped:
            # As `Runner.reschedule` does: from now on nobody can abort its sleep.
            process.hold(self, task, value)
            task._abort_func = None  # noqa: SLF001
            task.custom_sleep_data = None
            return
        original(self, task, *value)

    module._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    module._r.seed(seed)  # noqa: SLF001
    runner.reschedule = reschedule
    group.resident_size = lambda: 0  # the size of *this* process, which differs from run to run
    try:
        yield
    finally:
        runner.reschedule = original
        group.resident_size = resident_size
        module._ALLOW_DETERMINISTIC_SCHEDULING = before  # noqa: SLF001
