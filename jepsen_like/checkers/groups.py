"""Consumer groups: what they have committed, and whether they got all they passed over.

commit-regress              a committed offset falls, or is below one acknowledged before
commit-ahead-of-delivery    committed beyond everything the group was ever handed
group-loss                  committed past a record that was never handed to the group
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.history import Event, operations

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_groups(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with the groups."""
    yield from _regress(events)
    delivered: dict[tuple[str, int], set[int]] = {}
    highest: dict[tuple[str, int], int] = {}  # highest offset handed out so far
    committed: dict[tuple[str, int], int] = {}
    for event in events:
        if event.g is None or event.type != "ok":
            continue
        if event.f == "poll" and event.k is not None:
            offsets = [offset for offset, _ in event.v]
            key = (event.g, event.k)
            delivered.setdefault(key, set()).update(offsets)
            highest[key] = max([highest.get(key, -1), *offsets])
        elif event.f in ("committed", "assign"):
            answers = [(event.k, event.o)] if event.f == "committed" else event.v
            for queue, offset in answers:
                if queue is None or offset is None:
                    continue
                key = (event.g, queue)
                if not has_retention and offset > highest.get(key, -1) + 1:
                    yield Anomaly(
                        "commit-ahead-of-delivery",
                        f"group {event.g}, queue {queue}: {offset} is committed, but nothing "
                        f"beyond {highest.get(key, -1)} was handed out",
                    )
                committed[key] = max(committed.get(key, 0), offset)
    if has_retention:
        return
    for (group, queue), upto in committed.items():
        missing = set(range(upto)) - delivered.get((group, queue), set())
        if missing:
            yield Anomaly(
                "group-loss",
                f"group {group}, queue {queue}: {upto} is committed, never handed out: "
                f"{sorted(missing)[:5]}",
            )


def _regress(events: list[Event]) -> Iterator[Anomaly]:
    floors: dict[tuple[str, int], list[tuple[int, int]]] = {}  # (ns known, offset)
    for commit in operations(events, "commit"):
        if commit.type == "ok" and commit.g is not None:
            for queue, offset in commit.v:
                floors.setdefault((commit.g, queue), []).append((commit.completed, offset))
    answers = [op for op in operations(events, "committed") if op.type == "ok"]
    for answer in answers:
        if answer.g is not None and answer.k is not None and answer.o is not None:
            floors.setdefault((answer.g, answer.k), []).append((answer.completed, answer.o))
    best: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for key, known in floors.items():
        known.sort()
        tops: list[int] = []
        for _, offset in known:
            tops.append(max(offset, tops[-1] if tops else 0))
        best[key] = ([time for time, _ in known], tops)
    for answer in answers:
        if answer.g is None or answer.k is None or (answer.g, answer.k) not in best:
            continue
        times, tops = best[answer.g, answer.k]
        count = bisect_left(times, answer.invoked)
        if count and (answer.o or 0) < tops[count - 1]:
            yield Anomaly(
                "commit-regress",
                f"group {answer.g}, queue {answer.k}: {answer.o} is committed, "
                f"{tops[count - 1]} was before",
            )
