"""A healthy group does what it is for: sends are acknowledged, and readers get what was."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.health import healthy_periods
from jepsen_like.history import NEMESIS, Operation, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.checkers.health import Period
    from jepsen_like.history import Event

S = 1_000_000_000
GRACE_NS = 5 * S  # from a change of the group until anything is asked of it
WINDOW_NS = 5 * S
OK_MIN = 10
LAG_NS = 5 * S
LOOK_NS = S // 2  # how often a reader's other queues are looked at

KINDS = {
    "no-progress": "the same majority is healthy for 10 s and no leader is hit, load is on, and in "
    "the last 5 s of them fewer than 10 sends are acknowledged; or none at all before the group is "
    "healed",
    "stale-poll": "a reader that keeps polling is more than 5 s behind what was acknowledged, "
    "while the same majority is healthy for 10 s and no leader is hit",
}


def check_progress(events: list[Event]) -> Iterator[Anomaly]:
    """Yield where the group, or a reader, stood still without a reason."""
    periods = healthy_periods(events)
    sends = operations(events, "send")
    yield from _standstill(events, sends, periods)
    yield from _stale(events, sends, periods)


def _standstill(
    events: list[Event], sends: list[Operation], periods: list[Period]
) -> Iterator[Anomaly]:
    acks = sorted(send.completed for send in sends if send.type == "ok")
    healed = next((event for event in events if event.f == "healed"), None)
    if healed is not None and not (acks and acks[0] <= healed.t):
        yield Anomaly(
            "no-progress", "nothing was acknowledged before the group had healed", (healed.i,)
        )
    if not sends:
        return
    # Clients send one thing after another: with a slow group the last invocation is the last load.
    load_begin, load_end = sends[0].invoked, max(send.invoked for send in sends)
    times = [event.t for event in events]
    for period in periods:
        begin, end = max(period.begin + GRACE_NS, load_begin), min(period.end, load_end)
        if end - begin < WINDOW_NS:
            continue
        marks = [begin, *acks[bisect_left(acks, begin) : bisect_right(acks, end)], end]
        for at, mark in enumerate(marks[:-1]):
            tenth = marks[at + OK_MIN] if at + OK_MIN < len(marks) else end
            if tenth - mark > WINDOW_NS:
                line = min(bisect_left(times, mark), len(events) - 1)
                yield Anomaly(
                    "no-progress",
                    f"from {mark / S:.3f} s on fewer than {OK_MIN} sends were acknowledged in 5 s, "
                    f"while a majority was healthy from {period.begin / S:.3f} s to "
                    f"{period.end / S:.3f} s",
                    (line,),
                )
                break


class _Acks:
    """For each queue and offset, when something at or behind it was first acknowledged."""

    def __init__(self, sends: list[Operation]) -> None:
        found: dict[int, list[tuple[int, Operation]]] = {}
        for send in sends:
            if send.type == "ok" and send.k is not None and send.o is not None:
                found.setdefault(send.k, []).append((send.o, send))
        self._offsets: dict[int, list[int]] = {}
        self._first: dict[int, list[Operation]] = {}
        for queue, acked in found.items():
            acked.sort(key=lambda pair: pair[0])
            first: list[Operation] = []
            for _, send in reversed(acked):
                earlier = not first or send.completed < first[-1].completed
                first.append(send if earlier else first[-1])
            self._offsets[queue] = [offset for offset, _ in acked]
            self._first[queue] = first[::-1]

    def first_behind(self, queue: int, offset: int) -> Operation | None:
        """Return the send acknowledged first of all at or behind *offset*."""
        offsets = self._offsets.get(queue, [])
        at = bisect_left(offsets, offset)
        return self._first[queue][at] if at < len(offsets) else None


@dataclass(slots=True)
class _Reading:
    """One process on one queue."""

    position: int
    since: int  # ns: assigned, or while it works off what it found there, its last progress
    is_caught_up: bool = False
    is_told: bool = False
    is_paused: bool = False


def _stale(events: list[Event], sends: list[Operation], periods: list[Period]) -> Iterator[Anomaly]:
    """Look at every reader whenever it shows that it polls."""
    acks = _Acks(sends)
    begins = [period.begin for period in periods]
    readings: dict[int, dict[int, _Reading]] = {}  # process -> queue
    looked: dict[int, int] = {}  # process -> ns
    for event in events:
        if event.p == NEMESIS or event.type != "ok":
            continue
        if event.f == "assign":
            mine = readings.setdefault(event.p, {})
            for queue, offset in event.v:
                mine[queue] = _Reading(offset, event.t)
        elif event.f in ("pause", "resume") and event.k is not None:
            told = readings.get(event.p, {}).get(event.k)
            if told is not None:
                # It asked for nothing meanwhile; from here on it works off what it missed.
                told.is_paused, told.is_caught_up, told.since = event.f == "pause", False, event.t
        elif event.f == "poll" and event.k is not None:
            mine = readings.setdefault(event.p, {})
            is_due = event.t - looked.get(event.p, 0) >= LOOK_NS
            if is_due:
                looked[event.p] = event.t
            at = bisect_right(begins, event.t) - 1
            since = periods[at].begin if at >= 0 and periods[at].end >= event.t else event.t
            for queue in list(mine) if is_due else [event.k]:
                reading = mine.get(queue)
                if reading is None or reading.is_paused:
                    continue
                behind = acks.first_behind(queue, reading.position)
                if behind is None or behind.completed > event.t:
                    reading.is_caught_up = True
                    continue
                start = behind.completed if reading.is_caught_up else reading.since
                lag = event.t - max(start, behind.completed, since + GRACE_NS)
                if lag > LAG_NS and not reading.is_told:
                    reading.is_told = True
                    yield Anomaly(
                        "stale-poll",
                        f"process {event.p}, queue {queue}: at {event.t / S:.3f} s it is at "
                        f"{reading.position}, but {behind.v} was acknowledged at {behind.o} "
                        f"{(event.t - behind.completed) / S:.1f} s before",
                        (*behind.lines, event.i),
                        queue,
                        event.p,
                    )
            reading = mine.get(event.k)
            if reading is not None and event.v:
                reading.position = max(reading.position, event.v[-1][0] + 1)
                if not reading.is_caught_up:
                    reading.since = event.t
