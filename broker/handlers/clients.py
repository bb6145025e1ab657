"""RocketMQ's clients: their heartbeats, who is in a group with whom, and being told of changes.

A heartbeat may come in at any node; the leader decides who is in a group, and every node tells the
clients connected to it when a group has changed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import TYPE_CHECKING, cast

import trio

from broker.errors import HeaderError
from broker.groups.consumers import CONSUMERS_MAX, join_group, leave_group
from broker.groups.presence import Presence
from broker.handlers.forward import FORWARDED
from broker.handlers.registry import answer, error_response, handles
from broker.message.limits import (
    RETRY_PREFIX,
    check_group,
    check_group_characters,
    check_group_not_reserved,
)
from broker.metadata.subscription_groups import create_group
from broker.protocol.headers import (
    ClientConnectionLostRequest,
    ConsumerListRequest,
    UnregisterClientRequest,
)
from broker.protocol.heartbeat import CLUSTERING, decode_client_config, decode_heartbeat
from broker.protocol.request_code import ClientRequestCode, RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.subscription_group import SubscriptionGroupConfig
from dledger.errors import LedgerBusyError, LedgerError, NotLeaderError
from dledger.remoting.command import FLAG_ONEWAY, Command, SerializeType, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.groups.consumers import Consumers
    from broker.handlers.forward import Forwarder
    from broker.handlers.group_gate import GroupGate
    from broker.metadata.state_machine import MetadataCommand
    from broker.metadata.subscription_groups import SubscriptionGroups
    from broker.metadata.topics import Topics
    from broker.protocol.heartbeat import ConsumerData
    from broker.store.append_queue import AppendQueue
    from broker.store.derived import DerivedState
    from dledger.clock import Clock
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer

SCAN_SECONDS = 5.0  # between two looks for clients that are silent


class _Client:
    """What a connection has said of its client."""

    __slots__ = ("client_id", "groups", "serialization")

    def __init__(self, client_id: str, serialization: SerializeType) -> None:
        self.client_id = client_id
        self.serialization = serialization
        self.groups: set[str] = set()


class _Nobody:
    """Stands in for a connection where nobody waits for an answer."""

    closed = False

    def reply(self, command: Command) -> None:
        """Drop an answer."""

    def flush(self) -> None:
        """Do nothing."""

    def flush_soon(self) -> None:
        """Do nothing."""

    def charge(self, cost: int) -> None:
        """Do nothing: what waits for the leader is bounded by itself."""

    def release(self, cost: int) -> None:
        """Do nothing."""


class _Request:
    """One that is answered when all it asked to change is applied here."""

    __slots__ = ("command", "index", "is_done", "missing", "session")

    def __init__(self, session: Session, command: Command, missing: int) -> None:
        self.session = session
        self.command = command
        self.missing = missing
        self.index = 0
        self.is_done = False


class ClientHandlers:
    """The family of clients and their groups."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        derived: DerivedState,
        queue: AppendQueue,
        clock: Clock,
        consumers: Consumers,
        groups: SubscriptionGroups,
        topics: Topics,
        gate: GroupGate,
        forwarder: Forwarder,
        is_serving: Callable[[], bool],
        create_topic: Callable[[str, int, Callable[[int, LedgerError | None], None]], None],
    ) -> None:
        """Make the family.

        Args:
            ledger: knows which members this node is in touch with.
            derived: tells how far entries are applied.
            queue: takes what changes a group.
            clock: measures for how long a client is silent.
            consumers: who is in which group.
            groups: what groups there are, and how many queues their retry topics have.
            topics: what topics there are.
            gate: says which groups may come to be.
            forwarder: hands heartbeats to the leader.
            is_serving: whether this node is the leader and lags behind nobody.
            create_topic: proposes a new topic with so many queues.
        """
        self._ledger = ledger
        self._derived = derived
        self._queue = queue
        self._consumers = consumers
        self._groups = groups
        self._topics = topics
        self._gate = gate
        self._forwarder = forwarder
        self._is_serving = is_serving
        self._create_topic = create_topic
        self._presence = Presence(clock)
        self._clients: dict[Session, _Client] = {}
        self._sessions_of: dict[str, set[Session]] = {}  # by client id
        self._listeners: dict[str, dict[Session, None]] = {}  # by group
        self._waiting: list[_Request] = []
        self._opaque = itertools.count(1)
        self._heard = trio.Event()
        self.is_stopping = False  # connections that end now say nothing of their clients

    # -- requests -------------------------------------------------------------------------------

    @handles(RequestCode.HEART_BEAT)
    def heartbeat(self, session: Session, command: Command) -> None:
        """Take note of a client, and of the groups it consumes for."""
        heartbeat = decode_heartbeat(cast("bytes", command.body))
        for data in heartbeat.consumers:
            check_group(data.group)
            check_group_characters(data.group)
            check_group_not_reserved(data.group)
        is_here = FORWARDED not in command.ext_fields
        if is_here:
            self._note(session, command, heartbeat.client_id, heartbeat.consumers)
        if not self._is_serving():
            self._forwarder.take(session, command)
            return
        node_id = self._ledger.config.node_id if is_here else str(command.ext_fields[FORWARDED])
        if heartbeat.consumers and self._consumers.groups_of(heartbeat.client_id):
            # Also when a group that is new to it is refused: it reads on for the others.
            self._presence.heard(heartbeat.client_id, node_id)
        wanted: list[MetadataCommand] = []
        topics: list[tuple[str, int]] = []
        new_groups: set[str] = set()
        for data in heartbeat.consumers:
            if self._consumers.get(data.group, heartbeat.client_id) != data:
                if len(self._consumers) >= CONSUMERS_MAX:
                    raise LedgerBusyError(
                        f"{CONSUMERS_MAX} clients consume already; try again later"
                    )
                wanted.append(join_group(heartbeat.client_id, data))
            config = self._groups.get(data.group)
            if config is None:
                self._gate.check_use(data.group, beside=len(new_groups - {data.group}))
                if not self._gate.exists(data.group):
                    new_groups.add(data.group)
                config = SubscriptionGroupConfig(group=data.group)
                wanted.append(create_group(config))
            retry_topic = RETRY_PREFIX + data.group
            if (
                data.message_model == CLUSTERING
                and config.retry_queue_count > 0
                and self._topics.get(retry_topic) is None
            ):
                topics.append((retry_topic, config.retry_queue_count))
        if heartbeat.consumers:
            self._presence.heard(heartbeat.client_id, node_id)
            self._heard.set()
        self._change(session, command, wanted, topics)

    @handles(RequestCode.UNREGISTER_CLIENT)
    def unregister(self, session: Session, command: Command) -> None:
        """Let a client go from a group; its queues are the others' at once."""
        header = UnregisterClientRequest.decode(command.ext_fields)
        if FORWARDED not in command.ext_fields:
            self._unlisten(session, header.consumer_group)
        if not header.consumer_group:
            answer(session, command, response(command, int(ResponseCode.SUCCESS)))
            return
        if not self._is_serving():
            self._forwarder.take(session, command)
            return
        wanted = []
        if self._consumers.get(header.consumer_group, header.client_id) is not None:
            wanted.append(leave_group(header.client_id, header.consumer_group))
        self._change(session, command, wanted, [])

    @handles(RequestCode.GET_CONSUMER_LIST_BY_GROUP, on_leader=True)
    def list_consumers(self, session: Session, command: Command) -> None:
        """Answer who is in a group, by which they share out the queues."""
        header = ConsumerListRequest.decode(command.ext_fields)
        client_ids = sorted(self._consumers.of(header.consumer_group))
        if not client_ids:
            raise HeaderError(
                f"no consumer of group {header.consumer_group[:80]!r} is connected",
                field="consumerGroup",
            )
        body = json.dumps({"consumerIdList": client_ids}, separators=(",", ":")).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.CHECK_CLIENT_CONFIG)
    def check_config(self, session: Session, command: Command) -> None:
        """Answer whether this broker can filter the way a client wants it to."""
        subscription = decode_client_config(cast("bytes", command.body))
        if subscription.expression_type == "TAG":
            reply = response(command, int(ResponseCode.SUCCESS))
        else:
            reply = response(
                command,
                int(ResponseCode.SYSTEM_ERROR),
                f"The broker does not support consumer to filter message by "
                f"{subscription.expression_type[:40]}; subscribe by tags",
            )
        answer(session, command, reply)

    @handles(RequestCode.CLIENT_CONNECTION_LOST, on_leader=True)
    def connection_lost(self, session: Session, command: Command) -> None:
        """Hear from another node that a client's connection to it has ended."""
        header = ClientConnectionLostRequest.decode(command.ext_fields)
        self._lost(header.client_id, header.node_id)
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    # -- changes --------------------------------------------------------------------------------

    def _change(
        self,
        session: Session,
        command: Command,
        wanted: list[MetadataCommand],
        topics: list[tuple[str, int]],
    ) -> None:
        """Propose changes; answer when this node has applied all of them."""
        request = _Request(session, command, len(wanted) + len(topics))
        if not request.missing:
            answer(session, command, response(command, int(ResponseCode.SUCCESS)))
            return

        def done(index: int, error: LedgerError | None) -> None:
            if request.is_done:
                return
            if error is not None:
                request.is_done = True
                self._refuse(session, command, error)
                return
            request.index = max(request.index, index)
            request.missing -= 1
            if not request.missing:
                self._waiting.append(request)
                self._answer_ready()

        try:
            for topic, queue_count in topics:
                self._create_topic(topic, queue_count, done)
            for change in wanted:
                self._queue.put_command(change, done)
        except BaseException:
            request.is_done = True  # the error is the answer; what was proposed may come to pass
            raise

    def _refuse(self, session: Session, command: Command, error: LedgerError) -> None:
        if isinstance(error, NotLeaderError):
            if not session.closed:
                self._forwarder.hold_again(session, command)
            return
        answer(session, command, error_response(command, error))
        if not session.closed:
            session.flush_soon()

    def _answer_ready(self) -> None:
        reached = self._derived.dispatched_index
        ready = [request for request in self._waiting if request.index <= reached]
        if not ready:
            return
        self._waiting = [request for request in self._waiting if request.index > reached]
        for request in ready:
            answer(
                request.session,
                request.command,
                response(request.command, int(ResponseCode.SUCCESS)),
            )
            if not request.session.closed:
                request.session.flush_soon()

    def _lost(self, client_id: str, node_id: str) -> None:
        reachable = self._ledger.core.connected_peers | {self._ledger.config.node_id}
        if self._presence.lost(client_id, node_id, reachable=reachable):
            self._leave_all(client_id)
            self._presence.forget(client_id)

    def _leave_all(self, client_id: str) -> None:
        """Take a client that is gone out of its groups; it is tried again when that is refused."""
        try:
            for group in self._consumers.groups_of(client_id):
                self._queue.put_command(leave_group(client_id, group), lambda _index, _error: None)
        except LedgerError:
            self._presence.stayed(client_id)
            self._heard.set()
            raise

    # -- what happens ---------------------------------------------------------------------------

    def began_to_serve(self) -> None:
        """Give every consumer the time to be heard by this leader."""
        client_ids = self._consumers.client_ids()
        self._presence.begin(client_ids)
        if client_ids:
            self._heard.set()

    def dispatched(self) -> None:
        """Tell connected clients of the groups that have changed, and answer who waited for it."""
        for group in sorted(self._consumers.take_changed()):
            for session in list(self._listeners.get(group, ())):
                self._tell(session, group)
        if self._waiting:
            self._answer_ready()

    def drop_session(self, session: Session) -> None:
        """Tell the leader that a client's connection has ended."""
        client = self._clients.pop(session, None)
        if client is None:
            return
        for group in client.groups:
            self._forget_listener(group, session)
        self._forget_session(client.client_id, session)
        if self.is_stopping or not client.groups:
            return
        if client.client_id in self._sessions_of:
            return  # it has come again already
        node_id = self._ledger.config.node_id
        if self._is_serving():
            with contextlib.suppress(LedgerError):  # too much is under way: once more, later
                self._lost(client.client_id, node_id)
            self._queue.seal()
            return
        header = ClientConnectionLostRequest(client_id=client.client_id, node_id=node_id)
        request = Command(
            int(RequestCode.CLIENT_CONNECTION_LOST), FLAG_ONEWAY, ext_fields=header.encode()
        )
        with contextlib.suppress(LedgerError):  # the same
            self._forwarder.take(cast("Session", _Nobody()), request)

    async def run(self) -> None:
        """Let clients go that are silent for too long, until cancelled."""
        while True:
            self._heard = trio.Event()
            if not self._presence.is_anybody_there or not self._is_serving():
                await self._heard.wait()  # a node without such clients is not woken for them
                continue
            await trio.sleep(SCAN_SECONDS)
            if not self._is_serving():
                continue
            for client_id in self._presence.take_silent():
                with contextlib.suppress(LedgerError):  # too much is under way: once more, later
                    self._leave_all(client_id)
            self._queue.seal()

    # -- connections ----------------------------------------------------------------------------

    def _note(
        self,
        session: Session,
        command: Command,
        client_id: str,
        consumers: tuple[ConsumerData, ...],
    ) -> None:
        client = self._clients.get(session)
        if client is None or client.client_id != client_id:
            if client is not None:
                self._forget_session(client.client_id, session)
                for group in client.groups:
                    self._forget_listener(group, session)
            client = self._clients[session] = _Client(client_id, command.serialization)
            self._sessions_of.setdefault(client_id, set()).add(session)
        for data in consumers:
            if data.group in client.groups:
                continue
            client.groups.add(data.group)
            self._listeners.setdefault(data.group, {})[session] = None
            if self._consumers.get(data.group, client_id) is not None:
                # It comes again, or by another way; what it has missed meanwhile is not known.
                self._tell(session, data.group)

    def _tell(self, session: Session, group: str) -> None:
        config = self._groups.get(group)
        if session.closed or (config is not None and not config.notify_changes):
            return
        session.reply(
            Command(
                int(ClientRequestCode.NOTIFY_CONSUMER_IDS_CHANGED),
                FLAG_ONEWAY,
                next(self._opaque) & 0x7FFFFFFF,
                ext_fields={"consumerGroup": group},
                serialization=self._clients[session].serialization,
            )
        )
        session.flush_soon()

    def _unlisten(self, session: Session, group: str) -> None:
        client = self._clients.get(session)
        if client is not None and group in client.groups:
            client.groups.discard(group)
            self._forget_listener(group, session)

    def _forget_session(self, client_id: str, session: Session) -> None:
        sessions = self._sessions_of[client_id]
        sessions.discard(session)
        if not sessions:
            del self._sessions_of[client_id]

    def _forget_listener(self, group: str, session: Session) -> None:
        listeners = self._listeners.get(group)
        if listeners is not None:
            listeners.pop(session, None)
            if not listeners:
                del self._listeners[group]
