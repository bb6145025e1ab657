"""A history as Jepsen's own tools read it: one EDN map a line.

They refuse a completion that no invocation stands before (`jepsen.history/pair-index`), so an
answer that nobody asked for line by line (a poll, an assignment, a drain, a dump) gets an
invocation of its own, at the same time.  That numbers the lines anew; ``:line`` tells where each
stood here.  Notes of the world are the nemesis's.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from jepsen_like.history import NEMESIS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jepsen_like.history import Event

# What EDN allows in a keyword of ours; anything else would end it.
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*\Z")


def to_edn(events: Iterable[Event]) -> Iterator[str]:
    """Yield the lines one by one, while *events* come in.

    Raises:
        ValueError: a process answers what it was not asked, or its name for that is no keyword.
    """
    open_: dict[int, str] = {}  # process -> what it is at
    index = 0
    for event in events:
        if event.p == NEMESIS:
            yield _line(event, index, event.type)
        elif event.type == "invoke":
            open_[event.p] = event.f
            yield _line(event, index, "invoke")
        else:
            asked = open_.pop(event.p, None)
            if asked is None:
                yield _line(event, index, "invoke", is_question=True)
                index += 1
            elif asked != event.f:
                raise ValueError(f"line {event.i}: process {event.p} is at {asked}")
            yield _line(event, index, event.type)
        index += 1


def _line(event: Event, index: int, type: str, *, is_question: bool = False) -> str:
    answer = [event.k, None, None] if is_question else [event.k, event.v, event.o]
    fields = [
        f":index {index}",
        f":time {event.t}",
        f":type {_keyword(type)}",
        f":process {':nemesis' if event.p == NEMESIS else event.p}",
        f":f {_keyword(event.f)}",
        f":value {edn(answer)}",
        f":line {event.i}",
    ]
    if event.g is not None:
        fields.append(f":group {edn(event.g)}")
    if event.node is not None:
        fields.append(f":node {edn(event.node)}")
    if event.err is not None and not is_question:
        fields.append(f":error {edn(event.err)}")
    return "{" + ", ".join(fields) + "}"


def _keyword(name: str) -> str:
    if not _KEYWORD.match(name):
        raise ValueError(f"{name!r} is no keyword")
    return f":{name}"


def edn(value: object) -> str:
    """Return a value of JSON as EDN; keys of maps become keywords where they can.

    Raises:
        TypeError: *value* is none of JSON's.
    """
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "##NaN"
        return repr(value) if math.isfinite(value) else f"##{'-' if value < 0 else ''}Inf"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(edn, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} {edn(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        # JSON's escapes are all in Clojure's reader, `\\/` apart, which is never written here.
        return json.dumps(value)
    raise TypeError(f"{type(value).__name__} is no value of JSON")


def _key(key: object) -> str:
    return f":{key}" if isinstance(key, str) and _KEYWORD.match(key) else edn(key)
