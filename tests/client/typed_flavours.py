"""What `make check` has mypy say of each flavour of the client: run by nobody, only typed."""

from __future__ import annotations

from typing import assert_type

import broker
import broker.sync


async def under_an_event_loop(address: str) -> None:
    """The types are the same under trio and asyncio."""
    async with broker.connect(address) as mq:
        async with mq.producer(compression="zlib") as producer:
            sent = await producer.send("t", b"x", key=["a"], properties={"a": "b"})
            assert_type(sent, broker.SendResult)
            many = await producer.send_many("t", [b"x", broker.OutMessage(b"y")])
            assert_type(many, list[broker.SendResult])
        async with mq.consumer("g", "t", tags="A") as consumer:
            async for message in consumer:
                async with message as same:
                    assert_type(same.body, bytes)
            async for batch in consumer.batches(10):
                assert_type(batch, list[broker.Message])
            assert_type(await consumer.get(1.0), broker.Message | None)
            assert_type(await consumer.lag(), dict[int, int])
        async with mq.consumer("g", ["t", "u"], ordered=True, rebalance="circle") as consumer:
            (await anext(consumer)).retry(delay=1.5)
            assert_type(consumer.topics, tuple[str, ...])
        assert_type(await mq.dead_letters("g").read(), list[broker.Message])
        assert_type(await mq.admin.committed_offset("g", "t", 0), int | None)


def without_one(address: str) -> None:
    """The mirror's types follow from those of what it mirrors."""
    with broker.sync.connect(address) as mq:
        assert_type(mq.send("t", b"x"), broker.SendResult)
        for message in mq.consume("g", "t", start="first"):
            with message:
                assert_type(message.key, str | None)
        with mq.consumer("g", "t", auto_commit=False) as consumer:
            assert_type(consumer.lag(), dict[int, int])
            assert_type(consumer.seek_to("first", queues=[1]), dict[int, int])
            consumer.seek(0, 1)
            consumer.seek("x", 1)  # type: ignore[arg-type]
        assert_type(mq.dead_letters("g").read(limit=3), list[broker.Message])
        assert_type(mq.dead_letters("g").count(), int)
        assert_type(mq.send("t", b"x", delay=1.5), broker.SendResult)
        mq.producer(lingers=1)  # type: ignore[call-arg]
        assert_type(mq.admin.committed_offset("g", "t", 0), int | None)
