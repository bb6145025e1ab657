"""The client under asyncio: the same as under trio, and what asyncio does otherwise.

What happens to tasks that are cancelled is in `test_asyncio_cancelled`.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from datetime import timedelta

import anyio
import pytest

import broker
from broker import OutMessage
from broker.client.admin import Admin
from broker.client.aio import AsyncioConsumer, AsyncioProducer
from broker.client.consumer import Consumer
from broker.client.lookup import Lookup
from broker.client.producer import Producer


async def drain(consumer, count):
    found = []
    async for message in consumer:
        found.append(message)
        if len(found) == count:
            return found
    raise AssertionError("a consumer has no end")


def test_messages_go_in_and_come_out(address):
    async def main():
        async with broker.connect(address) as mq:
            assert isinstance(mq, broker.Client)
            async with mq.producer("shop") as producer:
                assert isinstance(producer, broker.Producer)
                sent = await producer.send("aio-1", bytearray(b"hello"), key=["a", "b"], tag="T")
            async with mq.consumer("billing", "aio-1") as consumer:
                assert isinstance(consumer, broker.Consumer)
                async for message in consumer:
                    async with message:
                        assert message.body == b"hello"
                        assert message.keys == ("a", "b")
                        assert message.unique_id == sent.unique_id
                    break
            assert await mq.admin.committed_offset("billing", "aio-1", sent.queue_id) == 1
            assert mq.leader_address == address
            assert mq.nodes == (address,)

    asyncio.run(main())


def test_many_tasks_share_requests(address):
    async def main():
        async with broker.connect(address) as mq, mq.producer() as producer:
            await producer.send("aio-2", b"first")
            results = await asyncio.gather(
                *[producer.send("aio-2", b"%d" % n, ordering_key="k") for n in range(2000)]
            )
            assert [result.queue_offset for result in results] == sorted(
                result.queue_offset for result in results
            )
            assert len({result.queue_id for result in results}) == 1
            assert producer.stats.acked == 2001
            assert producer.stats.batches < 500
            assert producer.buffered_size == 0

    asyncio.run(main())


def test_what_is_sent_before_the_topic_is_known_keeps_its_order(address):
    async def main():
        async with broker.connect(address) as mq, mq.producer() as producer:
            results = await asyncio.gather(
                *[producer.send("aio-new", b"%d" % n, queue=1) for n in range(300)]
            )
        assert [result.queue_offset for result in results] == list(range(300))

    asyncio.run(main())


def test_send_many_takes_both_kinds_of_iterables(address):
    async def bodies():
        for number in range(700):
            await asyncio.sleep(0)
            yield OutMessage(b"%d" % number, queue=0)

    async def main():
        async with broker.connect(address) as mq, mq.producer() as producer:
            first = await producer.send_many("aio-3", bodies())
            second = await producer.send_many("aio-3", [OutMessage(b"x", queue=0)] * 10)
            assert [r.queue_offset for r in first + second] == list(range(710))
            with pytest.raises(broker.SendManyError) as caught:
                await producer.send_many("aio-3", [b"a", OutMessage(b"b", queue=99)])
            assert list(caught.value.failed) == [1]

    asyncio.run(main())


def test_errors_come_as_what_they_are(address):
    async def main():
        async with broker.connect(address, auto_create_topic=False) as mq:
            async with mq.producer() as producer:
                with pytest.raises(broker.TopicNotFoundError, match="aio-none"):
                    await producer.send("aio-none", b"x")
                with pytest.raises(broker.InvalidTopicError):
                    await producer.send("no topic!", b"x")
                await mq.admin.create_topic("aio-err", 1)
                with pytest.raises(TypeError, match="encode it to bytes"):
                    await producer.send("aio-err", "text")  # type: ignore[arg-type]
            with pytest.raises(broker.ClosedError):
                await producer.send("aio-none", b"x")
            with pytest.raises(broker.ClosedError, match="not open"):
                await mq.producer().send("aio-err", b"x")
            with pytest.raises(broker.ClosedError, match="not open"):
                await mq.consumer("g", "aio-err").get(wait=0)
            with pytest.raises(broker.TopicNotFoundError):
                async with mq.consumer("g", "aio-none"):
                    pass
            with pytest.raises(ValueError, match="start"):
                mq.consumer("g", "aio-none", start="never")
        with pytest.raises(broker.ClosedError):
            mq.producer()

    asyncio.run(main())


def test_nobody_there_is_told_in_time():
    async def main():
        async with broker.connect("127.0.0.1:1", group_timeout=0.3) as mq:
            with pytest.raises(broker.NoBrokerError, match=r"127\.0\.0\.1:1"):
                await mq.admin.list_topics()

    asyncio.run(main())


def test_a_message_left_by_an_error_comes_again(address):
    async def main():
        async with broker.connect(address) as mq:
            async with mq.producer() as producer:
                await producer.send_many("aio-7", [OutMessage(b"x", queue=0)] * 5)

            async def fail_at_third():
                async with mq.consumer("g", "aio-7", queues=[0]) as consumer:
                    async for message in consumer:
                        async with message:
                            if message.queue_offset == 2:
                                raise KeyError

            with pytest.raises(KeyError):
                await fail_at_third()
            async with mq.consumer("g", "aio-7", queues=[0]) as consumer:
                assert (await anext(consumer)).queue_offset == 2

    asyncio.run(main())


def test_a_consumer_goes_where_it_is_told(address):
    async def main():
        async with broker.connect(address) as mq:
            async with mq.producer() as producer:
                await producer.send_many(
                    "aio-8", [OutMessage(b"%d" % n, queue=n % 2, tag="T") for n in range(20)]
                )
            async with mq.consumer("g", "aio-8", queues=[0, 1], tags="T || U") as consumer:
                assert consumer.queues == (0, 1)
                assert await consumer.lag() == {0: 10, 1: 10}
                assert len(await drain(consumer, 20)) == 20
                assert consumer.positions() == {0: 10, 1: 10}
                consumer.seek(0, 5)
                assert consumer.position(0) == 5
                assert [m.queue_offset for m in await drain(consumer, 5)] == [5, 6, 7, 8, 9]
                assert await consumer.seek_to("first") == {0: 0, 1: 0}
                consumer.pause(1)
                assert consumer.paused == (1,)
                assert {m.queue_id for m in await drain(consumer, 10)} == {0}
                assert await consumer.get(0.05) is None
                consumer.resume()
                batch = [m async for m in _first_batch(consumer)]
                assert [m.queue_offset for m in batch] == list(range(10))
                await consumer.commit()
                assert await consumer.seek_to(timedelta(hours=1)) == {0: 0, 1: 0}
                assert consumer.stats.messages >= 20
            assert await mq.messages.earliest_store_time("aio-8", 0) is not None

    asyncio.run(main())


async def _first_batch(consumer):
    async for batch in consumer.batches(10, linger=30):
        for message in batch:
            yield message
        return


def test_a_client_belongs_to_its_event_loop(address):
    async def opened():
        client = broker.connect(address)
        await client.__aenter__()
        return client

    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(opened())

    async def used():
        with pytest.raises(RuntimeError, match="another event loop"):
            await client.admin.list_topics()

    asyncio.run(used())
    loop.run_until_complete(client.__aexit__(None, None, None))
    loop.close()


def test_a_client_may_be_made_before_there_is_a_loop(address):
    client = broker.connect(address)

    async def main():
        async with client:
            await client.admin.list_topics()
            with pytest.raises(RuntimeError, match="open already"):
                await client.__aenter__()

    asyncio.run(main())
    asyncio.run(main())  # and again


def test_without_an_event_loop_the_way_is_told(address):
    client = broker.connect(address)
    with pytest.raises(RuntimeError, match=r"broker\.sync"):
        client.__aenter__().send(None)


def test_a_send_that_outlives_its_client_is_told(address):
    async def main():
        async with broker.connect(address) as mq:
            producer = await mq.producer(linger=10).__aenter__()
            sending = asyncio.create_task(producer.send("aio-10", b"x"))
            while not producer.buffered_size:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.001)
        with pytest.raises(broker.NotWrittenError, match="the client was closed"):
            await asyncio.wait_for(sending, 30)
        with pytest.raises(broker.ClosedError):
            await producer.send("aio-10", b"y")

    asyncio.run(main())


FORGOTTEN = """
import asyncio, sys, broker
async def main():
    client = await broker.connect(sys.argv[1]).__aenter__()
    producer = await client.producer().__aenter__()
    await producer.send("aio-9", b"x")
    print("sent", flush=True)
