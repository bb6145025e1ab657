from __future__ import annotations

import math

import pytest
import trio

import broker
from broker import OutMessage
from broker.client.latency import LatencyHistogram
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response


async def test_results_come_in_the_order_of_the_messages(group, connect, autojump_clock):
    bodies = [b"%d" % number for number in range(3000)]
    async with connect() as mq, mq.producer(batch_count_max=500) as producer:
        results = await producer.send_many("orders", bodies)

    stored = group.stored("orders")
    assert len(results) == 3000
    for body, result in zip(bodies, results, strict=True):
        message = stored[result.queue_id][result.queue_offset]
        assert (message.body, message.unique_key) == (body, result.unique_id)
        assert message.position == result.position
    assert len(group.batch_counts) < 30


async def test_each_message_has_its_own_key_tag_and_queue(group, connect, autojump_clock):
    async def messages():
        yield OutMessage(b"a", key=("k1", "k2"), tag="A", queue=3)
        yield b"b"
        yield OutMessage(b"c", properties={"x": "y"}, ordering_key="u")
        yield OutMessage(b"d", ordering_key="u")

    async with connect() as mq, mq.producer() as producer:
        results = await producer.send_many("orders", messages())

    stored = group.stored("orders")
    first = stored[3][results[0].queue_offset]
    assert (first.keys, first.tag) == (("k1", "k2"), "A")
    assert results[2].queue_id == results[3].queue_id
    assert results[2].queue_offset < results[3].queue_offset


async def test_one_that_is_no_message_fails_alone(group, connect, autojump_clock):
    many = [b"a", OutMessage(b"b", key=""), b"c", "text", OutMessage(b"d", queue=9), b"e"]
    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(broker.SendManyError, match="3 of 6 messages") as caught:
            await producer.send_many("orders", many)

    error = caught.value
    assert sorted(error.failed) == [1, 3, 4]
    assert isinstance(error.failed[1], broker.InvalidMessageError)
    assert isinstance(error.failed[3], TypeError)
    assert sorted(error.acknowledged) == [0, 2, 5]
    assert sorted(group.all_bodies("orders")) == [b"a", b"c", b"e"]
    assert "number 1: InvalidMessageError" in str(error)


async def test_those_the_broker_refuses_are_told_apart_from_those_it_has(
    group, connect, autojump_clock
):
    many = [OutMessage(b"illegal" if n == 7 else b"%d" % n, queue=0) for n in range(20)]
    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(broker.SendManyError) as caught:
            await producer.send_many("orders", many)

    assert list(caught.value.failed) == [7]
    assert isinstance(caught.value.failed[7], broker.MessageRefusedError)
    stored = group.stored("orders")[0]
    for number, result in caught.value.acknowledged.items():
        assert stored[result.queue_offset].body == many[number].body


async def test_a_topic_that_is_not_there_ends_it_at_once(group, connect, autojump_clock):
    async with connect(auto_create_topic=False) as mq, mq.producer() as producer:
        with pytest.raises(broker.SendManyError, match="TopicNotFoundError") as caught:
            await producer.send_many("nowhere", [b"a", b"b"])
    assert len(caught.value.results) == 1


async def test_without_an_answer_in_time_each_says_what_is_known(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(send_timeout=2) as producer:
        await producer.send("orders", b"first")
        group.nodes[0].freeze()
        with pytest.raises(broker.SendManyError) as caught:
            await producer.send_many("orders", [b"a", b"b"])
        assert {type(error) for error in caught.value.failed.values()} <= {
            broker.OutcomeUnknownError,
            broker.NotWrittenError,
        }
        group.nodes[0].thaw()


async def test_more_than_fits_the_buffer_is_taken_little_by_little(group, connect, autojump_clock):
    taken = 0

    def messages():
        nonlocal taken
        for _ in range(500):
            taken += 1
            yield bytes(1000)

    async with connect() as mq, mq.producer(buffer_size_max=20_000) as producer:
        await producer.send("orders", b"")
        group.ack_delay = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send_many, "orders", messages())
            await trio.sleep(0.5)
            assert taken < 30
            assert producer.buffered_size < 22_000
    assert taken == 500


