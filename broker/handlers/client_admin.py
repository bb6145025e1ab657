"""What RocketMQ's tools ask about clients: who is connected, and questions that the client answers.

A question goes to a client by a connection of the node that was asked, and by one of another member
when this node has none.

Source: RocketMQ ``ClientManageProcessor``, ``AdminBrokerProcessor``, ``Broker2Client``.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from broker.errors import HeaderError, InvalidMessageError
from broker.handlers.forward import FORWARDED
from broker.handlers.registry import answer, handles
from broker.message.message_id import decode_offset_id
from broker.protocol import admin_bodies
from broker.protocol.admin_bodies import Connection
from broker.protocol.admin_headers import (
    ConsumeDirectlyRequest,
    ConsumerConnectionsRequest,
    ConsumerRunningInfoRequest,
    ConsumerStatusRequest,
    ProducerConnectionsRequest,
)
from broker.protocol.request_code import ClientRequestCode, RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store.record_finder import record_at
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.groups.consumers import Consumers
    from broker.handlers.client_calls import ClientCalls
    from broker.handlers.connections import ConnectedProducer, Connections
    from broker.handlers.forward import Forwarder
    from broker.protocol.admin_bodies import QueuePlace
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView
    from dledger.remoting.server import Session

# How long a client may take. Source: RocketMQ ``Broker2Client.callClient``, ``getConsumeStatus``.
ANSWER_SECONDS = 10.0
STATUS_SECONDS = 5.0


class ClientAdminHandlers:
    """The family of questions about clients, and to them."""

    def __init__(
        self,
        *,
        connections: Connections,
        calls: ClientCalls,
        consumers: Consumers,
        forwarder: Forwarder,
        is_serving: Callable[[], bool],
        log: LogView,
        queues: ConsumeQueues,
        group_name: str,
        node_id: str,
    ) -> None:
        """Make the family.

        Args:
            connections: who is connected to this node.
            calls: asks them.
            consumers: who is in which group, everywhere.
            forwarder: hands on what the leader may know better.
            is_serving: whether this node is the leader and lags behind nobody.
            log: has the messages that clients are given to consume.
            queues: lead to them.
            group_name: of the broker group: RocketMQ's name of the broker.
            node_id: this node's.
        """
        self._connections = connections
        self._calls = calls
        self._consumers = consumers
        self._forwarder = forwarder
        self._is_serving = is_serving
        self._log = log
        self._queues = queues
        self._group_name = group_name
        self._node_id = node_id

    # -- who is there ---------------------------------------------------------------------------

    @handles(RequestCode.GET_CONSUMER_CONNECTION_LIST)
    def consumer_connections(self, session: Session, command: Command) -> None:
        """Answer who consumes for a group, and what it reads."""
        header = ConsumerConnectionsRequest.decode(command.ext_fields)
        consumers = self._consumers.of(header.consumer_group)
        if not consumers:
            refusal = f"the consumer group[{header.consumer_group[:80]}] not online"
            self._ask_leader_or(session, command, ResponseCode.CONSUMER_NOT_ONLINE, refusal)
            return
        subscriptions = {
            item.topic: (item.expression_type, item.expression)
            for _, data in sorted(consumers.items())
            for item in data.subscriptions
        }
        data = consumers[min(consumers)]
        found = []
        for client_id in sorted(consumers):
            origin = self._consumers.origin(data.group, client_id)
            found.append(Connection(client_id, origin.address, origin.language, origin.version))
        body = admin_bodies.encode_consumer_connections(data, subscriptions, found)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_PRODUCER_CONNECTION_LIST)
    def producer_connections(self, session: Session, command: Command) -> None:
        """Answer who is connected here and produces for a group."""
        header = ProducerConnectionsRequest.decode(command.ext_fields)
        found = [
            item for item in self._connections.producers() if item.group == header.producer_group
        ]
        if not found:
            refusal = f"the producer group[{header.producer_group[:80]}] not exist"
            self._ask_others_or(session, command, ResponseCode.SYSTEM_ERROR, refusal)
            return
        body = admin_bodies.encode_producer_connections(map(_connection, found))
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_ALL_PRODUCER_INFO)
    def all_producers(self, session: Session, command: Command) -> None:
        """Answer every producer that is connected here."""
        body = admin_bodies.encode_producers(
            (item.group, _connection(item), item.client.heard_ms)
            for item in self._connections.producers()
        )
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    # -- what they say --------------------------------------------------------------------------

    @handles(RequestCode.GET_CONSUMER_RUNNING_INFO)
    def running_info(self, session: Session, command: Command) -> None:
        """Let a consumer say how it is."""
        header = ConsumerRunningInfoRequest.decode(command.ext_fields)
        fields = {
            "consumerGroup": header.consumer_group,
            "clientId": header.client_id,
            "jstackEnable": "true" if header.jstack_enable else "false",
        }
        self._hand_on(session, command, header.consumer_group, header.client_id, fields, b"")

    @handles(RequestCode.CONSUME_MESSAGE_DIRECTLY)
    def consume_directly(self, session: Session, command: Command) -> None:
        """Give a consumer a message at once, and answer what became of it there."""
        header = ConsumeDirectlyRequest.decode(command.ext_fields)
        try:
            _, position = decode_offset_id(header.msg_id)
        except InvalidMessageError as error:
            raise HeaderError(str(error), field="msgId") from error
        record = record_at(self._log, self._queues, position)
        if record is None:
            refusal = f"no message begins at position {position} of the log, or it is gone"
            self._ask_leader_or(session, command, ResponseCode.QUERY_NOT_FOUND, refusal)
            return
        fields = {
            "consumerGroup": header.consumer_group,
            "clientId": header.client_id,
            "msgId": header.msg_id,
            "brokerName": self._group_name,
        }
        group, client_id = header.consumer_group, header.client_id
        self._hand_on(session, command, group, client_id, fields, bytes(record.view))

    @handles(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS)
    def consumer_status(self, session: Session, command: Command) -> None:
        """Let the consumers of a group that are connected here say how far they are in a topic."""
        header = ConsumerStatusRequest.decode(command.ext_fields)
        wanted = [
            client_id
            for client_id in sorted(self._consumers.of(header.group))
            if header.client_addr in ("", client_id)
        ]
        asked = {
            client_id: sessions[0]
            for client_id in wanted
            if (sessions := self._connections.sessions_of(client_id, header.group))
        }
        if not asked:
            refusal = f"No Any Consumer online in the consumer group: [{header.group[:80]}]"
            self._ask_others_or(session, command, ResponseCode.SYSTEM_ERROR, refusal)
            return
        tables: dict[str, dict[QueuePlace, int]] = {}
        missing = set(asked)

        def heard(client_id: str, found: Command | None) -> None:
            missing.discard(client_id)
            if found is not None and found.code == ResponseCode.SUCCESS:
                # One that cannot be read is as none: the others' answers are good.
                with contextlib.suppress(HeaderError):
                    tables[client_id] = admin_bodies.decode_consumer_status(_body_of(found))
            if not missing:
                body = admin_bodies.encode_consumer_status(tables)
                self._answer(
                    session, command, response(command, int(ResponseCode.SUCCESS), body=body)
                )

        fields = {"topic": header.topic, "group": header.group}
        for client_id, at in asked.items():
            self._calls.ask(
                at,
                ClientRequestCode.GET_CONSUMER_STATUS_FROM_CLIENT,
                fields,
                partial(heard, client_id),
                seconds=STATUS_SECONDS,
            )

    # -- handing on -----------------------------------------------------------------------------

    def _hand_on(
        self,
        session: Session,
        command: Command,
        group: str,
        client_id: str,
        fields: dict[str, str],
        body: bytes,
    ) -> None:
        """Ask a client what this node was asked, and pass its answer back."""
        sessions = self._connections.sessions_of(client_id, group)
        if not sessions:
            what = f"The Consumer <{group[:80]}> <{client_id[:80]}> not online"
            if client_id in self._consumers.of(group):
                what += f": it is connected neither to node {self._node_id} nor to another"
            self._ask_others_or(session, command, ResponseCode.SYSTEM_ERROR, what)
            return

        def heard(found: Command | None) -> None:
            if found is None:
                reply = response(
                    command,
                    int(ResponseCode.CONSUME_MSG_TIMEOUT),
                    f"consumer <{group[:80]}> <{client_id[:80]}> has not answered within "
                    f"{ANSWER_SECONDS:g} s, or its connection broke",
                )
            else:
                reply = response(
                    command, found.code, found.remark, found.ext_fields, _body_of(found)
                )
            self._answer(session, command, reply)

        code = ClientRequestCode(command.code)
        self._calls.ask(sessions[0], code, fields, heard, body=body, seconds=ANSWER_SECONDS)

    def _ask_leader_or(
        self, session: Session, command: Command, code: ResponseCode, refusal: str
    ) -> None:
        """Hand a request on that somebody else may know more about, or say that nobody does."""
        if not self._is_serving() and FORWARDED not in command.ext_fields:
            self._forwarder.take(session, command)
            return
        answer(session, command, response(command, int(code), refusal))

    def _ask_others_or(
        self, session: Session, command: Command, code: ResponseCode, refusal: str
    ) -> None:
        """Let another member answer whose client it is, or say that it is nobody's."""
        if FORWARDED in command.ext_fields:
            answer(session, command, response(command, int(code), refusal))
            return

        def heard(found: Command | None) -> None:
            if found is None:
                reply = response(command, int(code), refusal)
            else:
                reply = response(
                    command, found.code, found.remark, found.ext_fields, _body_of(found)
                )
            self._answer(session, command, reply)

        self._calls.ask_others(command, heard, not_here=int(code), seconds=ANSWER_SECONDS + 1)

    @staticmethod
    def _answer(session: Session, command: Command, reply: Command) -> None:
        answer(session, command, reply)
        if not session.closed:
            session.flush_soon()


def _connection(found: ConnectedProducer) -> Connection:
    client = found.client
    return Connection(client.client_id, found.address, client.language, client.version)


def _body_of(command: Command) -> bytes:
    body = command.body
    return b"".join(body) if isinstance(body, list) else bytes(body)
