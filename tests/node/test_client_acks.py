"""A client that asks for levels of durability: what it is told, and what a failover takes."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import broker
from tests.fakes.brokers import bodies_of
from tests.fakes.nodes import until


@asynccontextmanager
async def client_of(group: Any, **options: Any):
    async with (
        broker.connect(
            group.addresses,
            network=group.wires.of("client"),
            clock=group.clock,
            chance=random.Random(5),
            group_timeout=60.0,
        ) as client,
        client.producer(**options) as producer,
    ):
        yield producer


async def group_of_three(make_brokers: Any, **settings: Any) -> Any:
    group = make_brokers(3, **settings)
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t", queues=1)
    await group.equal()
    return group


async def test_a_result_says_what_was_reached(autojump_clock, make_brokers):
    group = await group_of_three(make_brokers)
    async with client_of(group) as producer:
        assert (await producer.send("t", b"a")).durability == "majority/sync"
        assert (await producer.send("t", b"b", acks="leader")).durability == "leader/sync"
        assert (await producer.send("t", b"c", acks="all")).durability == "all/sync"
        results = await producer.send_many(
            "t",
            [broker.OutMessage(b"%d" % n, acks="leader" if n % 2 else None) for n in range(6)],
        )
    assert [found.durability for found in results] == ["majority/sync", "leader/sync"] * 3
    assert [found.queue_offset for found in results] == list(range(3, 9))


async def test_a_producer_has_a_level_that_a_send_may_change(autojump_clock, make_brokers):
    group = await group_of_three(make_brokers)
    async with client_of(group, acks="leader", flush="async") as producer:
        assert (await producer.send("t", b"a")).durability == "leader/async"
        assert (await producer.send("t", b"b", acks="all", flush="sync")).durability == "all/sync"
        with pytest.raises(ValueError, match="leader, majority, all"):
            await producer.send("t", b"c", acks="most")


async def test_what_falls_short_is_an_error_that_says_where_the_message_is(
    autojump_clock, make_brokers
):
    group = await group_of_three(make_brokers, broker={"ack_timeout_ms": 300})
    leader = await group.leader()
    gone = group.others(leader)[0]
    await gone.kill()
    async with client_of(group) as producer:
        with pytest.raises(broker.LessDurableError, match=gone.name) as caught:
            await producer.send("t", b"a", acks="all")
        result = caught.value.result
        assert (result.durability, result.queue_offset) == ("majority/sync", 0)
        assert result.unique_id
        with pytest.raises(broker.SendManyError) as many:
            await producer.send_many("t", [broker.OutMessage(b"b", acks="all"), b"c"])
        assert isinstance(many.value.results[0], broker.LessDurableError)
        assert many.value.acknowledged[1].durability == "majority/sync"
        assert producer.stats.failed == 0, "they are stored"
        assert producer.stats.retried == 0
    async with group.caller(leader) as caller:
        assert bodies_of(await caller.pull()) == [b"a", b"b", b"c"]


async def test_a_producer_goes_on_after_what_was_acknowledged_early_is_lost(
    autojump_clock, make_brokers
):
    """The next number would be refused as a gap for ever: it begins anew under another id."""
    group = await group_of_three(make_brokers)
    old = await group.leader()
    async with client_of(group) as producer:
        await producer.send("t", b"kept")
        for other in group.others(old):
            group.wires.silence(old.name, other.name)
        lost = await producer.send("t", b"lost", acks="leader", flush="async")
        assert lost.durability == "leader/async"
        await old.kill()
        with trio.fail_after(20):
            results = [await producer.send("t", b"%d" % n) for n in range(3)]
        assert [found.durability for found in results] == ["majority/sync"] * 3
        assert [found.queue_offset for found in results] == [1, 2, 3]
    new = await group.leader(other_than=old)
    async with group.caller(new) as caller:
        assert bodies_of(await caller.pull()) == [b"kept", b"0", b"1", b"2"]
    await old.start()
    await group.equal()


async def test_sends_under_way_at_such_a_loss_are_stored_once(autojump_clock, make_brokers):
    group = await group_of_three(make_brokers)
    old = await group.leader()
    told: dict[bytes, str] = {}

    async def send(producer: Any, number: int) -> None:
        body = b"%d" % number
        acks = "leader" if number % 3 else None
        found = await producer.send("t", body, acks=acks, flush="async" if acks else None)
        told[body] = found.durability

    async with client_of(group, batch_count_max=2) as producer, trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(send, producer, number)
            await trio.sleep(0.002)
            if number == 20:
                for other in group.others(old):
                    group.wires.silence(old.name, other.name)
            if number == 30:
                await old.kill()
    assert len(told) == 40
    async with group.caller(await group.leader(other_than=old)) as caller:
        found = bodies_of(await until_all_there(caller))
    assert len(found) == len(set(found)), "none twice"
    assert {body for body, level in told.items() if level == "majority/sync"} <= set(found)


async def until_all_there(caller: Any) -> Any:
    answer = await caller.pull()
    await until("it answers", lambda: answer.code == 0)
    return answer
