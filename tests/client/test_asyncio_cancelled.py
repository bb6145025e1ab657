"""Tasks of asyncio that are cancelled while the client works for them: nothing is lost by it."""

from __future__ import annotations

import asyncio
import threading

import pytest

import broker
from broker import OutMessage


def test_a_wait_that_is_cancelled_loses_no_message(address):
    async def main():
        async with (
            broker.connect(address) as mq,
            mq.producer() as producer,
            mq.consumer("g", "aio-4", start="last") as consumer,
        ):
            found = []

            async def write():
                for number in range(200):
                    await producer.send("aio-4", b"%d" % number, queue=2)
                    await asyncio.sleep(0.001)

            writing = asyncio.create_task(write())
            while len(found) < 200:
                try:
                    async with asyncio.timeout(0.002):
                        found.append(await anext(consumer))
                except TimeoutError:
                    continue
            await writing
            assert [message.queue_offset for message in found] == list(range(200))

    async def create():
        async with broker.connect(address) as mq:
            await mq.admin.create_topic("aio-4", 4)

    asyncio.run(create())
    asyncio.run(main())


def test_a_send_that_is_cancelled_leaves_its_message_behind(address):
    async def main():
        async with broker.connect(address) as mq:
            async with mq.producer(linger=10) as producer:
                await mq.admin.create_topic("aio-5", 1)
                sending = asyncio.create_task(producer.send("aio-5", b"left", queue=0))
                while not producer.buffered_size:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.001)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                assert producer.buffered_size > 0
                await producer.flush()
                assert producer.buffered_size == 0
            assert await mq.admin.max_offset("aio-5", 0) == 1

    asyncio.run(main())


def test_a_cancelled_consumer_commits_what_was_done(address):
    async def main():
        async with broker.connect(address) as mq, mq.producer() as producer:
            await producer.send_many("aio-6", [OutMessage(b"%d" % n, queue=0) for n in range(5)])

            is_there = asyncio.Event()

            async def read():
                async with mq.consumer("g", "aio-6", commit_interval=60) as consumer:
                    async for message in consumer:
                        if message.queue_offset == 3:
                            is_there.set()
                            await asyncio.sleep(60)

            reading = asyncio.create_task(read())
            await is_there.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await mq.admin.committed_offset("g", "aio-6", 0) == 3

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["consumer", "producer"])
def test_what_is_cancelled_while_it_opens_is_closed_if_it_has_opened(address, kind):
    async def main():
        async with broker.connect(address) as mq:
            await mq.admin.create_topic("aio-12", 1)
            made = mq.consumer("g", "aio-12") if kind == "consumer" else mq.producer()
            real = made._real
            enter, is_open, may_answer = real.__aenter__, threading.Event(), threading.Event()

            async def enter_and_wait():
                await enter()
                is_open.set()
                may_answer.wait()  # its thread stands still: the cancellation comes too late

            real.__aenter__ = enter_and_wait
            opening = asyncio.create_task(made.__aenter__())
            await asyncio.to_thread(is_open.wait)
            opening.cancel()
            asyncio.get_running_loop().call_soon(may_answer.set)
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert getattr(real, "_readings", real)._is_closed

    asyncio.run(main())
