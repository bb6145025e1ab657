"""Who has registered with this name server, and what that makes of each broker group.

A broker registers every 30 s, and when something changes, over one connection; it is forgotten when
it unregisters, when that connection ends, and after two minutes of silence.  A broker of RocketMQ
says which number it has under its name, 0 being the master, whose topics count.  A node of ours
says besides which members its group has, so that a member that is gone keeps its place in the
routes, and in which term it knows a leader: the one of the newest term leads.

Source: RocketMQ ``RouteInfoManager``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from broker.config import RouteMode
from broker.errors import HeaderError
from broker.nameserver import routes
from broker.nameserver.groups import made_by_heartbeat
from dledger.config import parse_address
from dledger.errors import ConfigError, LedgerBusyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.protocol.name_headers import RegisterBrokerRequest
    from broker.protocol.registration import DataVersion, RegisteredTopic, RegisteredTopics

EXPIRY_SECONDS: Final = 120.0  # Source: ``RouteInfoManager.BROKER_CHANNEL_EXPIRED_TIME``
EXPIRY_SECONDS_MAX: Final = 3600.0  # longest silence that a broker may ask for
SCAN_SECONDS: Final = 5.0  # Source: RocketMQ ``NamesrvConfig.scanNotActiveBrokerInterval``
BROKERS_MAX: Final = 4096  # registrations; more are refused
TOPICS_SIZE_MAX: Final = 256 * 1024 * 1024  # bytes of the bodies that all of them have sent
# Topics of one broker name of RocketMQ, which tells of them bit by bit.
TOPICS_MAX: Final = 200_000
NAME_SIZE_MAX: Final = 255  # characters of a broker's or cluster's name, or of an address
_MASTER = 0


@dataclass(slots=True)
class Registration:
    """One broker that has registered."""

    broker_name: str
    cluster: str
    broker_id: int
    address: str
    ha_address: str
    topics: RegisteredTopics
    digest: bytes  # of the body that held them
    owner: object  # the connection it came by
    seen_at: float
    expiry: float  # seconds of silence
    node_id: str = ""  # "": of RocketMQ
    members: Mapping[str, str] = field(default_factory=dict)  # node id -> address
    mode: RouteMode = RouteMode.SINGLE
    term: int = -1

    @property
    def version(self) -> DataVersion:
        """Which state of its topics it has told."""
        return self.topics.version


class RegisteredGroup:
    """All brokers of one name."""

    def __init__(self, name: str, cluster: str) -> None:
        self._name = name
        self.cluster = cluster
        self._by_address: dict[str, Registration] = {}
        self._ids: dict[int, str] = {}  # number -> address; whoever says so last has it
        # Of RocketMQ's brokers: merged, as they tell of a new topic by itself.
        self._merged: dict[str, RegisteredTopic] = {}

    @property
    def name(self) -> str:
        """Its broker name."""
        return self._name

    @property
    def registrations(self) -> list[Registration]:
        """Its brokers."""
        return list(self._by_address.values())

    @property
    def leader(self) -> Registration | None:
        """The broker that leads, as far as is known."""
        if self._is_ours:
            leaders = [found for found in self._by_address.values() if found.broker_id == _MASTER]
            return max(leaders, key=lambda found: found.term, default=None)
        return self._by_address.get(self._ids.get(_MASTER, ""))

    def get(self, address: str) -> Registration | None:
        """Return the broker at *address*."""
        return self._by_address.get(address)

    def has_room(self, topics: RegisteredTopics) -> bool:
        """Whether the topics of a master of RocketMQ can be kept, too."""
        return len(self._merged) + len(topics.table) <= TOPICS_MAX or (
            len(self._merged.keys() | topics.table.keys()) <= TOPICS_MAX
        )

    def put(self, registration: Registration) -> None:
        """Take note of a registration."""
        address = registration.address
        before = self._by_address.get(address)
        self.cluster = registration.cluster
        self._by_address[address] = registration
        # One address has one number: who was the master and registers as a slave leads no more.
        self._ids = {n: found for n, found in self._ids.items() if found != address}
        is_new = self._ids.get(registration.broker_id) is None
        self._ids[registration.broker_id] = address
        is_changed = before is None or before.version != registration.version
        is_master_of_rocketmq = not registration.node_id and registration.broker_id == _MASTER
        if is_master_of_rocketmq and (is_new or is_changed):
            self._merged.update(registration.topics.table)

    def remove(self, address: str) -> Registration | None:
        """Forget the broker at *address*."""
        self._ids = {n: found for n, found in self._ids.items() if found != address}
        return self._by_address.pop(address, None)

    def remove_topic(self, topic: str) -> None:
        """Forget a topic that RocketMQ's brokers have told of; of ours, the next word counts."""
        self._merged.pop(topic, None)

    # -- NamedGroup -----------------------------------------------------------------------------

    def topics(self) -> Iterable[tuple[str, int]]:
        """Return its topics and their system flags."""
        return [
            (name, topic.topic_sys_flag)
            for name, topic in self._table().items()
            if name != routes.DEFAULT_TOPIC
        ]

    def find(self, topic: str) -> routes.Topic | None:
        """Return what there is of *topic*; TBW102 is registered like any."""
        found = self._table().get(topic)
        if found is None:
            return None
        return routes.Topic(found.read_queue_nums, found.write_queue_nums, found.perm)

    def made_on_use(self, topic: str) -> routes.Topic | None:
        """Return what *topic* will be: nodes of ours make retry topics as they are asked for."""
        return made_by_heartbeat(topic) if self._is_ours else None

    def part(self, topic: routes.Topic, *, client_host: str | None) -> routes.Part:
        """Return what it adds to a route."""
        if not self._is_ours:
            return routes.Part([self.broker()], [routes.queue_data(self.name, topic)])
        if client_host is None:
            return routes.own_part(self.seen(), topic)
        return routes.stock_part(self.seen(), topic, self._mode, client_host=client_host)

    def broker(self, *, is_whole: bool = False) -> dict[str, Any]:
        """Return how it stands in the list of brokers."""
        if self._is_ours:
            mode = RouteMode.SINGLE if is_whole else self._mode
            return routes.cluster_brokers(self.seen(), mode)
        addresses = {str(number): address for number, address in sorted(self._ids.items())}
        return {"brokerAddrs": addresses, "brokerName": self.name, "cluster": self.cluster}

    def broker_names(self) -> list[str]:
        """Return all broker names under which it may be written to."""
        return [self.name, *(routes.written_names(self.seen()) if self._is_ours else [])]

    def seen(self) -> routes.Group:
        """Return a group of ours as its nodes have told it."""
        newest = self._newest
        alive = {found.node_id: found.address for found in self._by_address.values()}
        leader = self.leader
        return routes.Group(
            name=self.name,
            addresses={**newest.members, **alive},
            leader_id=None if leader is None else leader.node_id,
            reachable=frozenset(alive),
            node_id=newest.node_id if leader is None else leader.node_id,
            cluster=self.cluster,
        )

    @property
    def _is_ours(self) -> bool:
        return any(found.node_id for found in self._by_address.values())

    @property
    def _newest(self) -> Registration:
        """Whose word counts for the group: the leader's, or that of the newest term."""
        ours = [found for found in self._by_address.values() if found.node_id]
        return self.leader or max(ours, key=lambda found: (found.term, found.version.counter))

    @property
    def _mode(self) -> RouteMode:
        return self._newest.mode

    def _table(self) -> Mapping[str, RegisteredTopic]:
        return self._newest.topics.table if self._is_ours else self._merged

    def table(self) -> Mapping[str, RegisteredTopic]:
        """Return its topics, as an object that never changes."""
        if not self._by_address:
            return {}
        return self._table() if self._is_ours else dict(self._merged)


