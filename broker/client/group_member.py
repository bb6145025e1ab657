"""One group that a client is a member of: which queues are its, and which consumer reads them.

Members come and go; whoever hears of it asks who is there now, reckons anew, and lets go of queues
before it takes others.  With ``ordered`` a queue is read only while the broker says that it is
locked for this client, so that no two members ever read it.

Source: RocketMQ ``RebalanceImpl``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from broker.client.group_locks import GroupLocks
from broker.client.rebalance import QueueName, strategy_of
from broker.errors import BrokerError, InvalidMessageError, TopicNotFoundError
from broker.message.limits import RETRY_PREFIX
from broker.protocol.headers import ConsumerListRequest
from broker.protocol.heartbeat import BROADCASTING, CLUSTERING, ConsumerData
from broker.protocol.heartbeat import Subscription as TopicSubscription
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.client.consumer_options import MemberTimes, Subscription
    from broker.client.requests import Requests
    from broker.client.routes import RouteCache
    from broker.client.topic_reading import TopicReading

AGAIN_INTERVAL = 1.0  # seconds until it is tried again when something was in the way
LOCK_AGAIN_INTERVAL = 0.2  # seconds until a queue is asked for again that another member had
NOBODY = frozenset({int(ResponseCode.SYSTEM_ERROR)})  # what a node says of a group without members

_LOG = logging.getLogger("broker.client")


@dataclass(eq=False, slots=True, kw_only=True)
class Seat:
    """One consumer's place in a group."""

    subscription: Subscription
    readings: dict[str, TopicReading]  # by topic, the group's retry topic among them
    nursery: trio.Nursery  # lives as long as the consumer
    has_begun: set[str] = field(default_factory=set)  # topics it was given queues of


