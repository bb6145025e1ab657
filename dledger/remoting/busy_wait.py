"""Asking the sockets again for a moment before sleeping until one has something.

A processor that has gone to sleep takes long to wake up: some 40 us in a virtual machine, and a
message alone waits for it three times.  So where answers come soon after one another the event loop
asks again and again, for as long as one of them usually takes, and sleeps only then.  It gives way
to whoever else wants the processor each time, and as that says nothing about who waits behind them,
it lets it be for a while when it has had to wait long for its turn.

It begins after a number of short waits and ends, or begins to count again, when nothing has come
for some milliseconds: heartbeats alone, every 75 ms with some answers behind each, never have it
begin.  And it ends when it has been in vain for some times in a row.
"""

from __future__ import annotations

import os
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# More answers than members come behind a heartbeat.
SHORT_WAITS_FIRST: Final = 16  # before it begins
CALM_SECONDS: Final = 0.005  # nothing for longer ends it
IN_VAIN_MAX: Final = 8  # in a row, then it ends
# Others have the processor for a slice of the scheduler's, 3 ms, or until they wait themselves: an
# event loop like this one does after some tenths of a millisecond.
CROWDED_SECONDS: Final = 0.0005  # more for one turn of theirs: others need it all the time
REST_SECONDS: Final = 0.05  # then, a slice lost in it is a twentieth at most


class BusyWait:
    """How one event loop waits.

    Attributes:
        spent_seconds: how long it has asked again instead of sleeping, in all.
    """

    def __init__(
        self,
        seconds: float,
        *,
        now: Callable[[], float] = perf_counter,
        give_way: Callable[[], None] | None = None,
    ) -> None:
        """Make one that has seen no wait yet.

        Args:
            seconds: longest time to ask again before sleeping; more than 0.
            now: the time, in seconds.
            give_way: lets others have the processor if they want it; None: the system's.
        """
        assert seconds > 0
        self.spent_seconds = 0.0
        self._seconds = seconds
        self._now = now
        self._give_way = give_way or os.sched_yield
        self._short_waits = 0  # without a calm between them, as far as they count
        self._found_at = -inf  # when there was something last
        self._in_vain = 0  # in a row
        self._rests_until = -inf

    def poll(self, poll: Callable[[float, int], list[Any]], wait: float, count: int) -> list[Any]:
        """Return ``poll(wait, count)``, perhaps after some ``poll(0, count)``.

        Args:
            poll: returns what is there within so many seconds, at most so many.
            wait: seconds; 0 or more.
            count: for *poll*.
        """
        if wait <= 0:
            return poll(wait, count)
        begun = self._now()
        if self._short_waits >= SHORT_WAITS_FIRST and begun >= self._rests_until:
            found = self._ask_again(poll, min(wait, self._seconds), count, begun)
            now = self._now()
            left = wait - (now - begun)
            if found or left <= 0:
                self._note_end(now, was_found=bool(found))
                return found
            wait = left
        found = poll(wait, count)
        now = self._now()
        self._note_end(now, was_found=bool(found))
        if found and now - begun <= self._seconds and self._short_waits < SHORT_WAITS_FIRST:
            self._short_waits += 1
        return found

    def _note_end(self, now: float, *, was_found: bool) -> None:
        if now - self._found_at > CALM_SECONDS:
            self._short_waits = 0
        if was_found:
            self._found_at = now

    def _ask_again(
        self, poll: Callable[[float, int], list[Any]], seconds: float, count: int, begun: float
    ) -> list[Any]:
        """Return what is there within *seconds*, or so; nothing as well when others need more."""
        now = begun
        while not (found := poll(0, count)):
            if now - begun >= seconds:
                self._note_in_vain(seconds)
                break
            self._give_way()
            before, now = now, self._now()
            if now - before > CROWDED_SECONDS:
                found = poll(0, count)
                self._rests_until = now + REST_SECONDS
                break
        else:
            self._in_vain = 0
        self.spent_seconds += now - begun
        return found

    def _note_in_vain(self, seconds: float) -> None:
        if seconds < self._seconds:
            return  # something else was due: it might have come
        self._in_vain += 1
        if self._in_vain == IN_VAIN_MAX:
            self._in_vain = self._short_waits = 0
