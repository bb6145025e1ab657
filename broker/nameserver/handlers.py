"""The family of a name server, answered by every node: there is none to run beside the group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError, TopicNotFoundError
from broker.handlers.registry import answer, handles, stock_client_host
from broker.message.limits import RETRY_PREFIX, check_topic
from broker.nameserver import routes
from broker.protocol.headers import (
    PERM_READ,
    PERM_WRITE,
    DeleteTopicInNameServerRequest,
    KvConfigRequest,
    RouteRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.config import RouteMode
    from broker.handlers.forward import Forwarder
    from broker.metadata.topics import Topics
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer


class NameHandlers:
    """Routes, and lists of topics and brokers."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        topics: Topics,
        forwarder: Forwarder,
        advertised: Mapping[str, str],
        is_serving: Callable[[], bool],
        cluster: str,
        mode: RouteMode,
        auto_create_topic: bool,
        default_queue_count: int,
    ) -> None:
        """Make the family.

        Args:
            ledger: knows who leads, and whom this node is in touch with.
            topics: what exists.
            forwarder: asks the leader about a topic this node may merely not know yet.
            advertised: ``host:port`` of every member for clients.
            is_serving: whether this node is the leader and lags behind nobody.
            cluster: name of the cluster the group belongs to.
            mode: the form of route that RocketMQ's clients are told.
            auto_create_topic: whether TBW102 has a route.
            default_queue_count: queues of a topic created by a first send.
        """
        self._ledger = ledger
        self._topics = topics
        self._forwarder = forwarder
        self._advertised = advertised
        self._is_serving = is_serving
        self._cluster = cluster
        self._mode = mode
        self._auto_create_topic = auto_create_topic
        self._default_queue_count = default_queue_count

    @handles(RequestCode.GET_ROUTEINFO_BY_TOPIC)
    def route(self, session: Session, command: Command) -> None:
        """Answer where a topic's queues are."""
        header = RouteRequest.decode(command.ext_fields)
        client_host = stock_client_host(session, command)
        is_stock = client_host is not None
        topic = self._find(header.topic) or (self._made_on_use(header.topic) if is_stock else None)
        if topic is None and not self._is_serving():
            # This node may only be behind: who believed it would create the topic a second time.
            self._forwarder.take(session, command)
            return
        if topic is None:
            raise TopicNotFoundError(
                f"topic {header.topic!r} does not exist; create it with `dledger topic create "
                f"{header.topic}`"
            )
        if client_host is not None:
            body = routes.stock_route(self._group(), topic, self._mode, client_host=client_host)
        else:
            body = routes.own_route(self._group(), topic)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)
    def list_topics(self, session: Session, command: Command) -> None:
        """Answer the names of all topics."""
        body = routes.topic_list(config.topic for config in self._topics)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_BROKER_CLUSTER_INFO)
    def cluster(self, session: Session, command: Command) -> None:
        """Answer which brokers there are: one."""
        body = routes.cluster_info(self._group(), self._mode)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.DELETE_TOPIC_IN_NAMESRV)
    def delete_topic(self, session: Session, command: Command) -> None:
        """Answer the second half of a deletion, which the first (code 215) has done already."""
        DeleteTopicInNameServerRequest.decode(command.ext_fields)
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    @handles(RequestCode.GET_KV_CONFIG)
    def kv_config(self, session: Session, command: Command) -> None:
        """Answer that there is no such setting: nothing here is kept in a name server's table."""
        header = KvConfigRequest.decode(command.ext_fields)
        answer(
            session,
            command,
            response(
                command,
                int(ResponseCode.QUERY_NOT_FOUND),
                f"no config item of namespace {header.namespace[:80]!r} and key "
                f"{header.key[:80]!r} is kept here",
            ),
        )

    def _find(self, name: str) -> routes.Topic | None:
        config = self._topics.get(name)
        if config is None:
            return None
        return routes.Topic(config.read_queue_count, config.write_queue_count, config.perm)

    def _made_on_use(self, name: str) -> routes.Topic | None:
        """Return what a topic will be that is not there yet, but will be when it is used."""
        if name == routes.DEFAULT_TOPIC and self._auto_create_topic:
            return routes.default_topic(self._default_queue_count)
        if not name.startswith(RETRY_PREFIX) or name == RETRY_PREFIX:
            return None
        try:
            check_topic(name)
        except BrokerError:
            return None
        # A consumer asks for it just before the heartbeat that creates it, and then not for 30 s:
        # what it fails in its first half minute would come back to it only after that.
        return routes.Topic(1, 1, PERM_READ | PERM_WRITE)

    def _group(self) -> routes.Group:
        config = self._ledger.config
        return routes.Group(
            name=config.group,
            addresses=self._advertised,
            leader_id=self._ledger.leader_id,
            reachable=self._ledger.core.connected_peers | {config.node_id},
            node_id=config.node_id,
            cluster=self._cluster,
        )
