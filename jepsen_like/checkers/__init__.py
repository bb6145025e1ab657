"""From a history to what is wrong in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.appends import check_appends
from jepsen_like.checkers.cluster import check_cluster
from jepsen_like.checkers.ends import check_ends
from jepsen_like.checkers.groups import check_groups
from jepsen_like.checkers.polls import check_polls

if TYPE_CHECKING:
    from jepsen_like.history import History

__all__ = ["Anomaly", "check"]


def check(history: History, *, has_retention: bool = False) -> list[Anomaly]:
    """Return everything that is wrong in *history*.

    Args:
        history: all of it, drain and dumps included.
        has_retention: whether old segments are dropped: then what lies before a queue's first
            offset is rightly gone, and readers rightly skip it.
    """
    events = history.events
    found: list[Anomaly] = []
    found += check_cluster(events)
    found += check_appends(events, has_retention=has_retention)
    found += check_polls(events, has_retention=has_retention)
    found += check_ends(events)
    found += check_groups(events, has_retention=has_retention)
    return found
