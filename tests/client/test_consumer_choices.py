"""What a consumer reads and when: starts, seeks, pauses, filters, batches, how far it has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest
import trio

import broker
from broker.client.handout import Handout
from broker.message.codec import encode_record
from broker.message.properties import encode_properties
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response
from tests.client.fake_node import FakeClock
from tests.client.test_consumer import numbered, pulls_of, take


def put_tagged(group, queue, *tagged):
    group.topics.setdefault("orders", 4)
    for body, tag in tagged:
        group.append(
            "orders",
            queue,
            encode_record(
                topic=b"orders",
                queue_id=queue,
                body=body,
                properties=encode_properties({"TAGS": tag}) if tag else b"",
            ),
        )
    group.wake_pulls()


# --- starts --------------------------------------------------------------------------------------


@pytest.fixture
def times(group):
    """Every message of a queue is a minute younger than the one before; the last is there now."""
    asked = []

    def search(node, command):
        if command.code != RequestCode.SEARCH_OFFSET_BY_TIMESTAMP:
            return None
        asked.append(command.ext_fields["timestamp"])
        key = command.ext_fields["topic"], command.ext_fields["queueId"]
        end = len(group.queues[key])
        age_minutes = (FakeClock().wall_ms() - command.ext_fields["timestamp"]) // 60_000
        return response(command, 0, None, {"offset": max(0, min(end, end - age_minutes))})

    group.refuse = search
    return asked


async def test_it_can_start_so_long_ago(group, connect, autojump_clock, times):
    group.put("orders", 0, numbered(100))
    ago = timedelta(minutes=5)
    async with connect() as mq, mq.consumer("b", "orders", queues=[0], start=ago) as consumer:
        assert consumer.position(0) == 95


async def test_it_can_start_at_a_time(group, connect, autojump_clock, times):
    group.put("orders", 0, numbered(100))
    when = datetime.fromtimestamp(FakeClock().wall_ms() / 1000, UTC) - timedelta(minutes=7)
    async with connect() as mq, mq.consumer("b", "orders", queues=[0], start=when) as consumer:
        assert consumer.position(0) == 93
        assert (await take(consumer, 1))[0].body == b"000093"


async def test_each_queue_can_start_elsewhere(group, connect, autojump_clock):
    for queue in range(4):
        group.put("orders", queue, numbered(10))
    group.offsets["b", "orders", 2] = 8
    starts = MappingProxyType({0: 3, 1: 10})
    async with connect() as mq, mq.consumer("b", "orders", start=starts) as consumer:
        assert consumer.positions() == {0: 3, 1: 10, 2: 8, 3: 0}


@pytest.mark.parametrize(
    ("start", "error"),
    [
        ("newest", ValueError),
        (-1, ValueError),
        ({0: -1}, ValueError),
        (timedelta(-1), ValueError),
        (1.5, TypeError),
    ],
)
async def test_a_start_that_is_none_is_refused(group, connect, autojump_clock, start, error):
    async with connect() as mq:
        with pytest.raises(error, match="start"):
            mq.consumer("b", "orders", start=start)


async def test_seek_to_takes_all_that_start_takes(group, connect, autojump_clock, times):
    for queue in range(2):
        group.put("orders", queue, numbered(100))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0, 1]) as consumer:
        await take(consumer, 50)
        assert await consumer.seek_to("first") == {0: 0, 1: 0}
        assert await consumer.seek_to("last", queues=[1]) == {1: 100}
        assert consumer.positions() == {0: 0, 1: 100}
        assert await consumer.seek_to({1: 7}) == {1: 7}
        assert await consumer.seek_to(timedelta(minutes=3)) == {0: 97, 1: 97}
        assert sorted(m.queue_offset for m in await take(consumer, 6)) == [97, 97, 98, 98, 99, 99]
        with pytest.raises(ValueError, match="queue 3 of topic orders is not read here"):
            await consumer.seek_to({3: 0})


# --- pauses --------------------------------------------------------------------------------------


async def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(group, connect, autojump_clock):
    for queue in (0, 1):
        group.put("orders", queue, numbered(1000))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0, 1]) as consumer:
        first = await take(consumer, 10)
        paused = first[-1].queue_id
        consumer.pause(paused)
        assert consumer.paused == (paused,)
        others = await take(consumer, 1000)
        assert {message.queue_id for message in others} == {1 - paused}
        with trio.move_on_after(1) as scope:
            await take(consumer, 1)
        assert scope.cancelled_caught
        consumer.resume()
        rest = await take(consumer, 990)

    mine = [message for message in first + rest if message.queue_id == paused]
    assert [message.body for message in mine] == numbered(1000)
    assert group.offsets["b", "orders", 0] == group.offsets["b", "orders", 1] == 1000


async def test_a_pause_takes_nothing_while_a_message_is_handed_out(group, connect, monkeypatch):
    """Through `broker.sync` the receiver is another thread than the one that pauses."""
    held, seen = [False], []

    class Exclusive:
        def __enter__(self):
            held.append(True)

        def __exit__(self, *_error):
            held.append(False)

    put_back = Handout.put_back

    def putting_back(self, progress):
        seen.append(held[-1])
        return put_back(self, progress)

    group.put("orders", 0, numbered(3))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        await take(consumer, 1)
        with monkeypatch.context() as patched:
            patched.setattr(Handout, "exclusive", Exclusive())
            patched.setattr(Handout, "put_back", putting_back)
            consumer.pause()
    assert seen == [True]


async def test_a_paused_consumer_pulls_no_further(group, connect, autojump_clock):
    group.put("orders", 0, [b"x" * 1000] * 100)
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], prefetch_bytes=4000) as consumer,
    ):
        await take(consumer, 1)
        consumer.pause()
        await trio.sleep(20)
        count = len(pulls_of(group.nodes[0]))
        await trio.sleep(60)
        assert len(pulls_of(group.nodes[0])) == count
        consumer.resume(0)
        assert len(await take(consumer, 99)) == 99


async def test_the_message_in_hand_is_done_though_its_queue_is_paused(
    group, connect, autojump_clock
):
    group.put("orders", 0, numbered(10))
    group.put("orders", 1, numbered(10))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0, 1], commit_interval=0.1) as consumer,
    ):
        (message,) = await take(consumer, 1)
        consumer.pause(message.queue_id)
        await take(consumer, 1)
        await trio.sleep(1)
        assert group.offsets["b", "orders", message.queue_id] == 1


# --- filters -------------------------------------------------------------------------------------


async def test_what_an_older_node_sends_too_much_is_passed_over(group, connect, autojump_clock):
    """The group of these tests knows nothing of filters, as nodes before them."""
    put_tagged(group, 0, (b"1", "A"), (b"2", "B"), (b"3", None), (b"4", "AB"), (b"5", "A"))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], tags="A || C") as consumer,
    ):
        found = await take(consumer, 2)
        with trio.move_on_after(1):
            await take(consumer, 1)
        put_tagged(group, 0, (b"6", "B"))
        with trio.move_on_after(1):
            await take(consumer, 1)
        assert consumer.position(0) == 6
    assert [message.body for message in found] == [b"1", b"5"]
    assert group.offsets["b", "orders", 0] == 6, "what was passed over is not looked at again"
    pull = pulls_of(group.nodes[0])[0].ext_fields
    assert (pull["subscription"], pull["expressionType"], pull["sysFlag"]) == ("A || C", "TAG", 6)


async def test_what_is_passed_over_is_committed_only_with_what_lies_before_it(
    group, connect, autojump_clock
):
    put_tagged(group, 0, (b"1", "A"), (b"2", "B"), (b"3", "A"), (b"4", "B"))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], tags="A", commit_interval=0.1) as consumer,
    ):
        async for message in consumer:
            await trio.sleep(1)
            if message.body == b"1":
                assert ("b", "orders", 0) not in group.offsets
            else:
                assert group.offsets["b", "orders", 0] == 1
                break
        await consumer.commit()
        assert group.offsets["b", "orders", 0] == 4


async def test_a_queue_of_which_nothing_is_wanted_is_committed_beside_a_busy_one(
    group, connect, autojump_clock
):
    """It was, but only once there was nothing to hand out from any queue."""
    put_tagged(group, 0, *[(b"x", "A")] * 500)
    put_tagged(group, 1, *[(b"x", "B")] * 100)
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0, 1], tags="A") as consumer,
    ):
        for _ in range(300):
            await anext(consumer)
            await trio.sleep(0.01)
        assert consumer.position(1) == 100
        assert group.offsets["b", "orders", 1] == 100


async def test_a_filter_without_a_tag_is_refused(group, connect, autojump_clock):
    async with connect() as mq:
        with pytest.raises(broker.InvalidFilterError, match="names no tag"):
            mq.consumer("b", "orders", tags=" || ")


async def test_a_filter_that_a_node_refuses_is_told_as_one(group, connect, autojump_clock):
    def refuse(node, command):
        if command.code == RequestCode.PULL_MESSAGE:
            return response(command, Code.SUBSCRIPTION_PARSE_FAILED, "not this one")
        return None

    group.refuse = refuse
    async with connect() as mq, mq.consumer("b", "orders", queues=[0], tags="A") as consumer:
        with pytest.raises(broker.InvalidFilterError, match=r"topic orders queue 0.*not this one"):
            await anext(consumer)


# --- reading ahead, waiting, counting ------------------------------------------------------------


async def test_reading_ahead_is_bounded_by_count_too(group, connect, autojump_clock):
    group.put("orders", 0, numbered(2000))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], prefetch_count=100) as consumer,
    ):
        await take(consumer, 1)
        await trio.sleep(1)
        assert consumer.stats.messages <= 200
        assert len(await take(consumer, 1999)) == 1999


async def test_get_waits_no_longer_than_it_may(group, connect, autojump_clock):
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        assert await consumer.get(0) is None
        began = trio.current_time()
        assert await consumer.get(2.5) is None
        assert trio.current_time() - began == pytest.approx(2.5, abs=0.01)
        group.put("orders", 0, [b"a", b"b"])
        assert (await consumer.get()).body == b"a"
        assert (await consumer.get(0)).body == b"b"
        await consumer.commit()
    assert group.offsets["b", "orders", 0] == 2


async def test_the_lag_is_what_is_left_to_hand_out(group, connect, autojump_clock):
    group.put("orders", 0, numbered(10))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0, 1]) as consumer:
        await take(consumer, 3)
        assert await consumer.lag() == {0: 7, 1: 0}
        assert consumer.positions() == {0: 3, 1: 0}
        stats = consumer.stats
        assert (stats.messages, stats.pulls, stats.removed) == (10, 1, 0)
        assert stats.bytes > 10 * 91
    assert consumer.stats.commits == 1


# --- batches -------------------------------------------------------------------------------------


async def test_a_batch_is_done_when_its_receiver_comes_back(group, connect, autojump_clock):
    group.put("orders", 0, numbered(25))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], commit_interval=0.1) as consumer,
    ):
        sizes = []
        async for batch in consumer.batches(10):
            await trio.sleep(1)
            assert group.offsets.get(("b", "orders", 0), 0) == sum(sizes)
            assert [m.body for m in batch] == numbered(len(batch), first=sum(sizes))
            sizes.append(len(batch))
            if sum(sizes) == 25:
                break
    assert sizes == [10, 10, 5]
    assert group.offsets["b", "orders", 0] == 25


async def test_a_batch_may_wait_for_more(group, connect, autojump_clock):
    async with (
        connect() as mq,
        mq.consumer("b", "orders") as consumer,
        trio.open_nursery() as nursery,
    ):

        async def write():
            for number in range(10):
                group.put("orders", number % 4, [b"%d" % number])
                await trio.sleep(0.2)

        nursery.start_soon(write)
        batches = consumer.batches(100, linger=1.05)
        first = await anext(batches)
        assert sorted(message.body for message in first) == [b"%d" % n for n in range(6)]
        second = await anext(batches)
        assert sorted(message.body for message in second) == [b"%d" % n for n in range(6, 10)]


async def test_a_batch_that_was_cancelled_is_the_beginning_of_the_next(
    group, connect, autojump_clock
):
    group.put("orders", 0, numbered(3))
    async with connect() as mq:
        async with mq.consumer("b", "orders", queues=[0]) as consumer:
            with trio.move_on_after(1):
                await anext(consumer.batches(10, linger=5))
            assert consumer.position(0) == 0
            assert [m.body for m in await anext(consumer.batches(2))] == numbered(2)
            assert (await anext(consumer)).body == b"000002"
        assert group.offsets["b", "orders", 0] == 3


async def test_batches_and_messages_may_be_taken_in_turns(group, connect, autojump_clock):
    group.put("orders", 0, numbered(10))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        found = await take(consumer, 2)
        found += await anext(consumer.batches(3))
        found += await take(consumer, 2)
        found += await anext(consumer.batches(3))
    assert [message.body for message in found] == numbered(10)


async def test_gathered_messages_of_a_paused_queue_come_later(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0, 1]) as consumer:
        with trio.move_on_after(1):
            await anext(consumer.batches(10, linger=5))
        consumer.pause(0)
        group.put("orders", 1, [b"other"])
        assert [m.body for m in await anext(consumer.batches(10))] == [b"other"]
        consumer.resume(0)
        assert [m.body for m in await anext(consumer.batches(10))] == numbered(3)


async def test_an_empty_batch_is_not_asked_for(group, connect, autojump_clock):
    async with connect() as mq, mq.consumer("b", "orders") as consumer:
        with pytest.raises(ValueError, match="count_max"):
            consumer.batches(0)


async def test_an_offset_beyond_the_end_is_warned_of_once(group, connect, autojump_clock, caplog):
    group.put("orders", 0, numbered(3))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0], start=9) as consumer:
        assert await consumer.get(5) is None
        assert caplog.text.count("topic orders queue 0 ends at offset 3") == 1
        group.put("orders", 0, numbered(10, first=3))
        assert (await anext(consumer)).queue_offset == 9


async def test_names_that_are_none_are_refused_at_once(group, connect, autojump_clock):
    async with connect() as mq:
        with pytest.raises(broker.InvalidMessageError, match="consumer group"):
            mq.consumer("", "orders")
        with pytest.raises(broker.InvalidTopicError, match="no topic"):
            mq.consumer("b", "no topic")