class GroupMember:
    """This client in one group."""

    def __init__(
        self,
        group: str,
        client_id: str,
        requests: Requests,
        routes: RouteCache,
        *,
        times: MemberTimes,
        rejoin: Callable[[], Awaitable[None]],
    ) -> None:
        """Make a member without a consumer.

        Args:
            group: the group's name.
            client_id: the member's.
            requests: the way to the nodes.
            routes: what queues there are.
            times: how often it looks.
            rejoin: tells the leader that this client is a member.
        """
        self.group = group
        self.seats: list[Seat] = []
        self.is_announced = False
        self._client_id = client_id
        self._requests = requests
        self._routes = routes
        self._rejoin = rejoin
        self._balance_interval = times.balance
        self._locks = GroupLocks(
            requests, client_id=client_id, group=group, lock_seconds=times.lock
        )
        self._balancing = trio.Lock()
        self._changed = trio.Event()
        self._waits_for_locks = False
        self._scope = trio.CancelScope()

    @property
    def _first(self) -> Subscription:
        return self.seats[0].subscription

    @property
    def _topics(self) -> tuple[str, ...]:
        """What is read: a group that shares messages out reads those, too, that come again."""
        first = self._first
        return (*first.topics, *([RETRY_PREFIX + self.group] if first.is_shared else []))

    @property
    def consumer_data(self) -> ConsumerData:
        """What a heartbeat says of it."""
        first = self._first
        tags = first.options.tags or "*"
        return ConsumerData(
            group=self.group,
            message_model=CLUSTERING if first.is_shared else BROADCASTING,
            from_where="CONSUME_FROM_FIRST_OFFSET",
            subscriptions=tuple(
                TopicSubscription(topic=topic, expression=tags if topic in first.topics else "*")
                for topic in sorted(self._topics)
            ),
        )

    def add(self, seat: Seat) -> None:
        """Have one more consumer share the queues.

        Raises:
            InvalidMessageError: it wants to read otherwise than those there are.
        """
        if self.seats:
            for name in ("topics", "ordered", "broadcasting", "tags", "rebalance"):
                here, there = (_wish(name, one) for one in (seat.subscription, self._first))
                if here != there:
                    raise InvalidMessageError(
                        f"group {self.group}: another consumer of this client has {name} = "
                        f"{there!r}, and this one {here!r}: all consumers of a group read the same "
                        "in the same way; give it a group of its own"
                    )
        self.seats.append(seat)

    def remove(self, seat: Seat) -> None:
        """Have one consumer less."""
        self.seats.remove(seat)

    def look_again(self) -> None:
        """Share out anew, soon."""
        self._changed.set()

    def stop(self) -> None:
        """End `run`."""
        self._scope.cancel()

    async def run(self) -> None:
        """Share out whenever something may have changed, until `stop`."""
        interval = self._balance_interval
        with self._scope:
            while True:
                with trio.move_on_after(interval):
                    await self._changed.wait()
                self._changed = trio.Event()
                try:
                    await self.balance()
                except BrokerError as error:
                    _LOG.warning("group %s cannot be shared out: %s", self.group, error)
                    interval = AGAIN_INTERVAL
                except Exception:  # noqa: BLE001 - a strategy may be the user's; the client lives on
                    _LOG.exception("group %s cannot be shared out", self.group)
                    interval = AGAIN_INTERVAL
                else:
                    interval = self._balance_interval
                    if self._waits_for_locks:
                        interval = LOCK_AGAIN_INTERVAL

    async def balance(self) -> None:
        """Give every consumer of this client the queues that are its.

        Raises:
            NoBrokerError: nobody said who is there.
            BrokerError: the leader refused.
        """
        async with self._balancing:
            if not self.seats:
                return
            wanted = await self._wanted()
            shares: list[tuple[Seat, dict[str, list[int]]]] = []
            count = len(self.seats)
            for number, seat in enumerate(self.seats):
                if self._first.is_shared:
                    shares.append((seat, {t: ids[number::count] for t, ids in wanted.items()}))
                else:
                    shares.append((seat, wanted))
            if self._first.options.ordered:
                await self._lock(shares)
            for seat, share in shares:
                for topic, queues in share.items():
                    await seat.readings[topic].keep(queues)
            for seat, share in shares:
                for topic, queues in share.items():
                    await self._give(seat, topic, queues)

    async def free_locks(self) -> None:
        """Let others have the queues that were read in order.

        Raises:
            NoBrokerError: nobody could be told; others have them when a minute has passed.
        """
        await self._locks.free(self._locks.held)

    async def _give(self, seat: Seat, topic: str, queues: list[int]) -> None:
        reading = seat.readings[topic]
        if not reading.is_retry and topic not in seat.has_begun:
            start = seat.subscription.start
        else:
            # It comes from another member, or is new: nobody has committed anything there.
            start = "committed" if seat.subscription.is_shared else "first"
        await reading.add(queues, start, seat.nursery)
        seat.has_begun.add(topic)
        if seat.subscription.options.ordered:
            for queue in queues:
                reading.set_valid_until(queue, self._locks.until(topic, queue))

    # --- what is this member's ----------------------------------------------------------------

    async def _wanted(self) -> dict[str, list[int]]:
        """Return this member's queues, by topic."""
        members = await self._members() if self._first.is_shared else [self._client_id]
        strategy = strategy_of(self._first.options.rebalance)
        found = {}
        for topic in self._topics:
            queues = await self._queues_of(topic)
            if self._first.is_shared and queues:
                queues = strategy.share(self._client_id, members, queues)
            found[topic] = [queue.queue_id for queue in queues]
        return found

    async def _members(self) -> list[str]:
        """Return the members' names, sorted; this client's is among them."""
        found = await self._ask_members()
        if self._client_id not in found:
            # The broker has taken this client for dead: its queues are others' for now.
            await self._rejoin()
            found = await self._ask_members()
        return sorted({*found, self._client_id})

    async def _ask_members(self) -> list[str]:
        header = ConsumerListRequest(consumer_group=self.group)
        answer = await self._requests.ask_leader(
            lambda: Command(
                RequestCode.GET_CONSUMER_LIST_BY_GROUP.value, ext_fields=header.encode()
            ),
            f"members of group {self.group}",
            accept=NOBODY,
        )
        if answer.code != ResponseCode.SUCCESS:
            return []
        assert not isinstance(answer.body, list), "received bodies are one buffer"
        return [str(name) for name in json.loads(bytes(answer.body)).get("consumerIdList", [])]

    async def _queues_of(self, topic: str) -> list[QueueName]:
        is_retry = topic not in self._first.topics
        try:
            route = await self._routes.get(topic, creates=not is_retry)
        except TopicNotFoundError:
            if is_retry:
                return []  # the group lets no message come again
            raise
        return [
            QueueName(topic, route.broker_name, queue) for queue in range(route.read_queue_count)
        ]

    async def _lock(self, shares: list[tuple[Seat, dict[str, list[int]]]]) -> None:
        """Take out of *shares* what is not locked, or what another consumer here still has."""
        occupied = {
            (topic, queue)
            for seat in self.seats
            for topic, reading in seat.readings.items()
            for queue in (*reading.queues, *reading.parting)
        }
        wanted = {
            (topic, queue)
            for _, share in shares
            for topic, queues in share.items()
            for queue in queues
        }
        locked = await self._locks.take(wanted | (occupied & self._locks.held))
        given: set[tuple[str, int]] = set()
        for seat, share in shares:
            for topic, queues in share.items():
                reading = seat.readings[topic]
                share[topic] = [
                    queue
                    for queue in queues
                    if (topic, queue) in locked
                    and (queue in reading.queues or (topic, queue) not in occupied)
                ]
                given.update((topic, queue) for queue in share[topic])
        self._waits_for_locks = bool(wanted - given)
        await self._locks.free(self._locks.held - wanted - occupied)


def _wish(name: str, subscription: Subscription) -> object:
    if name == "topics":
        return subscription.topics
    return getattr(subscription.options, name)
