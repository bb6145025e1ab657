"""Topics that come and go, groups that are put elsewhere, and settings that a name server keeps.

One client alone changes a topic or a setting, one thing after another, so what it was told last is
what has to be there in the end; but what it never heard the end of may still happen later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.history import Event, Operation, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {
    "topic-lost": "a member lists a topic otherwise than what was acknowledged last of it, or the "
    "leader says that there is none",
    "setting-lost": "a member keeps a setting otherwise than it was acknowledged last",
    "deleted-back": "a message is read that was acknowledged before its topic was deleted",
    "reset-undone": "a group stands neither where it was put last, nor where anybody committed for "
    "it that began afterwards",
}

GONE = 0  # what a deleted topic keeps its messages for


def check_administration(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with topics and resets."""
    yield from _topics(events)
    yield from _settings(events)
    yield from _missing(events)
    yield from _deleted(events)
    yield from _resets(events, has_retention=has_retention)


def _topics(events: list[Event]) -> Iterator[Anomaly]:
    changes: dict[str, list[Operation]] = {}
    for change in operations(events, "topic"):
        changes.setdefault(change.v[0], []).append(change)
    for event in events:
        if event.f != "listed" or event.node is None:
            continue
        for name, made in sorted(changes.items()):
            found = event.v.get(name, GONE)
            done = [change for change in made if change.type == "ok"]
            allowed = {_result(change) for change in made if change.type == "info"}
            allowed.add(_result(done[-1]) if done else GONE)
            if found not in allowed:
                last = done[-1] if done else made[-1]
                yield Anomaly(
                    "topic-lost",
                    f"{event.node} lists topic {name} with {found}, and {last.v} was the last "
                    "that was acknowledged",
                    (*last.lines, event.i),
                )


def _settings(events: list[Event]) -> Iterator[Anomaly]:
    changes: dict[str, list[Operation]] = {}
    for change in operations(events, "setting"):
        changes.setdefault(change.v[0], []).append(change)
    for event in events:
        if event.f != "kept" or event.node is None:
            continue
        for key, made in sorted(changes.items()):
            done = [change for change in made if change.type == "ok"]
            allowed = {change.v[1] for change in made if change.type == "info"}
            allowed.add(done[-1].v[1] if done else None)
            if event.v.get(key) not in allowed:
                last = done[-1] if done else made[-1]
                yield Anomaly(
                    "setting-lost",
                    f"{event.node} keeps {event.v.get(key)} as setting {key}, and {last.v} was the "
                    "last that was acknowledged",
                    (*last.lines, event.i),
                )


def _missing(events: list[Event]) -> Iterator[Anomaly]:
    """Yield where the leader said that there is no topic, and there has to be one."""
    made: dict[str, Operation] = {}  # the last change of each topic, if it is surely there
    maybe_deleted: set[str] = set()  # for ever: a deletion may come late
    asked = [item for f in ("topic", "put", "look") for item in operations(events, f)]
    for item in sorted(asked, key=lambda item: item.i):
        name = item.v[0]
        if item.f == "topic" and item.type != "fail":
            if item.v[1] != "delete":
                if item.type == "ok":
                    made[name] = item
            else:
                made.pop(name, None)
                if item.type == "info":
                    maybe_deleted.add(name)
        elif item.type == "fail" and item.end is not None and name in made:
            why = events[item.end].err or ""
            if why.startswith("TopicNotFoundError") and name not in maybe_deleted:
                yield Anomaly(
                    "topic-lost",
                    f"topic {name} does not exist, and {made[name].v} was acknowledged",
                    (*made[name].lines, *item.lines),
                )


def _result(change: Operation) -> int:
    return int(change.v[2] or GONE)


def _deleted(events: list[Event]) -> Iterator[Anomaly]:
    deletes: dict[str, list[Operation]] = {}
    for change in operations(events, "topic"):
        if change.type == "ok" and change.v[1] == "delete":
            deletes.setdefault(change.v[0], []).append(change)
    puts = {put.v[1]: put for put in operations(events, "put") if put.type == "ok"}
    for look in operations(events, "look"):
        name, values = look.v
        for value in values:
            put = puts.get(value)
            if put is None:
                continue
            for delete in deletes.get(name, ()):
                if put.completed < delete.invoked and delete.completed < look.invoked:
                    yield Anomaly(
                        "deleted-back",
                        f"{value} is read from topic {name}, which was deleted after it was sent",
                        (*put.lines, *delete.lines, *look.lines),
                    )
                    break


def _resets(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    resets = list(operations(events, "reset"))
    marks = [mark for mark in operations(events, "mark") if mark.type != "fail"]
    for place in operations(events, "place"):
        if place.type != "ok" or place.o is None:
            continue
        before = [
            reset
            for reset in resets
            if reset.type == "ok" and reset.g == place.g and reset.completed < place.invoked
        ]
        last = max(before, key=lambda reset: reset.o or 0, default=None)
        if last is None or last.o is None:
            continue
        if place.o == last.v or any(
            mark.g == place.g
            and mark.v[0] == place.o
            and mark.v[1] >= last.o
            and mark.invoked < place.completed
            for mark in marks
        ):
            continue
        if any(
            reset.g == place.g
            and reset.invoked < place.completed
            and _may_be(reset, place.o, last.o, has_retention=has_retention)
            for reset in resets
        ):
            continue
        yield Anomaly(
            "reset-undone",
            f"group {place.g} was put at {last.v} in epoch {last.o}, and stands at {place.o}",
            (*last.lines, *place.lines),
            place.k,
            place.p,
        )


def _may_be(reset: Operation, offset: int, epoch: int, *, has_retention: bool) -> bool:
    """Whether *reset*, later than the one of *epoch* or of unknown outcome, may lead to *offset*.

    One of unknown outcome says where it should lead: in a short queue to the end, and with
    retention to whatever is kept.
    """
    if reset.type == "ok":
        return (reset.o or 0) > epoch and reset.v == offset
    return reset.type == "info" and (offset <= reset.v or has_retention)
