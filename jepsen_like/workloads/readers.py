"""Readers that assign, seek and crash (W1), and groups that commit what they have done (W3)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError
from broker.errors import BrokerError
from jepsen_like.workloads.appends import TOPIC, value_of

if TYPE_CHECKING:
    from broker.client.consumer import Consumer
    from jepsen_like.history import History
    from jepsen_like.workloads.load import Clients, Load

SLOW_SHARE = 0.05  # of messages take a while to process
SLOW_SECONDS = (0.02, 0.3)
SLOW_RATE_MAX = 4.0  # of those a second: a member is busy with them two thirds of its time


def slow_share(load: Load) -> float:
    """Return the share of messages that take a while, such that one member keeps up with *load*."""
    return min(SLOW_SHARE, SLOW_RATE_MAX / load.send_rate)


class Readers:
    """One reader of everything, and one member for each group."""

    def __init__(self, clients: Clients, history: History) -> None:
        self.clients = clients
        self.history = history
        self.is_over = False
        self.failures: list[str] = []

    async def run(self) -> None:
        """Keep all readers going until `is_over`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_reading, None)
            for number in range(self.clients.load.group_count):
                nursery.start_soon(self._keep_reading, f"g{number + 1}")

    async def _keep_reading(self, group: str | None) -> None:
        load = self.clients.load
        chance = random.Random(f"{load.seed} reader {group}")
        while not self.is_over:
            life = 0.5 + chance.expovariate(1 / load.client_crash_mean)
            try:
                with trio.move_on_after(life):
                    async with self.clients.client("reader", chance) as client:
                        consumer = client.consumer(
                            group or "everything",
                            TOPIC,
                            queues=range(load.queue_count),
                            start="committed"
                            if group
                            else chance.choice(("first", "last", "last")),
                            prefetch_bytes=load.prefetch_bytes,
                            commit_interval=chance.choice((0.2, 1.0)),
                            poll_wait=chance.choice((0.5, 3.0)),
                        )
                        async with consumer:
                            await self._read(consumer, group, chance)
            except (ClientError, BrokerError) as error:
                self.history.note("reader", err=f"{type(error).__name__}: {error}")
            await trio.sleep(0.1)

    async def _read(self, consumer: Consumer, group: str | None, chance: random.Random) -> None:
        history = self.history
        process = history.new_process()
        starts = [[queue, consumer.position(queue)] for queue in consumer.queues]
        history.add(process, "ok", "assign", v=starts, g=group)
        uncommitted = 0
        slow = slow_share(self.clients.load)
        async for message in consumer:
            history.add(
                process,
                "ok",
                "poll",
                k=message.queue_id,
                v=[[message.queue_offset, value_of(message.body)]],
                g=group,
            )
            uncommitted += 1
            if group is not None and chance.random() < slow:
                await trio.sleep(chance.uniform(*SLOW_SECONDS))
            if group is None and chance.random() < 1 / 64:
                queue = chance.choice(consumer.queues)
                offset = max(0, consumer.position(queue) - chance.randrange(50))
                consumer.seek(queue, offset)
                history.add(process, "ok", "assign", v=[[queue, offset]])
            elif group is not None and uncommitted >= 20:
                uncommitted = 0
                await self._commit(consumer, group, process)

    async def _commit(self, consumer: Consumer, group: str, process: int) -> None:
        history = self.history
        upto = [[queue, consumer.position(queue)] for queue in consumer.queues]
        history.add(process, "invoke", "commit", v=upto, g=group)
        try:
            await consumer.commit()
        except trio.Cancelled:
            history.add(process, "info", "commit", v=upto, g=group)
            raise
        except ClientError as error:
            history.add(process, "info", "commit", v=upto, g=group, err=str(error))
            raise
        history.add(process, "ok", "commit", v=upto, g=group)
