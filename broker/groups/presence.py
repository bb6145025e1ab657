"""When each client was last heard, and through which nodes it is connected; on the leader only.

A client sends heartbeats to every address it knows, each 30 s, and each node hands them to the
leader.  A client is gone when it is silent for too long, or at once when the last of its
connections that is known of breaks: then its queues go to the others without delay.

A new leader has heard nobody yet.  Everyone counts as heard when it begins, through nodes unknown:
a connection that breaks before the client was heard gives it the time of a heartbeat, and no more.

Source: RocketMQ ``ConsumerManager.scanNotActiveChannel`` and ``ClientHousekeepingService``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.clock import Clock

# Of a client that lost a connection, and is perhaps connected elsewhere: RocketMQ's interval of
# heartbeats, 30 s, and a little for its sender's timers.
HEARTBEAT_SECONDS = 35.0


class _Client:
    __slots__ = ("deadline", "nodes")

    def __init__(self, deadline: float, nodes: set[str] | None) -> None:
        self.deadline = deadline
        self.nodes = nodes  # None: unknown


class Presence:
    """The clients that are in groups, as the serving leader has heard them."""

    def __init__(self, clock: Clock, *, silent_seconds_max: float) -> None:
        """Know nobody yet; who is silent for longer than *silent_seconds_max* will be gone."""
        self._clock = clock
        self._silent_seconds_max = silent_seconds_max
        self._clients: dict[str, _Client] = {}

    @property
    def is_anybody_there(self) -> bool:
        """Return whether any client may become silent."""
        return bool(self._clients)

    def knows(self, client_id: str) -> bool:
        """Return whether a client has been heard, and not been forgotten since."""
        return client_id in self._clients

    def begin(self, client_ids: Iterable[str]) -> None:
        """Forget what was known, and give every client the time to be heard."""
        deadline = self._clock.now() + self._silent_seconds_max
        self._clients = {client_id: _Client(deadline, None) for client_id in client_ids}

    def heard(self, client_id: str, node_id: str) -> None:
        """Take note of a heartbeat that came in at *node_id*."""
        deadline = self._clock.now() + self._silent_seconds_max
        client = self._clients.get(client_id)
        if client is None:
            self._clients[client_id] = _Client(deadline, {node_id})
            return
        client.deadline = deadline
        if client.nodes is None:
            client.nodes = {node_id}
        else:
            client.nodes.add(node_id)

    def lost(self, client_id: str, node_id: str, *, reachable: frozenset[str]) -> bool:
        """Take note that a connection at *node_id* broke; return whether the client is gone.

        Args:
            client_id: whose connection.
            node_id: where it was.
            reachable: nodes that are there, which are the only ones to hold connections.
        """
        client = self._clients.get(client_id)
        if client is None:
            return True
        if client.nodes is None:
            client.deadline = min(client.deadline, self._clock.now() + HEARTBEAT_SECONDS)
            return False
        client.nodes.discard(node_id)
        return not client.nodes & reachable

    def forget(self, client_id: str) -> None:
        """Take note that a client is in no group any more."""
        self._clients.pop(client_id, None)

    def stayed(self, client_id: str) -> None:
        """Take note that a client which is gone could not be taken out of its groups.

        It counts as silent at the next look, unless it is heard until then.
        """
        now = self._clock.now()
        client = self._clients.setdefault(client_id, _Client(now, None))
        client.deadline = now

    def take_silent(self) -> list[str]:
        """Return the clients that have been silent for too long, and forget them."""
        now = self._clock.now()
        silent = [client_id for client_id, client in self._clients.items() if client.deadline < now]
        for client_id in silent:
            del self._clients[client_id]
        return silent
