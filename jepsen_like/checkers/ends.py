"""The end of a queue is linearizable.

stale-read   an end at or below an offset that was acknowledged before the question, or below
             an end that was answered before it
future-read  an end beyond everything that had been sent when the answer came
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.history import Event, operations

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_ends(events: list[Event]) -> Iterator[Anomaly]:
    """Yield what is wrong with the answers to `end`."""
    sends = list(operations(events, "send"))
    ends = [op for op in operations(events, "end") if op.type == "ok" and op.o is not None]
    for queue in sorted({end.k for end in ends if end.k is not None}):
        mine = [end for end in ends if end.k == queue]
        known = [
            (send.completed, send.o + 1, f"{send.v} was acknowledged at {send.o}")
            for send in sends
            if send.k == queue and send.type == "ok" and send.o is not None
        ]
        known += [(end.completed, end.o or 0, f"it was told to be {end.o}") for end in mine]
        known.sort()
        times = [time for time, _, _ in known]
        least: list[tuple[int, str]] = []
        for _, value, why in known:
            least.append((value, why) if not least or value > least[-1][0] else least[-1])
        begun = sorted(send.invoked for send in sends if send.k == queue)
        for end in mine:
            count = bisect_left(times, end.invoked)
            if count and (end.o or 0) < least[count - 1][0]:
                yield Anomaly(
                    "stale-read",
                    f"queue {queue}: its end is {end.o}, but before that was asked "
                    f"{least[count - 1][1]}",
                )
            if (end.o or 0) > bisect_right(begun, end.completed):
                yield Anomaly(
                    "future-read",
                    f"queue {queue}: its end is {end.o}, but only "
                    f"{bisect_right(begun, end.completed)} sends had begun",
                )
