"""Which clients are connected to this node, and for which groups: what each connection has said.

A client has a connection to every address it knows, and sends its heartbeats by each of them.  Who
is in a group is known to all nodes; who can be spoken to, to the node at the other end.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from broker.handlers.bounded import drop_oldest
from broker.metrics.connected import ConnectedClient
from broker.protocol.request_code import ClientRequestCode
from dledger.remoting.command import FLAG_ONEWAY, Command, SerializeType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.groups.consumers import Consumers
    from broker.metadata.subscription_groups import SubscriptionGroups
    from dledger.clock import Clock
    from dledger.remoting.server import Session

# Of one connection, that it named once; of those before them silence tells.
_GROUPS_BEFORE_MAX = 256


class Client:
    """What a connection has said of its client."""

    __slots__ = (
        "client_id",
        "groups",
        "groups_before",
        "heard_ms",
        "language",
        "producer_groups",
        "serialization",
        "version",
    )

    def __init__(self, client_id: str, command: Command) -> None:
        self.client_id = client_id
        self.serialization: SerializeType = command.serialization
        self.language = command.language
        self.version = command.version
        self.groups: set[str] = set()  # that it consumes for
        # Those it names no longer, without a goodbye that came here; the last ones of very many.
        self.groups_before: dict[str, None] = {}
        self.producer_groups: set[str] = set()
        self.heard_ms = 0  # its last heartbeat, milliseconds since 1970


class ConnectedProducer(NamedTuple):
    """A client that produces for a group, at one of its connections."""

    group: str
    client: Client
    address: str


class Connections:
    """The connections of this node that belong to clients with heartbeats."""

    def __init__(self, *, consumers: Consumers, groups: SubscriptionGroups, clock: Clock) -> None:
        """Make it with nobody connected.

        Args:
            consumers: who is in which group, everywhere.
            groups: which of them want their consumers to be told of changes.
            clock: the time of heartbeats.
        """
        self._consumers = consumers
        self._groups = groups
        self._clock = clock
        self._clients: dict[Session, Client] = {}
        self._sessions_of: dict[str, dict[Session, None]] = {}  # by client id
        self._listeners: dict[str, dict[Session, None]] = {}  # by group
        self._opaque = itertools.count(1)

    def client_of(self, session: Session) -> Client | None:
        """Return whose connection that is; None when it has not said."""
        return self._clients.get(session)

    def sessions_of(self, client_id: str, group: str = "") -> list[Session]:
        """Return the connections of a client, of those by which it consumes for *group* if named.

        The newest comes first: should one be dead and not known to be, then an older one.
        """
        listening = self._listeners.get(group, {})
        return [
            session
            for session in reversed(self._sessions_of.get(client_id, {}))
            if not session.closed and (not group or session in listening)
        ]

    def listeners(self, group: str) -> list[Session]:
        """Return the connections by which clients consume for *group*."""
        return list(self._listeners.get(group, ()))

    def producers(self) -> Iterator[ConnectedProducer]:
        """Yield each producer group of each connection."""
        for session, client in self._clients.items():
            for group in sorted(client.producer_groups):
                yield ConnectedProducer(group, client, session.peer_address)

    def connected(self) -> Iterator[ConnectedClient]:
        """Yield what each connection says of its client, for metrics."""
        for client in self._clients.values():
            found = (
                (group, self._consumers.get(group, client.client_id)) for group in client.groups
            )
            yield ConnectedClient(
                client.language,
                client.version,
                tuple(client.producer_groups),
                [(group, data.consume_type) for group, data in found if data is not None],
            )

    def note(
        self,
        session: Session,
        command: Command,
        client_id: str,
        groups: Iterable[str],
        producer_groups: Iterable[str],
    ) -> None:
        """Take note of a heartbeat that came by *session*."""
        client = self._clients.get(session)
        if client is None or client.client_id != client_id:
            if client is not None:
                self._forget(session, client)
            client = self._clients[session] = Client(client_id, command)
            self._sessions_of.setdefault(client_id, {})[session] = None
        client.heard_ms = self._clock.wall_ms()
        client.producer_groups.update(producer_groups)
        named = set(groups)
        for group in client.groups - named:  # a client names all it is in
            client.groups.discard(group)
            self._forget_listener(group, session)
            client.groups_before[group] = None
        drop_oldest(client.groups_before, _GROUPS_BEFORE_MAX)
        for group in sorted(named - client.groups):
            client.groups.add(group)
            client.groups_before.pop(group, None)
            self._listeners.setdefault(group, {})[session] = None
            if self._consumers.get(group, client_id) is not None:
                # It comes again, or by another way; what it has missed meanwhile is not known.
                self.tell_changed(session, group)

    def leave(self, session: Session, group: str, producer_group: str) -> None:
        """Take note that a client consumes, or produces, no longer for a group."""
        client = self._clients.get(session)
        if client is None:
            return
        client.producer_groups.discard(producer_group)
        client.groups_before.pop(group, None)
        if group in client.groups:
            client.groups.discard(group)
            self._forget_listener(group, session)

    def drop(self, session: Session) -> Client | None:
        """Forget a connection that has ended; return whose it was."""
        client = self._clients.pop(session, None)
        if client is not None:
            self._forget(session, client)
        return client

    def consuming(self) -> list[tuple[str, list[str]]]:
        """Return of each connection by which a client consumes its id and the groups, sorted."""
        clients = self._clients.values()
        return [(client.client_id, sorted(client.groups)) for client in clients if client.groups]

    def is_known(self, client_id: str) -> bool:
        """Return whether a connection here goes by that id."""
        return client_id in self._sessions_of

    def is_listening(self, client_id: str, group: str) -> bool:
        """Return whether a client has a connection here by which it consumes for *group*."""
        sessions = self._sessions_of.get(client_id, {})
        listening = self._listeners.get(group, {})
        few, many = sorted((sessions, listening), key=len)
        return any(session in many and not session.closed for session in few)

    def tell_changed(self, session: Session, group: str) -> None:
        """Have a client share out the queues of a group again, if the group is one for that."""
        config = self._groups.get(group)
        if session.closed or (config is not None and not config.notify_changes):
            return
        fields = {"consumerGroup": group}
        self.tell(session, ClientRequestCode.NOTIFY_CONSUMER_IDS_CHANGED, fields)

    def tell(
        self,
        session: Session,
        code: ClientRequestCode,
        ext_fields: dict[str, str],
        body: bytes = b"",
    ) -> None:
        """Send a client something that it does not answer."""
        session.reply(
            Command(
                int(code),
                FLAG_ONEWAY,
                self.next_opaque(),
                ext_fields=dict(ext_fields),
                body=body,
                serialization=self._clients[session].serialization,
            )
        )
        session.flush_soon()

    def next_opaque(self) -> int:
        """Return a number for a request of this node's own."""
        return next(self._opaque) & 0x7FFFFFFF

    def _forget(self, session: Session, client: Client) -> None:
        for group in client.groups:
            self._forget_listener(group, session)
        sessions = self._sessions_of[client.client_id]
        sessions.pop(session, None)
        if not sessions:
            del self._sessions_of[client.client_id]

    def _forget_listener(self, group: str, session: Session) -> None:
        listeners = self._listeners.get(group)
        if listeners is not None:
            listeners.pop(session, None)
            if not listeners:
                del self._listeners[group]
