"""Who is in which consumer group, the same on every node.

consumer.join   {group, client, type, model, where, subscriptions: [[topic, type, expression], ...],
                 origin?: [language, version, address]}
consumer.leave  {group, client}

They come and go by commands in the log; a heartbeat that says nothing new writes none.  So a new
leader knows every group as it was, and nobody shares out queues by a list that is half empty.  Who
is silent for too long is a matter of time, and time is the leader's: see `broker.groups.presence`.

Source: RocketMQ ``ConsumerManager``, which keeps this in the memory of each broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from broker.metadata.state_machine import MetadataCommand
from broker.protocol.heartbeat import ConsumerData, Subscription

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONSUMER_JOIN = "consumer.join"
CONSUMER_LEAVE = "consumer.leave"

CONSUMERS_MAX = 100_000  # in all groups: some 100 MiB; one more is refused


class Origin(NamedTuple):
    """What a consumer is, and where; for people who ask, it changes nothing."""

    language: int  # RocketMQ's LanguageCode; -1: nobody knows
    version: int  # ordinal of RocketMQ's MQVersion
    address: str  # host:port of the connection by which it came; "": nobody knows

    def is_same_client(self, other: Origin) -> bool:
        """Whether the two differ in nothing but the connection: a client has several."""
        return self[:2] == other[:2]


UNKNOWN = Origin(-1, 0, "")


class _Row(NamedTuple):
    """A consumer as commands and snapshots hold it."""

    group: str
    client: str
    consume_type: str
    model: str
    where: str
    subscriptions: list[list[str]]
    origin: list[Any] | None = None  # as `Origin`; None: written before there was one


def join_group(client_id: str, data: ConsumerData, origin: Origin = UNKNOWN) -> MetadataCommand:
    """Return the command that makes a client a consumer, or changes what it reads."""
    group, client, consume_type, model, where, subscriptions, came_from = _row(
        client_id, data, origin
    )
    args = {
        "group": group,
        "client": client,
        "type": consume_type,
        "model": model,
        "where": where,
        "subscriptions": subscriptions,
    }
    if came_from is not None:
        args["origin"] = came_from
    return MetadataCommand(CONSUMER_JOIN, args)


def leave_group(client_id: str, group: str) -> MetadataCommand:
    """Return the command that takes a client out of a group."""
    return MetadataCommand(CONSUMER_LEAVE, {"group": group, "client": client_id})


class Consumers:
    """All consumers of all groups, on this node."""

    name = "consumers"

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, ConsumerData]] = {}
        self._by_client: dict[str, set[str]] = {}  # the groups of each
        self._origins: dict[tuple[str, str], Origin] = {}  # by group and client
        self._count = 0
        self._changed: set[str] = set()

    def __len__(self) -> int:
        """Return how many consumers all groups have together."""
        return self._count

    def of(self, group: str) -> Mapping[str, ConsumerData]:
        """Return the consumers of a group by client id."""
        return self._groups.get(group, {})

    def get(self, group: str, client_id: str) -> ConsumerData | None:
        """Return what a consumer reads; None when it is none."""
        return self._groups.get(group, {}).get(client_id)

    def groups_of(self, client_id: str) -> list[str]:
        """Return the groups that a client consumes for, sorted."""
        return sorted(self._by_client.get(client_id, ()))

    def origin(self, group: str, client_id: str) -> Origin:
        """Return what a consumer is, and where it came from."""
        return self._origins.get((group, client_id), UNKNOWN)

    def readers_of(self, topic: str) -> list[str]:
        """Return the groups that have a consumer of *topic*, sorted."""
        return [
            group
            for group in self.groups()
            if any(
                item.topic == topic
                for data in self._groups[group].values()
                for item in data.subscriptions
            )
        ]

    def groups(self) -> list[str]:
        """Return the groups that have consumers, sorted."""
        return sorted(self._groups)

    def take_changed(self) -> set[str]:
        """Return the groups whose consumers are others than when this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], bool]]:
        """What applies each kind of command; the result is whether anything changed."""
        return {CONSUMER_JOIN: self._join, CONSUMER_LEAVE: self._leave}

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """See `StatePart`: nothing that others have happen changes who is there."""
        return {}

    def snapshot(self) -> list[Any]:
        """Return a row for each consumer, sorted by group and client."""
        return [
            _trimmed(_row(client_id, self._groups[group][client_id], self.origin(group, client_id)))
            for group in self.groups()
            for client_id in sorted(self._groups[group])
        ]

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: no consumers.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        groups: dict[str, dict[str, ConsumerData]] = {}
        origins: dict[tuple[str, str], Origin] = {}
        rows = snapshot or []
        for row in rows:
            data = _data(_Row(*row))
            groups.setdefault(data.group, {})[row[1]] = data
            if (origin := _origin(_Row(*row).origin)) != UNKNOWN:
                origins[data.group, row[1]] = origin
        self._changed |= self._groups.keys() | groups.keys()
        self._groups = groups
        self._origins = origins
        self._by_client = {}
        for group, consumers in groups.items():
            for client_id in consumers:
                self._by_client.setdefault(client_id, set()).add(group)
        self._count = sum(map(len, groups.values()))

    def _join(self, args: Mapping[str, Any]) -> bool:
        data = _data(
            _Row(
                args["group"],
                args["client"],
                args["type"],
                args["model"],
                args["where"],
                args["subscriptions"],
            )
        )
        if (origin := _origin(args.get("origin"))) != UNKNOWN:
            self._origins[data.group, args["client"]] = origin
        consumers = self._groups.setdefault(data.group, {})
        known = consumers.get(args["client"])
        if known == data:
            return False
        consumers[args["client"]] = data
        self._by_client.setdefault(args["client"], set()).add(data.group)
        self._count += known is None
        self._changed.add(data.group)
        return True

    def _leave(self, args: Mapping[str, Any]) -> bool:
        group, client_id = args["group"], args["client"]
        consumers = self._groups.get(group, {})
        if consumers.pop(client_id, None) is None:
            return False
        if not consumers:
            del self._groups[group]
        groups = self._by_client[client_id]
        groups.discard(group)
        if not groups:
            del self._by_client[client_id]
        self._origins.pop((group, client_id), None)
        self._count -= 1
        self._changed.add(group)
        return True


