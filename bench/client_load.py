"""Loads through the client library, as a user's program makes them."""

from __future__ import annotations

import struct
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import trio

import broker.sync
from bench.measured import LoadError, Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.client.connect import Client

_SILENCE_SECONDS = 10.0
_STAMP = struct.Struct(">d")
_PUSH_TASKS = 16
_LOOK_EVERY = 256  # messages between two looks at the clock


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


def run_sync_sends(
    addresses: Sequence[str],
    topic: str,
    *,
    body: bytes,
    message_count: int,
    seconds: float,
    warm_up_seconds: float,
) -> Measured:
    """Send without an event loop: one message after another, or *message_count* in each call."""
    latencies: list[float] = []
    written = counted = 0
    many = [body] * message_count
    with broker.sync.connect(list(addresses)) as client, client.producer("bench") as producer:
        producer.send(topic, body)
        now = began = perf_counter()
        counting_from, until = began + warm_up_seconds, began + warm_up_seconds + seconds
        while now < until:
            before = now
            if message_count == 1:
                producer.send(topic, body)
            else:
                producer.send_many(topic, many)
            now = perf_counter()
            written += message_count
            if counting_from <= now < until:
                counted += message_count
                latencies.append(now - before)
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
                if count >= message_count or (not count % _LOOK_EVERY and perf_counter() >= until):
                    break
        spent = perf_counter() - began
        if scope.cancelled_caught:
            raise LoadError(f"the consumer got {count} of {message_count} messages and no more")
    return Measured.of(message_count=count, seconds=spent, latencies=np.zeros(0), written_count=0)


def run_sync_consumer(
    addresses: Sequence[str], topic: str, *, body_size: int, message_count: int, seconds: float
) -> Measured:
    """Do as `run_consumer` without an event loop.

    Raises:
        LoadError: likewise.
    """
    count = 0
    with (
        broker.sync.connect(list(addresses)) as client,
        client.consumer("bench-sync", topic, start="first", commit_interval=60.0) as consumer,
    ):
        began = perf_counter()
        until = began + seconds
        while count < message_count and (count % _LOOK_EVERY or perf_counter() < until):
            message = consumer.get(_SILENCE_SECONDS)
            if message is None:
                raise LoadError(f"the consumer got {count} of {message_count} messages, no more")
            if len(message.body) != body_size:
                raise LoadError(f"a body of {len(message.body)} bytes came back")
            count += 1
        spent = perf_counter() - began
    return Measured.of(message_count=count, seconds=spent, latencies=np.zeros(0), written_count=0)


async def run_push(
    client: Client,
    topic: str,
    *,
    body_size: int,
    rate: float,
    seconds: float,
    warm_up_seconds: float,
) -> Measured:
    """Send *rate* messages a second to a consumer that waits for them.

    A latency goes from the moment a send was due to the moment its message is handed out.

    Raises:
        LoadError: messages do not come.
    """
    latencies: list[float] = []
    received = 0
    filling = bytes(max(0, body_size - _STAMP.size))
    count = int(rate * (seconds + warm_up_seconds))
    written = count + 1
    async with (
        client.producer("bench") as producer,
        client.consumer("bench-push", topic, start="last", commit_interval=60.0) as consumer,
    ):
        await producer.send(topic, _STAMP.pack(0.0) + filling)  # the consumer waits from now on
        began = perf_counter()
        numbers = iter(range(count))

        async def send() -> None:
            for number in numbers:
                due = began + number / rate
                await trio.sleep(max(0.0, due - perf_counter()))
                await producer.send(topic, _STAMP.pack(due) + filling)

        with trio.move_on_after(seconds + warm_up_seconds + _SILENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for _ in range(_PUSH_TASKS):
                    nursery.start_soon(send)
                async for message in consumer:
                    now = perf_counter()
                    (due,) = _STAMP.unpack_from(message.body)
                    received += 1
                    if due >= began + warm_up_seconds:
                        latencies.append(now - due)
                    if received == written:
                        break
        if received != written:
            raise LoadError(f"{received} of {written} messages were pushed and no more")
    return Measured.of(
        message_count=len(latencies),
        seconds=seconds,
        latencies=np.array(latencies),
        written_count=written,
    )


async def run_push_beside(client: Client, topic: str, *, seconds: float) -> Measured:
    """Take what another process sends at full speed, from where it is now.

    Raises:
        LoadError: nothing comes.
    """
    count = 0
    async with client.consumer("bench-push", topic, start="last", commit_interval=60.0) as consumer:
        with trio.move_on_after(_SILENCE_SECONDS):
            await consumer.get()
        began = perf_counter()
        spent = 0.0
        with trio.move_on_after(seconds + _SILENCE_SECONDS):
            async for _ in consumer:
                count += 1
                if not count % _LOOK_EVERY:
                    spent = perf_counter() - began
                    if spent >= seconds:
                        break
    if spent < seconds:
        raise LoadError(f"{count} messages were pushed in {spent:.1f} s and no more")
    return Measured.of(message_count=count, seconds=spent, latencies=np.zeros(0), written_count=0)
