"""Who reads which queues: how the members of a group share them out, each by itself.

Every member is told the same names of members and knows the same queues; both are sorted, and the
same strategy comes to the same shares everywhere, in RocketMQ's clients too.  So all members of a
group have to use the same one.

Source: RocketMQ ``AllocateMessageQueueStrategy`` and the classes named below.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOM_SEPARATOR = "@"  # a broker group called room@name is in that machine room


class QueueName(NamedTuple):
    """One queue as all members know it; they sort. Source: RocketMQ ``MessageQueue``."""

    topic: str
    broker_name: str  # of the group of nodes
    queue_id: int

    def __str__(self) -> str:
        """Return what RocketMQ's clients hash. Source: ``MessageQueue.toString``."""
        return (
            f"MessageQueue [topic={self.topic}, brokerName={self.broker_name}, "
            f"queueId={self.queue_id}]"
        )


class Strategy(Protocol):
    """One way to share out the queues of a topic."""

    def share(
        self, member: str, members: Sequence[str], queues: Sequence[QueueName]
    ) -> list[QueueName]:
        """Return the queues that are *member*'s, which is one of *members*; both are sorted."""


@dataclass(frozen=True, slots=True)
class Averagely:
    """Neighbouring queues, as equally many as may be. Source: ``AllocateMessageQueueAveragely``.

    >>> queues = [QueueName("t", "g", number) for number in range(5)]
    >>> [queue.queue_id for queue in Averagely().share("a", ["a", "b"], queues)]
    [0, 1, 2]
    """

    def share(
        self, member: str, members: Sequence[str], queues: Sequence[QueueName]
    ) -> list[QueueName]:
        """See `Strategy`."""
        index = members.index(member)
        each, rest = divmod(len(queues), len(members))
        begin = index * each + min(index, rest)
        return list(queues[begin : begin + each + (index < rest)])


@dataclass(frozen=True, slots=True)
class ByCircle:
    """Dealt out like cards. Source: ``AllocateMessageQueueAveragelyByCircle``.

    >>> queues = [QueueName("t", "g", number) for number in range(5)]
    >>> [queue.queue_id for queue in ByCircle().share("a", ["a", "b"], queues)]
    [0, 2, 4]
    """

    def share(
        self, member: str, members: Sequence[str], queues: Sequence[QueueName]
    ) -> list[QueueName]:
        """See `Strategy`."""
        return list(queues[members.index(member) :: len(members)])


@dataclass(frozen=True, slots=True)
class ByConfig:
    """Those that this member was told, whoever else is there.

    Source: ``AllocateMessageQueueByConfig``. Of topics that are not named, such as the group's
    retry topic, *otherwise* says which.

    >>> queues = [QueueName("t", "g", number) for number in range(5)]
    >>> [queue.queue_id for queue in ByConfig({"t": [3, 4]}).share("a", ["a", "b"], queues)]
    [3, 4]
    """

    queue_ids: Mapping[str, Sequence[int]]  # by topic
    otherwise: Strategy = field(default_factory=Averagely)

    def share(
        self, member: str, members: Sequence[str], queues: Sequence[QueueName]
    ) -> list[QueueName]:
        """See `Strategy`."""
        if not queues or queues[0].topic not in self.queue_ids:
            return self.otherwise.share(member, members, queues)
        wanted = self.queue_ids[queues[0].topic]
        return [queue for queue in queues if queue.queue_id in wanted]


@dataclass(frozen=True, slots=True)
class ByMachineRoom:
    """Only of broker groups in these rooms, ``room@name``; the rest nobody reads.

    Source: ``AllocateMessageQueueByMachineRoom``.
    """

    rooms: frozenset[str]

    def share(
        self, member: str, members: Sequence[str], queues: Sequence[QueueName]
    ) -> list[QueueName]:
        """See `Strategy`."""
        index = members.index(member)
        ours = [
            queue
            for queue in queues
            if queue.broker_name.count(ROOM_SEPARATOR) == 1
            and queue.broker_name.split(ROOM_SEPARATOR)[0] in self.rooms
        ]
        each, rest = divmod(len(ours), len(members))
        found = ours[index * each : (index + 1) * each]
        if index < rest:
            found.append(ours[index + each * len(members)])
        return found


@dataclass(frozen=True, slots=True)
class MachineRoomNearby:
    """Queues to the members in their room; of rooms without members, to everybody.

    Source: ``AllocateMachineRoomNearby``.
    """

    room_of_broker: Callable[[str], str]  # by the name of the group of nodes
    room_of_member: Callable[[str], str]  # by client id
    inner: Strategy = field(default_factory=Averagely)

    def share(
        self, member: str, members: Sequence[str], queues: Sequence[QueueName]
    ) -> list[QueueName]:
        """See `Strategy`."""
        by_room: dict[str, list[QueueName]] = {}
        for queue in queues:
            by_room.setdefault(self.room_of_broker(queue.broker_name), []).append(queue)
        rooms: dict[str, list[str]] = {}
        for name in members:
            rooms.setdefault(self.room_of_member(name), []).append(name)
        own = self.room_of_member(member)
        found = self.inner.share(member, rooms[own], by_room.pop(own, []))
        for room in sorted(by_room.keys() - rooms.keys()):
            found += self.inner.share(member, members, by_room[room])
        return found


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """A member that comes or goes moves few queues between the others.

    Source: ``AllocateMessageQueueConsistentHash``, ``ConsistentHashRouter``.
    """

    virtual_nodes: int = 10  # places of each member on the ring

    def __post_init__(self) -> None:
        if self.virtual_nodes < 1:
            raise ValueError(f"virtual_nodes = {self.virtual_nodes}: must be at least 1")

    def share(
        self, member: str, members: Sequence[str], queues: Sequence[QueueName]
    ) -> list[QueueName]:
        """See `Strategy`."""
        ring = {
            _hash(f"{name}-{number}"): name
            for name in members
            for number in range(self.virtual_nodes)
        }
        places = sorted(ring)
        return [
            queue
            for queue in queues
            if ring[places[bisect_left(places, _hash(str(queue))) % len(places)]] == member
        ]


def _hash(key: str) -> int:
    """Return a place on the ring. Source: ``ConsistentHashRouter.MD5Hash``."""
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:4], "big")


STRATEGIES: dict[str, Strategy] = {
    "averagely": Averagely(),
    "circle": ByCircle(),
    "consistent-hash": ConsistentHash(),
}

Rebalance = str | Strategy
"""The name of a strategy, ``"averagely"``, ``"circle"`` or ``"consistent-hash"``, or one itself."""


def strategy_of(rebalance: Rebalance) -> Strategy:
    """Return the strategy meant.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(rebalance, str):
        return rebalance
    try:
        return STRATEGIES[rebalance]
    except KeyError:
        raise ValueError(
            f"rebalance = {rebalance!r}: use one of {', '.join(STRATEGIES)}, or an object of "
            "broker.client.rebalance"
        ) from None
