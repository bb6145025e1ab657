"""Which requests to free a lock are older than the last one that asked for it; the leader's alone.

A client that hears nothing of its request to free a lock asks for the lock again, by another node
perhaps, and is told that it has it.  The older request may have waited for a leader meanwhile, or
for a link: were it served now, somebody else would get the lock, and two would hold it.

Requests have no number that tells their order.  But of those that came in at one node the node
knows it, and nobody believes in a lock for ever.  What cannot be told apart from one that is late
frees nothing: the lock runs out by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from broker.groups.locks import QueueLock
    from dledger.clock import Clock

# After which nobody believes any more in a lock that was last asked for before: 30 s from when the
# answer came, for which clients wait 3 s.  How long a request is under way has no bound: the node
# that took it may be stopped meanwhile, or its link to the leader.
LATE_SECONDS_MAX = 35.0


class Arrival(NamedTuple):
    """Where a request came in from its client, and when."""

    node_id: str
    at: float  # seconds of that node's monotonic clock


class _Asked(NamedTuple):
    arrival: Arrival
    at: float  # seconds, the leader's


class LockPaths:
    """How each lock was asked for last, as far as this leader knows."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[QueueLock, _Asked] = {}
        self._began_at = clock.now()

    def begin(self) -> None:
        """Forget what was known: another leader may have heard more since."""
        self._asked.clear()
        self._began_at = self._clock.now()

    def asked(self, lock: QueueLock, arrival: Arrival) -> None:
        """Take note that its holder has asked for a lock."""
        before = self._asked.get(lock)
        if before is not None and before.arrival.node_id == arrival.node_id:
            arrival = max(before.arrival, arrival)
        self._asked[lock] = _Asked(arrival, self._clock.now())

    def may_free(self, lock: QueueLock, arrival: Arrival) -> bool:
        """Return whether a request to free a lock came after the last one that asked for it."""
        last = self._asked.get(lock)
        if last is not None and last.arrival.node_id == arrival.node_id:
            return arrival.at >= last.arrival.at
        since = self._began_at if last is None else max(self._began_at, last.at)
        return self._clock.now() - since > LATE_SECONDS_MAX

    def forget(self, lock: QueueLock) -> None:
        """Take note that a lock is free."""
        self._asked.pop(lock, None)
