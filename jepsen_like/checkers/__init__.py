"""From a history to what is wrong in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers import (
    acks,
    administration,
    appends,
    cluster,
    delivery,
    ends,
    groups,
    handling,
    membership,
    picking,
    polls,
    progress,
    promises,
    stops,
)
from jepsen_like.checkers.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jepsen_like.history import Event, History

__all__ = ["CHECKERS", "KINDS", "Anomaly", "check"]

# Every anomaly that can be raised, and what it is.
KINDS = (
    cluster.KINDS | appends.KINDS | polls.KINDS | ends.KINDS | groups.KINDS | progress.KINDS
    | promises.KINDS | administration.KINDS | acks.KINDS | handling.KINDS | stops.KINDS
    | membership.KINDS | delivery.KINDS | picking.KINDS
)  # fmt: skip


CHECKERS: dict[str, Callable[[list[Event], bool], Iterable[Anomaly]]] = {
    "cluster": lambda events, _: cluster.check_cluster(events),
    "appends": lambda events, kept: appends.check_appends(events, has_retention=kept),
    "acks": lambda events, kept: acks.check_acks(events, has_retention=kept),
    "polls": lambda events, kept: polls.check_polls(events, has_retention=kept),
    "ends": lambda events, _: ends.check_ends(events),
    "groups": lambda events, kept: groups.check_groups(events, has_retention=kept),
    "progress": lambda events, _: progress.check_progress(events),
    "administration": lambda events, kept: administration.check_administration(
        events, has_retention=kept
    ),
    "handling": lambda events, kept: handling.check_handling(events, has_retention=kept),
    "membership": lambda events, _: membership.check_membership(events),
    "delivery": lambda events, _: delivery.check_delivery(events),
    "picking": lambda events, kept: picking.check_picking(events, has_retention=kept),
    "promises": lambda events, _: promises.check_promises(events),
    "stops": lambda events, _: stops.check_stops(events),
}


def check(history: History, *, has_retention: bool = False) -> list[Anomaly]:
    """Return everything that is wrong in *history*.

    Args:
        history: all of it, drain and dumps included.
        has_retention: whether old segments are dropped: then what lies before a queue's first
            offset is rightly gone, and readers rightly skip it.
    """
    return [
        anomaly
        for checker in CHECKERS.values()
        for anomaly in checker(history.events, has_retention)
    ]
