"""Messages dealt with in blocks: what is done, what is left, what is committed."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace

import pytest
import trio

from broker.client.progress import QueueProgress
from broker.errors import InvalidMessageError
from tests.client.test_consumer import numbered, take
from tests.client.test_consumer_choices import put_tagged


async def test_a_block_that_ends_well_acks(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", commit_interval=0.1, auto_commit=False) as consumer,
    ):
        async for message in consumer:
            async with message:
                await trio.sleep(1)
                assert group.offsets.get(("b", "orders", 0), 0) == message.queue_offset
            await trio.sleep(1)
            assert group.offsets["b", "orders", 0] == message.queue_offset + 1
            if message.queue_offset == 2:
                break


@pytest.mark.parametrize("auto_commit", [True, False])
async def test_a_message_left_by_an_error_comes_again_with_all_behind_it(
    group, connect, autojump_clock, auto_commit
):
    group.put("orders", 0, numbered(10))
    async with connect() as mq:
        async with mq.consumer("b", "orders", queues=[0], auto_commit=auto_commit) as consumer:
            count = 0
            async for message in consumer:
                count += 1
                try:
                    async with message:
                        if message.queue_offset == 4:
                            raise KeyError("cannot handle it")
                except KeyError:
                    assert consumer.left == {0: [4]}
                if count == 10:
                    break
        assert group.offsets["b", "orders", 0] == 4
        async with mq.consumer("b", "orders", queues=[0], auto_commit=auto_commit) as consumer:
            assert (await anext(consumer)).queue_offset == 4


async def test_an_explicit_commit_passes_no_message_that_was_left(group, connect, autojump_clock):
    group.put("orders", 0, numbered(5))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        for message in await take(consumer, 2):
            with pytest.raises(ZeroDivisionError):
                async with message:
                    _ = 1 / 0
        await take(consumer, 3)
        await consumer.commit()
        assert ("b", "orders", 0) not in group.offsets
        assert consumer.left == {0: [0, 1]}


async def test_seeking_to_a_message_that_was_left_brings_it_again(group, connect, autojump_clock):
    group.put("orders", 0, numbered(5))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        message = await anext(consumer)
        with pytest.raises(KeyError):
            async with message:
                raise KeyError
        consumer.seek(message.queue_id, message.queue_offset)
        again = await anext(consumer)
        assert again.body == message.body
        with pytest.raises(KeyError):
            async with again:
                raise KeyError
        await take(consumer, 3)
        await consumer.commit()
        assert ("b", "orders", 0) not in group.offsets
        again.ack()  # given up
        assert consumer.left == {}
        await consumer.commit()
        assert group.offsets["b", "orders", 0] == 4


@pytest.mark.parametrize("auto_commit", [True, False])
async def test_seeking_elsewhere_gives_up_no_message_that_was_left(
    group, connect, autojump_clock, auto_commit
):
    """Found by the simulator: asking for the second one again had the first one committed."""
    group.put("orders", 0, numbered(10))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], auto_commit=auto_commit) as consumer,
    ):
        found = await take(consumer, 8)
        for number in (2, 5):
            with pytest.raises(KeyError):
                async with found[number]:
                    raise KeyError
        consumer.seek(0, 5)
        assert consumer.left == {0: [2]}
        (again,) = await take(consumer, 1)
        again.ack()
        await consumer.commit()
        assert group.offsets.get(("b", "orders", 0), 0) <= 2
        found[2].ack()
        await consumer.commit()
        assert group.offsets["b", "orders", 0] == 6


async def test_a_cancelled_block_leaves_its_message(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    async with connect() as mq:
        async with mq.consumer("b", "orders", queues=[0]) as consumer:
            await anext(consumer)
            message = await anext(consumer)
            with trio.move_on_after(1):
                async with message:
                    await trio.sleep_forever()
        assert group.offsets["b", "orders", 0] == 1


async def test_messages_may_be_dealt_with_at_the_same_time_and_in_any_order(
    group, connect, autojump_clock
):
    group.put("orders", 0, numbered(10))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], auto_commit=False, commit_interval=0.1) as consumer,
        trio.open_nursery() as nursery,
    ):

        async def handle(message):
            async with message:
                await trio.sleep(20 - message.queue_offset)

        began = trio.current_time()
        for message in await take(consumer, 10):
            nursery.start_soon(handle, message)
        for passed in (15, 19.5, 20.5):
            await trio.sleep_until(began + passed)
            done = 10 if passed > 20 else 0  # the first one takes longest
            assert group.offsets.get(("b", "orders", 0), 0) == done


async def test_with_explicit_commits_coming_back_says_nothing(group, connect, autojump_clock):
    group.put("orders", 0, numbered(10))
    async with connect() as mq:
        async with mq.consumer("b", "orders", queues=[0], auto_commit=False) as consumer:
            await take(consumer, 5)
            await consumer.commit()
            await take(consumer, 3)
        assert group.offsets["b", "orders", 0] == 5


async def test_with_a_filter_an_ack_takes_along_what_was_passed_over(
    group, connect, autojump_clock
):
    put_tagged(group, 0, *[(b"%d" % n, "A" if n % 3 == 2 else "B") for n in range(9)])
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], tags="A", auto_commit=False) as consumer,
    ):
        first, second, third = await take(consumer, 3)
        second.ack()
        third.ack()
        await consumer._readings._commit_done()
        assert ("b", "orders", 0) not in group.offsets
        first.ack()
        await consumer._readings._commit_done()
        assert group.offsets["b", "orders", 0] == 9


async def test_a_message_no_consumer_has_handed_out_cannot_be_acked(group, connect, autojump_clock):
    group.put("orders", 0, numbered(1))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        await trio.sleep(1)
        message = consumer._readings.of().queues[0].reader.batches[0][0].take(1)[0]
        with pytest.raises(RuntimeError, match="not handed out by a consumer"):
            message.ack()


# --- by itself -----------------------------------------------------------------------------------


class FakeMessage(SimpleNamespace):
    @property
    def begin_or_offset(self):
        return getattr(self, "begin", self.queue_offset)


@pytest.mark.parametrize("seed", range(30))
def test_done_is_below_everything_that_is_not(seed):
    """Against the definition: the lowest of what was handed out and is not acked, or the end."""
    chance = random.Random(seed)
    progress = QueueProgress(None, 0, is_auto=False)
    handed: dict[int, FakeMessage] = {}
    acked, left = set(), set()
    offset = 0
    for _ in range(300):
        what = chance.choice(["hand out", "hand out", "ack", "ack", "enter", "leave"])
        if what == "hand out":
            offset += chance.choice((0, 0, 0, 5))
            handed[offset] = FakeMessage(queue_offset=offset)
            progress.hand_out(handed[offset])
            offset += 1
        elif handed:
            message = handed[chance.choice(list(handed))]
            if message.queue_offset in acked:
                continue
            if what == "enter":
                progress.enter(message)
            elif what == "leave":
                progress.leave(message)
                left.add(message.queue_offset)
            else:
                progress.ack(message)
                acked.add(message.queue_offset)
                left.discard(message.queue_offset)
        waiting = [message for at, message in handed.items() if at not in acked]
        expected = min((m.begin_or_offset for m in waiting), default=offset)
        assert progress.done == min(expected, progress.handed_out)
        assert progress.left == sorted(left)
    assert len(progress._acked_begins) <= len(handed)


def test_ranges_that_meet_become_one():
    progress = QueueProgress(None, 0, is_auto=False)
    messages = [FakeMessage(queue_offset=n) for n in range(1000)]
    for message in messages:
        progress.hand_out(message)
    for message in messages[1:]:
        progress.ack(message)
    assert len(progress._acked_begins) == 1
    progress.ack(messages[0])
    assert progress.done == 1000
    assert not progress._acked_begins


def test_acks_of_many_threads_all_count():
    progress = QueueProgress(None, 0, is_auto=False)
    messages = [FakeMessage(queue_offset=n) for n in range(4000)]
    for message in messages:
        progress.hand_out(message)

    def deal_with(some):
        for message in some:
            progress.enter(message)
            progress.ack(message)

    threads = [threading.Thread(target=deal_with, args=(messages[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.done == 4000


def test_a_message_from_before_a_seek_holds_nothing_up():
    progress = QueueProgress(None, 3, is_auto=True)
    messages = [FakeMessage(queue_offset=n) for n in (3, 1000)]
    progress.hand_out(messages[0])
    progress.seek(1000)
    progress.enter(messages[0])
    progress.leave(messages[0])
    progress.hand_out(messages[1])
    progress.settle()
    assert (progress.done, progress.left) == (1001, [])
    progress.seek(0)
    progress.leave(messages[1])
    assert progress.left == []


def test_a_message_that_is_open_while_its_queue_goes_elsewhere_is_waited_for():
    progress = QueueProgress(None, 3, is_auto=False)
    messages = [FakeMessage(queue_offset=n) for n in (3, 4, 5)]
    for message in messages:
        progress.hand_out(message)
    progress.enter(messages[0])
    progress.leave(messages[2])
    progress.seek(100)
    assert (progress.done, progress.left) == (3, [5])
    progress.ack(messages[0])
    assert progress.done == 5
    progress.ack(messages[2])
    assert progress.done == 100


def test_a_group_that_is_put_elsewhere_forgets_what_was_left():
    progress = QueueProgress(None, 3, is_auto=True)
    message = FakeMessage(queue_offset=3)
    progress.hand_out(message)
    progress.leave(message)
    progress.reset(100)
    assert (progress.done, progress.left, progress.follows) == (100, [], True)


def test_a_queue_is_just_where_it_is_when_nothing_before_waits():
    auto, manual = (QueueProgress(None, 3, is_auto=is_auto) for is_auto in (True, False))
    messages = [FakeMessage(queue_offset=offset) for offset in (3, 4)]
    for progress in (auto, manual):
        for message in messages:
            progress.hand_out(message)
        assert not progress.is_just_at(3)
    assert auto.is_just_at(5)
    assert not manual.is_just_at(5)  # nobody has said that they are done
    auto.leave(messages[0])
    assert not auto.is_just_at(5)
    for message in messages:
        manual.ack(message)
    assert manual.is_just_at(5)


async def test_a_consumer_without_a_group_leaves_no_trace(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    async with (
        connect() as mq,
        mq.consumer(
            "", "orders", queues=[0], start="first", auto_commit=False, commit_interval=0.1
        ) as consumer,
    ):
        for message in await take(consumer, 3):
            async with message:
                pass
        await trio.sleep(1)
        with pytest.raises(ValueError, match="without a group"):
            await consumer.commit()
    assert group.offsets == {}


@pytest.mark.parametrize("choices", [{"start": "first"}, {"auto_commit": False}])
async def test_a_consumer_without_a_group_has_to_say_so(group, connect, autojump_clock, choices):
    async with connect() as mq:
        with pytest.raises(InvalidMessageError, match="name one, or give auto_commit=False"):
            mq.consumer("", "orders", **choices)
