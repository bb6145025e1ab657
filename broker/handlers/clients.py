"""RocketMQ's clients: their heartbeats, who is in a group with whom, and being told of changes.

A heartbeat may come in at any node; the leader decides who is in a group, and every node tells the
clients connected to it when a group has changed.
"""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import trio

from broker.errors import BrokerError, HeaderError
from broker.groups.consumers import CONSUMERS_MAX, Origin, join_group
from broker.groups.presence import Member, Presence
from broker.handlers.connection_news import CONSUMES_FOR, ConnectionNews, Nobody, groups_told
from broker.handlers.forward import FORWARDED
from broker.handlers.leaving import Leaving
from broker.handlers.registry import answer, handles
from broker.message.limits import (
    RETRY_PREFIX,
    check_group,
    check_group_characters,
    check_group_not_reserved,
)
from broker.metadata.subscription_groups import create_group
from broker.protocol.headers import (
    ClientConnectionLostRequest,
    ClientGroupsLostRequest,
    ConsumerListRequest,
    UnregisterClientRequest,
)
from broker.protocol.heartbeat import (
    CLUSTERING,
    Heartbeat,
    decode_client_config,
    decode_heartbeat,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.subscription_group import SubscriptionGroupConfig
from dledger.errors import LedgerBusyError, LedgerError
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.groups.consumers import Consumers
    from broker.groups.locks import QueueLocks
    from broker.handlers.changes import Changes, Done
    from broker.handlers.connections import Connections
    from broker.handlers.forward import Forwarder
    from broker.handlers.group_gate import GroupGate
    from broker.metadata.subscription_groups import SubscriptionGroups
    from broker.metadata.topics import Topics
    from broker.protocol.heartbeat import ConsumerData
    from broker.store.append_queue import AppendQueue
    from dledger.clock import Clock
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer

SCAN_SECONDS = 5.0  # between two looks for clients that are silent
TELL_AGAIN_SECONDS = 1.0  # until the leader is told again what did not come through
# On a heartbeat that is handed to the leader: host:port of the client's connection.
CLIENT_ADDRESS = "clientAddress"


class ClientHandlers:
    """The family of clients and their groups."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        queue: AppendQueue,
        changes: Changes,
        connections: Connections,
        clock: Clock,
        consumers: Consumers,
        locks: QueueLocks,
        groups: SubscriptionGroups,
        topics: Topics,
        gate: GroupGate,
        forwarder: Forwarder,
        is_serving: Callable[[], bool],
        create_topic: Callable[[str, int, Done], None],
        dispatched_index: Callable[[], int],
        silent_seconds_max: float,
    ) -> None:
        """Make the family.

        Args:
            ledger: knows which members this node is in touch with.
            queue: takes what changes a group that nobody asked for.
            changes: proposes what a heartbeat asks for.
            connections: who is connected here.
            clock: measures for how long a client is silent.
            consumers: who is in which group.
            locks: who reads which queue in order, and who wanted to.
            groups: what groups there are, and how many queues their retry topics have.
            topics: what topics there are.
            gate: says which groups may come to be.
            forwarder: hands heartbeats to the leader.
            is_serving: whether this node is the leader and lags behind nobody.
            create_topic: proposes a new topic with so many queues.
            dispatched_index: tells up to which entry all is applied here.
            silent_seconds_max: a client that is silent for longer is out of its groups.
        """
        self._ledger = ledger
        self._queue = queue
        self._changes = changes
        self._connections = connections
        self._consumers = consumers
        self._locks = locks
        self._groups = groups
        self._topics = topics
        self._gate = gate
        self._forwarder = forwarder
        self._is_serving = is_serving
        self._create_topic = create_topic
        self._leaving = Leaving(queue, dispatched_index)
        self._presence = Presence(clock, silent_seconds_max=silent_seconds_max)
        self._heard = trio.Event()
        self._served_term = -1  # in which this node served last
        self._news = ConnectionNews(ledger=ledger, connections=connections, forwarder=forwarder)
        self.is_stopping = False  # connections that end now say nothing of their clients

    # -- requests -------------------------------------------------------------------------------

    @handles(RequestCode.HEART_BEAT)
    def heartbeat(self, session: Session, command: Command) -> None:
        """Take note of a client, and of the groups it consumes for.

        A group that is refused is the answer; it is in the others all the same.
        """
        heartbeat = decode_heartbeat(cast("bytes", command.body))
        named = [data for data in heartbeat.consumers if _refusal_of_name(data.group) is None]
        is_here = FORWARDED not in command.ext_fields
        # Of this node's own making, for the leader of a moment ago, and now that is this node: see
        # `ConnectionNews`.
        is_own = isinstance(session, Nobody)
        if is_here and not is_own:
            self._connections.note(
                session,
                command,
                heartbeat.client_id,
                [data.group for data in named],
                heartbeat.producers,
            )
            command.ext_fields[CLIENT_ADDRESS] = session.peer_address
        if not self._is_serving():
            self._forwarder.take(session, command)
            return
        node_id = self._came_in_at(command)
        address = str(command.ext_fields.get(CLIENT_ADDRESS, ""))
        origin = Origin(command.language, command.version, address)
        wanted, accepted, refusal = self._wanted(heartbeat, origin)
        client_id = heartbeat.client_id
        if heartbeat.consumers or CLIENT_ADDRESS in command.ext_fields:
            groups = {data.group for data in named}
        else:  # of a node's own making
            groups = self._groups_told(client_id, command.ext_fields.get(CONSUMES_FOR))
        # Also a group that refuses what is new: its client reads on as before.
        for group in groups:
            member = Member(client_id, group)
            if group in accepted or self._is_in(member):
                self._presence.heard(member, node_id)
                self._heard.set()
        self._changes.propose(session, command, wanted, refusal=refusal)

    def _came_in_at(self, command: Command) -> str:
        """Return the node that the client asked."""
        return str(command.ext_fields.get(FORWARDED, self._ledger.config.node_id))

    def _groups_told(self, client_id: str, told: object) -> set[str]:
        """Return the groups that a node says a client is in; all, if it does not say."""
        if isinstance(told, str) and told:
            return set(groups_told(told))
        return set(self._consumers.groups_of(client_id))

    def _wanted(
        self, heartbeat: Heartbeat, origin: Origin
    ) -> tuple[list[Any], set[str], BrokerError | LedgerError | None]:
        """Return the changes a heartbeat makes, its groups, and what is in the way of the rest."""
        wanted: list[Any] = []
        accepted: set[str] = set()
        new_groups: set[str] = set()
        refusal: BrokerError | LedgerError | None = None
        for data in heartbeat.consumers:
            try:
                wanted += self._joining(heartbeat.client_id, data, origin, new_groups)
                accepted.add(data.group)
            except (BrokerError, LedgerBusyError) as error:
                refusal = refusal or error
        return wanted, accepted, refusal

    def _joining(
        self, client_id: str, data: ConsumerData, origin: Origin, new_groups: set[str]
    ) -> list[Any]:
        """Return what is new in *data*; raise what stands in its way."""
        if (refusal := _refusal_of_name(data.group)) is not None:
            raise refusal
        wanted: list[Any] = []
        known = self._consumers.get(data.group, client_id)
        if Member(client_id, data.group) in self._leaving:
            known = None  # it was taken for gone, and has come again before that is done
        if known is None and len(self._consumers) >= CONSUMERS_MAX:
            raise LedgerBusyError(f"{CONSUMERS_MAX} clients consume already; try again later")
        told = self._consumers.origin(data.group, client_id)
        if known != data or not told.is_same_client(origin):
            wanted.append(join_group(client_id, data, origin))
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
            # First of all: a client that is in its group reads its retry topic.
            wanted.insert(0, partial(self._create_topic, retry_topic, config.retry_queue_count))
        return wanted

    @handles(RequestCode.UNREGISTER_CLIENT)
    def unregister(self, session: Session, command: Command) -> None:
        """Let a client go from a group; its queues are the others' at once."""
        header = UnregisterClientRequest.decode(command.ext_fields)
        if FORWARDED not in command.ext_fields:
            self._connections.leave(session, header.consumer_group, header.producer_group)
        if not header.consumer_group:
            answer(session, command, response(command, int(ResponseCode.SUCCESS)))
            return
        if not self._is_serving():
            self._forwarder.take(session, command)
            return
        member = Member(header.client_id, header.consumer_group)
        self._presence.left(member, self._came_in_at(command))
        wanted: list[Callable[[Done], None]] = []
        # Also of one that is not in it yet: what it joins by may be on its way.
        if self._is_in(member) or self._presence.knows(member):
            wanted.append(partial(self._leaving.propose, member))
        self._changes.propose(session, command, wanted)

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
        groups = self._groups_told(header.client_id, header.consumes_for)
        self._lost(header.client_id, groups, header.node_id)
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    @handles(RequestCode.CLIENT_GROUPS_LOST, on_leader=True)
    def groups_lost(self, session: Session, command: Command) -> None:
        """Hear the same of a client by whose id another connection goes, there, for other groups.

        A request of its own: a leader that knows clients by their ids alone would take that one for
        gone, too, and does not serve this.
        """
        header = ClientGroupsLostRequest.decode(command.ext_fields)
        self._lost(header.client_id, groups_told(header.consumes_for), header.node_id)
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    # -- who is gone ----------------------------------------------------------------------------

    def _lost(self, client_id: str, groups: Iterable[str], node_id: str) -> None:
        reachable = self._ledger.core.connected_peers | {self._ledger.config.node_id}
        members = (Member(client_id, group) for group in sorted(groups))
        self._leave_all(
            member
            for member in members
            if self._presence.lost(member, node_id, reachable=reachable)
        )

    def _leave_all(self, members: Iterable[Member]) -> None:
        """Take clients that are gone out of their groups.

        Raises:
            LedgerError: one could not be; that is tried again, later.
        """
        refusal: LedgerError | None = None
        for member in members:
            try:
                if self._is_in(member):
                    self._leaving.propose(member)
                self._presence.forget(member)
            except LedgerError as error:
                refusal = refusal or error
                self._presence.stayed(member)
                self._heard.set()
        if refusal is not None:
            raise refusal

    def _is_in(self, member: Member) -> bool:
        return self._consumers.get(member.group, member.client_id) is not None

    def _changed(self, group: str) -> None:
        """Look at a group that has changed: everybody in it is somebody who may become silent.

        Who was taken for gone while it joined has been forgotten, and nobody would miss it.
        """
        for client_id in self._consumers.of(group):
            member = Member(client_id, group)
            if not self._presence.knows(member):
                self._presence.stayed(member)
                self._heard.set()

    def began_to_serve(self) -> None:
        """Give every consumer the time to be heard by this leader."""
        is_same_lead, self._served_term = self._served_term == self._ledger.term, self._ledger.term
        self._presence.begin(
            (
                Member(client_id, group)
                for group in self._consumers.groups()
                for client_id in self._consumers.of(group)
            ),
            # Nobody tells anew who is connected, as nobody else has led meanwhile.
            is_known=is_same_lead,
        )
        for client_id, groups in self._connections.consuming():
            for group in groups:
                self._presence.heard(Member(client_id, group), self._ledger.config.node_id)
        self._heard.set()

    def leader_changed(self) -> None:
        """Tell a new leader who is connected here."""
        self._news.leader_changed()

    def dispatched(self) -> None:
        """Tell connected clients of the groups that have changed, and answer who waited for it."""
        self._leaving.dispatched()
        for group in sorted(self._consumers.take_changed()):
            if self._is_serving():
                self._changed(group)
            for session in self._connections.listeners(group):
                self._connections.tell_changed(session, group)
        for group, client_id in sorted(self._locks.take_wanted_by()):
            for session in self._connections.sessions_of(client_id, group):
                self._connections.tell_changed(session, group)
        self._changes.dispatched()

    def drop_session(self, session: Session) -> None:
        """Tell the leader that a client's connection has ended."""
        client = self._connections.drop(session)
        if client is None or self.is_stopping:
            return
        # Not those by which it has come again already, nor those of another client of that id.
        groups = [
            group
            for group in sorted(client.groups | client.groups_before.keys())
            if not self._connections.is_listening(client.client_id, group)
        ]
        if groups:
            self._lost_here(client.client_id, groups)

    def _lost_here(self, client_id: str, groups: Iterable[str]) -> None:
        if self._is_serving():
            with contextlib.suppress(LedgerError):  # too much is under way: once more, later
                self._lost(client_id, groups, self._ledger.config.node_id)
            self._queue.seal()
        else:
            self._news.lost(client_id, groups)

    async def run(self) -> None:
        """Let clients go that are silent for too long, and tell the leader, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._let_silent_go)
            nursery.start_soon(self._tell_again)

    async def _tell_again(self) -> None:
        while True:
            await self._news.until_failed()
            await trio.sleep(TELL_AGAIN_SECONDS)
            if self._ledger.leader_id is None:
                continue
            for client_id, group in self._news.take_untold():
                self._lost_here(client_id, [group])
            self._news.leader_changed()

    async def _let_silent_go(self) -> None:
        while True:
            self._heard = trio.Event()
            if not self._presence.is_anybody_there or not self._is_serving():
                await self._heard.wait()  # a node without such clients is not woken for them
                continue
            await trio.sleep(SCAN_SECONDS)
            if not self._is_serving():
                continue
            with contextlib.suppress(LedgerError):  # too much is under way: once more, later
                self._leave_all(self._presence.take_silent())
            self._queue.seal()


def _refusal_of_name(group: str) -> BrokerError | None:
    try:
        check_group(group)
        check_group_characters(group)
        check_group_not_reserved(group)
    except BrokerError as error:
        return error
    return None
