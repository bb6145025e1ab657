"""The lines of a history around what shows an anomaly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jepsen_like.history import NEMESIS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jepsen_like.checkers import Anomaly
    from jepsen_like.history import Event

BESIDE = 3  # lines of the same queue or process before and behind each
LOOK_MAX = 3000  # lines that are looked through for them
SHOWN_MAX = 40
PAIRS_MAX = 6  # of a poll, drain or dump

# Of the world's notes those that explain what clients see.
_TOLD = frozenset(
    {"fault", "heal", "leader", "exit", "start", "power", "wipe", "healed", "recovered"}
)

# What the number of a note counts; it is no offset.
_NUMBERS = {"leader": "term {}", "power": "{} pages lost"}


def lines_around(events: Sequence[Event], anomaly: Anomaly) -> list[int | None]:
    """Return numbers of lines to show, in order; `None` where some are left out."""
    wanted: set[int] = set()
    for line in anomaly.lines:
        if not 0 <= line < len(events):
            continue
        wanted.add(line)
        for step in (-1, 1):
            wanted.update(_beside(events, anomaly, line, step))
    # Where there are too many, those that show it stay, with what is nearest to the first.
    shown = sorted(wanted)
    if len(shown) > SHOWN_MAX:
        shown = sorted({*anomaly.lines[:SHOWN_MAX], *shown[:SHOWN_MAX]} & wanted)
    found: list[int | None] = []
    for line in shown:
        if found and line - (found[-1] or 0) > 1:
            found.append(None)
        found.append(line)
    return found


def _beside(events: Sequence[Event], anomaly: Anomaly, line: int, step: int) -> list[int]:
    found: list[int] = []
    at = line + step
    looked = 0
    while 0 <= at < len(events) and looked < LOOK_MAX and len(found) < BESIDE:
        if _is_near(events[at], anomaly):
            found.append(at)
        at += step
        looked += 1
    return found


def _is_near(event: Event, anomaly: Anomaly) -> bool:
    if event.p == NEMESIS:
        return event.f in _TOLD
    if event.f == "dump":
        return False  # each holds everything
    if anomaly.queue is None and anomaly.process is None:
        return False
    return event.k == anomaly.queue or event.p == anomaly.process


def short_value(event: Event) -> str:
    """Return an event's value so that it fits on a line."""
    value: Any = event.v
    if event.p == NEMESIS and event.o is not None and event.f in _NUMBERS:
        return _NUMBERS[event.f].format(event.o)
    if value is None:
        return ""
    if event.f == "effect" and isinstance(value, list):
        return ": ".join(map(str, value))
    if event.f in ("poll", "drain", "dump", "assign", "commit") and isinstance(value, list):
        pairs = [f"{one} {other}" for one, other in value]
        if len(pairs) > PAIRS_MAX:
            pairs = [*pairs[: PAIRS_MAX - 2], "...", pairs[-1]]
            return f"{', '.join(pairs)} ({len(value):,})"
        return ", ".join(pairs)
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
