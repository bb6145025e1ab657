"""What readers of one tag are handed, and what they pass over."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.appends import Seen
from jepsen_like.workloads.appends import tag_of
from jepsen_like.workloads.picking import WANTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

KINDS = {
    "unwanted": "a reader is handed a message whose tag it did not ask for",
    "pick-skip": "a message with the tag that a reader asks for is left out before one that it is "
    "handed",
    "pick-back": "a reader of a tag is handed a message below one that it has had",
    "wanted-lost": "a member of a group that reads a tag begins behind a message with that tag "
    "that nobody in the group was handed",
}


def check_picking(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with what was handed out for a tag."""
    if not any(event.f == "want" for event in events):
        return
    wanted = _wanted(Seen(events), has_retention=has_retention)
    picked: dict[int, set[int]] = {}
    begin: dict[int, int] = {}  # where the group began
    expected: dict[tuple[int, int], tuple[int, int]] = {}  # process, queue -> next offset, line
    for event in events:
        if event.type != "ok":
            continue
        if event.f == "want":
            for queue, offset in event.v:
                expected[event.p, queue] = (offset, event.i)
                begin.setdefault(queue, offset)
                for at in _between(wanted.get(queue, []), begin[queue], offset):
                    if at not in picked.setdefault(queue, set()):
                        picked[queue].add(at)  # told once
                        yield Anomaly(
                            "wanted-lost",
                            f"queue {queue}: a member begins at {offset}, and {at} was never "
                            "handed out",
                            (event.i,),
                            queue,
                            event.p,
                        )
        elif event.f == "pick" and event.k is not None:
            for offset, value in event.v:
                yield from _picked(event, event.k, offset, value, expected, wanted)
                picked.setdefault(event.k, set()).add(offset)


def _picked(
    event: Event,
    queue: int,
    offset: int,
    value: str,
    expected: dict[tuple[int, int], tuple[int, int]],
    wanted: dict[int, list[int]],
) -> Iterator[Anomaly]:
    since, line = expected.get((event.p, queue), (0, event.i))
    lines = (line, event.i) if line != event.i else (line,)
    where = f"process {event.p}, queue {queue}: {value} at {offset}"
    if tag_of(value) != WANTED:
        yield Anomaly("unwanted", where, lines, queue, event.p)
    if offset < since:
        yield Anomaly("pick-back", f"{where}, expected {since} or more", lines, queue, event.p)
    left_out = _between(wanted.get(queue, []), since, offset)
    if left_out:
        yield Anomaly("pick-skip", f"{where}, and {left_out} left out", lines, queue, event.p)
    expected[event.p, queue] = (max(offset + 1, since), event.i)


def _wanted(seen: Seen, *, has_retention: bool) -> dict[int, list[int]]:
    """Return the offsets that have the tag, of each queue; what may have been dropped is left."""
    found: dict[int, list[int]] = {}
    for (queue, offset), values in sorted(seen.at.items()):
        first = seen.first_everywhere.get(queue)
        if has_retention and (first is None or offset < first):
            continue
        if any(tag_of(value) == WANTED for value in values):
            found.setdefault(queue, []).append(offset)
    return found


def _between(offsets: list[int], begin: int, end: int) -> list[int]:
    return offsets[bisect_left(offsets, begin) : bisect_left(offsets, end)]
