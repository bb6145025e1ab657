"""When the group had a majority that nothing ailed, as far as the history knows.

A fault's text is its name and whom it hits: ``kill n1,n2``.  Where the second word is not such a
list of members (``wire 5 ways``, ``one-way to n1``), anybody may be hit.  Faults that leave a
leader alive and half able give the others no reason to elect another one: while they last nothing
is promised of the whole group either.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jepsen_like.history import NEMESIS

if TYPE_CHECKING:
    from jepsen_like.history import Event

HALF_ABLE = frozenset({"slow-disk", "stalled-disk", "full-disk", "crowded-disk", "scarce"})

_MEMBERS = re.compile(r"n\d+(,n\d+)*\Z")


@dataclass(frozen=True, slots=True)
class Period:
    """A time in which one and the same majority was healthy, and no leader was hit."""

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
    """Return them all in order; one may follow right upon another."""
    members = members_of(events)
    minority = (len(members) - 1) // 2
    state = _State(down=set(members))
    found: list[Period] = []
    begin: int | None = None
    touched: set[str] = set()  # members that ailed since then
    leader: str | None = None
    before: set[str] | None = None
    for event in events:
        if event.p != NEMESIS:
            continue
        if event.f == "leader":
            leader = event.node
        if event.f not in _CHANGES:
            continue
        state.take(event)
        ailing = state.ailing()
        is_healthy = ailing is not None and len(ailing) <= minority
        is_same = (
            ailing is not None
            and len(touched | ailing) <= minority
            and not (leader in ailing and leader not in (before or ()))
        )
        if begin is not None and not is_same:
            if event.t > begin:
                found.append(Period(begin, event.t))
            begin = None
        if is_healthy and ailing is not None:
            if begin is None:
                begin, touched = event.t, set()
            touched |= ailing
        before = ailing
    if begin is not None and events[-1].t > begin:
        found.append(Period(begin, events[-1].t))
    return found


@dataclass(slots=True)
class _State:
    """Which faults are under way, and who is down."""

    down: set[str]  # all of them until their first start
    faults: Counter[str] = field(default_factory=Counter)  # by their text
    hits: dict[str, list[str] | None] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Take in one note."""
        if event.f == "fault":
            text = fault_text(event)
            self.faults[text] += 1
            self.hits[text] = hit_by(event)
        elif event.f == "heal":
            self.faults[fault_text(event)] -= 1
            self.faults += Counter()  # forgets what has come to nothing
        elif event.f == "healed":
            self.faults.clear()
        elif event.node is not None:
            (self.down.add if event.f == "exit" else self.down.discard)(event.node)

    def ailing(self) -> set[str] | None:
        """Return who is down or hit; `None` when it may be anybody."""
        found = set(self.down)
        for text in self.faults:
            hit = self.hits[text]
            if hit is None:
                return None
            found.update(hit)
        return found


_CHANGES = frozenset({"fault", "heal", "healed", "exit", "start"})
