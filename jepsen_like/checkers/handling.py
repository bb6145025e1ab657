"""Messages dealt with in blocks, pauses, closings in peace, and the order of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.appends import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

KINDS = {
    "left-lost": "a message that its group left by an error is passed over by the group's next "
    "member, and was not handed out again",
    "came-again": "a group's next member begins below what an earlier one had committed",
    "paused-poll": "a message of a queue that its reader had paused",
    "key-order": "acknowledged messages of one key lie in another order than they were sent in",
}

Key = tuple[str, int]  # group, queue


def check_handling(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with what was handed out and dealt with."""
    yield from _key_order(events)
    first = Seen(events).first_everywhere if has_retention else {}
    left: dict[Key, dict[int, int]] = {}  # offsets, and the lines that tell
    committed: dict[Key, tuple[int, int]] = {}  # highest, and the line that tells
    paused: dict[tuple[int, int], int] = {}  # process and queue, and the line that tells
    for event in events:
        if event.type != "ok":
            continue
        if event.f == "poll" and event.k is not None:
            since = paused.get((event.p, event.k))
            if since is not None:
                yield Anomaly(
                    "paused-poll",
                    f"process {event.p}, queue {event.k}: handed out while it was paused",
                    (since, event.i),
                    event.k,
                    event.p,
                )
            if event.g is not None:
                for offset, _ in event.v:
                    left.get((event.g, event.k), {}).pop(offset, None)
        elif event.f == "pause" and event.k is not None:
            paused[event.p, event.k] = event.i
        elif event.f == "resume" and event.k is not None:
            paused.pop((event.p, event.k), None)
        elif event.g is None:
            continue
        elif event.f == "left" and event.k is not None and event.o is not None:
            left.setdefault((event.g, event.k), {})[event.o] = event.i
        elif event.f == "commit":
            for queue, offset in event.v:
                if offset > committed.get((event.g, queue), (0, 0))[0]:
                    committed[event.g, queue] = (offset, event.i)
        elif event.f == "assign":
            for queue, offset in event.v:
                yield from _assigned(event, queue, offset, left, committed, first, has_retention)


def _assigned(
    event: Event,
    queue: int,
    offset: int,
    left: dict[Key, dict[int, int]],
    committed: dict[Key, tuple[int, int]],
    first: dict[int, int],
    has_retention: bool,
) -> Iterator[Anomaly]:
    assert event.g is not None
    key = (event.g, queue)
    floor, line = committed.get(key, (0, 0))
    if offset < floor:
        yield Anomaly(
            "came-again",
            f"group {event.g}, queue {queue}: begins at {offset}, {floor} was committed",
            (line, event.i),
            queue,
            event.p,
        )
    if has_retention and queue not in first:
        return  # nothing tells what was dropped
    # What retention has dropped since it was left can come no more.
    waiting = left.get(key, {})
    passed = sorted(at for at in waiting if first.get(queue, 0) <= at < offset)
    for at in passed:
        yield Anomaly(
            "left-lost",
            f"group {event.g}, queue {queue}: {at} was left, and the next member begins at "
            f"{offset}",
            (waiting.pop(at), event.i),
            queue,
            event.p,
        )


def _key_order(events: list[Event]) -> Iterator[Anomaly]:
    last: dict[str, list[tuple[int, Event]]] = {}
    for event in events:
        if (event.f, event.type) != ("send", "ok") or event.o is None:
            continue
        kind, _, rest = str(event.v).partition("-")
        key, _, number = rest.rpartition("-")
        if kind == "o" and key and number.isdigit():
            last.setdefault(key, []).append((int(number), event))
    for key, found in last.items():
        found.sort(key=lambda each: each[0])
        before: Event | None = None
        for _, event in found:
            assert event.o is not None
            if before is not None and before.o is not None and event.o < before.o:
                yield Anomaly(
                    "key-order",
                    f"key {key}: {before.v} at {before.o}, {event.v} at {event.o} of queue "
                    f"{event.k}",
                    (before.i, event.i),
                    event.k,
                    event.p,
                )
            before = event
