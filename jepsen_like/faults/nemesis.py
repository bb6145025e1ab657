"""Who brings the faults: one after another, some at the same time, each for a while."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import trio

from jepsen_like.faults.catalogue import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jepsen_like.faults.fault import Target
    from jepsen_like.faults.group import Group
    from jepsen_like.history import History


_CALM_SECONDS = 1.0  # for a group to find itself again when a fault is over
_CALM_TRIES = 8


class Nemesis:
    """Draws faults from some names and notes each one: ``fault``, ``effect`` and ``heal``."""

    def __init__(
        self,
        group: Group,
        history: History,
        chance: random.Random,
        *,
        faults: Sequence[str],
        gap_mean: float,
        hold_min: float = 0.1,
        hold_max: float,
        target: Target = "",
        by_turns: bool = False,
    ) -> None:
        """Prepare it.

        Args:
            group: whom to harm.
            history: hears of everything.
            chance: draws which, when and how long.
            faults: names out of the catalogue.
            gap_mean: seconds between two faults; the last one may still be there.
            hold_min: seconds that a fault lasts at least.
            hold_max: seconds that a fault lasts at most.
            target: who is hit; drawn each time when "".
            by_turns: every fault comes before any comes again, and one that needs a whole group
                gets it; otherwise each is drawn, and one that cannot happen is passed over.
        """
        self.injected: Counter[str] = Counter()
        self.proven: Counter[str] = Counter()  # those that left traces
        self._group = group
        self._history = history
        self._chance = chance
        self._faults = tuple(faults)
        self._gap_mean = gap_mean
        self._hold_min = hold_min
        self._hold_max = hold_max
        self._target = target
        self._by_turns = by_turns
        self._turns: list[str] = []  # faults still to come in this round, the next one last
        self._lasting = 0  # faults there are now
        self._over = trio.Event()  # one of them is over

    async def attack(self, seconds: float) -> None:
        """Bring faults for so long; at the end all are over."""
        if not self._faults:  # none that was asked for fits a group like this
            await trio.sleep(seconds)
            return
        weights = [CATALOGUE[name].weight for name in self._faults]
        async with trio.open_nursery() as nursery:
            self._group.nursery = nursery
            end = trio.current_time() + seconds
            while trio.current_time() < end:
                gap = self._chance.expovariate(1 / self._gap_mean)
                await trio.sleep_until(min(trio.current_time() + gap, end))
                if self._by_turns:
                    await self._take_turn(nursery, end)
                    continue
                nursery.start_soon(self._occur, self._chance.choices(self._faults, weights)[0])
            nursery.cancel_scope.cancel()

    async def _take_turn(self, nursery: trio.Nursery, end: float) -> None:
        """Bring the fault whose turn it is; when it cannot happen yet its turn comes again soon."""
        if not self._turns:
            self._turns = self._chance.sample(self._faults, len(self._faults))
            self._turns.sort(key=lambda name: not self.proven[name])  # those to be shown come first
        name = self._turns.pop()
        if CATALOGUE[name].needs_whole:
            await self._calm(end)
            for _ in range(_CALM_TRIES):
                # The others are over; their victims may take a while to be well again.
                await trio.sleep(_CALM_SECONDS)
                if await nursery.start(self._occur, name):
                    return
        elif await nursery.start(self._occur, name):
            return
        self._turns.insert(max(0, len(self._turns) - 1), name)

    async def _calm(self, end: float) -> None:
        """Wait until no fault lasts any more."""
        with trio.move_on_at(end):
            while self._lasting:
                self._over = trio.Event()
                await self._over.wait()

    async def _occur(
        self, name: str, *, task_status: trio.TaskStatus[bool] = trio.TASK_STATUS_IGNORED
    ) -> None:
        chance = random.Random(self._chance.getrandbits(64))
        fault = CATALOGUE[name](self._group, chance, target=self._target)
        hit = await fault.inject()
        task_status.started(bool(hit))
        if not hit:
            return
        self._lasting += 1
        self.injected[name] += 1
        self._history.note("fault", v=f"{name} {hit}")
        try:
            await trio.sleep(self._chance.uniform(self._hold_min, self._hold_max))
        finally:
            with trio.CancelScope(shield=True):
                evidence = await fault.evidence()
                if evidence:
                    self.proven[name] += 1
                    self._history.note("effect", v=[f"{name} {hit}", evidence])
                await fault.heal()
                self._history.note("heal", v=f"{name} {hit}")
                self._lasting -= 1
                self._over.set()

    def unproven(self) -> list[str]:
        """Return the faults that never showed: whoever trusts in them fools themselves."""
        return [name for name in self._faults if not self.proven[name]]
