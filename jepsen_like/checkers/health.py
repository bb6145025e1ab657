"""When the group had a majority that nothing ailed, as far as the history knows.

A fault's text is its name and whom it hits: ``kill n1,n2``.  Where the second word is not such a
list of members (``wire 5 ways``, ``one-way to n1``), anybody may be hit.  Faults that leave a
leader alive and half able give the others no reason to elect another one: while they last nothing
is promised of the whole group either.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jepsen_like.history import NEMESIS

if TYPE_CHECKING:
    from jepsen_like.history import Event

HALF_ABLE = frozenset({"slow-disk", "stalled-disk", "full-disk", "scarce"})

_MEMBERS = re.compile(r"n\d+(,n\d+)*\Z")


@dataclass(frozen=True, slots=True)
class Period:
    """A time in which nothing changed for better or worse, with a healthy majority."""

    begin: int  # ns
    end: int  # ns


def members_of(events: list[Event]) -> list[str]:
    """Return the names of all members that *events* speak of."""
    found: set[str] = set()
    for event in events:
        if event.f == "setup" and isinstance(event.v, dict):
            found.update(event.v.get("members", ()))
        elif event.node is not None:
            found.add(event.node)
    return sorted(found, key=lambda name: (len(name), name))


def fault_text(event: Event) -> str:
    """Return what a fault, heal or effect note says of the fault: its name and whom it hits."""
    text = event.v[0] if isinstance(event.v, list) and event.v else event.v
    return str(text or "unnamed")


def fault_kind(event: Event) -> str:
    """Return the name of a fault from its note."""
    return fault_text(event).split()[0]


def hit_by(event: Event) -> list[str] | None:
    """Return the members that a fault hits, or `None` when it may be all."""
    words = fault_text(event).split()
    if words[0] in HALF_ABLE or len(words) < 2 or not _MEMBERS.match(words[1]):
        return None
    return words[1].split(",")


def healthy_periods(events: list[Event]) -> list[Period]:
    """Return them all in order; each ends where anything of the group changes."""
    members = members_of(events)
    if not events or not members:
        return []
    minority = (len(members) - 1) // 2
    faults: Counter[str] = Counter()  # under way, by their text
    hits: dict[str, list[str] | None] = {}
    down = set(members)  # until the first start of each
    found: list[Period] = []
    began: int | None = None

    def is_healthy() -> bool:
        ailing = set(down)
        for text in faults:
            hit = hits[text]
            if hit is None:
                return False
            ailing.update(hit)
        return len(ailing) <= minority

    for event in events:
        if event.p != NEMESIS or event.f not in _CHANGES:
            continue
        if event.f == "fault":
            text = fault_text(event)
            faults[text] += 1
            hits[text] = hit_by(event)
        elif event.f == "heal":
            text = fault_text(event)
            faults[text] -= 1
            faults += Counter()  # forgets what has come to nothing
        elif event.f == "healed":
            faults.clear()
        elif event.node is not None and event.f in ("exit", "start"):
            (down.add if event.f == "exit" else down.discard)(event.node)
        if began is not None and event.t > began:
            found.append(Period(began, event.t))
        began = event.t if is_healthy() else None
    if began is not None and events[-1].t > began:
        found.append(Period(began, events[-1].t))
    return found


_CHANGES = frozenset({"fault", "heal", "healed", "exit", "start"})
