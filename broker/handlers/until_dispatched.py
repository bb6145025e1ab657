"""What waits until dispatch has come to an entry of the log."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class UntilDispatched(list[tuple[int, T]], Generic[T]):
    """Pairs of the index of an entry and who waits for it, in the order in which they came.

    Stays the same object, so that whoever asks if somebody waits may keep it.
    """

    def take(self, reached: int) -> list[T]:
        """Take out, and return, all who wait for no entry behind *reached*."""
        ready = [item for index, item in self if index <= reached]
        if ready:
            self[:] = [pair for pair in self if pair[0] > reached]
        return ready
