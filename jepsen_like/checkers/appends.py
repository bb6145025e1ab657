"""Sends against what readers, the drain and the replicas show.

Offsets are the order of a queue, so no search is needed: everything here is one pass or one sort.

    lost-write             acknowledged, at or below the highest offset ever polled, never seen
    unseen                 acknowledged, not in the drain
    lost-on-node           acknowledged, not in one replica's log
    inconsistent-offsets   two values at one offset of a queue
    duplicate              one value at two places
    g1a                    a send that surely failed is seen
    phantom                a value that nobody sent
    nonmonotonic-send      the acknowledged offsets of one process fall within a queue
    realtime-order         acknowledged before another began, and behind it
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.history import NEVER_NS, Event, Operation, operations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

READS = ("poll", "drain", "dump")


class _Seen:
    """All places where a value was shown."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.at: dict[tuple[int, int], dict[str, None]] = {}  # (queue, offset) -> values
        self.places: dict[str, set[tuple[int, int]]] = {}
        self.polled_end: dict[int, int] = {}  # highest offset ever polled
        self.drains: dict[int, tuple[int, set[str]]] = {}  # queue -> first offset, values
        self.dumps: dict[str, dict[int, dict[int, str]]] = {}  # node -> queue -> offset -> value
        for event in events:
            if event.f in READS and event.type == "ok" and event.k is not None:
                self._take(event, event.k)
            elif event.f == "dumped" and event.node is not None:
                self.dumps.setdefault(event.node, {})

    def _take(self, event: Event, queue: int) -> None:
        for offset, value in event.v:
            self.at.setdefault((queue, offset), {})[value] = None
            self.places.setdefault(value, set()).add((queue, offset))
            if event.f == "poll":
                self.polled_end[queue] = max(self.polled_end.get(queue, -1), offset)
        if event.f == "drain":
            self.drains[queue] = (event.o or 0, {value for _, value in event.v})
        elif event.f == "dump" and event.node is not None:
            self.dumps.setdefault(event.node, {})[queue] = dict(event.v)


def check_appends(events: list[Event], *, has_retention: bool) -> list[Anomaly]:
    """Return what is wrong with the sends."""
    sends = list(operations(events, "send"))
    seen = _Seen(events)
    found: list[Anomaly] = []
    found += _places(sends, seen)
    found += _lost(sends, seen, has_retention=has_retention)
    found += _order(sends)
    return found


def _places(sends: list[Operation], seen: _Seen) -> Iterator[Anomaly]:
    by_value = {send.v: send for send in sends}
    for (queue, offset), values in seen.at.items():
        if len(values) > 1:
            yield Anomaly("inconsistent-offsets", f"queue {queue} offset {offset}: {list(values)}")
    for value, places in seen.places.items():
        if len(places) > 1:
            yield Anomaly("duplicate", f"{value} at {sorted(places)}")
        send = by_value.get(value)
        if send is None:
            yield Anomaly("phantom", f"{value!r} at {sorted(places)} was never sent")
        elif send.type == "fail":
            yield Anomaly("g1a", f"{value} failed for sure and is at {sorted(places)}")
    for send in sends:
        if send.type == "ok" and send.o is not None and send.k is not None:
            others = seen.at.get((send.k, send.o))
            if others and send.v not in others:
                yield Anomaly(
                    "inconsistent-offsets",
                    f"queue {send.k} offset {send.o}: acknowledged as {send.v}, read as "
                    f"{list(others)}",
                )


def _lost(sends: list[Operation], seen: _Seen, *, has_retention: bool) -> Iterator[Anomaly]:
    for send in sends:
        if send.type != "ok" or send.k is None:
            continue
        queue, value = send.k, send.v
        if (
            value not in seen.places
            and not has_retention
            and (send.o is None or send.o <= seen.polled_end.get(queue, -1))
        ):
            yield Anomaly("lost-write", f"{value}, acknowledged at queue {queue} offset {send.o}")
        drained = seen.drains.get(queue)
        if drained is not None:
            first, values = drained
            # A place that was forgotten may be one that is dropped.
            is_kept = send.o >= first if send.o is not None else not has_retention
            if is_kept and value not in values:
                yield Anomaly("unseen", f"{value}, acknowledged at queue {queue} offset {send.o}")
        for node, queues in seen.dumps.items():
            offsets = queues.get(queue, {})
            if has_retention and (send.o is None or not offsets or send.o < min(offsets)):
                continue
            if value not in offsets.values() if send.o is None else offsets.get(send.o) is None:
                yield Anomaly(
                    "lost-on-node",
                    f"{value}, acknowledged at queue {queue} offset {send.o}, is not on {node}",
                )


def _order(sends: list[Operation]) -> Iterator[Anomaly]:
    last: dict[tuple[int, int], Operation] = {}
    queues: dict[int, list[Operation]] = {}
    for send in sends:
        if send.type != "ok" or send.o is None or send.k is None:
            continue
        before = last.get((send.p, send.k))
        if before is not None and before.o is not None and before.o >= send.o:
            yield Anomaly(
                "nonmonotonic-send",
                f"process {send.p}, queue {send.k}: {before.v} at {before.o}, then {send.v} at "
                f"{send.o}",
            )
        last[send.p, send.k] = send
        queues.setdefault(send.k, []).append(send)
    for queue, acked in queues.items():
        # Highest offset acknowledged by each moment; who begins later must lie above it.
        acked.sort(key=lambda send: send.completed)
        times = [send.completed for send in acked]
        highest: list[Operation] = []
        for send in acked:
            top = highest[-1] if highest else send
            highest.append(send if (send.o or 0) >= (top.o or 0) else top)
        for send in acked:
            count = bisect_left(times, send.invoked)
            if count and send.completed != NEVER_NS:
                top = highest[count - 1]
                if (top.o or 0) >= (send.o or 0) and top is not send:
                    yield Anomaly(
                        "realtime-order",
                        f"queue {queue}: {top.v} was acknowledged at {top.o} before {send.v} "
                        f"began, which is at {send.o}",
                    )
