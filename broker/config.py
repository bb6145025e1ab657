"""Settings of one node, checked whole before anything starts; docs/configuration.md lists them."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass, field

from dledger.config import (
    GIB,
    MIB,
    LedgerConfig,
    Member,
    RaftConfig,
    StoreConfig,
    check_host,
    check_name,
    check_port,
    check_range,
    format_address,
    parse_address,
)
from dledger.errors import ConfigError

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json", "console")
# An ack stands on the copy of the leader, of a majority, of every member.
BROKER_ROLES = ("ASYNC_MASTER", "SYNC_MASTER", "ALL")
# Source: RocketMQ ``MixAll.brokerVIPChannel``, ``NettyRemotingServer`` (fastListenPort).
VIP_DISTANCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """One member of the group: where its peers and its clients reach it.

    The same on every member: the handshake between peers refuses a list that differs.
    """

    node_id: str
    host: str  # for its peers: a name, an IPv4 or an IPv6 address without brackets
    peer_port: int
    broker_port: int
    advertised_host: str = ""  # for its clients; "": *host*

    def __post_init__(self) -> None:
        check_name("node_id", self.node_id)
        check_host("host", self.host)
        check_port("peer_port", self.peer_port)
        check_port("broker_port", self.broker_port)
        if self.advertised_host:
            check_host("advertised_host", self.advertised_host)

    @property
    def peer_address(self) -> str:
        """``host:port`` for its peers, an IPv6 host in brackets."""
        return format_address(self.host, self.peer_port)

    @property
    def broker_address(self) -> str:
        """``host:port`` that clients are told, an IPv6 host in brackets."""
        return format_address(self.advertised_host or self.host, self.broker_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Limits and defaults of the part that clients talk to."""

    auto_create_topic: bool = True  # a send to an unknown topic creates it
    default_topic_queue_count: int = 4  # queues of a topic whose creator names no number
    auto_create_group: bool = True  # a consumer group comes to be by being used
    groups_max: int = 10_000  # consumer groups; one more is refused
    topics_max: int = 10_000  # one more is refused
    queues_max: int = 100_000  # of all topics together; a topic with more is refused
    # Who has a copy when a send is answered. Source: RocketMQ ``brokerRole``; ALL is ours.
    broker_role: str = "SYNC_MASTER"
    ack_timeout_ms: int = 2_000  # longest time a send waits for more than a majority
    body_size_max: int = 4 * MIB  # bytes of one message's body
    connections_max: int = 10_000  # one more hears SYSTEM_BUSY and is closed
    # Bytes of answers that one connection has not taken; above it nothing more is read from it, and
    # at twice as much it is closed.
    connection_pending_size_max: int = 64 * MIB
    unread_size_max: int = GIB  # the same over all connections; the one with the most is closed
    # Bytes of requests that have begun to arrive, over all connections; above it the connection is
    # closed whose request began first.
    partial_size_max: int = 256 * MIB
    # Bytes of one connection's requests that are taken and not answered; above it nothing more is
    # read from it until half of them are.
    connection_inflight_size_max: int = 16 * MIB
    # The same and answers not taken, over all connections; above it a connection that has any is
    # read no further until it has none.
    inflight_size_max: int = 512 * MIB
    # Requests that wait for a leader; as many again may wait for a topic that is being created.
    requests_held_max: int = 10_000
    requests_held_size_max: int = 64 * MIB
    pull_hold_max_ms: int = 30_000  # longest time a pull that finds nothing is held
    pulls_held_max: int = 100_000  # one more is SYSTEM_BUSY
    # Listen on broker_port - 2, too, where some of RocketMQ's clients send to.
    vip_channel: bool = False
    # A client that is silent for longer is out of its groups.
    # Source: RocketMQ ``ConsumerManager.CHANNEL_EXPIRED_TIMEOUT``.
    client_silent_max_ms: int = 120_000
    # A queue's lock that was not asked for again for so long is free for others; clients believe in
    # theirs for 30 s. Source: RocketMQ ``rocketmq.broker.rebalance.lockMaxLiveTime``.
    queue_lock_max_ms: int = 60_000
    # Most slots and entries of one file of the key index; files of small segments have fewer.
    key_index_slot_count: int = 500_000
    key_index_entry_count: int = 2_000_000
    # How long the event loop asks its sockets again before it sleeps, where answers come soon after
    # one another; 0: it sleeps at once.
    busy_wait_us: int = 100
    log_level: str = "info"  # debug, info, warning, error
    log_format: str = "text"  # text, json, console: one line each, JSON, coloured for people
    log_file: str = ""  # "": stderr

    def __post_init__(self) -> None:
        check_range("default_topic_queue_count", self.default_topic_queue_count, 1, 1024)
        check_range("groups_max", self.groups_max, 1, 1_000_000)
        check_range("topics_max", self.topics_max, 1, 1_000_000)
        check_range("queues_max", self.queues_max, 1, 10_000_000)
        if self.broker_role not in BROKER_ROLES:
            raise ConfigError(f"broker_role = {self.broker_role!r}: use {', '.join(BROKER_ROLES)}")
        check_range("ack_timeout_ms", self.ack_timeout_ms, 1, 600_000)
        check_range("body_size_max", self.body_size_max, 1, 15 * MIB)
        check_range("connections_max", self.connections_max, 1, 1_000_000)
        check_range(
            "connection_pending_size_max", self.connection_pending_size_max, 16 * MIB, 16 * GIB
        )
        check_range("unread_size_max", self.unread_size_max, 32 * MIB, 1024 * GIB)
        check_range("partial_size_max", self.partial_size_max, 16 * MIB, 1024 * GIB)
        check_range("connection_inflight_size_max", self.connection_inflight_size_max, 1, 16 * GIB)
        check_range("inflight_size_max", self.inflight_size_max, MIB, 1024 * GIB)
        check_range("requests_held_max", self.requests_held_max, 1, 10_000_000)
        check_range("requests_held_size_max", self.requests_held_size_max, MIB, 1024 * GIB)
        check_range("pull_hold_max_ms", self.pull_hold_max_ms, 0, 600_000)
        check_range("pulls_held_max", self.pulls_held_max, 0, 10_000_000)
        check_range("client_silent_max_ms", self.client_silent_max_ms, 1_000, 3_600_000)
        check_range("queue_lock_max_ms", self.queue_lock_max_ms, 1_000, 3_600_000)
        check_range("key_index_slot_count", self.key_index_slot_count, 8, 100_000_000)
        check_range("key_index_entry_count", self.key_index_entry_count, 32, 400_000_000)
        check_range("busy_wait_us", self.busy_wait_us, 0, 10_000)
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level = {self.log_level!r}: use {', '.join(LOG_LEVELS)}")
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(f"log_format = {self.log_format!r}: use {', '.join(LOG_FORMATS)}")
        if "\0" in self.log_file:
            raise ConfigError(f"log_file = {self.log_file!r}: no file has a zero byte in its name")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where a node tells Prometheus and load balancers how it is."""

    port: int = 5557  # RocketMQ's; 0: nowhere
    host: str = ""  # to listen on; "": where the node listens for clients

    def __post_init__(self) -> None:
        check_range("port", self.port, 0, 65_535)
        if self.host:
            check_host("host", self.host)


class RouteMode(enum.Enum):
    """How a group presents itself to RocketMQ's clients; see `broker.nameserver.routes`."""

    PER_NODE = "per-node"
    SINGLE = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class NameserverConfig:
    """What RocketMQ's clients find when they ask this node for a route."""

    route: RouteMode = RouteMode.PER_NODE
    port: int = 0  # to listen on besides the broker port, which answers the same; 0: none
    # Name servers to register with, ``host:port`` with ";" between them, as RocketMQ's namesrvAddr.
    addresses: str = ""
    order_message_enable: bool = False  # routes name the queues in which order is kept

    def __post_init__(self) -> None:
        if self.port:
            check_port("port", self.port)
        found = self.servers
        if len(set(found)) != len(found):
            raise ConfigError(f"addresses = {self.addresses!r} names one twice")

    @property
    def servers(self) -> list[tuple[str, int]]:
        """Host and port of each name server to register with."""
        texts = [text.strip() for text in self.addresses.split(";")]
        return [parse_address(text, default_port=9876) for text in texts if text]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node of one broker group."""

    group: str
    node_id: str
    members: tuple[MemberConfig, ...]
    data_folder: str
    cluster: str = ""  # several groups that clients are told together; "": as the group
    listen_host: str = "127.0.0.1"  # "" listens on every interface, IPv4 and IPv6
    broker_port: int = 0  # to listen on; 0: the one of this node's member entry
    peer_port: int = 0  # to listen on; 0: the one of this node's member entry
    store: StoreConfig = field(default_factory=StoreConfig)
    raft: RaftConfig = field(default_factory=RaftConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    nameserver: NameserverConfig = field(default_factory=NameserverConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        if not self.data_folder:
            raise ConfigError("data_folder is empty; name the folder that holds the node's data")
        if "\0" in self.data_folder:
            raise ConfigError(
                f"data_folder = {self.data_folder!r}: no folder can have a zero byte in its name"
            )
        if self.cluster:
            check_name("cluster", self.cluster)
        if self.listen_host:
            check_host("listen_host", self.listen_host)
        if self.broker_port:
            check_port("broker_port", self.broker_port)
        if self.peer_port:
            check_port("peer_port", self.peer_port)
        self._check_addresses()
        self.to_ledger_config()  # the ledger checks group, node_id and members
        if self.listen_broker_port == self.listen_peer_port:
            raise ConfigError(
                f"broker_port and peer_port are both {self.listen_peer_port}; "
                "clients and peers need a port each"
            )
        if self.broker.vip_channel and self.listen_broker_port <= VIP_DISTANCE:
            raise ConfigError(
                f"vip_channel needs a broker_port above {VIP_DISTANCE}; it is "
                f"{self.listen_broker_port}"
            )
        if self.nameserver.port in (self.listen_broker_port, self.listen_peer_port):
            raise ConfigError(
                f"[nameserver] port = {self.nameserver.port} is taken by this node already; leave "
                "it out: routes are answered on the broker port, too"
            )
        if self.broker.vip_channel and self.vip_port in (
            self.listen_peer_port,
            self.nameserver.port,
        ):
            raise ConfigError(
                f"vip_channel listens on broker_port - {VIP_DISTANCE} = {self.vip_port}, which is "
                "taken by this node already; take another port for the other"
            )
        taken = (self.listen_broker_port, self.listen_peer_port, *self.more_ports)
        if self.metrics.port and self.metrics.port in taken:
            raise ConfigError(
                f"[metrics] port = {self.metrics.port} is taken by this node already; take another "
                "one, or 0 for none"
            )

    @property
    def cluster_name(self) -> str:
        """The name that clients are told for all groups of one cluster."""
        return self.cluster or self.group

    @property
    def member(self) -> MemberConfig:
        """This node's own entry in `members`."""
        return next(member for member in self.members if member.node_id == self.node_id)

    @property
    def advertised_address(self) -> str:
        """``host:port`` that clients are told for this node."""
        return self.member.broker_address

    @property
    def listen_broker_port(self) -> int:
        """Port on which this node listens for clients."""
        return self.broker_port or self.member.broker_port

    @property
    def vip_port(self) -> int:
        """Port besides that one which some of RocketMQ's clients send to."""
        return self.listen_broker_port - VIP_DISTANCE

    @property
    def more_ports(self) -> list[int]:
        """Ports on which this node listens for clients besides `listen_broker_port`."""
        found = [self.nameserver.port] if self.nameserver.port else []
        return [*found, self.vip_port] if self.broker.vip_channel else found

    @property
    def listen_peer_port(self) -> int:
        """Port on which this node listens for its peers."""
        return self.peer_port or self.member.peer_port

    def to_ledger_config(self) -> LedgerConfig:
        """Return the part of the settings that the replicated log needs."""
        return LedgerConfig(
            group=self.group,
            node_id=self.node_id,
            members=tuple(
                Member(node_id=member.node_id, host=member.host, port=member.peer_port)
                for member in self.members
            ),
            data_folder=self.data_folder,
            listen_host=self.listen_host,
            listen_port=self.peer_port,
            store=self.store,
            raft=self.raft,
        )

    def warnings(self) -> list[str]:
        """Return what is allowed but hardly meant, one sentence each."""
        found = []
        if _is_loopback(self.listen_host) and not _is_loopback(self.member.host):
            found.append(
                f"listen_host = {self.listen_host!r} takes connections of this machine only, but "
                f"peers are told {self.member.peer_address}; set listen_host to the address of an "
                'interface, or to "" for all of them'
            )
        if self._is_group_torn:
            found.append(
                "some members have a loopback host and others have not; members on other machines "
                "cannot reach the loopback ones"
            )
        return found

    @property
    def _is_group_torn(self) -> bool:
        """Whether only some of the members have a loopback host."""
        return len({_is_loopback(member.host) for member in self.members}) > 1

    def _check_addresses(self) -> None:
        owners: dict[str, str] = {}
        for member in self.members:
            uses = {"peer_port": member.peer_address, "broker_port": member.broker_address}
            if self.broker.vip_channel:
                vip_port = member.broker_port - VIP_DISTANCE
                host = member.advertised_host or member.host
                uses["vip_channel"] = format_address(host, vip_port)
            for use, address in uses.items():
                name = f"{use} of {member.node_id}"
                if address in owners:
                    raise ConfigError(
                        f"{address} is both {owners[address]} and {name}; every one needs a port "
                        "of its own"
                    )
                owners[address] = name


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
