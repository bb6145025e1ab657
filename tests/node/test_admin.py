"""What an operator does with the client, against a group of three."""

import contextlib
import datetime

import pytest
import trio

import broker
from broker.errors import GroupNotFoundError, InvalidMessageError, TopicNotFoundError
from broker.protocol.subscription_group import SubscriptionGroupConfig
from tests.handlers.test_topics import answered, pull


@pytest.fixture
async def client(autojump_clock, brokers):
    async with broker.connect(
        brokers.addresses, network=brokers.wires.of("client"), clock=brokers.clock
    ) as client:
        yield client


async def send(client, *bodies, topic="t", queue=0):
    async with client.producer() as producer:
        for body in bodies:
            await producer.send(topic, body, queue=queue)


async def test_a_topic_is_made_altered_described_and_deleted(autojump_clock, client):
    admin = client.admin
    await admin.create_topic("orders", queue_count=2, retention_ms=3_600_000, acks="majority")
    await admin.alter_topic("orders", queue_count=3, acks="", flush="sync")
    await send(client, b"a", b"b", topic="orders", queue=2)

    found = await admin.describe_topic("orders")
    assert (found.read_queue_count, found.write_queue_count, found.message_count) == (3, 3, 2)
    assert found.attributes == {"retention.ms": "3600000", "flush": "sync"}
    assert found.oldest_ms > 0

    with pytest.raises(InvalidMessageError, match="could not be read any more"):
        await admin.alter_topic("orders", queue_count=1)
    await admin.alter_topic("orders", write_queue_count=1)
    await admin.delete_topic("orders")
    with pytest.raises(TopicNotFoundError):
        await admin.describe_topic("orders")
    with pytest.raises(TopicNotFoundError):
        await admin.alter_topic("orders", perm=4)
    assert [entry.topic for entry in await admin.list_topics()] == ["t"]


async def test_rates_of_all_nodes_are_added_up(autojump_clock, brokers, client):
    await send(client, *[b"x"] * 12)
    await brokers.equal()
    for member in brokers.alive:
        async with brokers.caller(member) as caller:
            answers = pull(caller, 0, sysFlag=0)
            caller.flush()
            await answered(answers, "pulled")
    await trio.sleep(20)

    found = await client.admin.describe_topic("t")
    assert found.in_rate.messages_per_second == 0.2
    assert found.out_rate.messages_per_second == 0.6
    alone = await client.admin.describe_topic("t", node=brokers.address(brokers["n2"]))
    assert (alone.node_id, alone.out_rate.messages_per_second) == ("n2", 0.2)


async def test_a_group_is_made_altered_described_and_deleted(autojump_clock, client):
    admin = client.admin
    await admin.create_group("billing", retry_times_max=3)
    await admin.alter_group("billing", retry_delays_ms=(1000, 60_000))
    assert await admin.list_groups() == [
        SubscriptionGroupConfig(group="billing", retry_times_max=3, retry_delays_ms=(1000, 60_000))
    ]
    await send(client, b"a", b"b")
    await admin.commit_offset("billing", "t", 0, 1)
    found = await admin.describe_group("billing")
    assert (found.lag, found.topics[0].queues[0].committed) == (1, 1)

    await admin.delete_group("billing")
    with pytest.raises(GroupNotFoundError):
        await admin.describe_group("billing")
    with pytest.raises(InvalidMessageError, match="only letters"):
        await admin.create_group("a b")


async def test_where_a_reset_may_go(autojump_clock, client):
    admin = client.admin
    await send(client, b"a", b"b", b"c")
    await trio.sleep(100)
    middle = (await admin.describe_topic("t")).newest_ms / 1000 + 50
    await send(client, b"d")
    zone = datetime.UTC

    async def after(*place, **more):
        found = await admin.reset_offsets("g", "t", *place, queue=0, **more)
        return found.queues[0].after

    assert await after("latest", dry_run=True) == 4
    assert await admin.committed_offset("g", "t", 0) is None
    assert await after(2) == 2
    assert await after(shift=-1) == 1
    assert await after(datetime.datetime.fromtimestamp(middle, zone)) == 3
    assert await after("earliest") == 0
    assert await after("latest") == 4
    assert await admin.committed_offset("g", "t", 0) == 4
    for wrong in ({}, {"to": 1, "shift": 1}, {"to": "middle"}):
        with pytest.raises(ValueError, match=r"to|shift"):
            await admin.reset_offsets("g", "t", **wrong)


