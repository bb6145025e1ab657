"""Whatever stock clients send arrives as it was sent."""

import pytest

import broker
from tests.interop.helpers import consumed, servers, topic


@pytest.fixture
def told(shared_group, names_of):
    """Return what makes the orders of a producer."""
    order = {"servers": servers(shared_group), "group": "senders", "topic": names_of("T")}
    return lambda **fields: {**order, **fields}


@pytest.fixture
def hows(kind):
    """The ways in which this client sends."""
    return ["sync", "oneway", "ordered", "batch"] if kind == "stock" else ["sync", "ordered"]


async def test_each_way_of_sending(run, shared_group, told, hows):
    name = told()["topic"]
    await topic(shared_group, name, queues=4)
    for how in hows:
        bodies = [f"{how} {number}" for number in range(5)]
        sending = told(how=how, bodies=bodies, tag="apples", keys="k1 k2", key=7)
        async with run("producer", **sending) as producer:
            await producer.ended()
        assert producer.sent == bodies, producer.events
    messages = await consumed(shared_group, name, count=5 * len(hows))

    for how in hows:
        mine = [message for message in messages if message.body.startswith(how.encode())]
        texts = [message.body.decode() for message in mine]
        assert sorted(texts) == [f"{how} {number}" for number in range(5)]
        assert {(message.tag, message.keys) for message in mine} == {("apples", ("k1", "k2"))}
        assert len({message.properties["UNIQ_KEY"] for message in mine}) == 5
        if how == "ordered":
            assert len({message.queue_id for message in mine}) == 1
            assert texts == sorted(texts)


async def test_a_large_message_is_compressed_and_read_by_ours(run, shared_group, told):
    await topic(shared_group, told()["topic"], queues=1)
    async with run("producer", **told(bodies=["x" * 20_000])) as producer:
        await producer.ended()
    (message,) = await consumed(shared_group, told()["topic"], count=1)

    assert message.body == b"x" * 20_000


async def test_what_a_send_says_of_its_place_is_true(run, shared_group, told):
    await topic(shared_group, told()["topic"], queues=1)
    async with run("producer", **told(bodies=["a", "b", "c"])) as producer:
        await producer.ended()

    assert [event["offset"] for event in producer.of("sent")] == [0, 1, 2]
    assert all(len(event["id"]) == 32 for event in producer.of("sent"))


# ali-ons gives up on a topic without a route, and does not ask for TBW102.
@pytest.mark.parametrize("kind", ["stock"], indirect=True)
async def test_a_topic_that_is_not_there_is_created(run, shared_group, told):
    async with run("producer", **told(bodies=["a"])) as producer:
        await producer.ended()
    async with broker.connect(shared_group.addresses) as mq:
        found = {item.topic: item for item in await mq.admin.list_topics()}

    assert producer.sent == ["a"]
    assert found[told()["topic"]].read_queue_count == 4
