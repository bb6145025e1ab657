"""What a name server knows of one broker group, whoever told it.

A node knows its own group by itself (`LocalGroup`); others, and those of a name server that is a
process of its own, have registered (`broker.nameserver.registrations`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from broker.config import RouteMode
from broker.errors import BrokerError
from broker.message.limits import RETRY_PREFIX, check_topic
from broker.nameserver import routes
from broker.protocol.headers import PERM_READ, PERM_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.metadata.topics import Topics
    from dledger.server import LedgerServer


class NamedGroup(Protocol):
    """One broker group, or one master of RocketMQ with its slaves."""

    @property
    def name(self) -> str:
        """Its broker name."""
        ...

    @property
    def cluster(self) -> str:
        """What it belongs to."""
        ...

    def topics(self) -> Iterable[tuple[str, int]]:
        """Return its topics and their system flags; TBW102 is none."""
        ...

    def find(self, topic: str) -> routes.Topic | None:
        """Return what there is of *topic*."""
        ...

    def made_on_use(self, topic: str) -> routes.Topic | None:
        """Return what *topic* will be, which is not there yet but will be when it is used."""
        ...

    def part(self, topic: routes.Topic, *, client_host: str | None) -> routes.Part:
        """Return what it adds to a route.

        Args:
            topic: found here.
            client_host: address of the RocketMQ client that asks; None: our own asks.
        """
        ...

    def broker(self, *, is_whole: bool = False) -> dict[str, Any]:
        """Return how it stands in the list of brokers. Source: RocketMQ ``BrokerData``.

        Args:
            is_whole: with all of its addresses, as our own client wants it, and not with the one
                by which it is to be administered.
        """
        ...

    def broker_names(self) -> list[str]:
        """Return all broker names under which it may be written to."""
        ...


class LocalGroup:
    """The group of the node that answers."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        topics: Topics,
        advertised: Mapping[str, str],
        cluster: str,
        mode: RouteMode,
        auto_create_topic: bool,
        default_queue_count: int,
    ) -> None:
        """Make one.

        Args:
            ledger: knows who leads, and whom this node is in touch with.
            topics: what exists.
            advertised: ``host:port`` of every member for clients.
            cluster: name of the cluster the group belongs to.
            mode: the form of route that RocketMQ's clients are told.
            auto_create_topic: whether TBW102 has a route.
            default_queue_count: queues of a topic created by a first send.
        """
        self._ledger = ledger
        self._topics = topics
        self._advertised = advertised
        self._cluster = cluster
        self._mode = mode
        self._auto_create_topic = auto_create_topic
        self._default_queue_count = default_queue_count

    @property
    def name(self) -> str:
        """Its broker name."""
        return self._ledger.config.group

    @property
    def cluster(self) -> str:
        """What it belongs to."""
        return self._cluster

    def topics(self) -> Iterable[tuple[str, int]]:
        """Return its topics and their system flags."""
        return ((config.topic, config.system_flag) for config in self._topics)

    def find(self, topic: str) -> routes.Topic | None:
        """Return what there is of *topic*."""
        config = self._topics.get(topic)
        if config is None:
            return None
        return routes.Topic(config.read_queue_count, config.write_queue_count, config.perm)

    def made_on_use(self, topic: str) -> routes.Topic | None:
        """Return what *topic* will be."""
        if topic == routes.DEFAULT_TOPIC and self._auto_create_topic:
            return routes.default_topic(self._default_queue_count)
        return made_by_heartbeat(topic)

    def part(self, topic: routes.Topic, *, client_host: str | None) -> routes.Part:
        """Return what it adds to a route."""
        group = self.seen()
        if client_host is None:
            return routes.own_part(group, topic)
        return routes.stock_part(group, topic, self._mode, client_host=client_host)

    def broker(self, *, is_whole: bool = False) -> dict[str, Any]:
        """Return how it stands in the list of brokers."""
        return routes.cluster_brokers(self.seen(), RouteMode.SINGLE if is_whole else self._mode)

    def broker_names(self) -> list[str]:
        """Return all broker names under which it may be written to."""
        return [self.name, *routes.written_names(self.seen())]

    def seen(self) -> routes.Group:
        """Return the group as this node sees it at this moment."""
        config = self._ledger.config
        return routes.Group(
            name=config.group,
            addresses=self._advertised,
            leader_id=self._ledger.leader_id,
            reachable=self._ledger.core.connected_peers | {config.node_id},
            node_id=config.node_id,
            cluster=self._cluster,
        )


def made_by_heartbeat(topic: str) -> routes.Topic | None:
    """Return what the retry topic *topic* will be; None when it is none that can be.

    A consumer asks for it just before the heartbeat that creates it, and then not for 30 s: what it
    fails in its first half minute would come back to it only after that.
    """
    if not topic.startswith(RETRY_PREFIX) or topic == RETRY_PREFIX:
        return None
    try:
        check_topic(topic)
    except BrokerError:
        return None
    return routes.Topic(1, 1, PERM_READ | PERM_WRITE)
