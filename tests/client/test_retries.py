"""Messages that could not be dealt with come again, and are given up in the end."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from itertools import pairwise
from types import SimpleNamespace

import pytest
import trio

import broker
from broker.client.prefetch import Prefetch
from broker.client.progress import DEAD
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response


async def fail(message):
    with contextlib.suppress(KeyError):
        async with message:
            raise KeyError("cannot handle it")


async def test_a_message_whose_block_fails_comes_again_after_ten_seconds(
    virtual_broker, autojump_clock
):
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer:
            await producer.send("orders", b"hard", key="k1", tag="A", properties={"a": "5"})
        async with mq.consumer("g", "orders") as consumer:
            first = await anext(consumer)
            await fail(first)
            began = trio.current_time()
            again = await anext(consumer)
            assert 10 <= trio.current_time() - began < 11
            assert (again.topic, again.body, again.key, again.tag) == ("orders", b"hard", "k1", "A")
            assert again.properties["a"] == "5"
            assert (first.reconsume_times, again.reconsume_times) == (0, 1)
            assert again.properties["ORIGIN_MESSAGE_ID"] == first.message_id
        assert await mq.admin.committed_offset("g", "orders", first.queue_id) == 1


async def test_retries_become_rarer_and_end_in_the_dead_letters(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer:
            await producer.send("orders", b"impossible", key="k1")
        async with mq.consumer("g", "orders", retries_max=3) as consumer:
            times = []
            while (message := await consumer.get(600)) is not None:
                times.append(trio.current_time())
                await fail(message)
        waits = [after - before for before, after in pairwise(times)]
        assert waits == pytest.approx([10, 30, 60], abs=1)
        assert await mq.admin.max_offset("%DLQ%g", 0) == 1


async def test_how_often_is_the_groups_to_say(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq:
        await mq.admin.create_group("g", retry_times_max=1, retry_delays_ms=(2_000,))
        async with mq.producer() as producer:
            await producer.send("orders", b"impossible")
        async with mq.consumer("g", "orders") as consumer:
            await fail(await anext(consumer))
            began = trio.current_time()
            await fail(await anext(consumer))
            assert trio.current_time() - began == pytest.approx(2, abs=0.2)
            assert await consumer.get(600) is None
        assert await mq.admin.max_offset("%DLQ%g", 0) == 1


@pytest.mark.parametrize(
    ("wish", "seconds"), [({"delay": 2.5}, 2.5), ({"delay": 75}, 75), ({"level": 2}, 5)]
)
async def test_when_it_comes_again_can_be_asked_for(virtual_broker, autojump_clock, wish, seconds):
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer:
            await producer.send_many("orders", [broker.OutMessage(b"x", queue=0)] * 2)
        async with mq.consumer("g", "orders") as consumer:
            async with await anext(consumer) as message:
                message.retry(**wish)
                message.retry(delay=1)  # it is on its way already
            began = trio.current_time()
            other = await anext(consumer)
            again = await anext(consumer)
            assert trio.current_time() - began == pytest.approx(seconds, abs=1)
            assert (other.queue_offset, again.reconsume_times) == (1, 1)
            assert await consumer.get(100) is None


async def test_a_message_can_be_given_up_at_once(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer:
            await producer.send("orders", b"nonsense", queue=0)
        async with mq.consumer("g", "orders", auto_commit=False) as consumer:
            (await anext(consumer)).dead_letter()
            assert await consumer.get(20) is None
        assert await mq.admin.committed_offset("g", "orders", 0) == 1
        assert await mq.admin.max_offset("%DLQ%g", 0) == 1


async def test_only_a_member_can_have_a_message_come_again(group, connect, autojump_clock):
    group.put("orders", 0, [b"x"] * 3)
    async with connect() as mq, mq.consumer("g", "orders", queues=[0]) as consumer:
        message = await anext(consumer)
        with pytest.raises(RuntimeError, match="cannot come again"):
            message.retry()
        with pytest.raises(RuntimeError, match="cannot come again"):
            message.dead_letter()
        with pytest.raises(ValueError, match="at least 0"):
            message.retry(-1)
        await fail(message)
        assert consumer.left == {0: [0]}


@pytest.mark.parametrize("auto_commit", [True, False])
async def test_nothing_behind_it_is_committed_before_it_is_sure_to_come_again(
    group, connect, autojump_clock, auto_commit
):
    group.put("orders", 0, [b"x"] * 5)
    busy = True
    group.refuse = lambda _, command: (
        response(command, Code.SYSTEM_BUSY)
        if busy and command.code == RequestCode.CONSUMER_SEND_MSG_BACK
        else None
    )
    async with (
        connect() as mq,
        mq.consumer("g", "orders", auto_commit=auto_commit, commit_interval=0.1) as consumer,
    ):
        for number in range(5):
            message = await anext(consumer)
            if number == 1:
                await fail(message)
            else:
                async with message:
                    pass
        assert await consumer.get(5) is None
        assert group.offsets["g", "orders", 0] == 1
        busy = False
        await trio.sleep(1)
        assert group.offsets["g", "orders", 0] == 5
        assert (await anext(consumer)).reconsume_times == 1
    assert consumer.left == {}


async def test_a_message_that_cannot_be_sent_back_is_left(group, connect, autojump_clock):
    group.put("orders", 0, [b"x"] * 2)
    group.refuse = lambda _, command: (
        response(command, Code.SYSTEM_ERROR, "no message lies there")
        if command.code == RequestCode.CONSUMER_SEND_MSG_BACK
        else None
    )
    async with connect() as mq, mq.consumer("g", "orders") as consumer:
        await fail(await anext(consumer))
        await anext(consumer)
        await trio.sleep(1)
        assert consumer.left == {0: [0]}
    assert ("g", "orders", 0) not in group.offsets


async def test_a_consumer_that_closes_sees_its_messages_off(group, connect, autojump_clock):
    group.put("orders", 0, [b"x"] * 3)
    async with connect() as mq:

        async def fail_at_second():
            async with mq.consumer("g", "orders") as consumer:
                async for message in consumer:
                    async with message:
                        if message.queue_offset == 1:
                            raise KeyError

        with pytest.raises(KeyError):
            await fail_at_second()
        assert group.offsets["g", "orders", 0] == 2
        assert len(group.sent_back) == 1
        async with mq.consumer("g", "orders") as consumer:
            found = [await anext(consumer) for _ in range(2)]
    assert sorted((m.queue_offset, m.reconsume_times) for m in found) == [(0, 1), (2, 0)]


async def test_a_cancelled_block_sends_nothing_back(group, connect, autojump_clock):
    group.put("orders", 0, [b"x"] * 2)
    async with connect() as mq:
        async with mq.consumer("g", "orders") as consumer:
            message = await anext(consumer)
            with trio.move_on_after(1):
                async with message:
                    await trio.sleep_forever()
            assert consumer.left == {0: [0]}
        assert group.sent_back == []
        async with mq.consumer("g", "orders") as consumer:
            assert (await anext(consumer)).queue_offset == 0


async def test_a_failover_loses_no_message_that_is_on_its_way_back(group, connect, autojump_clock):
    group.put("orders", 0, [b"x"])
    async with connect() as mq, mq.consumer("g", "orders") as consumer:
        message = await anext(consumer)
        group.nodes[0].kill()
        group.elect(None)
        await fail(message)
        await trio.sleep(20)
        assert group.sent_back == []
        group.elect(1)
        again = await anext(consumer)
        assert again.reconsume_times == 1
    assert group.offsets["g", "orders", 0] == 1


# --- in order -------------------------------------------------------------------------------------


def numbered(count):
    return [b"%d" % number for number in range(count)]


async def test_in_order_a_queue_waits_for_the_message_that_failed(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    group.put("orders", 1, numbered(3))
    async with connect() as mq, mq.consumer("g", "orders", ordered=True) as consumer:
        seen = []
        while (message := await consumer.get(5)) is not None:
            seen.append((message.queue_id, message.queue_offset, message.reconsume_times))
            if (message.queue_id, message.queue_offset) == (0, 1) and message.reconsume_times < 2:
                await fail(message)
        assert [place[1:] for place in seen if place[0] == 0] == [
            (0, 0), (1, 0), (1, 1), (1, 2), (2, 0)
        ]  # fmt: skip
        assert [place[1:] for place in seen if place[0] == 1] == [(0, 0), (1, 0), (2, 0)]
    assert group.sent_back == []
    assert group.offsets == {("g", "orders", 0): 3, ("g", "orders", 1): 3}


async def test_in_order_one_message_of_a_queue_is_dealt_with_at_a_time(
    group, connect, autojump_clock
):
    for queue in range(4):
        group.put("orders", queue, numbered(20))
    at_work = set()
    done = []

    async def work(message):
        async with message:
            assert message.queue_id not in at_work
            at_work.add(message.queue_id)
            await trio.sleep(0.01 * (1 + message.queue_id))
            at_work.discard(message.queue_id)
        done.append((message.queue_id, message.queue_offset))

    async with (
        connect() as mq,
        mq.consumer("g", "orders", ordered=True, auto_commit=False) as consumer,
        trio.open_nursery() as nursery,
    ):
        busiest = 0
        while (message := await consumer.get(2)) is not None:
            nursery.start_soon(work, message)
            await trio.lowlevel.checkpoint()
            busiest = max(busiest, len(at_work))
        assert busiest == 4
    for queue in range(4):
        assert [place[1] for place in done if place[0] == queue] == list(range(20))


async def test_in_order_a_message_held_back_of_a_queue_that_is_gone_is_the_next_members(
    autojump_clock,
):
    """The consumer ended with a KeyError when its delay was over."""

    class Reader:
        is_paused, next_offset = False, 7

        def __init__(self):
            self.batches = deque()

        def make_room(self):
            pass

    reader, other = Reader(), Reader()
    prefetch = Prefetch(size_max=100, count_max=100, one_by_one=True)
    for each in (reader, other):
        prefetch.add(SimpleNamespace(reader=each, is_idle=True, valid_until=math.inf))
    prefetch.remove(reader)

    for each in (reader, other):
        prefetch.put_back(each, [SimpleNamespace(queue_offset=6)])
        prefetch.release(each)

    assert prefetch.is_ready
    progress, _, _ = prefetch.take()
    assert progress.reader is other
    assert not prefetch.is_ready


async def test_in_order_a_message_is_given_up_where_that_is_wished(group, connect, autojump_clock):
    group.put("orders", 0, numbered(2))
    async with (
        connect() as mq,
        mq.consumer("g", "orders", ordered=True, retries_max=2) as consumer,
    ):
        for times in range(3):
            message = await anext(consumer)
            assert (message.queue_offset, message.reconsume_times) == (0, times)
            await fail(message)
        assert (await anext(consumer)).queue_offset == 1
    assert [header.delay_level for header in group.sent_back] == [DEAD]


async def test_in_order_a_queue_goes_over_only_when_its_message_is_done(
    group, connect, autojump_clock
):
    group.topics["orders"] = 2
    for queue in range(2):
        group.put("orders", queue, numbered(4))
    options = {"ordered": True, "auto_commit": False, "commit_interval": 1000}
    async with (
        connect(client_id="a") as mq_a,
        connect(client_id="b") as mq_b,
        mq_a.consumer("g", "orders", **options) as a,
    ):
        held = {message.queue_id: message for message in [await anext(a), await anext(a)]}
        async with mq_b.consumer("g", "orders", **options) as b:
            await trio.sleep(5)
            assert (a.queues, b.queues) == ((0,), ())
            assert group.locks["g", "orders", 1] == "a"
            held[1].ack()
            await trio.sleep(1)
            assert group.locks["g", "orders", 1] == "b"
            assert b.positions() == {1: 1}
            held[0].ack()
    assert not group.locks


async def test_in_order_a_queue_whose_lock_cannot_be_renewed_hands_out_nothing_more(
    group, connect, autojump_clock
):
    group.put("orders", 0, numbered(2))
    async with connect() as mq, mq.consumer("g", "orders", ordered=True) as consumer:
        async with await anext(consumer):
            pass
        group.elect(None)
        await trio.sleep(40)
        assert await consumer.get(1) is None
        group.elect(1)
        assert (await consumer.get(5)).queue_offset == 1


async def test_in_order_against_a_real_node(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq, mq.producer() as producer:
        for number in range(30):
            await producer.send("steps", b"%d" % number, ordering_key="k")
        async with virtual_broker.connect() as other:
            seen = []
            async with mq.consumer("g", "steps", ordered=True) as a:
                async with other.consumer("g", "steps", ordered=True) as b:
                    for _ in range(40):
                        for consumer in (a, b):
                            message = await consumer.get(0.1)
                            if message is not None:
                                async with message:
                                    seen.append(int(message.body))
                while (message := await a.get(2)) is not None:
                    async with message:
                        seen.append(int(message.body))
            assert seen == list(range(30))


# --- dead letters ---------------------------------------------------------------------------------


async def test_dead_letters_are_read_and_come_to_their_group_once_more(
    virtual_broker, autojump_clock
):
    async with virtual_broker.connect() as mq:
        letters = mq.dead_letters("g")
        assert (letters.topic, await letters.count(), await letters.read()) == ("%DLQ%g", 0, [])
        async with mq.producer() as producer:
            for number in range(100):
                await producer.send("orders", b"%d" % number, key=f"k{number}", queue=0)
        async with mq.consumer("g", "orders") as consumer:
            for _ in range(100):
                (await anext(consumer)).dead_letter()
        assert await letters.count() == 100
        found = await letters.read(70)
        assert [int(message.body) for message in found] == list(range(70))
        assert {message.topic for message in found} == {"orders"}
        assert (found[3].key, found[3].reconsume_times) == ("k3", 1)
        await letters.resend(found[3])
        await letters.done(found[9])
        assert await letters.count() == 90
        assert [m.queue_offset for m in await letters.read(1)] == [10]
        assert [m.queue_offset for m in await letters.read(1, start=0)] == [0]
        assert await letters.resend_all(limit=2) == 2
        assert await letters.resend_all() == 88
        assert await letters.count() == 0
        async with mq.consumer("g", "orders") as consumer:
            again = [await anext(consumer) for _ in range(91)]
            assert [int(m.body) for m in again] == [3, *range(10, 100)]
            assert {(m.topic, m.reconsume_times) for m in again} == {("orders", 0)}
        async with mq.consumer("other", "orders") as consumer:
            assert len([await anext(consumer) for _ in range(100)]) == 100
            assert await consumer.get(1) is None  # they came to no other group


async def test_a_dead_letter_can_be_given_one_last_chance(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer:
            await producer.send("orders", b"x")
        async with mq.consumer("g", "orders", retries_max=1) as consumer:
            for _ in range(2):
                await fail(await anext(consumer))
            await trio.sleep(1)
            letters = mq.dead_letters("g")
            (message,) = await letters.read()
            await letters.resend(message, count_anew=False)
            await fail(await anext(consumer))
            assert await consumer.get(600) is None
        assert await letters.count() == 2


async def test_only_dead_letters_are_sent_again(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq:
        async with mq.producer() as producer:
            sent = await producer.send("orders", b"x")
        message = await mq.messages.at("orders", sent.queue_id, sent.queue_offset)
        with pytest.raises(broker.InvalidMessageError, match="is no dead letter"):
            await mq.dead_letters("g").resend(message)
        with pytest.raises(ValueError, match="at least 1"):
            await mq.dead_letters("g").read(0)
