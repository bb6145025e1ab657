"""Routes, and lists of topics and brokers: what clients and tools ask a name server.

A node answers for its own group and for those that have registered with it, a name server that is a
process of its own for the latter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import TopicNotFoundError
from broker.handlers.registry import answer, handles, stock_client_host
from broker.message.limits import RESERVED_TOPICS
from broker.metadata.name_config import ORDER_TOPIC_CONFIG
from broker.nameserver import routes
from broker.nameserver.groups import made_by_heartbeat
from broker.protocol.name_headers import (
    DeleteTopicInNameServerRequest,
    RouteRequest,
    TopicsByClusterRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.handlers.registry import Handler
    from broker.metadata.name_config import NameConfig
    from broker.nameserver.groups import NamedGroup
    from broker.nameserver.registrations import Registrations
    from dledger.remoting.server import Session

# Bits of a topic's system flag. Source: RocketMQ ``TopicSysFlag``.
_UNIT = 1
_UNIT_SUB = 2


class NameHandlers:
    """The family of routes and lists."""

    def __init__(
        self,
        *,
        registrations: Registrations,
        names: NameConfig,
        local: NamedGroup | None = None,
        ask_leader: Handler | None = None,
        order_message_enable: bool = False,
    ) -> None:
        """Make the family.

        Args:
            registrations: groups that have registered.
            names: which broker names are not written to, and where order is kept.
            local: the group of the node that answers; None: it is none.
            ask_leader: takes a request about a topic that this node may merely not know yet, and
                is None where there is nobody else to ask.
            order_message_enable: whether routes name the queues in which order is kept, as somebody
                has set them. Source: RocketMQ ``NamesrvConfig.orderMessageEnable``.
        """
        self._registrations = registrations
        self._names = names
        self._local = local
        self._ask_leader = ask_leader
        self._order_message_enable = order_message_enable
        self.may_lag: Callable[[], bool] = lambda: False  # whether this node may lack a topic

    @handles(RequestCode.GET_ROUTEINFO_BY_TOPIC)
    def route(self, session: Session, command: Command) -> None:
        """Answer where a topic's queues are."""
        header = RouteRequest.decode(command.ext_fields)
        client_host = stock_client_host(session, command)
        wiped = self._names.wiped
        parts = []
        for group in self._groups_of(header.topic):
            topic = group.find(header.topic)
            if topic is None and client_host is not None:
                topic = group.made_on_use(header.topic)
            if topic is not None:
                part = group.part(topic, client_host=client_host)
                parts.append(routes.without_writing(part, wiped, group.name))
        if not parts and self._ask_leader is not None and self.may_lag():
            # This node may only be behind: who believed it would create the topic a second time.
            self._ask_leader(session, command)
            return
        if not parts:
            raise TopicNotFoundError(
                f"topic {header.topic!r} does not exist; create it with `dledger topic create "
                f"{header.topic}`"
            )
        body = routes.encode_route(
            parts,
            order_config=(
                self._names.get(ORDER_TOPIC_CONFIG, header.topic)
                if self._order_message_enable
                else None
            ),
            is_standard=(
                client_host is None
                or header.accept_standard_json_only
                or not 0 < command.version < routes.STANDARD_JSON_VERSION
            ),
        )
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_BROKER_CLUSTER_INFO)
    def cluster(self, session: Session, command: Command) -> None:
        """Answer which brokers there are, each group once."""
        is_ours = stock_client_host(session, command) is None
        body = routes.cluster_info(group.broker(is_whole=is_ours) for group in self.groups())
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)
    def list_topics(self, session: Session, command: Command) -> None:
        """Answer the names of all topics."""
        self._answer_topics(session, command, self.groups())

    @handles(RequestCode.GET_TOPICS_BY_CLUSTER)
    def list_topics_of_cluster(self, session: Session, command: Command) -> None:
        """Answer the names of the topics that a cluster has."""
        header = TopicsByClusterRequest.decode(command.ext_fields)
        groups = [group for group in self.groups() if group.cluster == header.cluster]
        self._answer_topics(session, command, groups)

    @handles(RequestCode.GET_UNIT_TOPIC_LIST)
    def list_unit_topics(self, session: Session, command: Command) -> None:
        """Answer the topics with the system flag for units."""
        self._answer_topics(session, command, self.groups(), lambda flag: bool(flag & _UNIT))

    @handles(RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST)
    def list_unit_sub_topics(self, session: Session, command: Command) -> None:
        """Answer the topics with the system flag for subscriptions by unit."""
        self._answer_topics(session, command, self.groups(), lambda flag: bool(flag & _UNIT_SUB))

    @handles(RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST)
    def list_unit_sub_only_topics(self, session: Session, command: Command) -> None:
        """Answer the topics with that flag and not the one for units."""
        self._answer_topics(
            session, command, self.groups(), lambda flag: flag & (_UNIT | _UNIT_SUB) == _UNIT_SUB
        )

    @handles(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS)
    def list_system_topics(self, session: Session, command: Command) -> None:
        """Answer the names of clusters and brokers, and a broker that knows the rest (code 305).

        Source: RocketMQ ``RouteInfoManager.getSystemTopicList``: there each is a topic.
        """
        groups = self.groups()
        names = dict.fromkeys(
            name for group in groups for name in (group.cluster, *group.broker_names()[:1])
        )
        addresses = [
            address for group in groups for address in group.broker()["brokerAddrs"].values()
        ]
        body = routes.topic_list(names, broker_address=addresses[0] if addresses else None)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.DELETE_TOPIC_IN_NAMESRV)
    def delete_topic(self, session: Session, command: Command) -> None:
        """Forget what brokers of RocketMQ have told of a topic.

        Groups of ours have deleted it already (code 215), and tell of it themselves.
        """
        header = DeleteTopicInNameServerRequest.decode(command.ext_fields)
        self._registrations.remove_topic(header.topic, cluster=header.cluster_name)
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    def groups(self) -> list[NamedGroup]:
        """Return all groups known here; the own one first, and never as it has registered."""
        return self._own_first(self._registrations.groups)

    def _groups_of(self, topic: str) -> list[NamedGroup]:
        """Return the groups that may have *topic*: of hundreds nearly always one."""
        if made_by_heartbeat(topic) is not None:
            return self.groups()
        return self._own_first(self._registrations.with_topic(topic))

    def _own_first(self, registered: Iterable[NamedGroup]) -> list[NamedGroup]:
        local = self._local
        if local is None:
            return list(registered)
        return [local, *(group for group in registered if group.name != local.name)]

    def _answer_topics(
        self,
        session: Session,
        command: Command,
        groups: Iterable[NamedGroup],
        wanted: Callable[[int], bool] = lambda _: True,
    ) -> None:
        names = dict.fromkeys(
            name for group in groups for name, flag in group.topics() if wanted(flag)
        )
        body = routes.topic_list(names)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))


class SystemTopicHandlers:
    """What a broker says of the names that it keeps to itself."""

    @handles(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER)
    def list_system_topics(self, session: Session, command: Command) -> None:
        """Answer the names that no topic of a user may have."""
        body = routes.topic_list(sorted(RESERVED_TOPICS))
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))
