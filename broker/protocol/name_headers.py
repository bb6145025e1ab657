"""Headers of what a name server answers.

REGISTER_BROKER has fields of our own behind RocketMQ's: which node of a group registers, who its
members are, and how the group wants to be presented.  A name server of RocketMQ passes them over,
and takes the node for one of its brokers.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.protocol.header_fields import Header, Int32, Int64, UInt64


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRequest(Header):
    """GET_ROUTEINFO_BY_TOPIC. Source: RocketMQ ``GetRouteInfoRequestHeader``."""

    topic: str
    accept_standard_json_only: bool = False  # no numbers as keys, whatever the client's version


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTopicInNameServerRequest(Header):
    """DELETE_TOPIC_IN_NAMESRV. Source: RocketMQ ``DeleteTopicFromNamesrvRequestHeader``."""

    topic: str
    cluster_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicsByClusterRequest(Header):
    """GET_TOPICS_BY_CLUSTER. Source: RocketMQ ``GetTopicsByClusterRequestHeader``."""

    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KvConfigRequest(Header):
    """GET_KV_CONFIG. Source: RocketMQ ``GetKVConfigRequestHeader``."""

    namespace: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteKvConfigRequest(Header):
    """DELETE_KV_CONFIG. Source: RocketMQ ``DeleteKVConfigRequestHeader``."""

    namespace: str
    key: str
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class KvConfigResponse(Header):
    """The answer to GET_KV_CONFIG. Source: RocketMQ ``GetKVConfigResponseHeader``."""

    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutKvConfigRequest(Header):
    """PUT_KV_CONFIG. Source: RocketMQ ``PutKVConfigRequestHeader``."""

    namespace: str
    key: str
    value: str
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class KvListRequest(Header):
    """GET_KVLIST_BY_NAMESPACE. Source: RocketMQ ``GetKVListByNamespaceRequestHeader``."""

    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerNameRequest(Header):
    """WIPE_WRITE_PERM_OF_BROKER and ADD_WRITE_PERM_OF_BROKER.

    Source: RocketMQ ``WipeWritePermOfBrokerRequestHeader``.
    """

    broker_name: str
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class WipedResponse(Header):
    """The answer to WIPE_WRITE_PERM_OF_BROKER."""

    wipe_topic_count: Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredResponse(Header):
    """The answer to ADD_WRITE_PERM_OF_BROKER."""

    add_topic_count: Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterBrokerRequest(Header):
    """REGISTER_BROKER. Source: RocketMQ ``RegisterBrokerRequestHeader``."""

    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Int64  # 0: the master, the leader
    ha_server_addr: str = ""
    heartbeat_timeout_millis: Int64 | None = None  # silence after which it is forgotten
    compressed: bool = False  # the body is deflated, and not JSON
    body_crc32: Int64 = 0  # 0: not said
    # Ours. "": a broker of RocketMQ.
    node_id: str = ""
    members: str = ""  # ``n1=host:port,n2=...``: all members of the group, for clients
    route: str = ""  # how RocketMQ's clients are to be told of it: `RouteMode`
    term: Int64 = -1  # as far as the node knows; two that claim to lead are told apart by it


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterBrokerResponse(Header):
    """The answer to REGISTER_BROKER; what a slave needs to know of its master."""

    ha_server_addr: str | None = None
    master_addr: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnregisterBrokerRequest(Header):
    """UNREGISTER_BROKER. Source: RocketMQ ``UnRegisterBrokerRequestHeader``."""

    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryDataVersionRequest(Header):
    """QUERY_DATA_VERSION. Source: RocketMQ ``QueryDataVersionRequestHeader``."""

    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryDataVersionResponse(Header):
    """The answer to QUERY_DATA_VERSION; the version that is known is in the body."""

    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerHeartbeatRequest(Header):
    """BROKER_HEARTBEAT of RocketMQ 5. Source: RocketMQ ``BrokerHeartbeatRequestHeader``."""

    broker_addr: str
    cluster_name: str
    broker_name: str