async def test_cancelled_it_leaves_its_messages_behind(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        group.ack_delay = 1.0
        with trio.move_on_after(0.5) as scope:
            await producer.send_many("orders", [b"a", b"b"])
        assert scope.cancelled_caught
    assert sorted(group.all_bodies("orders")) == [b"a", b"b"]


async def test_an_error_of_the_messages_own_comes_out_as_it_is(group, connect, autojump_clock):
    def messages():
        yield b"a"
        raise KeyError("no more")

    async with connect() as mq, mq.producer() as producer:
        with pytest.raises(KeyError):
            await producer.send_many("orders", messages())
    assert group.all_bodies("orders") == [b"a"]


async def test_nothing_to_send_is_soon_done(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        assert await producer.send_many("orders", []) == []


# --- linger --------------------------------------------------------------------------------------


async def test_a_batch_lingers_for_company(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(linger=0.1) as producer:
        await producer.send("orders", b"first", queue=0)
        group.batch_counts.clear()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(lambda: producer.send("orders", b"x", queue=0))
                await trio.sleep(0.01 * (number < 7))
        assert group.batch_counts == [8]
        assert math.isclose(trio.current_time() - began, 0.1, abs_tol=0.01)


async def test_a_full_batch_does_not_linger(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(linger=5, batch_count_max=10) as producer:
        await producer.send("orders", b"first", queue=0)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(lambda: producer.send("orders", b"x", queue=0))
        assert trio.current_time() - began < 0.1


async def test_flushing_and_closing_end_the_lingering(group, connect, autojump_clock):
    async with connect() as mq:
        async with mq.producer(linger=5) as producer, trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(producer.send, "orders", b"x")
                await trio.sleep(0.01)
                began = trio.current_time()
                await producer.flush()
                assert trio.current_time() - began < 0.1
        producer = mq.producer(linger=5)
        async with trio.open_nursery() as nursery:
            async with producer:
                nursery.start_soon(producer.send, "orders", b"x")
                await trio.sleep(0.01)
                began = trio.current_time()
            assert trio.current_time() - began < 0.1


@pytest.mark.parametrize("linger", [-1, 15])
async def test_a_linger_that_makes_no_sense_is_refused(linger, connect, autojump_clock):
    async with connect() as mq:
        with pytest.raises(ValueError, match="linger"):
            mq.producer(linger=linger)


# --- statistics ----------------------------------------------------------------------------------


async def test_statistics_tell_how_long_sends_took(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"first")
        group.ack_delay = 0.25
        await producer.send_many("orders", [b"x"] * 9)
        stats = producer.stats

    assert (stats.sent, stats.acked, stats.failed) == (10, 10, 0)
    assert stats.latency.count == 10
    assert 0.2 < stats.latency.p50 <= stats.latency.p99 < 0.3
    assert 0.2 < stats.latency.mean < 0.25
    assert stats.batches >= 2
    assert stats.bytes > 10 * 91


async def test_a_refused_request_shows_in_the_statistics(group, connect, autojump_clock):
    refusals = iter([1])

    def refuse(node, command):
        if command.code == RequestCode.SEND_BATCH_MESSAGE and next(refusals, 0):
            return response(command, Code.SYSTEM_BUSY, "not now")
        return None

    group.refuse = refuse
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"x")
        assert (producer.stats.sent, producer.stats.retried) == (1, 1)


def test_quantiles_are_right_to_a_tenth():
    times = LatencyHistogram()
    assert (times.p99, times.mean) == (0.0, 0.0)
    for number in range(1, 1001):
        times.add(number / 1000)
    assert math.isclose(times.p50, 0.5, rel_tol=0.1)
    assert math.isclose(times.p99, 0.99, rel_tol=0.1)
    assert math.isclose(times.mean, 0.5005)
    assert math.isclose(times.quantile(1.0), 1.0, rel_tol=0.1)
    times.add(1e9)
    times.add(0.0)
    assert times.count == 1002
    assert repr(times).startswith("LatencyHistogram(count=1002")
