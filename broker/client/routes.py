"""The queues of each topic, asked once and again from time to time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.client.errors import RequestFailedError
from broker.errors import TopicNotFoundError
from broker.message.limits import check_topic
from broker.protocol.headers import PERM_READ, PERM_WRITE, CreateTopicRequest
from broker.protocol.name_headers import RouteRequest
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.client.requests import Requests

ROUTE_AGE_MAX = 30.0  # seconds. Source: RocketMQ ``ClientConfig.pollNameServerInterval``.
AUTO_CREATED_QUEUE_COUNT = 4  # Source: RocketMQ ``DefaultMQProducer.defaultTopicQueueNums``


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteBroker:
    """One broker group that has queues of a topic. Source: RocketMQ ``BrokerData``."""

    name: str  # of the group
    cluster: str
    addresses: Mapping[int, str]  # host:port; 0 is the leader, absent while none is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How many queues a topic has, and what may be done with them.

    The counts are those of the group that this client is connected to, the first of *brokers*.
    A topic may have queues on other groups of the cluster, too; this client leaves those alone.
    """

    topic: str
    read_queue_count: int
    write_queue_count: int
    perm: int  # PERM_READ and PERM_WRITE
    brokers: tuple[RouteBroker, ...] = ()

    @property
    def broker_name(self) -> str:
        """Name of the group that this client is connected to, as its queues are known by."""
        return self.brokers[0].name if self.brokers else ""

    @property
    def is_writable(self) -> bool:
        """Whether messages may be sent."""
        return bool(self.perm & PERM_WRITE) and self.write_queue_count > 0

    @property
    def is_readable(self) -> bool:
        """Whether messages may be pulled."""
        return bool(self.perm & PERM_READ) and self.read_queue_count > 0


class RouteCache:
    """Routes by topic."""

    def __init__(self, requests: Requests, *, auto_create_topic: bool) -> None:
        self._requests = requests
        self.auto_create_topic = auto_create_topic
        self._routes: dict[str, tuple[Route, float]] = {}  # and when it was asked for
        self._locks: dict[str, trio.Lock] = {}

    def forget(self, topic: str) -> None:
        """Ask again when *topic* is next used."""
        self._routes.pop(topic, None)

    async def get(self, topic: str, *, creates: bool = True) -> Route:
        """Return the route of *topic*; creates the topic if that is wished and none is there.

        Args:
            topic: whose route.
            creates: whether a topic may be made here that is not there.

        Raises:
            InvalidTopicError: no topic can have that name.
            TopicNotFoundError: there is none, and it is not to be created.
            NoBrokerError: nobody answered in time.
        """
        found = self._routes.get(topic)
        if found is not None and trio.current_time() - found[1] < ROUTE_AGE_MAX:
            return found[0]
        check_topic(topic)
        lock = self._locks.setdefault(topic, trio.Lock())
        async with lock:  # a thousand senders that start at once ask once
            found = self._routes.get(topic)
            if found is not None and trio.current_time() - found[1] < ROUTE_AGE_MAX:
                return found[0]
            try:
                return await self.refresh(topic)
            except TopicNotFoundError:
                if not (creates and self.auto_create_topic):
                    raise
            await self.create(topic, AUTO_CREATED_QUEUE_COUNT, only_if_missing=True)
            return await self._refresh_created(topic)

    async def get_again(self, topic: str) -> Route:
        """Return the route of *topic*, whatever was known before. Raises as `get`."""
        self.forget(topic)
        return await self.get(topic)

    async def create(
        self,
        topic: str,
        queue_count: int,
        *,
        only_if_missing: bool = False,
        attributes: str = "",
    ) -> None:
        """Create *topic*, or give it more queues; with *only_if_missing* leave one that exists.

        Raises:
            InvalidTopicError: no topic can have that name.
            InvalidMessageError: it exists with more queues, whose messages would be out of reach.
            NoBrokerError: nobody answered in time; the topic may still be created.
        """
        check_topic(topic)
        header = CreateTopicRequest(
            topic=topic,
            read_queue_nums=queue_count,
            write_queue_nums=queue_count,
            attributes=attributes,
            only_if_missing=only_if_missing,
            request_id=self._requests.new_id(),
        )
        await self._requests.ask_leader(
            lambda: Command(RequestCode.UPDATE_AND_CREATE_TOPIC, ext_fields=header.encode()),
            f"create topic {topic}",
        )
        self.forget(topic)

    async def refresh(self, topic: str) -> Route:
        """Return the route of *topic* as the group has it now.

        Raises:
            TopicNotFoundError: there is no such topic.
            NoBrokerError: nobody answered in time.
        """
        header = RouteRequest(topic=topic)
        node, answer = await self._requests.ask_any(
            lambda: Command(RequestCode.GET_ROUTEINFO_BY_TOPIC.value, ext_fields=header.encode()),
            f"route of topic {topic}",
        )
        try:
            route = decode_route(topic, bytes(answer.body))  # type: ignore[arg-type]
        except (
            ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
        ) as error:  # fmt: skip
            raise RequestFailedError(
                f"route of topic {topic}, asked of {node}: the answer is no route: "
                f"{type(error).__name__}: {error}",
                code=answer.code,
            ) from error
        self._routes[topic] = (route, trio.current_time())
        return route

    async def _refresh_created(self, topic: str) -> Route:
        """Return the route of a topic just created, which a follower may hear of a moment later."""
        with trio.move_on_after(self._requests.group_timeout):
            while True:
                try:
                    return await self.refresh(topic)
                except TopicNotFoundError:
                    await trio.sleep(0.005)
        return await self.refresh(topic)


def decode_route(topic: str, body: bytes) -> Route:
    """Return the route of *topic* that *body* holds, of however many brokers it tells.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError: it holds none.

    Source: RocketMQ ``TopicRouteData``.
    """
    data = json.loads(body)
    brokers = tuple(
        RouteBroker(
            name=str(broker["brokerName"]),
            cluster=str(broker["cluster"]),
            addresses={int(n): str(address) for n, address in broker["brokerAddrs"].items()},
        )
        for broker in data["brokerDatas"]
    )
    queues = {str(queue.get("brokerName", "")): queue for queue in data["queueDatas"]}
    own = queues.get(brokers[0].name) if brokers else None
    if own is None:
        own = data["queueDatas"][0]
    return Route(
        topic=topic,
        read_queue_count=int(own["readQueueNums"]),
        write_queue_count=int(own["writeQueueNums"]),
        perm=int(own["perm"]),
        brokers=brokers,
    )
