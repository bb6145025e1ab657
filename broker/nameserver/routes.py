"""Where a topic's queues are, as clients want to be told.

Our own client is told one broker, named as the group, whose address 0 is the leader; it knows every
node anyway.  RocketMQ's clients ask again only every 30 s and go by broker names, so there are two
forms for them:

    per-node   <group> may be read, at one node in touch; <group>-<node id> may be written, at that
               node, or at a follower while it leads.  Whoever sends tries another broker name when
               one fails, and every node hands what it is sent to the leader, or to the next when
               one dies with it: a failover costs no failed send.  Queues are read
               under one name only, which never changes, so that none is consumed twice.
    single     <group> may be read and written, at the leader, as RocketMQ has it.

A route may hold the parts of several groups: a topic that each of them has is spread over all.

RocketMQ's releases before 4.9.4 write the numbers of brokers without quotes, ``{0:"host:port"}``,
which is no JSON; an old Go client that finds them quoted takes every number for 0.

Source: RocketMQ ``TopicRouteData``, ``RouteInfoManager``, ``ClientRequestProcessor``.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.config import RouteMode
from broker.protocol.headers import PERM_INHERIT, PERM_READ, PERM_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_TOPIC = "TBW102"  # asked for by clients whose topic is not there yet
STANDARD_JSON_VERSION = 401  # ordinal of MQVersion.V4_9_4; 0 is no release and says nothing

_NUMBER_AS_KEY = re.compile(rb'([{,])"([0-9]+)":')


class Topic(NamedTuple):
    """What a route says of a topic's queues."""

    read_queue_count: int
    write_queue_count: int
    perm: int


class Group(NamedTuple):
    """A broker group as one of its nodes sees it at this moment."""

    name: str
    addresses: Mapping[str, str]  # of every member for clients, by node id
    leader_id: str | None
    reachable: frozenset[str]  # members this node is in touch with, itself included
    node_id: str  # who answers
    cluster: str = ""  # what it belongs to; "": a cluster of its own, named as it is

    def stand_in(self, node_id: str) -> str:
        """Return the address at which requests for *node_id* are taken just now."""
        if node_id in self.reachable:
            return self.addresses[node_id]
        if self.leader_id is not None and self.leader_id in self.reachable:
            return self.addresses[self.leader_id]
        return self.addresses[self.node_id]

    def reader(self, client_host: str) -> str:
        """Return the address at which a client reads: for as long as may be the same one.

        A follower, where there is one: whoever reads from it notices nothing when a leader dies.
        """
        return self.addresses[self._follower(client_host) or self.node_id]

    def writer(self, node_id: str, client_host: str) -> str:
        """Return the address at which a client sends what it sends under the name of *node_id*.

        Never the leader's, where there is a follower to hand it on: no connection of a sender
        breaks with the leader, and what was handed to a dead one its follower hands to the next.
        """
        if node_id in self.reachable and node_id != self.leader_id:
            return self.addresses[node_id]
        follower = self._follower(f"{node_id}@{client_host}")
        return self.stand_in(node_id) if follower is None else self.addresses[follower]

    def _follower(self, of_whom: str) -> str | None:
        followers = sorted(self.reachable - {self.leader_id})
        # Rendezvous hashing: a member that comes or goes moves only those that were with it.
        return max(
            followers, key=lambda node: zlib.crc32(f"{node}@{of_whom}".encode()), default=None
        )

    def by_broker_id(self) -> dict[str, str]:
        """Return all addresses: 0 is the leader, absent while none is known; others by node id."""
        found = {} if self.leader_id is None else {"0": self.addresses[self.leader_id]}
        others = (node for node in sorted(self.addresses) if node != self.leader_id)
        for number, node in enumerate(others, start=1):
            found[str(number)] = self.addresses[node]
        return found


class Part(NamedTuple):
    """What one broker group adds to a route."""

    brokers: list[dict[str, Any]]  # of RocketMQ's ``BrokerData``
    queues: list[dict[str, Any]]  # of RocketMQ's ``QueueData``


def own_part(group: Group, topic: Topic) -> Part:
    """Return the part of *group* as our own client is told it, and RocketMQ's in single mode."""
    return Part([broker_data(group)], [queue_data(group.name, topic)])


def stock_part(group: Group, topic: Topic, mode: RouteMode, *, client_host: str) -> Part:
    """Return the part of *group* for a RocketMQ client at *client_host*."""
    if mode is RouteMode.SINGLE:
        return own_part(group, topic)
    readable, writable = topic.perm & ~PERM_WRITE, topic.perm & ~PERM_READ
    # Permissions tell what a name is for, never a count of 0: for a topic that is not there yet the
    # C++ client takes the readable queues of TBW102 as the writable ones.
    queues = [queue_data(group.name, topic._replace(perm=readable))]
    if writable & PERM_WRITE:
        only_written = topic._replace(perm=writable)
        queues += [queue_data(name, only_written) for name in written_names(group)]
    return Part(_per_node_brokers(group, client_host), queues)


