"""How far consumers have pulled, as the node sees it that they pull from.

What a group has pulled and not committed is in flight; what lies behind is ready.  A queue counts
where it is pulled from, while somebody does: sums over nodes are right but for the moment in which
a consumer goes over to another node.

Source: RocketMQ 5 ``ConsumerLagCalculator``, which has pull offsets on the one broker that serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from broker.metrics.families import gauge
from broker.metrics.traffic import PAIRS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metrics.families import Family
    from broker.store.consume_queues import ConsumeQueues
    from dledger.clock import Clock

QUEUES_MAX: Final = 20_000  # of all groups; of more nothing is told
_RETRY_PREFIX: Final = "%RETRY%"
_STEP = 500  # queues between two turns of everybody else


class PulledPlaces:
    """The next offset that each group pulls of each queue."""

    def __init__(self, clock: Clock, *, silent_seconds_max: float) -> None:
        """Know of nobody.

        Args:
            clock: the time.
            silent_seconds_max: after which a consumer is taken for gone: longer than a pull may
                be held.
        """
        self._clock = clock
        self._silent_seconds_max = silent_seconds_max
        self._places: dict[tuple[str, str, int], tuple[int, float]] = {}

    def note(self, group: str, topic: str, queue_id: int, queue_offset: int) -> None:
        """Take note that *group* has all of a queue below *queue_offset*; a name this node keeps.

        Bounded: beyond `QUEUES_MAX` queues no further one is taken note of.
        """
        key = (group, topic, queue_id)
        if group and (key in self._places or len(self._places) < QUEUES_MAX):
            self._places[key] = (queue_offset, self._clock.now())

    async def families(
        self,
        offsets: ConsumerOffsets,
        queues: ConsumeQueues,
        store_time_of: Callable[[str, int, int], int],
    ) -> list[Family]:
        """Return what is in flight and what is ready; gives way to others in between."""
        labels = ("topic", "consumer_group", "is_retry", "is_system")
        inflight = gauge(
            "rocketmq_consumer_inflight_messages",
            "Messages a group has pulled from this node and not committed.",
            *labels,
        )
        ready = gauge(
            "rocketmq_consumer_ready_messages",
            "Messages of queues that a group pulls from this node, and has not pulled yet.",
            *labels,
        )
        latency = gauge(
            "rocketmq_consumer_queueing_latency",
            "Age of the oldest message that is ready, milliseconds.",
            *labels,
        )
        now = self._clock.now()
        wall_ms = self._clock.wall_ms()
        sums: dict[tuple[str, str], list[int]] = {}
        for number, (key, (pulled, seen)) in enumerate(list(self._places.items()), 1):
            group, topic, queue_id = key
            if number % _STEP == 0:
                await trio.lowlevel.checkpoint()
            queue = queues.get(topic, queue_id)
            if now - seen > self._silent_seconds_max or queue is None:
                self._places.pop(key, None)
                continue
            if (pair := (topic, group)) not in sums and len(sums) >= PAIRS_MAX:
                continue
            sum_of = sums.setdefault(pair, [0, 0, 0])
            committed = offsets.queues_of(group, topic).get(queue_id)
            if committed is not None:
                sum_of[0] += max(pulled - max(committed, queue.min_offset), 0)
            first = max(pulled, queue.min_offset)
            if first < queue.max_offset:
                sum_of[1] += queue.max_offset - first
                sum_of[2] = max(sum_of[2], wall_ms - store_time_of(topic, queue_id, first))
        for (topic, group), (in_flight, waiting, age_ms) in sums.items():
            is_retry = "true" if topic.startswith(_RETRY_PREFIX) else "false"
            row = (topic, group, is_retry, "false")
            inflight.add(in_flight, *row)
            ready.add(waiting, *row)
            latency.add(age_ms, *row)
        return [inflight, ready, latency]
