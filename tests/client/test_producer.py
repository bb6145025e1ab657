"""What a producer makes of what it is given: places, batches, ids, order."""

from __future__ import annotations

from functools import partial

import pytest
import trio

import broker
from broker.client.intake import ALONE_COUNT_MIN
from broker.message.message_id import decode_offset_id
from broker.message.tags import java_string_hash
from tests.client.fake_node import FakeClock


async def send_all(producer, bodies, **options):
    """Send each body from a task of its own; return the results in the same order."""
    results = [None] * len(bodies)

    async def send(number):
        results[number] = await producer.send("orders", bodies[number], **options)

    async with trio.open_nursery() as nursery:
        for number in range(len(bodies)):
            nursery.start_soon(send, number)
    return results


async def test_a_message_comes_back_with_its_place(group, connect, autojump_clock):
    async with connect() as mq, mq.producer("shop") as producer:
        result = await producer.send(
            "orders", b"hello", key=["k1", "k2"], tag="A", properties={"a": "5"}, queue=2
        )

    (stored,) = group.stored("orders")[2]
    assert stored.body == b"hello"
    assert stored.keys == ("k1", "k2")
    assert stored.tag == "A"
    assert stored.properties["a"] == "5"
    assert stored.unique_key == result.unique_id
    assert (result.topic, result.queue_id, result.queue_offset) == ("orders", 2, 0)
    host, position = decode_offset_id(result.message_id)
    assert str(host) == group.nodes[0].address
    assert position == stored.position


async def test_sends_of_one_tick_share_a_request(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"first")
        results = await send_all(producer, [b"%d" % n for n in range(100)])

    assert group.batch_counts == [1, 100]
    assert len({(result.queue_id, result.queue_offset) for result in results}) == 100
    assert len({result.unique_id for result in results}) == 100


async def test_who_waits_for_the_queues_of_a_topic_is_not_overtaken(group, connect, autojump_clock):
    """Those who wait are let go one after another, and a later send found the queues at once."""
    async with connect() as mq, mq.producer() as producer:
        found = producer._destinations
        of_topic, take_route = found._groups.of_topic, found._take_route
        is_known = trio.Event()

        async def slow(topic):
            await trio.sleep(0.010)
            return await of_topic(topic)

        def take(route, loop):
            is_known.set()
            return take_route(route, loop)

        async def send(number):
            await producer.send("orders", b"%03d" % number, ordering_key="k")

        found._groups.of_topic, found._take_route = slow, take
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(send, number)
                await trio.sleep(0.0005)
            await is_known.wait()
            for number in range(10, 40):
                nursery.start_soon(send, number)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()

    assert group.all_bodies("orders") == [b"%03d" % number for number in range(40)]


class Place:
    custom_sleep_data = None
    unique_id = ""

    def settle(self, result):
        self.result = result


