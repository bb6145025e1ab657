"""Where a topic's queues are, as clients want to be told.

Our own client is told one broker, named as the group, whose address 0 is the leader; it knows every
node anyway.  RocketMQ's clients ask again only every 30 s and go by broker names, so there are two
forms for them:

    per-node   <group> may be read, at one node in touch; <group>-<node id> may be written, at that
               node.  Whoever sends tries another broker name when one fails, and every node hands
               what it is sent to the leader: a failover costs no failed send.  Queues are read
               under one name only, which never changes, so that none is consumed twice.
    single     <group> may be read and written, at the leader, as RocketMQ has it.

Source: RocketMQ ``TopicRouteData``, ``RouteInfoManager``.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.config import RouteMode
from broker.protocol.headers import PERM_INHERIT, PERM_READ, PERM_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_TOPIC = "TBW102"  # asked for by clients whose topic is not there yet


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
        followers = sorted(self.reachable - {self.leader_id})
        if not followers:
            return self.addresses[self.node_id]
        # Rendezvous hashing: a member that comes or goes moves only those that were with it.
        chosen = max(followers, key=lambda node: zlib.crc32(f"{node}@{client_host}".encode()))
        return self.addresses[chosen]

    def by_broker_id(self) -> dict[str, str]:
        """Return all addresses: 0 is the leader, absent while none is known; others by node id."""
        found = {} if self.leader_id is None else {"0": self.addresses[self.leader_id]}
        others = (node for node in sorted(self.addresses) if node != self.leader_id)
        for number, node in enumerate(others, start=1):
            found[str(number)] = self.addresses[node]
        return found


def own_route(group: Group, topic: Topic) -> bytes:
    """Return the route as our own client is told it, and RocketMQ's in single mode."""
    return _encode([_broker(group, group.name, group.by_broker_id())], [_queues(group.name, topic)])


def stock_route(group: Group, topic: Topic, mode: RouteMode, *, client_host: str) -> bytes:
    """Return the route of *topic* for a RocketMQ client at *client_host*."""
    if mode is RouteMode.SINGLE:
        return own_route(group, topic)
    readable, writable = topic.perm & ~PERM_WRITE, topic.perm & ~PERM_READ
    # Permissions tell what a name is for, never a count of 0: for a topic that is not there yet the
    # C++ client takes the readable queues of TBW102 as the writable ones.
    queues = [_queues(group.name, topic._replace(perm=readable))]
    if writable & PERM_WRITE:
        only_written = topic._replace(perm=writable)
        queues += [_queues(name, only_written) for name in _written_names(group)]
    return _encode(_per_node_brokers(group, client_host), queues)


def default_topic(queue_count: int) -> Topic:
    """Return what the route of TBW102 says, by which clients find who creates their topic."""
    return Topic(queue_count, queue_count, PERM_READ | PERM_WRITE | PERM_INHERIT)


def cluster_info(group: Group, mode: RouteMode) -> bytes:
    """Return the answer to GET_BROKER_CLUSTER_INFO.

    Whoever administers by this list does a thing once for each broker name: there is one.
    Source: RocketMQ ``ClusterInfo``.
    """
    addresses = (
        group.by_broker_id()
        if mode is RouteMode.SINGLE
        else {"0": group.stand_in(group.leader_id or group.node_id)}
    )
    return _compact(
        {
            "brokerAddrTable": {group.name: _broker(group, group.name, addresses)},
            "clusterAddrTable": {group.cluster or group.name: [group.name]},
        }
    )


def topic_list(topics: Iterable[str]) -> bytes:
    """Return the answer to GET_ALL_TOPIC_LIST_FROM_NAMESERVER. Source: ``TopicList``."""
    return _compact({"topicList": list(topics)})


def _written_names(group: Group) -> list[str]:
    return [f"{group.name}-{node}" for node in sorted(group.addresses)]


def _per_node_brokers(group: Group, client_host: str) -> list[dict[str, Any]]:
    brokers = [_broker(group, group.name, {"0": group.reader(client_host)})]
    # A member that is gone keeps its name: who orders by key counts the queues of all names, and
    # must come to the same one before and after.
    for node, name in zip(sorted(group.addresses), _written_names(group), strict=True):
        brokers.append(_broker(group, name, {"0": group.stand_in(node)}))
    return brokers


def _broker(group: Group, name: str, addresses: Mapping[str, str]) -> dict[str, Any]:
    cluster = group.cluster or group.name
    return {"brokerAddrs": dict(addresses), "brokerName": name, "cluster": cluster}


def _queues(broker_name: str, topic: Topic) -> dict[str, Any]:
    return {
        "brokerName": broker_name,
        "perm": topic.perm,
        "readQueueNums": topic.read_queue_count,
        "topicSysFlag": 0,
        "writeQueueNums": topic.write_queue_count,
    }


def _encode(brokers: list[dict[str, Any]], queues: list[dict[str, Any]]) -> bytes:
    return _compact({"brokerDatas": brokers, "filterServerTable": {}, "queueDatas": queues})


def _compact(body: dict[str, Any]) -> bytes:
    # No blanks: RocketMQ's Go client cuts the addresses out of the raw text.
    return json.dumps(body, separators=(",", ":")).encode()
