"""A worker whose jobs take virtual time instead of a thread.

A sync promises what was written before it *began*: jobs of the workers named in `EARLY` run at the
beginning of their time, and what they sync is on the platter only at its end.  Other jobs run at
the end of theirs.  A power loss in between finds the platter without them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from jepsen_like.sim.sim_disk import ProcessGoneError

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
        self._chance = chance
        self._going = trio.Event()
        self._going.set()

    def stall(self) -> None:
        """Finish nothing from now on."""
        if self._going.is_set():
            self._going = trio.Event()

    def go_on(self) -> None:
        """Work again."""
        self._going.set()

    async def take_time(self) -> None:
        """Wait as long as one job takes."""
        base = self.mean_seconds * self.slowdown
        await trio.sleep(base * 0.3 + self._chance.expovariate(1 / base) * 0.7)
        await self._going.wait()


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
    """See `dledger.worker.Worker`."""

    def __init__(
        self, name: str, *, nursery: trio.Nursery, mount: SimMount, speed: DiskSpeed
    ) -> None:
        self._is_early = name.rpartition("-")[2] in EARLY
        self._nursery = nursery
        self._mount = mount
        self._speed = speed
        self._items: deque[_Item] = deque()
        self._is_busy = False

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """See `Worker.submit`."""
        self._items.append(_Item(job, done))
        if not self._is_busy:
            self._is_busy = True
            self._nursery.start_soon(self._work)

    def drain(self) -> None:
        """See `Worker.drain`."""
        for item in self._items:
            self._run(item)
            self._finish(item)

    def close(self) -> None:
        """See `Worker.close`."""

    async def _work(self) -> None:
        while self._items and not self._is_gone():
            item = self._items[0]
            if self._is_early:
                self._run(item)
            await self._speed.take_time()
            if self._is_gone():
                return
            self._run(item)
            self._finish(item)
            self._items.popleft()
            item.done(item.failure)
        self._is_busy = False

    def _is_gone(self) -> bool:
        return self._mount.is_dead

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