class Registrations:
    """All groups that have registered."""

    def __init__(self, *, brokers_max: int = BROKERS_MAX) -> None:
        self._groups: dict[str, RegisteredGroup] = {}
        self._brokers_max = brokers_max
        # Which groups have a topic, by their names in order: a question for a route is not to cost
        # more because there are more groups. Beside it what of each group is in there.
        self._by_topic: dict[str, tuple[str, ...]] = {}
        self._indexed: dict[str, Mapping[str, RegisteredTopic]] = {}
        self._count = 0

    @property
    def groups(self) -> list[RegisteredGroup]:
        """The groups, by name."""
        return [self._groups[name] for name in sorted(self._groups)]

    @property
    def count(self) -> int:
        """How many brokers have registered."""
        return self._count

    def with_topic(self, topic: str) -> list[RegisteredGroup]:
        """Return the groups that have *topic*, by name."""
        return [self._groups[name] for name in self._by_topic.get(topic, ())]

    def remove_topic(self, topic: str, *, cluster: str) -> None:
        """Forget a topic that RocketMQ's brokers have told of, those of *cluster* or ("") all."""
        for group in self.with_topic(topic):
            if cluster in ("", group.cluster):
                group.remove_topic(topic)
                self._index(group.name)

    def _index(self, name: str) -> None:
        """Note which topics the group *name* has now."""
        group = self._groups.get(name)
        table = group.table() if group is not None else {}
        before = self._indexed.get(name, {})
        if table is before:
            return
        for topic in table.keys() - before.keys():
            self._by_topic[topic] = tuple(sorted((*self._by_topic.get(topic, ()), name)))
        for topic in before.keys() - table.keys():
            left = tuple(each for each in self._by_topic[topic] if each != name)
            if left:
                self._by_topic[topic] = left
            else:
                del self._by_topic[topic]
        if group is None:
            self._indexed.pop(name, None)
        else:
            self._indexed[name] = table

    def find(self, broker_name: str, address: str) -> Registration | None:
        """Return a broker."""
        group = self._groups.get(broker_name)
        return None if group is None else group.get(address)

    def topics_of(self, broker_name: str, digest: bytes) -> RegisteredTopics | None:
        """Return what a body with *digest* held that a broker of that name has sent before."""
        group = self._groups.get(broker_name)
        for found in group.registrations if group is not None else ():
            if found.digest == digest:
                return found.topics
        return None

    def register(
        self,
        header: RegisterBrokerRequest,
        topics: RegisteredTopics,
        *,
        digest: bytes,
        owner: object,
        now: float,
    ) -> Registration | None:
        """Take a registration; return that of the group's leader, if it is another's.

        Raises:
            HeaderError: a field is none that can be told to clients.
            LedgerBusyError: too many brokers have registered.
        """
        members, mode = check_claim(header)
        group = self._groups.get(header.broker_name)
        before = None if group is None else group.get(header.broker_addr)
        if before is None and self.count >= self._brokers_max:
            raise LedgerBusyError(
                f"{self.count} brokers have registered here, and no more are taken"
            )
        self._check_room(header, group, topics)
        if group is None:
            group = self._groups[header.broker_name] = RegisteredGroup(
                header.broker_name, header.cluster_name
            )
        timeout = header.heartbeat_timeout_millis or 0
        registration = Registration(
            broker_name=header.broker_name,
            cluster=header.cluster_name,
            broker_id=header.broker_id,
            address=header.broker_addr,
            ha_address=header.ha_server_addr,
            topics=topics,
            digest=digest,
            owner=owner,
            seen_at=now,
            expiry=min(timeout / 1000, EXPIRY_SECONDS_MAX) if timeout > 0 else EXPIRY_SECONDS,
            node_id=header.node_id,
            members=members,
            mode=mode,
            term=header.term,
        )
        group.put(registration)
        self._count += before is None
        self._index(group.name)
        leader = group.leader
        return None if leader is registration else leader

    def _check_room(
        self,
        header: RegisterBrokerRequest,
        group: RegisteredGroup | None,
        topics: RegisteredTopics,
    ) -> None:
        """Raise `LedgerBusyError` where *topics* are more than is kept."""
        kept = {id(found.topics): found.topics.size for found in self._all()}
        kept[id(topics)] = topics.size
        if sum(kept.values()) > TOPICS_SIZE_MAX:
            raise LedgerBusyError(
                f"with these topics brokers have registered {sum(kept.values())} bytes; the limit "
                f"is {TOPICS_SIZE_MAX}"
            )
        if (not header.node_id and len(topics.table) > TOPICS_MAX) or (
            group is not None and not header.node_id and not group.has_room(topics)
        ):
            raise LedgerBusyError(
                f"broker {header.broker_name} would have more than {TOPICS_MAX} topics"
            )

    def unregister(self, broker_name: str, address: str) -> Registration | None:
        """Forget a broker; return it if it was there."""
        group = self._groups.get(broker_name)
        if group is None:
            return None
        found = group.remove(address)
        self._count -= found is not None
        if not group.registrations:
            del self._groups[broker_name]
        self._index(broker_name)
        return found

    def seen(self, broker_name: str, address: str, *, now: float) -> bool:
        """Take note that a broker lives; return whether it is known."""
        found = self.find(broker_name, address)
        if found is None:
            return False
        found.seen_at = now
        return True

    def drop(self, owner: object) -> list[Registration]:
        """Forget the brokers that came by a connection which has ended; return them."""
        return self._forget([found for found in self._all() if found.owner is owner])

    def expire(self, now: float) -> list[Registration]:
        """Forget the brokers that have been silent for too long; return them."""
        return self._forget([found for found in self._all() if now - found.seen_at > found.expiry])

    def _all(self) -> list[Registration]:
        return [found for group in self._groups.values() for found in group.registrations]

    def _forget(self, registrations: list[Registration]) -> list[Registration]:
        for found in registrations:
            self.unregister(found.broker_name, found.address)
        return registrations


