"""The client under trio, under asyncio and without an event loop: ``python -m bench.flavours``.

A group of one node in a process of its own, bodies of 100 bytes, ASYNC_FLUSH; each load runs for
some seconds, all of them in turn, several times, and the median counts.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - one of the things compared
import statistics
import time
from typing import TYPE_CHECKING

import click
import trio

import broker
import broker.sync
from bench.group import BenchGroup
from bench.scratch import scratch_folder
from dledger.config import MIB, FlushDiskType

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 2.0
ROUNDS = 3
IN_FLIGHT = 1000
BODY = b"x" * 100
CONSUMED = 50_000  # messages


async def trio_sends(address: str) -> float:
    """Messages a second of 1000 tasks under trio."""
    count = 0

    async with broker.connect(address) as mq, mq.producer() as producer:
        await producer.send("bench", BODY)
        end = trio.current_time() + SECONDS

        async def send() -> None:
            nonlocal count
            while trio.current_time() < end:
                await producer.send("bench", BODY)
                count += 1

        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(send)
    return count / SECONDS


async def asyncio_sends(address: str) -> float:
    """Messages a second of 1000 tasks under asyncio."""
    count = 0
    loop = asyncio.get_running_loop()
    async with broker.connect(address) as mq, mq.producer() as producer:
        await producer.send("bench", BODY)
        end = loop.time() + SECONDS

        async def send() -> None:
            nonlocal count
            while loop.time() < end:
                await producer.send("bench", BODY)
                count += 1

        await asyncio.gather(*[send() for _ in range(IN_FLIGHT)])
    return count / SECONDS


async def trio_send_many(address: str) -> float:
    """Messages a second of one `send_many` after another, of 1000 messages each."""
    async with broker.connect(address) as mq, mq.producer() as producer:
        await producer.send("bench", BODY)
        began, count = _now(), 0
        while _now() < began + SECONDS:
            count += len(await producer.send_many("bench", [BODY] * IN_FLIGHT))
        return count / (_now() - began)


async def asyncio_send_many(address: str) -> float:
    """The same under asyncio."""
    return await trio_send_many(address)


def sync_send_many(address: str) -> float:
    """The same without an event loop."""
    with broker.sync.connect(address) as mq, mq.producer() as producer:
        producer.send("bench", BODY)
        began, count = _now(), 0
        while _now() < began + SECONDS:
            count += len(producer.send_many("bench", [BODY] * IN_FLIGHT))
        return count / (_now() - began)


def sync_send(address: str) -> float:
    """One message after another, each waited for."""
    with broker.sync.connect(address) as mq, mq.producer() as producer:
        producer.send("bench", BODY)
        began, count = _now(), 0
        while _now() < began + SECONDS:
            producer.send("bench", BODY)
            count += 1
        return count / (_now() - began)


async def trio_consume(address: str) -> float:
    """Messages a second of ``async for``, from the oldest on."""
    async with (
        broker.connect(address) as mq,
        mq.consumer("bench", "bench", start="first", commit_interval=60) as consumer,
    ):
        began, count = _now(), 0
        async for _ in consumer:
            count += 1
            if count == CONSUMED:
                break
        return count / (_now() - began)


async def asyncio_consume(address: str) -> float:
    """The same under asyncio."""
    return await trio_consume(address)


def sync_consume(address: str) -> float:
    """The same without an event loop."""
    with (
        broker.sync.connect(address) as mq,
        mq.consumer("bench", "bench", start="first", commit_interval=60) as consumer,
    ):
        began, count = _now(), 0
        for _ in consumer:
            count += 1
            if count == CONSUMED:
                break
        return count / (_now() - began)


def _now() -> float:
    return time.perf_counter()


LOADS: dict[str, Callable[[str], float]] = {
    "trio: send, 1000 tasks": lambda address: trio.run(trio_sends, address),
    "asyncio: send, 1000 tasks": lambda address: asyncio.run(asyncio_sends(address)),
    "trio: send_many, 1000 each": lambda address: trio.run(trio_send_many, address),
    "asyncio: send_many, 1000 each": lambda address: asyncio.run(asyncio_send_many(address)),
    "sync: send_many, 1000 each": sync_send_many,
    "sync: send, one by one": sync_send,
    "trio: consume": lambda address: trio.run(trio_consume, address),
    "asyncio: consume": lambda address: asyncio.run(asyncio_consume(address)),
    "sync: consume": sync_consume,
}


async def _start(folder: Path) -> BenchGroup:
    group = BenchGroup(folder, flush=FlushDiskType.ASYNC_FLUSH, segment_size=64 * MIB, node_count=1)
    await group.start()
    return group


@click.command()
def main() -> None:
    """Measure the client under trio, under asyncio and without a loop, on one node: a minute."""
    with scratch_folder("dledger-bench-") as folder:
        group = trio.run(_start, folder)
        try:
            rates: dict[str, list[float]] = {name: [] for name in LOADS}
            for _ in range(ROUNDS):
                for name, load in LOADS.items():
                    rates[name].append(load(",".join(group.addresses)))
            for name, found in rates.items():
                low, high = min(found), max(found)
                middle = statistics.median(found)
                print(f"{name:32} {middle:10,.0f}/s  ({low:,.0f} to {high:,.0f})")
        finally:
            trio.run(group.stop)


if __name__ == "__main__":
    main()
