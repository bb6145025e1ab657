"""What was asked and what came back, line by line, so that others can judge it too.

JSON lines with the fields

    i     number of the line
    t     virtual or monotonic nanoseconds
    p     process: one thing at a time; a number never used again after an unknown outcome
    type  invoke, ok, fail (surely not done), info (may be done, or a note of the world)
    f     what: send, end, poll, assign, commit, committed, transfer, drain, dump, fault, heal,
          leader, exit, start, healed, recovered
    k     queue number
    v     value: of a send its text; of a poll, drain or dump a list of [offset, value]
    o     queue offset, or another number an answer holds
    g     consumer group
    node  the node it is about
    err   what went wrong

`None` fields are left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
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

    def note(self, f: str, *, node: str | None = None, v: object = None, o: int | None = None,
             err: str | None = None) -> None:  # fmt: skip
        """Write down something of the world."""
        self.add(NEMESIS, "info", f, node=node, v=v, o=o, err=err)

    def write(self, path: Path) -> None:
        """Write all lines to a file."""
        with path.open("w", encoding="utf-8") as file:
            for event in self.events:
                file.write(event.to_json() + "\n")


def read_history(path: Path) -> History:
    """Return the history in a file.

    Raises:
        ValueError: a line is none.
    """
    with path.open(encoding="utf-8") as file:
        return History(lambda: 0.0, (Event.from_json(line) for line in file if line.strip()))


def operations(events: Iterable[Event], f: str) -> Iterator[Operation]:
    """Yield the operations of one kind in the order of their invocation."""
    found: list[Operation] = []
    open_: dict[int, Operation] = {}
    for event in events:
        if event.f != f or event.p == NEMESIS:
            continue
        if event.type == "invoke":
            operation = Operation(
                event.p, f, "info", event.t, NEVER_NS, event.k, event.v, event.o, event.g,
                event.node,
            )  # fmt: skip
            open_[event.p] = operation
            found.append(operation)
        else:
            operation = open_.pop(event.p)
            operation.type = event.type
            if event.type != "info":
                operation.completed = event.t
            if event.v is not None:
                operation.v = event.v
            if event.o is not None:
                operation.o = event.o
    yield from found


def to_edn(events: Iterable[Event]) -> Iterator[str]:
    """Yield the lines as Jepsen's own tools read them."""
    for event in events:
        process = ":nemesis" if event.p == NEMESIS else str(event.p)
        value = _edn([event.k, event.v, event.o])
        yield (
            f"{{:index {event.i}, :time {event.t}, :process {process}, :type :{event.type}, "
            f":f :{event.f}, :value {value}}}"
        )


def _edn(value: object) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(_edn, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_edn(key)} {_edn(item)}" for key, item in value.items()) + "}"
    return json.dumps(str(value))
