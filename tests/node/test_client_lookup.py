"""What a client finds by time, key, id and place."""

from datetime import UTC, datetime, timedelta

import pytest
import trio

import broker


@pytest.fixture
async def client(autojump_clock, brokers):
    async with broker.connect(
        brokers.addresses, network=brokers.wires.of("client"), clock=brokers.clock
    ) as client:
        yield client


def now(brokers):
    return datetime.fromtimestamp(brokers.clock.wall_ms() / 1000, UTC)


async def test_the_offset_at_a_time(autojump_clock, brokers, client):
    moments = []
    async with client.producer() as producer:
        for number in range(4):
            moments.append(now(brokers))
            await producer.send("t", b"%d" % number, queue=0)
            await trio.sleep(1)

    found = [await client.messages.offset_at("t", 0, moment) for moment in moments]
    later = await client.messages.offset_at("t", 0, now(brokers))
    in_between = await client.messages.offset_at("t", 0, moments[2] + timedelta(seconds=0.9))

    assert found == [0, 1, 2, 3]
    assert later == 4
    assert in_between == 3
    local = moments[1].astimezone().replace(tzinfo=None)  # as people write it
    assert await client.messages.offset_at("t", 0, local) == 1


async def test_the_earliest_store_time(autojump_clock, brokers, client):
    assert await client.messages.earliest_store_time("t", 0) is None
    before = now(brokers)
    async with client.producer() as producer:
        await producer.send("t", b"x", queue=0)

    found = await client.messages.earliest_store_time("t", 0)

    assert found is not None
    assert timedelta(0) <= found - before < timedelta(seconds=1)


async def test_what_is_not_there(autojump_clock, client):
    with pytest.raises(broker.TopicNotFoundError, match="nowhere"):
        await client.messages.offset_at("nowhere", 0, datetime.now(UTC))
