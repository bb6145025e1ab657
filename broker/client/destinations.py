"""Where the messages of one producer go: which broker group has a topic, and which queues it has.

Each group that is sent to has a task of its own (`broker.client.send_loop`), and each topic its
queues (`broker.client.topic_queues`).  Both come to be when a topic is first sent to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.client.delays import WAITING_ROUTE
from broker.client.errors import ClientError, ClosedError
from broker.client.queue_sender import QueueSender
from broker.client.routes import ROUTE_AGE_MAX
from broker.client.send_loop import SendLoop
from broker.client.topic_queues import TopicQueues
from broker.errors import BrokerError, NoPermissionError
from broker.message.delay import SCHEDULE_TOPIC

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from broker.client.batch import Batch
    from broker.client.broker_groups import BrokerGroups
    from broker.client.group_access import GroupAccess
    from broker.client.producer_options import ProducerOptions
    from broker.client.routes import Route
    from broker.client.send_loop import ProducerStats

PRODUCER_ID_BITS = 63  # by chance; 0 stands for none


class Destinations:
    """The topics of one producer and what sends to them.

    Attributes:
        routed: topics whose queues are known.
        topics: those of them for whose queues nobody waits any more, who would have to be let go
            first.
    """

    def __init__(
        self,
        producer_name: str,
        *,
        groups: BrokerGroups,
        chance: random.Random,
        options: ProducerOptions,
        stats: ProducerStats,
        on_settled: Callable[[Batch], None],
    ) -> None:
        """Begin with none.

        Args:
            producer_name: sent as its group.
            groups: say who has a topic.
            chance: chooses producer ids, and a topic's first queue.
            options: the producer's.
            stats: what the producer has done.
            on_settled: called with each batch, or part of one, that is done with.
        """
        self.routed: dict[str, TopicQueues] = {}
        self.topics: dict[str, TopicQueues] = {}
        self._producer_name = producer_name
        self._groups = groups
        self._chance = chance
        self._options = options
        self._stats = stats
        self._on_settled = on_settled
        self._producer_id = self._new_producer_id() if options.idempotent else 0
        self._loops: dict[GroupAccess, SendLoop] = {}  # one for each broker group that is sent to
        self._loops_lock = trio.Lock()
        self._topic_locks: dict[str, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None
        self._is_closed = False

    @property
    def loops(self) -> Iterable[SendLoop]:
        """What sends, one for each group."""
        return self._loops.values()

    async def run(self, nursery: trio.Nursery) -> None:
        """Send, by tasks of *nursery*, and hear of queues added to topics, until cancelled."""
        self._nursery = nursery
        while True:
            await trio.sleep(ROUTE_AGE_MAX)
            for group, loop in list(self._loops.items()):
                for topic in loop.topics.keys() - {SCHEDULE_TOPIC}:
                    try:
                        self._take_route(await group.routes.refresh(topic), loop)
                    except (ClientError, BrokerError):
                        continue  # the batches under way will find out, if it matters

    def close(self, reason: str) -> None:
        """Give up all messages."""
        self._is_closed = True
        for loop in self._loops.values():
            loop.close(reason)

    async def prepare(self, topic: str) -> TopicQueues:
        """Return the topic's queues, as soon as they are known.

        Raises:
            ClosedError: the producer was closed meanwhile.
            NoPermissionError: the topic does not take messages.
            ClientError, BrokerError: nobody says its queues.
        """
        queues = self.topics.get(topic)
        if queues is None:
            # One after the other, in the order of their calls, so that they send in it.
            lock = self._topic_locks.setdefault(topic, trio.Lock())
            async with lock:
                queues = self.routed.get(topic)
                if queues is None:
                    group = await self._groups.of_topic(topic)
                    route = await group.routes.get(topic)
                    queues = self._take_route(route, await self._loop_of(group))
                if not lock.statistics().tasks_waiting:
                    self.topics[topic] = queues
        return queues

    def waiting_queues(self, loop: SendLoop) -> TopicQueues:
        """Return the queues of messages that are sent for later, in the group of *loop*."""
        return loop.topics.get(SCHEDULE_TOPIC) or self._take_route(WAITING_ROUTE, loop)

    async def _loop_of(self, group: GroupAccess) -> SendLoop:
        """Return what sends to *group*, and runs."""
        async with self._loops_lock:
            loop = self._loops.get(group)
            if loop is None:
                if self._is_closed:
                    raise ClosedError(f"producer {self._producer_name} is closed; open another one")
                assert self._nursery is not None
                options = self._options
                routes = group.routes
                loop = SendLoop(
                    links=group.links,
                    leader=group.finder,
                    in_flight_max=options.inflight_max if options.idempotent else 1,
                    recreate_topic=routes.get_again if routes.auto_create_topic else None,
                    linger=options.linger,
                    send_timeout=options.send_timeout,
                    batch_count_max=options.batch_count_max,
                    stats=self._stats,
                )
                await self._nursery.start(loop.run)
                self._loops[group] = loop
        return loop

    def _take_route(self, route: Route, loop: SendLoop) -> TopicQueues:
        if not route.is_writable:
            raise NoPermissionError(
                f"topic {route.topic} may not be written to: perm {route.perm}, "
                f"{route.write_queue_count} queues for writing"
            )
        queues = loop.topics.get(route.topic)
        if queues is None:
            first = self._chance.randrange(route.write_queue_count)
            queues = TopicQueues(
                route,
                loop,
                producer_name=self._producer_name,
                first=first,
                make_sender=self._make_sender,
            )
            loop.topics[route.topic] = queues
            # What waits for its time is in each group, and named by nobody.
            self.routed.setdefault(route.topic, queues)
        else:
            queues.update(route)
        return queues

    def _make_sender(self, queues: TopicQueues, queue_id: int) -> QueueSender:
        return QueueSender(
            queues.topic,
            queue_id,
            producer_id=self._producer_id,
            new_producer_id=self._new_producer_id,
            chance=self._chance.random,
            on_settled=self._on_settled,
        )

    def _new_producer_id(self) -> int:
        return self._chance.getrandbits(PRODUCER_ID_BITS) or 1
