"""Sends against what readers, the drain and the replicas show.

Offsets are the order of a queue, so no search is needed: everything here is one pass or one sort.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.history import Event, Operation, operations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KINDS = {
    "lost-write": "acknowledged, its place known and at or below the highest offset ever polled, "
    "or its place unknown; and never seen by a reader, the drain or a replica's log",
    "unseen": "acknowledged, seen at some time or above all polls, and not in the drain",
    "lost-on-node": "acknowledged, and not in the log of one of the replicas",
    "inconsistent-offsets": "two values at one offset of a queue, acknowledgements included",
    "duplicate": "one value at two places",
    "g1a": "a send that surely failed is seen",
    "phantom": "a value that nobody sent",
    "nonmonotonic-send": "the acknowledged offsets of one process fall within a queue",
    "realtime-order": "acknowledged before a send of another process began, and behind that send",
}

READS = ("poll", "drain", "dump")
Place = tuple[int, int]  # queue, offset


@dataclass(slots=True)
class _Acked:
    """A send that was acknowledged with its place."""

    send: Operation
    queue: int
    offset: int


@dataclass(slots=True)
class Dump:
    """What one replica's log holds of one queue."""

    offsets: set[int]
    values: set[str]

    @property
    def first(self) -> int:
        """Return its first offset."""
        return min(self.offsets, default=0)


class Seen:
    """All places where a value was shown."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.at: dict[Place, dict[str, int]] = {}  # -> values, each with the line that shows it
        self.places: dict[str, dict[Place, int]] = {}  # the other way round
        self.polled_end: dict[int, int] = {}  # queue -> highest offset ever polled
        self.first: dict[int, int] = {}  # queue -> first offset that the drain was offered
        # Queue -> first offset that every node has.  Nodes drop for themselves: one whose disk is
        # full, or which could not write down what the log amounts to, keeps more than the others,
        # and who reads from those is rightly told that it is gone.
        self.first_everywhere: dict[int, int] = {}
        self.drains: dict[int, set[str]] = {}  # queue -> values
        self.dumps: dict[str, dict[int, Dump]] = {}  # node -> queue
        for event in events:
            if event.f in READS and event.type == "ok" and event.k is not None:
                self._take(event, event.k)
            elif event.f == "begins":
                for queue, offset in event.v:
                    self._dropped_below(queue, offset)
            elif event.f == "dumped" and event.node is not None:
                self.dumps.setdefault(event.node, {})

    def _take(self, event: Event, queue: int) -> None:
        for offset, value in event.v:
            place = (queue, offset)
            self.at.setdefault(place, {}).setdefault(value, event.i)
            self.places.setdefault(value, {}).setdefault(place, event.i)
            if event.f == "poll" and offset > self.polled_end.get(queue, -1):
                self.polled_end[queue] = offset
        if event.f == "drain":
            self.first[queue] = event.o or 0
            self._dropped_below(queue, event.o or 0)
            self.drains[queue] = {value for _, value in event.v}
        elif event.f == "dump" and event.node is not None:
            self.dumps.setdefault(event.node, {})[queue] = Dump(
                {offset for offset, _ in event.v}, {value for _, value in event.v}
            )
            if event.v:
                self._dropped_below(queue, event.v[0][0])

    def _dropped_below(self, queue: int, offset: int) -> None:
        self.first_everywhere[queue] = max(self.first_everywhere.get(queue, 0), offset)


def check_appends(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with the sends."""
    sends = operations(events, "send")
    seen = Seen(events)
    yield from _places(sends, seen)
    yield from _lost(sends, seen, has_retention=has_retention)
    yield from _order(sends)


def _places(sends: list[Operation], seen: Seen) -> Iterator[Anomaly]:
    by_value = {send.v: send for send in sends}
    for (queue, offset), values in seen.at.items():
        if len(values) > 1:
            yield Anomaly(
                "inconsistent-offsets",
                f"queue {queue} offset {offset}: {', '.join(map(str, values))}",
                tuple(sorted(values.values())),
                queue,
            )
    for value, places in seen.places.items():
        lines = tuple(sorted(places.values()))
        where = ", ".join(f"queue {queue} offset {offset}" for queue, offset in sorted(places))
        queue = next(iter(places))[0]
        send = by_value.get(value)
        if send is not None:
            lines = send.lines + lines
        if len(places) > 1:
            yield Anomaly("duplicate", f"{value} at {where}", lines, queue)
        if send is None:
            yield Anomaly("phantom", f"{value!r} at {where} was never sent", lines, queue)
        elif send.type == "fail":
            yield Anomaly("g1a", f"{value} failed for sure and is at {where}", lines, queue, send.p)
    told: dict[Place, Operation] = {}
    for acked in _acked(sends):
        first = told.setdefault((acked.queue, acked.offset), acked.send)
        if first is not acked.send:
            yield Anomaly(
                "inconsistent-offsets",
                f"queue {acked.queue} offset {acked.offset}: acknowledged as {first.v} and as "
                f"{acked.send.v}",
                first.lines + acked.send.lines,
                acked.queue,
                acked.send.p,
            )
        others = seen.at.get((acked.queue, acked.offset))
        if others and acked.send.v not in others:
            yield Anomaly(
                "inconsistent-offsets",
                f"queue {acked.queue} offset {acked.offset}: acknowledged as {acked.send.v}, "
                f"read as {', '.join(map(str, others))}",
                (*acked.send.lines, *sorted(others.values())),
                acked.queue,
                acked.send.p,
            )


