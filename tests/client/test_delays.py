"""Messages that are sent for later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio

import broker
from broker.client.delays import delay_as_ms, delay_wanted, time_as_ms
from broker.message.delay import SCHEDULE_TOPIC, Delay, check_waiting


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [
        ({"delay": 2.5}, 2.5),
        ({"delay": timedelta(minutes=2)}, 120),
        ({"delay_level": 4}, 30),
        ({"delay": 0}, 0),
        ({"delay_level": 0}, 0),
    ],
)
async def test_a_message_is_delivered_when_its_time_has_come(
    virtual_broker, autojump_clock, wish, seconds
):
    async with virtual_broker.connect() as mq, mq.consumer("g", "orders") as consumer:
        async with mq.producer() as producer:
            began = trio.current_time()
            sent = await producer.send(
                "orders", b"later", key="k1", tag="A", properties={"a": "5"}, queue=2, **wish
            )
            message = await consumer.get(200)
            assert seconds <= trio.current_time() - began < seconds + 1
        assert (message.topic, message.queue_id, message.body) == ("orders", 2, b"later")
        assert (message.key, message.tag, message.properties["a"]) == ("k1", "A", "5")
        assert (message.unique_id, message.reconsume_times) == (sent.unique_id, 0)
        assert "REAL_TOPIC" not in message.properties
        assert sent.topic == (SCHEDULE_TOPIC if seconds else "orders")
        assert await consumer.get(200) is None


async def test_a_time_of_day_can_be_named(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq, mq.consumer("g", "orders") as consumer:
        now = datetime.fromtimestamp(virtual_broker.clock.wall_ms() / 1000, UTC)
        async with mq.producer() as producer:
            await producer.send("orders", b"at seven", deliver_at=now + timedelta(seconds=7))
            await producer.send("orders", b"at once", deliver_at=now - timedelta(seconds=7))
        assert (await consumer.get(1)).body == b"at once"
        began = trio.current_time()
        assert (await consumer.get(20)).body == b"at seven"
        assert 6 < trio.current_time() - began < 8


async def test_many_are_sent_like_others_and_once(virtual_broker, autojump_clock):
    """Also over the end of the broker, which has some and has not said so."""
    messages = [
        broker.OutMessage(b"%d" % number, delay=20 + number % 7, ordering_key=f"k{number % 5}")
        for number in range(500)
    ]
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer, trio.open_nursery() as nursery:
            await producer.send("orders", b"made")

            async def interrupt():
                await trio.sleep(0.002)
                await virtual_broker.kill()
                await trio.sleep(1)
                await virtual_broker.start()

            nursery.start_soon(interrupt)
            results = await producer.send_many("orders", messages)
        assert len({result.unique_id for result in results}) == 500
        async with mq.consumer("g", "orders") as consumer:
            assert (await consumer.get(1)).body == b"made"
            found = [await consumer.get(60) for _ in range(500)]
            assert await consumer.get(60) is None
    assert sorted(int(message.body) for message in found) == list(range(500))
    keyed = {int(message.body) % 5: message.queue_id for message in found}
    assert all(keyed[int(message.body) % 5] == message.queue_id for message in found)


async def test_what_waits_survives_the_broker(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer:
            await producer.send("orders", b"later", delay=30)
        await virtual_broker.kill()
        await trio.sleep(60)
        await virtual_broker.start()
        async with mq.consumer("g", "orders") as consumer:
            assert (await consumer.get(2)).body == b"later"


@pytest.mark.parametrize(
    ("wish", "error", "text"),
    [
        ({"delay": -1}, ValueError, "at least 0"),
        ({"delay": "5s"}, TypeError, "give seconds, or a timedelta"),
        ({"delay": timedelta(days=41)}, broker.InvalidMessageError, "40 days at most"),
        ({"delay": 1, "delay_level": 1}, ValueError, "give one of"),
        ({"delay_level": 19}, ValueError, "1 to 18"),
        ({"deliver_at": 1_700_000_000}, TypeError, "is a datetime"),
    ],
)
async def test_wrong_wishes_are_refused_before_anything_is_sent(
    virtual_broker, autojump_clock, wish, error, text
):
    async with virtual_broker.connect() as mq, mq.producer() as producer:
        with pytest.raises(error, match=text):
            await producer.send("orders", b"x", **wish)
        with pytest.raises(broker.SendManyError) as caught:
            await producer.send_many("orders", [broker.OutMessage(b"x", **wish), b"good"])
        assert isinstance(caught.value.results[0], error)
        assert caught.value.results[1].topic == "orders"


async def test_what_cannot_be_delivered_does_not_get_in(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"later", delay=5)
        with pytest.raises(broker.InvalidMessageError, match="has to say where it is to go"):
            await producer.send(SCHEDULE_TOPIC, b"to nowhere", queue=3)


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({}, "has to say where"),
        ({"REAL_TOPIC": "t", "REAL_QID": "x", "DELAY": "3"}, "has to say where"),
        ({"REAL_TOPIC": "t", "REAL_QID": "-1", "DELAY": "3"}, "is no queue"),
        ({"REAL_TOPIC": "t!", "REAL_QID": "0", "DELAY": "3"}, "only letters"),
        ({"REAL_TOPIC": SCHEDULE_TOPIC, "REAL_QID": "0", "DELAY": "3"}, "broker's own"),
        ({"REAL_TOPIC": "t", "REAL_QID": "0"}, "queue 2 is level 3"),
        ({"REAL_TOPIC": "t", "REAL_QID": "0", "DELAY": "4"}, "queue 2 is level 3"),
        ({"REAL_TOPIC": "t", "REAL_QID": "0", "TIMER_OUT_MS": "9" * 15}, "40 days at most"),
        ({"REAL_TOPIC": "t", "REAL_QID": "0", "TIMER_OUT_MS": "-5"}, "is no time"),
    ],
)
def test_each_record_is_checked(properties, text):
    with pytest.raises(broker.BrokerError, match=text):
        check_waiting(properties, queue_id=2, now_ms=1_700_000_000_000)


def test_wishes_become_delays():
    now = 1_700_000_000_000
    assert delay_wanted(10, None, None, now_ms=now) == Delay(3, now + 10_000)
    assert delay_wanted(0.2, None, None, now_ms=now) == Delay(1, now + 200)
    assert delay_wanted(None, None, 18, now_ms=now) == Delay(18)
    assert delay_wanted(None, datetime(2001, 1, 1, tzinfo=UTC), None, now_ms=now) is None
    assert delay_as_ms(timedelta(microseconds=1)) == 1
    assert time_as_ms(datetime.fromtimestamp(1.5, UTC)) == 1500
