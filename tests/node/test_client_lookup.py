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


async def test_messages_by_key(autojump_clock, brokers, client):
    async with client.producer() as producer:
        for number in range(10):
            keys = ["all", f"k{number % 3}"]
            await producer.send("t", b"%d" % number, key=keys, queue=number % 2)
            await trio.sleep(1)
    moment = now(brokers) - timedelta(seconds=3)

    found = await client.messages.by_key("t", "k1")
    newest = await client.messages.by_key("t", "all", limit=2)
    before = await client.messages.by_key("t", "all", end=moment)
    behind = await client.messages.by_key("t", "all", begin=moment)

    assert [message.body for message in found] == [b"1", b"4", b"7"]
    assert [message.body for message in newest] == [b"8", b"9"]
    assert len(before) + len(behind) == 10
    assert all(message.store_timestamp_ms <= moment.timestamp() * 1000 for message in before)
    assert found[0].keys == ("all", "k1")
    assert await client.messages.by_key("t", "nobody's") == []


async def test_more_messages_than_fit_an_answer(autojump_clock, client):
    async with client.producer() as producer:
        results = await_all(producer, [b"%d" % number for number in range(200)])
        await results

    found = await client.messages.by_key("t", "k", limit=1000)
    some = await client.messages.by_key("t", "k", limit=150)

    assert len(found) == 200
    assert [message.position for message in found] == sorted(m.position for m in found)
    assert [message.position for message in some] == [m.position for m in found[50:]]


async def await_all(producer, bodies):
    async with trio.open_nursery() as nursery:
        for body in bodies:
            nursery.start_soon(lambda body=body: producer.send("t", body, key="k"))


async def test_a_message_by_its_ids_and_its_place_as_soon_as_it_is_acknowledged(
    autojump_clock, client
):
    async with client.producer() as producer:
        for number in range(30):
            sent = await producer.send("t", b"%d" % number, key="k", queue=1)
            found = [
                await client.messages.by_id(sent.message_id),
                await client.messages.by_unique_key("t", sent.unique_id),
                await client.messages.at("t", 1, sent.queue_offset),
                *(await client.messages.by_key("t", sent.unique_id)),
            ]
            assert [message.body for message in found] == [b"%d" % number] * 4
            assert {message.unique_id for message in found} == {sent.unique_id}


async def test_what_is_not_found_is_none(autojump_clock, client):
    async with client.producer() as producer:
        sent = await producer.send("t", b"x", key="k", queue=0)
    wrong_id = sent.message_id[:-1] + ("0" if sent.message_id[-1] != "0" else "1")

    assert await client.messages.by_id(wrong_id) is None
    assert await client.messages.by_unique_key("t", "k") is None
    assert await client.messages.at("t", 0, 1) is None
    assert await client.messages.at("t", 0, 100) is None
    with pytest.raises(broker.InvalidMessageError, match="no offset id"):
        await client.messages.by_id("no id")
    with pytest.raises(broker.TopicNotFoundError):
        await client.messages.by_key("nowhere", "k")
    with pytest.raises(broker.InvalidMessageError, match="empty"):
        await client.messages.by_key("t", "")


async def test_messages_of_a_deleted_topic_are_not_found_any_more(autojump_clock, client):
    async with client.producer() as producer:
        sent = await producer.send("t", b"gone", key="k1", queue=0)
    await client.admin.delete_topic("t")
    assert await client.messages.by_id(sent.message_id) is None

    await client.admin.create_topic("t", queue_count=2)

    assert await client.messages.by_id(sent.message_id) is None
    assert [message.body for message in await client.messages.by_key("t", "k1")] == []
    assert await client.messages.by_unique_key("t", sent.unique_id) is None
    assert await client.messages.at("t", 0, sent.queue_offset) is None
    async with client.producer() as producer:
        await producer.send("t", b"new", key="k1", queue=0)
    assert [message.body for message in await client.messages.by_key("t", "k1")] == [b"new"]
