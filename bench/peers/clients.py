"""Other brokers through the client libraries that Python programs use: nats-py, aiormq, redis-py.

A broker's figures over a plain socket are its own; what a program meets is these. Each is written
as its library's documentation has it, with the settings that are kind to it: persistent messages,
confirms, no acks for what is consumed.

Run in an event loop of their own, so with asyncio.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - what these libraries run on
import importlib.util
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.measured import LoadError, Measured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_SILENCE_SECONDS = 10.0
_HANDED_OVER = 30_000  # messages for each second of a load: about what nats-py manages
_CONNECTIONS = 64  # as each waits for its own WAIT
_FETCHED = 2000  # entries of a stream that Redis is asked for at a time


class MissingClientError(Exception):
    """A client library is not installed here; the text says which."""


def need(package: str) -> None:
    """Complain unless *package* can be imported.

    Raises:
        MissingClientError: it cannot.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingClientError(
            f"the Python package of {package!r} is not installed; `pip install --group peers`"
        )


async def _closed_loop(
    send: Callable[[], Awaitable[object]],
    *,
    task_count: int,
    seconds: float,
    warm_up_seconds: float,
) -> Measured:
    """Have *task_count* tasks send one message after another."""
    latencies: list[float] = []
    written = 0
    began = perf_counter()
    counting_from, until = began + warm_up_seconds, began + warm_up_seconds + seconds

    async def one() -> None:
        nonlocal written
        now = perf_counter()
        while now < until:
            before = now
            await send()
            now = perf_counter()
            written += 1
            if counting_from <= now < until:
                latencies.append(now - before)

    await asyncio.gather(*(one() for _ in range(task_count)))
    return Measured.of(
        message_count=len(latencies),
        seconds=seconds,
        latencies=np.array(latencies),
        written_count=written,
    )


def _consumed(count: int, began: float) -> Measured:
    if not count:
        raise LoadError("the client library delivered nothing")
    return Measured.of(
        message_count=count,
        seconds=perf_counter() - began,
        latencies=np.zeros(0),
        written_count=0,
    )


def run(coroutine: Coroutine[Any, Any, Measured]) -> Measured:
    """Run one of these in a loop of its own.

    Raises:
        LoadError: the library takes far too long.
    """
    try:
        return asyncio.run(coroutine)
    except TimeoutError:
        raise LoadError("the client library is not done after ten times as long") from None


# --- NATS ---------------------------------------------------------------------------------------


async def nats_sends(
    port: int, body_size: int, *, task_count: int, seconds: float, warm_up_seconds: float
) -> Measured:
    """``await js.publish()``."""
    import nats

    body = b"x" * body_size
    connection = await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
    try:
        stream = connection.jetstream(timeout=_SILENCE_SECONDS)
        return await _closed_loop(
            lambda: stream.publish("bench.new", body),
            task_count=task_count,
            seconds=seconds,
            warm_up_seconds=warm_up_seconds,
        )
    finally:
        await connection.close()


async def nats_consume(port: int, body_size: int, *, count: int, seconds: float) -> Measured:
    """A push consumer without acks, from the first message on.

    Tried besides: with flow control, as an ordered consumer, and `fetch` of 1000 and 5000 messages
    of a pull consumer; all of them hand over fewer, a third to two thirds.
    """
    import nats
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    connection = await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
    try:
        stream = connection.jetstream(timeout=_SILENCE_SECONDS)
        subscription = await stream.subscribe(
            "bench.new",
            config=ConsumerConfig(
                ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True
            ),
            pending_msgs_limit=-1,
            pending_bytes_limit=-1,
        )
        # By number, not by time: the library takes in what the server pushes before it hands out
        # the first message, so that little would have been handed over in a time that is set.
        wanted = min(count, int(_HANDED_OVER * seconds))
        began, seen = perf_counter(), 0
        async with asyncio.timeout(10 * seconds + _SILENCE_SECONDS):
            async for message in subscription.messages:
                if len(message.data) != body_size:
                    raise LoadError(f"a body of {len(message.data)} bytes came back")
                seen += 1
                if seen >= wanted:
                    break
        return _consumed(seen, began)
    finally:
        await connection.close()


# --- RabbitMQ -----------------------------------------------------------------------------------


async def rabbit_sends(
    port: int, body_size: int, *, task_count: int, seconds: float, warm_up_seconds: float
) -> Measured:
    """``await channel.basic_publish()`` of aiormq, with confirms."""
    import aiormq

    body = b"x" * body_size
    connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
    try:
        channel = await connection.channel(publisher_confirms=True)
        properties = aiormq.spec.Basic.Properties(delivery_mode=2)
        return await _closed_loop(
            lambda: channel.basic_publish(body, routing_key="bench", properties=properties),
            task_count=task_count,
            seconds=seconds,
            warm_up_seconds=warm_up_seconds,
        )
    finally:
        await connection.close()


async def rabbit_consume(port: int, body_size: int, *, count: int, seconds: float) -> Measured:
    """``basic_consume`` of aiormq without acks."""
    import aiormq

    connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
    try:
        channel = await connection.channel()
        await channel.basic_qos(prefetch_count=2000)
        is_done = asyncio.Event()
        began, seen = perf_counter(), 0

        async def take(message: aiormq.abc.DeliveredMessage) -> None:
            nonlocal seen
            if len(message.body) != body_size:
                raise LoadError(f"a body of {len(message.body)} bytes came back")
            seen += 1
            if seen >= count or perf_counter() - began >= seconds:
                is_done.set()

        await channel.basic_consume("bench", take, no_ack=True)
        async with asyncio.timeout(seconds + _SILENCE_SECONDS):
            await is_done.wait()
        return _consumed(seen, began)
    finally:
        await connection.close()


# --- Redis --------------------------------------------------------------------------------------


async def redis_sends(
    port: int, body_size: int, *, task_count: int, seconds: float, warm_up_seconds: float
) -> Measured:
    """``XADD`` and ``WAIT 1`` in one pipeline of redis-py; on up to 64 connections."""
    import redis.asyncio

    body = b"x" * body_size
    pool = redis.asyncio.BlockingConnectionPool(
        port=port, max_connections=min(task_count, _CONNECTIONS), timeout=None
    )
    client = redis.asyncio.Redis(connection_pool=pool)

    async def send() -> None:
        async with client.pipeline(transaction=False) as pipe:
            pipe.xadd("s", {"b": body})
            pipe.wait(1, 0)
            await pipe.execute()

    try:
        return await _closed_loop(
            send, task_count=task_count, seconds=seconds, warm_up_seconds=warm_up_seconds
        )
    finally:
        await client.aclose()
        await pool.aclose()


async def redis_consume(port: int, body_size: int, *, count: int, seconds: float) -> Measured:
    """``XREAD COUNT 2000`` of redis-py, over and over."""
    import redis.asyncio

    client = redis.asyncio.Redis(port=port)
    try:
        began, seen, after = perf_counter(), 0, b"0"
        while seen < count and perf_counter() - began < seconds:
            found = await client.xread({"s": after}, count=_FETCHED)
            if not found:
                after = b"0"
                continue
            entries = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
            if isinstance(found, dict):
                entries = entries[0]
            for after, fields in entries:  # noqa: B007 - the last one goes on
                if len(fields[b"b"]) != body_size:
                    raise LoadError(f"a body of {len(fields[b'b'])} bytes came back")
                seen += 1
        return _consumed(seen, began)
    finally:
        await client.aclose()