def _row(client_id: str, data: ConsumerData, origin: Origin) -> _Row:
    return _Row(
        data.group,
        client_id,
        data.consume_type,
        data.message_model,
        data.from_where,
        [[item.topic, item.expression_type, item.expression] for item in data.subscriptions],
        None if origin == UNKNOWN else list(origin),
    )


def _trimmed(row: _Row) -> list[Any]:
    return list(row[:-1] if row.origin is None else row)


def _origin(found: Any) -> Origin:  # noqa: ANN401 - what a command or a snapshot holds
    """Raise `ValueError` unless *found* is an origin, or None."""
    if found is None:
        return UNKNOWN
    if list(map(type, found)) != [int, int, str]:
        raise ValueError(f"{found!r:.200} says of no consumer what it is")
    return Origin(*found)


def _data(row: _Row) -> ConsumerData:
    """Raise `ValueError` or `TypeError` unless *row* is one of strings."""
    if set(map(type, row[:5])) != {str}:
        raise ValueError(f"{row!r:.200} is no consumer")
    subscriptions = []
    for topic, expression_type, expression in row.subscriptions:
        if {type(topic), type(expression_type), type(expression)} != {str}:
            raise ValueError(f"{row!r:.200} has a subscription that is none")
        subscriptions.append(
            Subscription(topic=topic, expression_type=expression_type, expression=expression)
        )
    return ConsumerData(
        group=row.group,
        consume_type=row.consume_type,
        message_model=row.model,
        from_where=row.where,
        subscriptions=tuple(subscriptions),
    )