async def test_who_sends_one_after_another_waits_for_no_tick(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        for number in range(ALONE_COUNT_MIN - 1):
            await producer.send("orders", b"%d" % number)
            assert producer.stats.batches == number + 1

        def submit():
            assert producer.submit(Place(), "orders", broker.OutMessage(b"x"))
            return producer.stats.batches

        assert submit() == ALONE_COUNT_MIN  # it has left already
        assert submit() == ALONE_COUNT_MIN
        await producer.flush()
        assert submit() == ALONE_COUNT_MIN + 1  # it had company: so may the next one
        assert submit() == ALONE_COUNT_MIN + 1

    assert group.batch_counts == [1] * ALONE_COUNT_MIN + [1, 2]


async def test_a_message_alone_lingers_where_all_do(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(linger=0.05) as producer:
        for number in range(2 * ALONE_COUNT_MIN):
            begun = trio.current_time()
            await producer.send("orders", b"%d" % number)
            assert trio.current_time() - begun >= 0.05


async def test_a_connection_that_breaks_as_a_message_leaves_at_once(group, connect, autojump_clock):
    """Its sender is not parked yet when the sending fails."""
    async with connect() as mq, mq.producer(idempotent=False) as producer:
        for number in range(ALONE_COUNT_MIN):
            await producer.send("orders", b"%d" % number)
        group.nodes[0].break_connections()

        with pytest.raises(broker.OutcomeUnknownError):
            await producer.send("orders", b"x")
        await producer.send("orders", b"y")

    assert b"x" not in group.all_bodies("orders")


async def test_every_result_names_the_record_that_was_stored(group, connect, autojump_clock):
    bodies = [b"%d" % n * (n % 7 + 1) for n in range(500)]
    async with connect() as mq, mq.producer(batch_count_max=64) as producer:
        results = await send_all(producer, bodies)

    stored = group.stored("orders")
    for body, result in zip(bodies, results, strict=True):
        message = stored[result.queue_id][result.queue_offset]
        assert message.body == body
        assert message.position == result.position
        assert message.unique_key == result.unique_id


async def test_what_arrives_while_a_request_is_under_way_is_the_next_batch(
    group, connect, autojump_clock
):
    group.ack_delay = 0.010
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"0", queue=0)
        async with trio.open_nursery() as nursery:
            for number in range(20):  # one each millisecond
                nursery.start_soon(send_later, producer, number * 0.001, b"%d" % number)

    # 10 ms a round trip: the first goes alone, then all that gathered meanwhile.
    assert group.batch_counts[0] == 1
    assert len(group.batch_counts) <= 5
    assert sum(group.batch_counts) == 21


async def send_later(producer, delay, body):
    await trio.sleep(delay)
    await producer.send("orders", body, queue=0)


async def test_batches_without_key_take_turns_over_the_queues(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        for number in range(8):
            await producer.send("orders", b"%d" % number)

    assert [len(bodies) for bodies in group.bodies("orders").values()] == [2, 2, 2, 2]


async def test_messages_for_any_queue_share_two_small_batches(group, connect, autojump_clock):
    """One a millisecond, 10 ms a round trip: over four queues they would be twice as many."""
    group.ack_delay = 0.010
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"first")
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(producer.send, "orders", b"x")
                await trio.sleep(0.001)
    assert len(group.batch_counts) <= 2 * 200 / 10 + 5


@pytest.mark.parametrize("other", [{"acks": "all"}, {"delay": 5}, {"body": b"x" * 100_000}])
async def test_a_batch_held_back_is_not_forgotten_when_the_turn_passes(
    group, connect, autojump_clock, other
):
    """It waited for answers to others, which then looked at the queue whose turn it was only."""
    async with connect() as mq, mq.producer(batch_size_max=64_000) as producer:
        await producer.send("orders", b"first")
        await producer.send("orders", b"for later", delay=5)
        group.ack_delay = 0.010
        async with trio.open_nursery() as nursery:
            for body in (b"X", b"Y", b"S"):
                nursery.start_soon(producer.send, "orders", body)
                await trio.sleep(0.001)
            nursery.start_soon(partial(producer.send, "orders", **{"body": b"O", **other}))
        assert trio.current_time() < 0.1


async def test_producers_of_one_client_give_no_id_twice(group, connect, autojump_clock):
    async with connect() as mq, mq.producer("a") as one, mq.producer("b") as two:
        found = []
        for _ in range(3):
            for results in (await send_all(one, [b"1"] * 3), await send_all(two, [b"2"] * 3)):
                found += [result.unique_id for result in results]
    assert len(set(found)) == len(found) == 18


async def test_a_clock_set_back_repeats_no_unique_id(group, autojump_clock):
    clock = FakeClock()
    async with (
        broker.connect(group.addresses, network=group.network, clock=clock) as mq,
        mq.producer() as producer,
    ):
        found = [await producer.send("orders", b"1")]
        for _ in range(50):
            clock.step_ms -= 1
            await trio.sleep(0.001)
            found.append(await producer.send("orders", b"x"))
    assert len({result.unique_id for result in found}) == 51


async def test_queues_added_to_a_topic_are_used_within_half_a_minute(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"x")
        group.topics["orders"] = 6
        await trio.sleep(31)
        await producer.send("orders", b"y", queue=5)
        for _ in range(12):
            await producer.send("orders", b"z")
    assert sorted(group.bodies("orders")) == [0, 1, 2, 3, 4, 5]


async def test_an_ordering_key_chooses_its_queue_by_java_hash(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        for key in ("user-7", "user-8", "ordering", ""):
            result = await producer.send("orders", b"x", ordering_key=key)
            assert result.queue_id == abs(java_string_hash(key)) % 4


async def test_messages_of_one_queue_keep_their_order_over_many_batches(
    group, connect, autojump_clock
):
    bodies = [b"%05d" % number for number in range(2000)]
    async with connect() as mq, mq.producer(batch_count_max=50) as producer:
        await producer.send("orders", b"now the topic is known", queue=0)
        async with trio.open_nursery() as nursery:
            for body in bodies:
                nursery.start_soon(send_in_order, producer, body)
                await trio.lowlevel.checkpoint()

    stored = group.bodies("orders")[1]
    assert sorted(stored) == bodies
    assert stored == ORDER_OF_CALLS
    ORDER_OF_CALLS.clear()


ORDER_OF_CALLS: list[bytes] = []


async def send_in_order(producer, body):
    ORDER_OF_CALLS.append(body)
    await producer.send("orders", body, queue=1)


async def test_statistics_count_messages_and_requests(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await send_all(producer, [b"x"] * 10)
        stats = producer.stats
    assert (stats.sent, stats.acked, stats.failed, stats.retried) == (10, 10, 0, 0)
    assert stats.batches == len(group.batch_counts)
    assert stats.bytes == sum(len(record) for found in group.queues.values() for record in found)
