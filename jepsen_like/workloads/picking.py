"""W8: readers that pick by a tag; two of the tags have the same hash, and nodes compare hashes.

Only in some runs (`Load.picks`): the values of W1 have tags then, and a group of its own, ``f``,
whose members come and go, reads those with one of them.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError
from broker.errors import BrokerError
from jepsen_like.workloads.appends import TOPIC, tag_of, value_of

if TYPE_CHECKING:
    from broker.client.consumer import Consumer
    from jepsen_like.history import History
    from jepsen_like.workloads.load import Clients

GROUP = "f"
WANTED = tag_of("c-0")
SLOW_SHARE = 0.3  # of messages take a while to process


class Picking:
    """One member of a group after another; some close in peace, the others crash."""

    def __init__(self, clients: Clients, history: History) -> None:
        self.clients = clients
        self.history = history
        self.is_over = False

    async def run(self) -> None:
        """Keep one going until `is_over`."""
        load = self.clients.load
        chance = random.Random(f"{load.seed} picking")
        while not self.is_over:
            life = 0.5 + chance.expovariate(1 / load.client_crash_mean)
            try:
                with trio.move_on_after(life):
                    async with self.clients.client("picking", chance) as client:
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
            except (ClientError, BrokerError) as error:
                self.history.note("reader", err=f"{type(error).__name__}: {error}")
            await trio.sleep(0.1)

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
