"""A worker without a thread: jobs run on the event loop, and may take virtual time.

It keeps `dledger.worker.Worker`'s promises: jobs in order, never two at once, *done* never from
inside `submit`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class _Item:
    def __init__(
        self, job: Callable[[], None], done: Callable[[BaseException | None], None]
    ) -> None:
        self.job = job
        self.done = done
        self.has_run = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        if self.has_run:
            return
        self.has_run = True
        try:
            self.job()
        except BaseException as error:  # noqa: BLE001 - handed on, as a thread does
            self.failure = error


class FakeWorker:
    """See `dledger.worker.Worker`; lives in *nursery*, which its owner cancels in the end."""

    def __init__(self, nursery: trio.Nursery, name: str = "worker") -> None:
        self.name = name
        self.seconds = 0.0  # virtual time each job takes
        self.job_count = 0
        self.is_closed = False
        self._items: deque[_Item] = deque()
        self._changed = trio.Event()
        self._may_run = trio.Event()
        self._may_run.set()
        nursery.start_soon(self._run)

    def stall(self) -> None:
        """Let jobs begin and not end until `go_on`."""
        if self._may_run.is_set():  # who waits already waits for that very event
            self._may_run = trio.Event()

    def go_on(self) -> None:
        self._may_run.set()

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        assert not self.is_closed
        self._items.append(_Item(job, done))
        self.job_count += 1
        self._changed.set()

    def take_up(self) -> None:
        pass  # who is told hears it at once

    def drain(self) -> None:
        for item in self._items:
            item.run()

    def tell(self) -> None:
        """Tell of the job that has run, before `_run` comes to it."""
        self._items[0].done(self._items[0].failure)

    def close(self) -> None:
        self.drain()
        self.is_closed = True

    async def _run(self) -> None:
        while True:
            if not self._items:
                self._changed = trio.Event()
                await self._changed.wait()
            await trio.sleep(self.seconds)
            await self._may_run.wait()
            item = self._items[0]
            item.run()
            self._items.popleft()
            if not self.is_closed:
                item.done(item.failure)