def _acked(sends: Iterable[Operation]) -> Iterator[_Acked]:
    for send in sends:
        if send.type == "ok" and send.k is not None and send.o is not None:
            yield _Acked(send, send.k, send.o)


def _lost(sends: list[Operation], seen: Seen, *, has_retention: bool) -> Iterator[Anomaly]:
    """Look for every acknowledged value where it must be.

    With retention a place below the first that was left is rightly gone, and so may be one that
    the acknowledgement did not name.
    """
    nothing = Dump(set(), set())
    firsts = {
        node: {queue: held.first for queue, held in queues.items()}
        for node, queues in seen.dumps.items()
    }
    for send in sends:
        if send.type != "ok" or send.k is None:
            continue
        queue, value, offset = send.k, send.v, send.o
        told = f"{value}, acknowledged at queue {queue} offset {offset}"
        is_lost = (
            value not in seen.places
            and (offset is None or offset <= seen.polled_end.get(queue, -1))
            and _is_kept(offset, seen.first.get(queue), has_retention=has_retention)
        )
        if is_lost:
            yield Anomaly("lost-write", f"{told}, is nowhere", send.lines, queue, send.p)
        drained = seen.drains.get(queue)
        if (
            not is_lost
            and drained is not None
            and value not in drained
            and _is_kept(offset, seen.first[queue], has_retention=has_retention)
        ):
            yield Anomaly("unseen", f"{told}, is not in the drain", send.lines, queue, send.p)
        for node, queues in seen.dumps.items():
            if not _is_kept(offset, firsts[node].get(queue), has_retention=has_retention):
                continue
            held = queues.get(queue, nothing)
            if value not in held.values if offset is None else offset not in held.offsets:
                yield Anomaly(
                    "lost-on-node", f"{told}, is not on {node}", send.lines, queue, send.p
                )


def _is_kept(offset: int | None, first: int | None, *, has_retention: bool) -> bool:
    """Whether *offset* must still be there, when *first* is the first that is."""
    if not has_retention:
        return True
    return offset is not None and first is not None and offset >= first


def _order(sends: list[Operation]) -> Iterator[Anomaly]:
    top_of: dict[Place, _Acked] = {}  # by process and queue
    queues: dict[int, list[_Acked]] = {}
    for acked in _acked(sends):
        key = (acked.send.p, acked.queue)
        top = top_of.get(key)
        if top is not None and top.offset >= acked.offset:
            yield Anomaly(
                "nonmonotonic-send",
                f"process {acked.send.p}, queue {acked.queue}: {top.send.v} at {top.offset}, then "
                f"{acked.send.v} at {acked.offset}",
                top.send.lines + acked.send.lines,
                acked.queue,
                acked.send.p,
            )
        if top is None or acked.offset > top.offset:
            top_of[key] = acked
        queues.setdefault(acked.queue, []).append(acked)
    for queue, found in queues.items():
        # Highest offset acknowledged by each moment; who begins later must lie above it.  The same
        # process's own order is told above, so the highest of any other is kept as well.
        found.sort(key=lambda acked: acked.send.completed)
        times = [acked.send.completed for acked in found]
        tops: list[tuple[_Acked, _Acked | None]] = []
        for acked in found:
            tops.append(_higher(acked, *tops[-1]) if tops else (acked, None))
        for acked in found:
            count = bisect_left(times, acked.send.invoked)
            if not count:
                continue
            best, other = tops[count - 1]
            top = best if best.send.p != acked.send.p else other
            if top is not None and top.offset >= acked.offset:
                yield Anomaly(
                    "realtime-order",
                    f"queue {queue}: {top.send.v} was acknowledged at {top.offset} before "
                    f"{acked.send.v} began, which is at {acked.offset}",
                    top.send.lines + acked.send.lines,
                    queue,
                    acked.send.p,
                )


def _higher(new: _Acked, best: _Acked, other: _Acked | None) -> tuple[_Acked, _Acked | None]:
    """Return the highest of three, and the highest that is not of its process."""
    if new.offset >= best.offset:
        return new, best if best.send.p != new.send.p else other
    if new.send.p != best.send.p and (other is None or new.offset >= other.offset):
        return best, new
    return best, other
