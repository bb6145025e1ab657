"""W8: readers that pick by a tag; two of the tags have the same hash, and nodes compare hashes.

Only in some runs (`Load.picks`): the values of W1 have tags then, and a group of its own, ``f``,
whose members come and go, reads those with one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from jepsen_like.workloads.appends import TOPIC, tag_of, value_of
from jepsen_like.workloads.lives import Lives

if TYPE_CHECKING:
    import random

    from broker.client.connect import Client
    from broker.client.consumer import Consumer

GROUP = "f"
WANTED = tag_of("c-0")
SLOW_SHARE = 0.3  # of messages take a while to process


class Picking(Lives):
    """One member of `f` after another."""

    name = "picking"

    async def _live(self, client: Client, chance: random.Random) -> None:
        load = self.clients.load
        consumer = client.consumer(
            GROUP,
            TOPIC,
            queues=range(load.queue_count),
            tags=WANTED,
            prefetch_bytes=load.prefetch_bytes,
            commit_interval=chance.choice((0.05, 0.2, 1.0)),
            poll_wait=chance.choice((0.5, 3.0)),
        )
        async with consumer:
            await self._read(consumer, chance)

    async def _read(self, consumer: Consumer, chance: random.Random) -> None:
        history = self.history
        process = history.new_process()
        starts = [[queue, consumer.position(queue)] for queue in consumer.queues]
        history.add(process, "ok", "want", v=starts, g=GROUP)
        for _ in range(chance.randint(20, 300)):
            message = await consumer.get(chance.choice((0.2, 1.0)))
            if message is None or self.is_over:
                continue
            place = [message.queue_offset, value_of(message.body)]
            history.add(process, "ok", "pick", k=message.queue_id, v=[place], g=GROUP)
            if chance.random() < SLOW_SHARE:
                await trio.sleep(chance.uniform(0.02, 0.5))
