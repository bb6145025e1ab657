"""A plain function that is called at a time, by an event loop that does nothing else for it.

A task that sleeps under a cancel scope costs three turns of the loop, an exception through its
coroutines and a new scope each time, which for what is due every few milliseconds is as much as the
work itself.  Where sockets are read out of the loop's poll (`dledger.remoting.readiness`), this is
called there, too; elsewhere, and in virtual time, a task does it.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NoReturn

import outcome
import trio

from dledger.remoting.readiness import timed_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.remoting.readiness import HotSockets


class Alarm:
    """Calls one function, again and again, each time at the time that was set last."""

    def __init__(self, call: Callable[[], None]) -> None:
        """Make one that is not set.

        Args:
            call: must not wait; what it raises ends `run`.
        """
        self.call = call
        self.due = inf  # second of the loop's clock; -inf: as soon as others have had their turn
        self._hot: HotSockets | None = None
        self._task: trio.lowlevel.Task | None = None  # that of `run`, while it sleeps
        self._scope: trio.CancelScope | None = None  # in which it sleeps where nothing is hot

    def set(self, due: float) -> None:
        """Have the function called at *due*, and not when it was set for before."""
        self.due = due
        hot = self._hot
        if hot is not None:
            if due < hot.due:
                hot.due = due
        elif due == -inf:
            self._wake_up()
        elif self._scope is not None:
            self._scope.deadline = due

    async def run(self) -> NoReturn:
        """Call the function whenever it is due, until cancelled.

        At once where time passes beside the loop (the process was paused, the machine is busy): all
        that had arrived by then has been received before.
        """
        hot = timed_sockets()
        if hot is None:
            await self._run_by_turns()
        self._hot = hot
        hot.add_timed(self)
        try:
            await self._sleep()
        finally:
            self._hot = None
            hot.remove_timed(self)
        raise AssertionError("only a failure wakes it")

    def ring(self) -> None:
        """See `Due`."""
        if self._task is None:
            return  # cancelled, and only has not had its turn yet
        try:
            self.call()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            self._wake_up(outcome.Error(error))

    async def _run_by_turns(self) -> NoReturn:
        while True:
            with trio.CancelScope(deadline=inf if self.due == -inf else self.due) as self._scope:
                while True:
                    if self.due == -inf:
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._sleep()
                    if self.due == -inf:
                        self.due = self._scope.deadline = inf
                        self.call()
            self._scope = None
            # One turn of the loop polls all sockets, and by the next tasks that waited for theirs
            # have run.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            if self.due <= trio.current_time():
                self.due = inf
                self.call()

    async def _sleep(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake_up(self, end: outcome.Outcome[None] | None = None) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task, end or outcome.Value(None))
