"""Messages that wait, and those that come again: each in its place, once, and in its time.

A message is told apart by its value and by how often it was sent back: what is sent back with a
count of 1 comes again with 2, in the group's retry topic or among its dead letters.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.health import fault_kind, healthy_periods
from jepsen_like.history import operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.checkers.health import Period
    from jepsen_like.history import Event, Operation

KINDS = {
    "never-delivered": "a message was taken to be delivered later, or sent back, and is in the end "
    "neither in its topic nor among the dead letters",
    "delivered-twice": "a message is more often in its topic than it was sent, or sent back",
    "delivered-early": "a message is stored in its topic before its time has come",
    "delivered-late": "a message is stored in its topic more than 2 s after its time, while the "
    "same majority is healthy for 5 s before that and no leader is hit",
    "misfiled": "a message that was sent back is among the dead letters though it may come again, "
    "comes again though it may not, or has a count that nobody gave it",
}

TIMES_MAX = 2  # a message sent back with this count, or a higher one, is dead
RETRY, DEAD = "%RETRY%", "%DLQ%"
GRACE_NS = 5_000_000_000  # from a change of the group until anything is asked of it
LATE_NS = 2_000_000_000
ROUNDING_NS = 2_000_000  # records tell milliseconds
MS = 1_000_000

Copy = tuple[str, str, int]  # topic, value, count


def check_delivery(events: list[Event]) -> Iterator[Anomaly]:
    """Yield what is wrong with what waited or came again."""
    dumps = [event for event in events if event.f == "copies" and event.type == "ok"]
    if not dumps:
        return
    node = dumps[0].node  # of all the same: that, other checkers say
    stored: dict[Copy, list[tuple[int, Event]]] = {}  # when, and the line that tells
    for event in dumps:
        if event.node == node:
            topic, copies = event.v
            for _, value, times, stored_ms in copies:
                stored.setdefault((topic, value, times), []).append((stored_ms * MS, event))
    sends = operations(events, "issue")
    backs: dict[tuple[str, int], list[Operation]] = {}  # value and count
    for back in operations(events, "back"):
        if back.type != "fail":
            backs.setdefault((back.v[1][0], back.v[1][1]), []).append(back)
    yield from _missing(dumps[-1], stored, sends, backs)
    yield from _copies(stored, sends, backs)
    # Where somebody sets clocks nobody can tell when a message's time has come.
    if not any(event.f == "fault" and fault_kind(event) == "wall-clock" for event in events):
        yield from _times(events, stored, sends, backs)


def _missing(
    dumped: Event,
    stored: dict[Copy, list[tuple[int, Event]]],
    sends: list[Operation],
    backs: dict[tuple[str, int], list[Operation]],
) -> Iterator[Anomaly]:
    there = {(value, times) for _, value, times in stored}
    for send in sends:
        if send.type == "ok" and (send.v, 0) not in there:
            yield Anomaly(
                "never-delivered",
                f"{send.v} was acknowledged, to wait {send.o or 0} ms, and is not in its topic",
                (*send.lines, dumped.i),
                send.k,
                send.p,
            )
    for (value, times), asked in sorted(backs.items()):
        done = [back for back in asked if back.type == "ok"]
        if done and (value, times + 1) not in there:
            yield Anomaly(
                "never-delivered",
                f"{value} was sent back with count {times}, and comes no more",
                (*done[0].lines, dumped.i),
                None,
                done[0].p,
            )


def _copies(
    stored: dict[Copy, list[tuple[int, Event]]],
    sends: list[Operation],
    backs: dict[tuple[str, int], list[Operation]],
) -> Iterator[Anomaly]:
    sent = Counter(send.v for send in sends if send.type != "fail")
    counts: Counter[tuple[str, int]] = Counter()
    lines: dict[tuple[str, int], list[int]] = {}
    for (topic, value, times), found in sorted(stored.items()):
        counts[value, times] += len(found)
        lines.setdefault((value, times), []).extend(event.i for _, event in found)
        event = found[0][1]
        asked = len(backs.get((value, times - 1), ())) if times else sent[value]
        is_dead, is_again = topic.startswith(DEAD), topic.startswith(RETRY)
        if not asked or is_dead != (times > TIMES_MAX) or is_again != (0 < times <= TIMES_MAX):
            yield Anomaly(
                "misfiled",
                f"{value} with count {times} is in topic {topic}, where nobody has sent it",
                (event.i,),
                event.k,
            )
        elif counts[value, times] > asked:
            yield Anomaly(
                "delivered-twice",
                f"{value} with count {times} is there {counts[value, times]} times, and was sent "
                f"{asked} times",
                tuple(dict.fromkeys(lines[value, times])),
                event.k,
            )


def _times(
    events: list[Event],
    stored: dict[Copy, list[tuple[int, Event]]],
    sends: list[Operation],
    backs: dict[tuple[str, int], list[Operation]],
) -> Iterator[Anomaly]:
    periods = healthy_periods(events)
    sent = {send.v: send for send in sends}
    for (topic, value, times), found in sorted(stored.items()):
        if topic.startswith(DEAD):
            continue
        if times:
            asked = backs.get((value, times - 1), [])
            waits = [(back, back.v[1][2]) for back in asked]
        else:
            waits = [(sent[value], sent[value].o or 0)] if value in sent else []
        if not waits:
            continue
        at, event = min(found, key=lambda pair: pair[0])
        first, _ = min(waits, key=lambda wait: wait[0].invoked + wait[1] * MS)
        due = min(asked.invoked + delay * MS for asked, delay in waits)
        if at < due - ROUNDING_NS:
            yield Anomaly(
                "delivered-early",
                f"{value} with count {times} came {(due - at) / 1e9:.3f} s before its time",
                (*first.lines, event.i),
                event.k,
                first.p,
            )
        # The latest that any of them allows: some may never have been written.
        wanted = max(asked.completed + delay * MS for asked, delay in waits)
        if any(asked.type == "ok" for asked, _ in waits) and _is_late(at, wanted, periods):
            yield Anomaly(
                "delivered-late",
                f"{value} with count {times} came {(at - wanted) / 1e9:.3f} s after its time",
                (*first.lines, event.i),
                event.k,
                first.p,
            )


def _is_late(at: int, due: int, periods: list[Period]) -> bool:
    """Whether a healthy group kept what was due for too long."""
    for period in periods:
        latest = max(due, period.begin + GRACE_NS) + LATE_NS
        if latest < min(at, period.end):
            return True
    return False