@pytest.mark.parametrize("is_idle", [False, True])
async def test_a_consumer_that_runs_goes_on_where_its_group_is_put(autojump_clock, client, is_idle):
    """Idle at the end it commits nothing: its pull is held, and has to be told."""
    bodies = [b"%d" % number for number in range(10)]
    await send(client, *bodies)
    seen = []
    async with client.consumer("readers", "t", commit_interval=0.2) as consumer:
        seen += [(await consumer.get()).body for _ in range(10)]
        if is_idle:
            assert await consumer.get(wait=5) is None
        await client.admin.reset_offsets("readers", "t", 7, queue=0)
        with trio.fail_after(3):
            seen += [(await consumer.get()).body for _ in range(3)]

    assert seen == bodies + bodies[7:]
    assert await client.admin.committed_offset("readers", "t", 0) == 10


async def test_a_reset_to_where_the_group_stands_hands_out_again_what_was_left(
    autojump_clock, client
):
    await send(client, *[b"%d" % number for number in range(10)])

    async def work(message):
        async with message:
            if message.queue_offset == 3 and len(seen) == 10:
                raise KeyError

    async with client.consumer(
        "readers", "t", queues=[0], auto_commit=False, commit_interval=0.2
    ) as consumer:
        seen = [await consumer.get() for _ in range(10)]
        for message in seen:
            with contextlib.suppress(KeyError):
                await work(message)
        await consumer.commit()
        assert await client.admin.committed_offset("readers", "t", 0) == 3
        await client.admin.reset_offsets("readers", "t", 3, queue=0)
        with trio.fail_after(30):
            while len(seen) < 17:
                seen.append(await consumer.get())
                await work(seen[-1])
        assert await consumer.get(wait=1) is None
        assert consumer.left == {}

    assert [m.queue_offset for m in seen] == [*range(10), *range(3, 10)]
    assert await client.admin.committed_offset("readers", "t", 0) == 10


async def test_a_reset_to_the_last_commit_hands_out_again_what_came_since(autojump_clock, client):
    await send(client, b"a", b"b", b"c")
    async with client.consumer("readers", "t", queues=[0], commit_interval=1000) as consumer:
        await consumer.get()
        await consumer.commit()
        seen = [(await consumer.get()).body for _ in range(2)]
        await client.admin.reset_offsets("readers", "t", 1, queue=0)
        with trio.fail_after(60):
            seen += [(await consumer.get()).body for _ in range(2)]

    assert seen == [b"b", b"c"] * 2


async def test_a_consumer_that_closes_does_not_undo_a_reset(autojump_clock, client):
    await send(client, b"a", b"b", b"c")
    async with client.consumer("readers", "t", commit_interval=1000) as consumer:
        for _ in range(3):
            await consumer.get()
        await client.admin.reset_offsets("readers", "t", "earliest")

    assert await client.admin.committed_offset("readers", "t", 0) == 0


async def test_a_consumer_of_a_deleted_topic_is_told_and_nobody_else_is_hurt(
    autojump_clock, client
):
    """Its regular commit was refused with an error that ended the whole client."""
    await send(client, b"a")

    async def read():
        async with client.consumer("readers", "t", commit_interval=0.1) as consumer:
            await consumer.get()
            await client.admin.delete_topic("t")
            await trio.sleep(1)
            await consumer.get()

    with pytest.raises(TopicNotFoundError):
        await read()

    await client.admin.create_topic("t")
    await send(client, b"b")
    async with client.consumer("readers", "t") as consumer:
        assert (await consumer.get()).body == b"b"
