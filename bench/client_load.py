"""Loads through the client library, as a user's program makes them."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import trio

from bench.measured import LoadError, Measured

if TYPE_CHECKING:
    from broker.client.connect import Client

_SILENCE_SECONDS = 10.0


async def run_sends(
    client: Client,
    topic: str,
    *,
    body: bytes,
    task_count: int,
    seconds: float,
    warm_up_seconds: float,
) -> Measured:
    """Have *task_count* tasks send one message after another."""
    latencies: list[float] = []
    written = counted = 0
    async with client.producer("bench") as producer:
        await producer.send(topic, body)
        began = perf_counter()
        counting_from, until = began + warm_up_seconds, began + warm_up_seconds + seconds

        async def send() -> None:
            nonlocal written, counted
            note = latencies.append
            now = perf_counter()
            while now < until:
                before = now
                await producer.send(topic, body)
                now = perf_counter()
                written += 1
                if counting_from <= now < until:
                    counted += 1
                    note(now - before)

        async with trio.open_nursery() as nursery:
            for _ in range(task_count):
                nursery.start_soon(send)
    return Measured.of(
        message_count=counted,
        seconds=seconds,
        latencies=np.array(latencies),
        written_count=written + 1,
    )


async def run_consumer(
    client: Client, topic: str, *, body_size: int, message_count: int, seconds: float
) -> Measured:
    """Read a topic from its beginning for so long, or until all its messages are read.

    Raises:
        LoadError: a message has not the size that was sent, or the stream dries up.
    """
    count = 0
    async with client.consumer(
        "bench-consume", topic, start="first", commit_interval=60.0
    ) as consumer:
        began = perf_counter()
        until = began + seconds
        with trio.move_on_after(seconds + _SILENCE_SECONDS) as scope:
            async for message in consumer:
                if len(message.body) != body_size:
                    raise LoadError(f"a body of {len(message.body)} bytes came back")
                count += 1
                if count >= message_count or (not count & 255 and perf_counter() >= until):
                    break
        spent = perf_counter() - began
        if scope.cancelled_caught:
            raise LoadError(f"the consumer got {count} of {message_count} messages and no more")
    return Measured.of(message_count=count, seconds=spent, latencies=np.zeros(0), written_count=0)