def encode_route(
    parts: Iterable[Part], *, order_config: str | None = None, is_standard: bool = True
) -> bytes:
    """Return the answer to GET_ROUTEINFO_BY_TOPIC.

    Args:
        parts: of each group that has the topic.
        order_config: in which brokers' queues order is kept, as somebody has set it.
        is_standard: whether it has to be JSON; see above.
    """
    brokers = [broker for part in parts for broker in part.brokers]
    queues = [queue for part in parts for queue in part.queues]
    body: dict[str, Any] = {
        "brokerDatas": brokers,
        "filterServerTable": {},
        "queueDatas": queues,
    }
    if order_config is not None:
        body["orderTopicConf"] = order_config
    encoded = _compact(body)
    return encoded if is_standard else _NUMBER_AS_KEY.sub(rb"\1\2:", encoded)


def without_writing(part: Part, wiped: frozenset[str], group_name: str) -> Part:
    """Return *part* without permission to write for the broker names that are *wiped*.

    The name of the group stands for all of its names; a name that nothing may be done under goes.
    """
    if not wiped:
        return part
    queues = []
    for queue in part.queues:
        if queue["perm"] & PERM_WRITE and not wiped.isdisjoint((queue["brokerName"], group_name)):
            left = queue["perm"] & ~PERM_WRITE
            if not left & PERM_READ and queue["brokerName"] != group_name:
                continue
            queue = queue | {"perm": left}
        queues.append(queue)
    return Part(part.brokers, queues)


def default_topic(queue_count: int) -> Topic:
    """Return what the route of TBW102 says, by which clients find who creates their topic."""
    return Topic(queue_count, queue_count, PERM_READ | PERM_WRITE | PERM_INHERIT)


def cluster_brokers(group: Group, mode: RouteMode) -> dict[str, Any]:
    """Return how *group* stands in the list of brokers: once.

    Whoever administers by this list does a thing once for each broker name.
    """
    if mode is RouteMode.SINGLE:
        return broker_data(group)
    return broker_data(group, {"0": group.stand_in(group.leader_id or group.node_id)})


def cluster_info(brokers: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the answer to GET_BROKER_CLUSTER_INFO. Source: RocketMQ ``ClusterInfo``."""
    by_name = {broker["brokerName"]: broker for broker in brokers}
    clusters: dict[str, list[str]] = {}
    for name, broker in by_name.items():
        clusters.setdefault(broker["cluster"], []).append(name)
    return _compact({"brokerAddrTable": by_name, "clusterAddrTable": clusters})


def topic_list(topics: Iterable[str], *, broker_address: str | None = None) -> bytes:
    """Return the answer to each of the requests for a list of topics. Source: ``TopicList``."""
    body: dict[str, Any] = {} if broker_address is None else {"brokerAddr": broker_address}
    return _compact(body | {"topicList": list(topics)})


def written_names(group: Group) -> list[str]:
    """Return the broker names to write by, one for each node, in per-node mode."""
    return [f"{group.name}-{node}" for node in sorted(group.addresses)]


def broker_data(group: Group, addresses: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return *group* under its own name, at all its addresses unless some are given."""
    return _broker(group, group.name, group.by_broker_id() if addresses is None else addresses)


def queue_data(broker_name: str, topic: Topic, *, system_flag: int = 0) -> dict[str, Any]:
    """Return what may be done with a topic's queues under *broker_name*."""
    return {
        "brokerName": broker_name,
        "perm": topic.perm,
        "readQueueNums": topic.read_queue_count,
        "topicSysFlag": system_flag,
        "writeQueueNums": topic.write_queue_count,
    }


def _per_node_brokers(group: Group, client_host: str) -> list[dict[str, Any]]:
    brokers = [broker_data(group, {"0": group.reader(client_host)})]
    # A member that is gone keeps its name: who orders by key counts the queues of all names, and
    # must come to the same one before and after.
    for node, name in zip(sorted(group.addresses), written_names(group), strict=True):
        brokers.append(_broker(group, name, {"0": group.writer(node, client_host)}))
    return brokers


def _broker(group: Group, name: str, addresses: Mapping[str, str]) -> dict[str, Any]:
    cluster = group.cluster or group.name
    return {"brokerAddrs": dict(addresses), "brokerName": name, "cluster": cluster}


def _compact(body: dict[str, Any]) -> bytes:
    # No blanks: RocketMQ's Go client cuts the addresses out of the raw text.
    return json.dumps(body, separators=(",", ":")).encode()
