"""A group whose members are only stopped well, one at a time, costs its clients nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.health import fault_kind
from jepsen_like.history import operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

KINDS = {
    "stop-failed-send": "a send failed, or its outcome is unknown though its client lives, and "
    "nothing happened to the group but members restarted one after another (`rolling`)",
}

ROLLING = "rolling"
CLIENT_CRASHED = "client crashed"


def check_stops(events: list[Event]) -> Iterator[Anomaly]:
    """Yield the sends that a stop has cost."""
    kinds = {fault_kind(event) for event in events if event.f == "fault"}
    if kinds != {ROLLING}:
        return
    begun = next(event for event in events if event.f == "fault")
    for send in operations(events, "send"):
        if send.type == "ok" or send.completed < begun.t:
            continue
        error = events[send.lines[-1]].err or "" if len(send.lines) > 1 else CLIENT_CRASHED
        if error != CLIENT_CRASHED:
            yield Anomaly(
                "stop-failed-send", f"{send.v}: {send.type}: {error}", send.lines, send.k, send.p
            )
