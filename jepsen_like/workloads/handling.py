"""W6: messages dealt with one by one in blocks, of which some fail; queues paused; keys in order.

Only in some runs (`Load.handles`): a group of its own, ``h``, reads what the others read too.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from broker.client.errors import NotWrittenError, SendManyError
from broker.client.results import SendResult
from broker.client.send_many import OutMessage
from broker.message.tags import java_string_hash
from jepsen_like.workloads.appends import TOPIC, value_of
from jepsen_like.workloads.lives import Lives

if TYPE_CHECKING:
    from broker.client.connect import Client
    from broker.client.consumer import Consumer
    from broker.client.producer import Producer
    from jepsen_like.history import History
    from jepsen_like.workloads.load import Clients

GROUP = "h"
LEFT_SHARE = 0.04  # of messages fail in their block
AGAIN_SHARE = 0.5  # of these are asked for once more at once
PAUSE_SHARE = 0.03  # of messages are followed by a pause of a queue
KEYS = ("a", "b", "c")
BURST_MAX = 6  # messages of one key sent at once
BURST_PAUSE_SECONDS = 0.4  # on average


class _HandlerError(Exception):
    """The block of a message has failed."""


class Handling(Lives):
    """One member of `h` after another."""

    name = "handling"

    async def _live(self, client: Client, chance: random.Random) -> None:
        load = self.clients.load
        consumer = client.consumer(
            GROUP,
            TOPIC,
            queues=range(load.queue_count),
            auto_commit=False,
            prefetch_bytes=load.prefetch_bytes,
            commit_interval=chance.choice((0.2, 1.0)),
            poll_wait=chance.choice((0.5, 3.0)),
        )
        await self._member(consumer, chance)

    async def _member(self, consumer: Consumer, chance: random.Random) -> None:
        history = self.history
        process = history.new_process()
        done: list[list[int]] | None = None
        try:
            async with consumer:
                starts = [[queue, consumer.position(queue)] for queue in consumer.queues]
                history.add(process, "ok", "assign", v=starts, g=GROUP)
                begins = await self._read(consumer, process, chance)
                done = [
                    [
                        queue,
                        min(
                            [begins[queue, offset] for offset in consumer.left.get(queue, [])]
                            + [consumer.position(queue)]
                        ),
                    ]
                    for queue in consumer.queues
                ]
                history.add(process, "invoke", "commit", v=done, g=GROUP)
        except BaseException as error:
            if done is not None:
                history.add(process, "info", "commit", v=done, g=GROUP, err=str(error))
            raise
        history.add(process, "ok", "commit", v=done, g=GROUP)

    async def _read(
        self, consumer: Consumer, process: int, chance: random.Random
    ) -> dict[tuple[int, int], int]:
        """Read and deal with messages; return from where on each stands for what was passed over.

        A message behind a gap that retention has made stands for the gap as well: left, it keeps
        its group in front of both.
        """
        history = self.history
        places = consumer.positions()
        begins: dict[tuple[int, int], int] = {}  # queue and offset
        for _ in range(chance.randint(20, 300)):
            if self.is_over:
                return begins
            message = await consumer.get(chance.choice((0.2, 1.0)))
            if message is None:
                self._resume(consumer, process)
                continue
            queue, offset = message.queue_id, message.queue_offset
            begins[queue, offset] = places[queue]
            places[queue] = offset + 1
            history.add(
                process, "ok", "poll", k=queue, v=[[offset, value_of(message.body)]], g=GROUP
            )
            try:
                async with message:
                    if chance.random() < LEFT_SHARE:
                        raise _HandlerError
            except _HandlerError:
                history.add(process, "ok", "left", k=queue, o=offset, g=GROUP)
                if chance.random() < AGAIN_SHARE:
                    consumer.seek(queue, offset)
                    places[queue] = offset
                    history.add(process, "ok", "assign", v=[[queue, offset]])
            if chance.random() < PAUSE_SHARE:
                self._resume(consumer, process)
                queue = chance.choice(consumer.queues)
                consumer.pause(queue)
                history.add(process, "ok", "pause", k=queue)
        self._resume(consumer, process)
        return begins

    def _resume(self, consumer: Consumer, process: int) -> None:
        for queue in consumer.paused:
            self.history.add(process, "ok", "resume", k=queue)
            consumer.resume(queue)


class Ordered:
    """Bursts of messages with one key each, their bodies compressed."""

    def __init__(self, clients: Clients, history: History) -> None:
        self.clients = clients
        self.history = history
        self.is_over = False
        self._counts = dict.fromkeys(KEYS, 0)

    async def run(self) -> None:
        """Send until `is_over`."""
        load = self.clients.load
        chance = random.Random(f"{load.seed} ordered")
        while not self.is_over:
            life = 0.5 + chance.expovariate(1 / load.client_crash_mean)
            with trio.move_on_after(life):
                async with self.clients.client("ordered", chance) as client:
                    producer = client.producer(
                        send_timeout=load.send_timeout,
                        batch_count_max=chance.choice((1, 2, 1000)),
                        compression="zlib",
                        compression_threshold=64,
                    )
                    async with producer:
                        while not self.is_over:
                            await self._burst(producer, chance)
                            await trio.sleep(chance.expovariate(1 / BURST_PAUSE_SECONDS))

    async def _burst(self, producer: Producer, chance: random.Random) -> None:
        history, load = self.history, self.clients.load
        key = chance.choice(KEYS)
        queue = abs(java_string_hash(key)) % load.queue_count
        messages: list[OutMessage] = []
        asked: list[tuple[int, str]] = []
        for _ in range(chance.randint(1, BURST_MAX)):
            self._counts[key] += 1
            value = f"o-{key}-{self._counts[key]}"
            size = chance.randrange(load.body_size_max + 1)
            messages.append(OutMessage(f"{value} ".encode().ljust(size, b"x"), ordering_key=key))
            process = history.new_process()
            asked.append((process, value))
            history.add(process, "invoke", "send", k=queue, v=value)
        results: list[SendResult | Exception] = []
        try:
            results += await producer.send_many(TOPIC, messages)
        except SendManyError as error:
            results += error.results
        finally:
            # Those that have no result are as cancelled ones are: written or not.
            for number, (process, value) in enumerate(asked):
                result = results[number] if number < len(results) else None
                self._tell(process, queue, value, result)

    def _tell(
        self, process: int, queue: int, value: str, result: SendResult | Exception | None
    ) -> None:
        history = self.history
        if isinstance(result, SendResult):
            offset = result.queue_offset if result.queue_offset >= 0 else None
            history.add(process, "ok", "send", k=queue, v=value, o=offset)
        elif isinstance(result, NotWrittenError):
            history.add(process, "fail", "send", k=queue, v=value, err=str(result))
        else:
            history.add(process, "info", "send", k=queue, v=value, err=str(result or "crashed"))
