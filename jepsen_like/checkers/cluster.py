"""The group itself: who led, who fell over, whether it came back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

RECOVERY_SECONDS = 15.0

KINDS = {
    "two-leaders": "two members lead in one term",
    "no-recovery": "healed, and within 15 s there was not one leader with all logs equal; or no "
    "drain; or the group never began",
    "crash": "a process ended that nobody had harmed, or with an error that is no answer",
    "unreadable": "a healed member's log fails its own checks",
}

_OUTRIGHT = {
    "never-began": "no-recovery",
    "drain-failed": "no-recovery",
    "unreadable": "unreadable",
}


def check_cluster(events: list[Event]) -> Iterator[Anomaly]:
    """Yield what is wrong with the group."""
    leaders: dict[int, Event] = {}
    healed: Event | None = None
    for event in events:
        at = f"at {event.t / 1e9:.3f} s"
        if event.f == "leader" and event.o is not None and event.node is not None:
            first = leaders.setdefault(event.o, event)
            if first.node != event.node:
                yield Anomaly(
                    "two-leaders",
                    f"term {event.o}: {first.node} and {event.node}",
                    (first.i, event.i),
                )
        elif event.f == "exit" and event.v in ("stopped", "crashed"):
            yield Anomaly("crash", f"{event.node} {event.v} {at}: {event.err}", (event.i,))
        elif event.f in _OUTRIGHT:
            who = f"{event.node}: " if event.node else ""
            yield Anomaly(_OUTRIGHT[event.f], f"{who}{event.err}", (event.i,))
        elif event.f == "recovered":
            if event.err is not None:
                yield Anomaly("no-recovery", f"{at}: {event.err}", (event.i,))
            elif healed is not None and event.t - healed.t > RECOVERY_SECONDS * 1e9:
                seconds = (event.t - healed.t) / 1e9
                yield Anomaly("no-recovery", f"it took {seconds:.1f} s", (healed.i, event.i))
            healed = None
        elif event.f == "healed":
            healed = event
    if healed is not None and events[-1].t - healed.t > RECOVERY_SECONDS * 1e9:
        at = f"{healed.t / 1e9:.3f} s"
        yield Anomaly("no-recovery", f"healed at {at}, and nothing is told after it", (healed.i,))
