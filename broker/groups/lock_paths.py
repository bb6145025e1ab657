"""Which requests to free a lock are older than the last one that asked for it.

A client that hears nothing of its request to free a lock asks for the lock again, by another node
perhaps, and is told that it has it.  The older request may have waited for a leader meanwhile, or
for a link: were it served now, somebody else would get the lock, and two would hold it.

Requests have no number that tells their order.  But of those that came in at one node the node
knows it, and nobody believes in a lock for ever.  What cannot be told apart from one that is late
frees nothing: the lock runs out by itself.  That a lock was asked for is in the log before anybody
believes in it, so that a new leader can tell as much as the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.groups.locks import Asked, QueueLock
    from dledger.clock import Clock

# After which nobody believes any more in a lock that was last asked for before: 30 s from when the
# answer came, for which clients wait 3 s.  How long a request is under way has no bound: the node
# that took it may be stopped meanwhile, or its link to the leader.
LATE_SECONDS_MAX = 35.0


class Arrival(NamedTuple):
    """Where a request came in from its client, and when."""

    node_id: str
    at: float  # seconds of that node's monotonic clock


class _Last(NamedTuple):
    """The last request for a lock of those that came in at one node."""

    arrived_at: float  # seconds, that node's
    noted_at: float  # when this leader took note of it; seconds, the leader's
    # When it last heard of any: of one that seems to be older, too, as the clock of a machine that
    # was started anew makes it, and its client may believe in the lock because of it.
    heard_at: float


class LockPaths:
    """How each lock was asked for by its holder, as far as this leader knows."""

    def __init__(self, clock: Clock, *, lock_seconds: float) -> None:
        """Know nothing yet.

        Args:
            clock: the leader's.
            lock_seconds: for how long a lock holds that is not asked for again: behind that nobody
                may believe in it, whoever asks to free it.
        """
        self._clock = clock
        self._late_seconds = min(LATE_SECONDS_MAX, lock_seconds)
        self._asked: dict[QueueLock, dict[str, _Last]] = {}
        self._began_at = clock.now()

    def begin(self, asked: Mapping[QueueLock, Asked]) -> None:
        """Begin anew with what is in the log: another leader may have heard more since.

        Nobody believes in a lock before that it was asked for is in the log.
        """
        now = self._began_at = self._clock.now()
        self._asked = {
            lock: {node: _Last(at, now, now) for node, at in nodes.items()}
            for lock, nodes in asked.items()
        }

    def asked(self, lock: QueueLock, arrival: Arrival) -> Asked:
        """Take note that its holder has asked for a lock; return what is to be remembered of it."""
        now = self._clock.now()
        nodes = self._asked.setdefault(lock, {})
        for node in [node for node, last in nodes.items() if self._is_past(last.heard_at, now)]:
            del nodes[node]
        before = nodes.get(arrival.node_id)
        # An older request, held up, tells nothing new; nor does a clock that began anew, at first.
        if before is None or arrival.at >= before.arrived_at or self._is_past(before.noted_at, now):
            nodes[arrival.node_id] = _Last(arrival.at, now, now)
        else:
            nodes[arrival.node_id] = before._replace(heard_at=now)
        return {node: last.arrived_at for node, last in nodes.items()}

    def may_free(self, lock: QueueLock, arrival: Arrival) -> bool:
        """Return whether a request to free a lock came after all that asked for it."""
        now = self._clock.now()
        nodes = self._asked.get(lock)
        if not nodes:
            return self._is_past(self._began_at, now)
        return all(
            arrival.at >= last.arrived_at
            if node == arrival.node_id
            else self._is_past(last.heard_at, now)
            for node, last in nodes.items()
        )

    def _is_past(self, at: float, now: float) -> bool:
        """Whether nobody believes any more in a lock that was last asked for at *at*."""
        return now - at > self._late_seconds

    def forget(self, lock: QueueLock) -> None:
        """Take note that a lock is free, or somebody else's."""
        self._asked.pop(lock, None)
