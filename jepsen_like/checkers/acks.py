"""Sends that were acknowledged with less than the group's own level: they may be lost, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

KINDS = {
    "early-loss": "acknowledged with the leader's copy, or with copies in memory alone, and not in "
    "the drain, though no leader of a new term came from 5 s before it was sent on",
}

# A leader of the past may not have heard of it: so long its acks are excused, too.
DEPOSED_SECONDS = 5.0


def check_acks(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield the early acks that nothing explains the loss of."""
    early = [event for event in events if event.f == "early"]
    if not early:
        return
    drained: dict[int, set[str]] = {}
    first: dict[int, int] = {}
    asked: dict[str, Event] = {}
    changes: list[int] = []  # when a new term began to be led, in nanoseconds
    highest = 0
    for event in events:
        if event.f == "drain" and event.type == "ok" and event.k is not None:
            drained[event.k] = {value for _, value in event.v}
            first[event.k] = event.o or 0
        elif event.f == "send" and event.type == "invoke":
            asked[event.v] = event
        elif event.f == "leader" and event.o is not None and event.o > highest:
            highest = event.o
            changes.append(event.t)
    for event in early:
        queue, value = event.k, event.v
        if queue is None or queue not in drained or value in drained[queue]:
            continue
        if has_retention and (event.o is None or event.o < first[queue]):
            continue
        send = asked.get(value, event)
        if any(at > send.t - DEPOSED_SECONDS * 1e9 for at in changes):
            continue
        yield Anomaly(
            "early-loss",
            f"{value}, acknowledged as {event.err} at queue {queue} offset {event.o}, is not in "
            "the drain, and the lead has not changed",
            (send.i, event.i),
            queue,
        )