asyncio.run(main())
"""


def test_a_client_nobody_closed_does_not_keep_the_interpreter(address):
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN, address],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent\n", "")


# --- the same interface --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "base"), [(AsyncioProducer, Producer), (AsyncioConsumer, Consumer)]
)
def test_all_that_waits_is_handed_over(kind, base):
    """What the base class does under trio would fail here: each such method has its own."""
    inherited = {"__anext__", "get", "__aexit__"} if base is Consumer else {"__aexit__"}
    missing = [
        name
        for name, member in inspect.getmembers(base, inspect.iscoroutinefunction)
        if name not in vars(kind)
        and not (name.startswith("_") and not name.startswith("__"))
        and name not in inherited | {"make_ready", "put_chunk"}
    ]
    assert missing == []
    for name, member in vars(kind).items():
        if name in vars(base) and inspect.isfunction(member) and name != "__init__":
            wanted = list(inspect.signature(vars(base)[name]).parameters)
            assert list(inspect.signature(member).parameters) == wanted, name


@pytest.mark.parametrize("kind", [Admin, Lookup])
def test_what_passes_through_as_a_whole_only_has_methods_that_wait(kind):
    """`_over_there` hands over coroutine functions; anything else has to be thought of."""
    others = [
        name
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_") and not inspect.iscoroutinefunction(member)
    ]
    assert others == []


@pytest.mark.parametrize(
    ("backend", "options"),
    [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "uvloop", "trio"],
)
def test_anyio_may_run_it_on_any_of_its_loops(address, backend, options):
    async def main():
        topic = f"anyio-{backend}-{len(options)}"
        async with broker.connect(address) as mq:
            async with mq.producer() as producer:
                async with anyio.create_task_group() as tasks:
                    for number in range(50):
                        tasks.start_soon(producer.send, topic, b"%d" % number)
                await producer.send_many(topic, [b"many"] * 50)
            async with mq.consumer("g", topic) as consumer:
                found = await drain(consumer, 100)
                with anyio.move_on_after(0.05):
                    await anext(consumer)
            assert len({message.unique_id for message in found}) == 100

    anyio.run(main, backend=backend, backend_options=options)


async def until(holds):
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110 - what holds has no event
            await asyncio.sleep(0.01)


def test_members_share_queues_and_what_fails_comes_again(address):
    async def main():
        async with broker.connect(address) as one, broker.connect(address) as other:
            await one.admin.create_topic("aio-groups", 4)
            async with one.consumer("aio-g", "aio-groups") as first:
                assert first.queues == (0, 1, 2, 3)
                async with other.consumer("aio-g", "aio-groups") as second:
                    await until(lambda: len(first.queues) == len(second.queues) == 2)
                    assert sorted((*first.queues, *second.queues)) == [0, 1, 2, 3]
                await until(lambda: len(first.queues) == 4)
                async with one.producer() as producer:
                    await producer.send("aio-groups", b"hard", delay=0.2)
                async with await anext(first) as message:
                    message.retry(delay=0.1)
                again = await anext(first)
                assert (again.body, again.topic) == (b"hard", "aio-groups")
                assert again.reconsume_times == 1
                again.dead_letter()
                assert await first.get(0.5) is None
            letters = one.dead_letters("aio-g")
            assert (letters.group, letters.topic) == ("aio-g", "%DLQ%aio-g")
            assert [found.body for found in await letters.read()] == [b"hard"]
            assert await letters.resend_all() == 1

    asyncio.run(main())


def test_in_order_one_message_of_a_queue_is_out_at_a_time(address):
    async def main():
        async with broker.connect(address) as mq:
            async with mq.producer() as producer:
                bodies = [OutMessage(b"%d" % n, ordering_key=f"k{n % 3}") for n in range(60)]
                await producer.send_many("aio-order", bodies)
            seen, at_work = {}, set()

            async def work(message):
                async with message:
                    assert message.queue_id not in at_work
                    at_work.add(message.queue_id)
                    await asyncio.sleep(0.001)
                    at_work.discard(message.queue_id)
                    seen.setdefault(int(message.body) % 3, []).append(int(message.body))

            options = {"ordered": True, "auto_commit": False}
            async with (
                mq.consumer("aio-o", "aio-order", **options) as consumer,
                asyncio.TaskGroup() as tasks,
            ):
                for _ in range(60):
                    tasks.create_task(work(await anext(consumer)))
            assert seen == {key: list(range(key, 60, 3)) for key in range(3)}

    asyncio.run(main())
