"""Consumer groups: what they have committed, and whether they got all they passed over.

What Kafka's tests call double-assign and zombie-commit (two members of one generation with one
queue; a commit of a member that the group has left behind) cannot happen here and is not looked
for: consumers of one group do not share queues, and a group has no generations.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.appends import Seen
from jepsen_like.history import Event, Operation, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {
    "commit-regress": "a committed offset is below one that was acknowledged or told before it "
    "was asked for",
    "commit-ahead-of-delivery": "committed beyond everything the group was ever handed",
    "group-loss": "committed past a record that was never handed to the group, while later ones "
    "were",
}

Key = tuple[str, int]  # group, queue


def check_groups(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with the groups."""
    yield from _regress(events)
    first = Seen(events).first_everywhere if has_retention else {}
    delivered: dict[Key, set[int]] = {}
    highest: dict[Key, int] = {}  # highest offset handed out so far
    committed: dict[Key, tuple[int, int]] = {}  # highest, and the line that tells it
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
                # A group whose place retention has dropped goes on with the first that is left.
                is_dropped = has_retention and (queue not in first or offset <= first[queue])
                if offset > highest.get(key, -1) + 1 and not is_dropped:
                    yield Anomaly(
                        "commit-ahead-of-delivery",
                        f"group {event.g}, queue {queue}: {offset} is committed, but nothing "
                        f"beyond {highest.get(key, -1)} was handed out",
                        (event.i,),
                        queue,
                        event.p,
                    )
                if offset > committed.get(key, (0, 0))[0]:
                    committed[key] = (offset, event.i)
    for (group, queue), (upto, line) in committed.items():
        if has_retention and queue not in first:
            continue  # nothing tells what was dropped
        end = min(upto, highest.get((group, queue), -1) + 1)  # beyond it: ahead of delivery
        missing = set(range(first.get(queue, 0), end)) - delivered.get((group, queue), set())
        if missing:
            yield Anomaly(
                "group-loss",
                f"group {group}, queue {queue}: {upto} is committed, never handed out: "
                f"{', '.join(map(str, sorted(missing)[:5]))}{' ...' if len(missing) > 5 else ''}",
                (line,),
                queue,
            )


def _add_members(
    events: list[Event],
    floors: dict[Key, list[tuple[int, int, tuple[int, ...]]]],
    answers: list[tuple[Key, int, Operation]],
) -> None:
    """Add what members that come and go have committed, and were told; by topic, too."""
    for commit in operations(events, "advance"):
        if commit.type == "ok" and commit.g is not None:
            topic, queue, offset = commit.v[1]
            key = (f"{commit.g}, topic {topic}", queue)
            floors.setdefault(key, []).append((commit.completed, offset, commit.lines))
    for answer in operations(events, "stand"):
        if answer.type != "ok" or answer.g is None:
            continue
        (topic, queue), offset = answer.v[1], (answer.v[2] or [None])[0]
        key = (f"{answer.g}, topic {topic}", queue)
        answers.append((key, offset or 0, answer))
        floors.setdefault(key, []).append((answer.completed, offset or 0, answer.lines))


def _regress(events: list[Event]) -> Iterator[Anomaly]:
    floors: dict[Key, list[tuple[int, int, tuple[int, ...]]]] = {}  # ns known, offset, lines
    for commit in operations(events, "commit"):
        if commit.type == "ok" and commit.g is not None:
            for queue, offset in commit.v:
                floors.setdefault((commit.g, queue), []).append(
                    (commit.completed, offset, commit.lines)
                )
    answers: list[tuple[Key, int, Operation]] = []
    for answer in operations(events, "committed"):
        if answer.type == "ok" and None not in (answer.g, answer.k, answer.o):
            assert answer.g is not None
            assert answer.k is not None
            assert answer.o is not None
            key = (answer.g, answer.k)
            answers.append((key, answer.o, answer))
            floors.setdefault(key, []).append((answer.completed, answer.o, answer.lines))
    _add_members(events, floors, answers)
    best: dict[Key, tuple[list[int], list[tuple[int, tuple[int, ...]]]]] = {}
    for key, known in floors.items():
        known.sort()
        tops: list[tuple[int, tuple[int, ...]]] = []
        for _, offset, lines in known:
            tops.append((offset, lines) if not tops or offset > tops[-1][0] else tops[-1])
        best[key] = ([time for time, *_ in known], tops)
    for key, offset, answer in answers:
        times, tops = best[key]
        count = bisect_left(times, answer.invoked)
        if count and offset < tops[count - 1][0]:
            group, queue = key
            floor, lines = tops[count - 1]
            yield Anomaly(
                "commit-regress",
                f"group {group}, queue {queue}: {offset} is committed, {floor} was before",
                lines + answer.lines,
                queue,
                answer.p,
            )