def check_claim(header: RegisterBrokerRequest) -> tuple[dict[str, str], RouteMode]:
    """Return members and mode that a registration names; of one of RocketMQ's none.

    Raises:
        HeaderError: a field is none that can be told to clients.
    """
    for wire_name, value in (
        ("brokerName", header.broker_name),
        ("clusterName", header.cluster_name),
        ("brokerAddr", header.broker_addr),
    ):
        if not 1 <= len(value) <= NAME_SIZE_MAX or not value.isprintable():
            raise HeaderError(
                f"{value[:40]!r} has not 1 to {NAME_SIZE_MAX} printable characters",
                field=wire_name,
            )
    if header.broker_id < 0:
        raise HeaderError(f"{header.broker_id} is negative", field="brokerId")
    if not header.node_id:
        return {}, RouteMode.SINGLE
    try:
        mode = RouteMode(header.route)
    except ValueError:
        raise HeaderError(f"{header.route[:40]!r} is no form of route", field="route") from None
    members = {}
    for member in header.members.split(","):
        node_id, equals, address = member.partition("=")
        try:
            parse_address(address)
        except ConfigError as error:
            raise HeaderError(f"{member[:80]!r}: {error}", field="members") from None
        if not equals or not node_id:
            raise HeaderError(f"{member[:80]!r} is no node and its address", field="members")
        members[node_id] = address
    if header.node_id not in members or len(members) > 64:
        raise HeaderError("the node is not among at most 64 of them", field="members")
    return members, mode
