"""The end of a queue is linearizable."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.history import Event, Operation, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {
    "stale-read": "an end at or below an offset that was acknowledged before the question, or "
    "below an end that was answered before it",
    "future-read": "an end beyond everything whose sending had begun when the answer came",
}


def check_ends(events: list[Event]) -> Iterator[Anomaly]:
    """Yield what is wrong with the answers to `end`."""
    ends: dict[int, list[Operation]] = {}
    for end in operations(events, "end"):
        if end.type == "ok" and end.o is not None and end.k is not None:
            ends.setdefault(end.k, []).append(end)
    sends: dict[int, list[Operation]] = {}
    for send in operations(events, "send"):
        if send.k is not None:
            sends.setdefault(send.k, []).append(send)
    for queue, asked in ends.items():
        yield from _check_queue(queue, asked, sends.get(queue, []))


def _check_queue(queue: int, ends: list[Operation], sends: list[Operation]) -> Iterator[Anomaly]:
    known = [
        (send.completed, send.o + 1, f"{send.v} was acknowledged at {send.o}", send.lines)
        for send in sends
        if send.type == "ok" and send.o is not None
    ]
    known += [(end.completed, end.o or 0, f"it was told to be {end.o}", end.lines) for end in ends]
    known.sort()
    times = [time for time, *_ in known]
    floors: list[tuple[int, str, tuple[int, ...]]] = []
    for _, value, why, lines in known:
        floors.append((value, why, lines) if not floors or value > floors[-1][0] else floors[-1])
    begun = sorted(send.invoked for send in sends)
    for end in ends:
        told = end.o or 0
        count = bisect_left(times, end.invoked)
        if count and told < floors[count - 1][0]:
            _, why, lines = floors[count - 1]
            yield Anomaly(
                "stale-read",
                f"queue {queue}: its end is {told}, but before that was asked {why}",
                lines + end.lines,
                queue,
                end.p,
            )
        sent = bisect_right(begun, end.completed)
        if told > sent:
            yield Anomaly(
                "future-read",
                f"queue {queue}: its end is {told}, but only {sent} sends had begun",
                end.lines,
                queue,
                end.p,
            )
