"""Who waits for an entry to reach a level of durability other than the one of a commit.

Each wait ends once: when the level is reached, when its time is up and the entry is at least
committed (or, for the leader's own copy, appended), or when this node leads no more.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING

from dledger.durability import Copies, Durability

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.raft.levels import Levels

_ENDED_MAX = 64  # ended waits that are not worth looking for


class _Wait:
    __slots__ = ("deadline", "done", "index", "is_over", "level")

    def __init__(
        self,
        index: int,
        level: Durability,
        deadline: float,
        done: Callable[[Durability | None], None],
    ) -> None:
        self.index = index
        self.level = level
        self.deadline = deadline
        self.done = done
        self.is_over = False


class LevelWaits:
    """The waits of one leadership."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self._by_level: dict[Durability, list[tuple[int, int, _Wait]]] = {}  # heaps, by index
        self._deadlines: deque[_Wait] = deque()  # in the order of their deadlines
        self._overdue: list[tuple[int, int, _Wait]] = []  # a heap: late, and not committed yet
        self._order = itertools.count()
        self.count = 0  # how many wait

    def __len__(self) -> int:
        """Return how many wait."""
        return self.count

    @property
    def next_deadline(self) -> float:
        """Return when the next wait has had its time; infinite for never."""
        while self._deadlines and self._deadlines[0].is_over:
            self._deadlines.popleft()
        return self._deadlines[0].deadline if self._deadlines else float("inf")

    def add(
        self,
        index: int,
        level: Durability,
        *,
        deadline: float,
        done: Callable[[Durability | None], None],
    ) -> None:
        """Have *done* called when entry *index* has reached *level*, from `finish` at the earliest.

        It is told what was reached; None when nobody can say whether the entry will be there.
        Deadlines must not fall from one call to the next.
        """
        self._levels.want(level, index)
        wait = _Wait(index, level, deadline, done)
        heapq.heappush(self._by_level.setdefault(level, []), (index, next(self._order), wait))
        self._deadlines.append(wait)
        self.count += 1

    def finish(self, now: float, *, committed_index: int) -> None:
        """End the waits whose level is reached, and those whose time is up; call on a leader."""
        for level, heap in self._by_level.items():
            if heap:
                reached = self._levels.reached(level)
                while heap and heap[0][0] <= reached:
                    wait = heapq.heappop(heap)[2]
                    self._end(wait, self._told(wait, committed_index))
        while self.next_deadline <= now:
            wait = self._deadlines.popleft()
            if wait.level.copies is Copies.LEADER:
                self._end(wait, self._levels.best_of(wait.index))
            else:
                heapq.heappush(self._overdue, (wait.index, next(self._order), wait))
        while self._overdue and (
            self._overdue[0][2].is_over or self._overdue[0][0] <= committed_index
        ):
            wait = heapq.heappop(self._overdue)[2]
            if not wait.is_over:
                self._end(wait, self._levels.best_of(wait.index))
        self._forget_ended()

    def _forget_ended(self) -> None:
        """Drop what is over and still stands in a heap: its level may not be reached for days."""
        for heap in self._by_level.values():
            if len(heap) > 2 * self.count + _ENDED_MAX:
                heap[:] = [item for item in heap if not item[2].is_over]
                heapq.heapify(heap)

    def _told(self, wait: _Wait, committed_index: int) -> Durability:
        """Return what a wait whose level is reached hears: more, where more is known anyway."""
        of_commit = self._levels.of_commit
        if wait.index <= committed_index and of_commit.covers(wait.level):
            return of_commit
        return wait.level

    def give_up(self, is_committed: Callable[[int], bool]) -> None:
        """End all waits, as this node leads no more.

        Args:
            is_committed: whether an entry that was appended here is committed, and not replaced.
        """
        of_commit = self._levels.of_commit
        waits = [item[2] for heap in self._by_level.values() for item in heap]
        self._by_level.clear()
        self._deadlines.clear()
        self._overdue.clear()
        for wait in sorted(waits, key=lambda wait: wait.index):
            if not wait.is_over:
                self._end(wait, of_commit if is_committed(wait.index) else None)

    def _end(self, wait: _Wait, reached: Durability | None) -> None:
        if not wait.is_over:
            wait.is_over = True
            self.count -= 1
            # Ended waits stay in their heaps for a while; what they answered with need not.
            done, wait.done = wait.done, _ended
            done(reached)


def _ended(_: Durability | None) -> None:
    raise AssertionError("a wait ends once")
