"""Messages that a producer, or the broker, does not take, and what becomes of their neighbours."""

from __future__ import annotations

import pytest
import trio

import broker
from broker.client.routes import ROUTE_AGE_MAX
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response


async def test_an_unknown_topic_is_created_once(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(producer.send, "new-topic", b"x")

    assert group.topics["new-topic"] == 4
    requests = [request for node in group.nodes for request in node.requests]
    assert sum(r.code == RequestCode.UPDATE_AND_CREATE_TOPIC for r in requests) == 1


async def test_an_unknown_topic_is_an_error_when_none_may_be_created(
    group, connect, autojump_clock
):
    async with connect(auto_create_topic=False) as mq, mq.producer() as producer:
        with pytest.raises(broker.TopicNotFoundError, match=r"new-topic.*create the topic"):
            await producer.send("new-topic", b"x")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"body": b"x" * (4 * 1024 * 1024 + 1)}, "4194305 bytes; at most 4194304"),
        ({"properties": {"a": "x" * 32_767}}, "32769 bytes encoded; at most 32725"),
        ({"properties": {"UNIQ_KEY": "x"}}, "UNIQ_KEY.*the broker's own"),
        ({"key": "two words"}, "holds a blank"),
        ({"queue": 4}, "no queue 4: it has 0 to 3"),
    ],
)
async def test_a_message_over_a_limit_is_refused_before_it_is_sent(
    group, connect, autojump_clock, options, problem
):
    async with connect() as mq, mq.producer() as producer:
        body = options.pop("body", b"x")
        with pytest.raises(broker.InvalidMessageError, match=problem):
            await producer.send("orders", body, **options)
        assert producer.buffered_size == 0
    assert group.all_bodies("orders") == []


async def test_a_topic_with_a_wrong_name_is_refused(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(broker.InvalidTopicError, match="only letters"):
            await producer.send("no topic", b"x")


async def test_a_body_that_is_no_bytes_is_a_type_error(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(TypeError, match="body is a str; encode it"):
            await producer.send("orders", "text")
        await producer.send("orders", bytearray(b"abc"))
        await producer.send("orders", memoryview(b"def"))
    assert sorted(group.all_bodies("orders")) == [b"abc", b"def"]


async def test_one_illegal_message_fails_alone(group, connect, autojump_clock):
    bodies = (
        [b"good-%d" % n for n in range(40)] + [b"illegal"] + [b"fine-%d" % n for n in range(23)]
    )
    results = {}

    async def send(body):
        try:
            results[body] = await producer.send("orders", body, queue=0)
        except broker.MessageRefusedError as error:
            results[body] = error

    async with connect() as mq, mq.producer() as producer:
        async with trio.open_nursery() as nursery:
            for body in bodies:
                nursery.start_soon(send, body)
        after = await producer.send("orders", b"after", queue=0)

    refused = results.pop(b"illegal")
    assert "one of them is not for us" in str(refused)
    stored = group.stored("orders")[0]
    assert sorted(message.body for message in stored) == sorted([*results, b"after"])
    for body, result in results.items():
        assert stored[result.queue_offset].body == body
        assert stored[result.queue_offset].unique_key == result.unique_id
        assert stored[result.queue_offset].position == result.position
    assert after.queue_offset == 63


async def test_a_topic_without_write_permission_says_so(group, connect, autojump_clock):
    def refuse(node, command):
        if command.code == RequestCode.SEND_BATCH_MESSAGE:
            return response(command, Code.NO_PERMISSION, "perm is 4")
        return None

    group.refuse = refuse
    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(broker.NoPermissionError, match=r"orders.*perm is 4"):
            await producer.send("orders", b"x")
        group.refuse = lambda node, command: None
        await producer.send("orders", b"y", queue=0)
    assert group.all_bodies("orders") == [b"y"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"properties": {"a": 5}}, "the value of property 'a' is a int; write it as a string"),
        ({"properties": {5: "a"}}, "property 5 is a int"),
        ({"tag": 5}, "the tag is a int"),
        ({"key": [5]}, "a key is a int"),
        ({"key": 5}, "key is a int; give a str"),
    ],
)
async def test_what_is_no_string_is_named(group, connect, autojump_clock, options, words):
    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(TypeError, match=words):
            await producer.send("orders", b"x", **options)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (b"x" * (4 << 20 | 1), {}),
        (b"x", {"key": "a b"}),
        (b"x", {"properties": {"DELAY": "3"}}),
        (b"x", {"tag": "a||b"}),
        (b"x", {"tag": " a"}),
    ],
)
async def test_what_is_refused_here_names_its_topic(group, connect, autojump_clock, body, options):
    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(broker.InvalidMessageError, match="topic orders: "):
            await producer.send("orders", body, **options)


async def test_a_topic_that_may_not_be_written_any_more_ends_its_sends_only(
    group, connect, autojump_clock, monkeypatch
):
    """Its queues are asked for now and then, in a task whose error would end the client."""
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        refused = broker.NoPermissionError("topic orders may not be written")
        asked = []

        def refuse(*_):
            asked.append(trio.current_time())
            raise refused

        monkeypatch.setattr(producer._destinations, "_take_route", refuse)
        await trio.sleep(ROUTE_AGE_MAX + 1)
        assert asked
        await producer.send("orders", b"2", queue=0)
