"""What was asked and what came back, line by line, so that others can judge it too.

JSON lines with the fields

    i     number of the line
    t     virtual or monotonic nanoseconds
    p     process: one thing at a time; a number never used again after an unknown outcome
    type  invoke, ok, fail (surely not done), info (may be done, or a note of the world)
    f     what: an operation of a client, or one of the notes of the world
    k     queue number
    v     value: of a send its text; of a poll, drain or dump a list of [offset, value]
    o     queue offset, or another number an answer holds
    g     consumer group
    node  the node it is about
    err   what went wrong

`None` fields are left out.  ``docs/fault-testing.md`` tells of every operation and every note.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

NEMESIS = -1  # the process of faults and of what the nodes do by themselves

_FIELDS = ("i", "t", "p", "type", "f", "k", "v", "o", "g", "node", "err")


@dataclass(slots=True)
class Event:
    """One line."""

    i: int
    t: int
    p: int
    type: str
    f: str
    k: int | None = None
    v: Any = None
    o: int | None = None
    g: str | None = None
    node: str | None = None
    err: str | None = None

    def to_json(self) -> str:
        """Return the line, without its end."""
        found = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps(
            {name: value for name, value in found.items() if value is not None},
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, line: str) -> Event:
        """Return what `to_json` was called on.

        Raises:
            ValueError: *line* is no event.
        """
        try:
            fields = json.loads(line)
            return cls(**fields)
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"no line of a history: {line[:80]!r}: {error}") from error


@dataclass(slots=True)
class Operation:
    """An invocation and what became of it."""

    p: int
    f: str
    type: str  # ok, fail or info; info also when nothing came back
    invoked: int  # ns
    completed: int  # ns; far in the future when nothing came back
    k: int | None
    v: Any
    o: int | None
    g: str | None
    node: str | None
    i: int = -1  # line of the invocation
    end: int | None = None  # line of the completion

    @property
    def lines(self) -> tuple[int, ...]:
        """Where it stands in the history."""
        return (self.i,) if self.end is None else (self.i, self.end)


NEVER_NS = 1 << 62


class History:
    """All lines so far."""

    def __init__(self, now: Callable[[], float], events: Iterable[Event] = ()) -> None:
        """Begin with *events*; *now* tells seconds for those to come."""
        self.events: list[Event] = list(events)
        self.on_event: Callable[[Event], None] = lambda _: None
        self._now = now
        self._processes = 0

    def new_process(self) -> int:
        """Return a process number never used before."""
        self._processes += 1
        return self._processes

    def add(
        self,
        p: int,
        type: str,
        f: str,
        *,
        k: int | None = None,
        v: object = None,
        o: int | None = None,
        g: str | None = None,
        node: str | None = None,
        err: str | None = None,
    ) -> None:
        """Write down one line."""
        t = int(self._now() * 1e9)
        event = Event(len(self.events), t, p, type, f, k, v, o, g, node, err)
        self.events.append(event)
        self.on_event(event)

    def note(self, f: str, *, node: str | None = None, k: int | None = None,
             v: object = None, o: int | None = None,
             err: str | None = None) -> None:  # fmt: skip
        """Write down something of the world."""
        self.add(NEMESIS, "info", f, node=node, k=k, v=v, o=o, err=err)

    def finish(self, counts: dict[str, int]) -> None:
        """Write down what was counted, at the time of the last line: the clock may be gone."""
        t = self.events[-1].t if self.events else 0
        self.events.append(Event(len(self.events), t, NEMESIS, "info", "counts", v=counts))

    @property
    def setup(self) -> dict[str, Any]:
        """What its first note says of the run; empty when it says nothing."""
        for event in self.events:
            if event.f == "setup" and isinstance(event.v, dict):
                return event.v
        return {}

    @classmethod
    def merge(cls, histories: Iterable[History]) -> History:
        """Return one history of several, by time, with lines numbered anew.

        Clocks must be one and the same, as `CLOCK_MONOTONIC` of one machine is.  Process numbers
        of later histories are moved up, so that none stands for two.
        """
        events: list[Event] = []
        above = 0
        for history in histories:
            for event in history.events:
                p = event.p if event.p == NEMESIS else event.p + above
                events.append(replace(event, p=p))
            above = max((event.p for event in events), default=0)
        events.sort(key=lambda event: event.t)  # stable: each file keeps its order
        for number, event in enumerate(events):
            event.i = number
        return cls(lambda: 0.0, events)

    def write(self, path: Path) -> None:
        """Write all lines to a file."""
        with path.open("w", encoding="utf-8") as file:
            for event in self.events:
                file.write(event.to_json() + "\n")


def read_events(path: Path) -> Iterator[Event]:
    """Yield the lines of a file one by one.

    Raises:
        ValueError: a line is none.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield Event.from_json(line)


def read_history(path: Path) -> History:
    """Return the history in a file, or in the files of a run's folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a line is none.
    """
    if not path.is_dir():
        return History(lambda: 0.0, read_events(path))
    files = [path / "history.jsonl", path / "nemesis.jsonl"]
    found = [read_history(file) for file in files if file.exists()]
    if not found:
        raise FileNotFoundError(f"{path} holds no history.jsonl")
    return found[0] if len(found) == 1 else History.merge(found)


def operations(events: Iterable[Event], f: str) -> list[Operation]:
    """Return the operations of one kind in the order of their invocation.

    Raises:
        ValueError: something ended that had not begun.
    """
    found: list[Operation] = []
    open_: dict[int, Operation] = {}
    for event in events:
        if event.f != f or event.p == NEMESIS:
            continue
        if event.type == "invoke":
            operation = Operation(
                event.p, f, "info", event.t, NEVER_NS, event.k, event.v, event.o, event.g,
                event.node, event.i,
            )  # fmt: skip
            open_[event.p] = operation
            found.append(operation)
        else:
            begun = open_.pop(event.p, None)
            if begun is None:
                raise ValueError(f"line {event.i}: process {event.p} had begun no {f}")
            begun.type = event.type
            begun.end = event.i
            if event.type != "info":
                begun.completed = event.t
            if event.v is not None:
                begun.v = event.v
            if event.o is not None:
                begun.o = event.o
    return found
