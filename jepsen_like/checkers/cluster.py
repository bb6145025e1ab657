"""The group itself: who led, who fell over, whether it came back.

two-leaders   two members lead in one term
no-recovery   healed, and in time there was not one leader with all logs equal, or no drain
crash         a process ended that nobody had harmed, or with an error that is no answer
no-progress   hardly anything was acknowledged before the first fault
unreadable    a healed member's log fails its own checks
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

_OUTRIGHT = {
    "never-began": "no-recovery",
    "drain-failed": "no-recovery",
    "unreadable": "unreadable",
}


def check_cluster(events: list[Event]) -> Iterator[Anomaly]:
    """Yield what is wrong with the group."""
    leaders: dict[int, str] = {}
    acked = 0
    for event in events:
        seconds = event.t / 1e9
        if event.f == "send" and event.type == "ok":
            acked += 1
        if event.f == "leader" and event.o is not None and event.node is not None:
            first = leaders.setdefault(event.o, event.node)
            if first != event.node:
                yield Anomaly("two-leaders", f"term {event.o}: {first} and {event.node}")
        elif event.f == "exit" and event.v in ("stopped", "crashed"):
            yield Anomaly("crash", f"{event.node} {event.v} at {seconds:.3f} s: {event.err}")
        elif event.f in _OUTRIGHT:
            yield Anomaly(_OUTRIGHT[event.f], f"{event.node or ''} {event.err}")
        elif event.f == "recovered" and event.err is not None:
            yield Anomaly("no-recovery", f"at {seconds:.3f} s: {event.err}")
        elif event.f == "healed" and not acked:
            yield Anomaly("no-progress", "nothing was acknowledged before the group had healed")
