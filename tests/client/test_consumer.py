from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import trio

import broker
from broker.client.queue_reader import QueueReader
from broker.message.codec import encode_record
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response


async def take(consumer, count):
    """Return the next *count* messages, each marked done as the next one is asked for."""
    found = []
    async for message in consumer:
        found.append(message)
        if len(found) == count:
            break
    return found


def pulls_of(node):
    return [c for c in node.requests if c.code == RequestCode.PULL_MESSAGE]


def numbered(count, first=0):
    return [b"%06d" % number for number in range(first, first + count)]


async def test_messages_come_in_order_with_all_that_belongs_to_them(group, connect, autojump_clock):
    async with connect() as mq:
        async with mq.producer() as producer:
            sent = await producer.send(
                "orders", b"hello", key=["k1", "k2"], tag="A", properties={"a": "5"}, queue=3
            )
        async with mq.consumer("billing", "orders") as consumer:
            (message,) = await take(consumer, 1)

    assert (message.topic, message.queue_id, message.queue_offset) == ("orders", 3, 0)
    assert message.body == b"hello"
    assert (message.key, message.keys, message.tag) == ("k1", ("k1", "k2"), "A")
    assert message.properties["a"] == "5"
    assert message.unique_id == sent.unique_id
    assert message.position == sent.position
    assert message.born_timestamp_ms >= 1_760_000_000_000
    assert message.reconsume_times == 0


async def test_each_queue_is_read_in_order_and_to_its_end(group, connect, autojump_clock):
    for queue in range(4):
        group.put("orders", queue, numbered(5000))
    async with (
        connect() as mq,
        mq.consumer("billing", "orders", prefetch_bytes=400_000) as consumer,
    ):
        found = await take(consumer, 20_000)

    for queue in range(4):
        mine = [message for message in found if message.queue_id == queue]
        assert [message.queue_offset for message in mine] == list(range(5000))
        assert [message.body for message in mine] == numbered(5000)


async def test_reading_ahead_is_bounded(group, connect, autojump_clock):
    group.put("orders", 0, [b"x" * 1000] * 2000)
    async with (
        connect() as mq,
        mq.consumer("billing", "orders", prefetch_bytes=200_000) as consumer,
    ):
        await take(consumer, 1)
        await trio.sleep(1)
        pulled = sum(c.ext_fields["maxMsgBytes"] for c in pulls_of(group.nodes[0]))
        assert 200_000 <= pulled < 900_000
        assert len(await take(consumer, 1999)) == 1999


async def test_a_waiting_consumer_gets_a_message_as_it_arrives(group, connect, autojump_clock):
    async with connect() as mq, mq.consumer("billing", "orders") as consumer:
        with trio.move_on_after(40):
            await take(consumer, 1)
        # Long polls: about three each queue in 40 s, not one after another.
        assert len(pulls_of(group.nodes[0])) <= 16
        began = trio.current_time()
        group.put("orders", 2, [b"now"])
        (message,) = await take(consumer, 1)
        assert message.body == b"now"
        assert trio.current_time() - began < 0.001


async def test_the_message_in_hand_is_not_committed_and_those_before_are(
    group, connect, autojump_clock
):
    group.put("orders", 0, numbered(10))
    async with connect() as mq:
        async with mq.consumer("billing", "orders", commit_interval=0.5) as consumer:
            count = 0
            async for _ in consumer:
                count += 1
                if count == 4:
                    await trio.sleep(2)
                    assert group.offsets["billing", "orders", 0] == 3
                    break
        assert group.offsets["billing", "orders", 0] == 4  # left in peace: the fourth is done too


async def test_an_error_in_the_block_leaves_the_message_in_hand_uncommitted(
    group, connect, autojump_clock
):
    group.put("orders", 0, numbered(10))
    async with connect() as mq:
        consumer = mq.consumer("billing", "orders")
        with pytest.raises(KeyError):
            await fail_at_fourth(consumer)
        assert group.offsets["billing", "orders", 0] == 3
        async with mq.consumer("billing", "orders") as consumer:
            assert (await take(consumer, 1))[0].queue_offset == 3


async def fail_at_fourth(consumer):
    async with consumer:
        async for message in consumer:
            if message.queue_offset == 3:
                raise KeyError("cannot handle it")


async def test_a_cancelled_consumer_commits_what_was_done(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    with trio.move_on_after(5):
        async with (
            connect() as mq,
            mq.consumer("billing", "orders", commit_interval=100) as consumer,
        ):
            async for _ in consumer:
                pass
    assert group.offsets["billing", "orders", 0] == 3


async def test_a_group_goes_on_where_it_stopped(group, connect, autojump_clock):
    group.put("orders", 1, numbered(100))
    async with connect() as mq:
        async with mq.consumer("billing", "orders") as consumer:
            first = await take(consumer, 40)
        async with mq.consumer("billing", "orders") as consumer:
            second = await take(consumer, 60)
        async with mq.consumer("other", "orders") as consumer:
            assert len(await take(consumer, 100)) == 100
    assert [message.body for message in first + second] == numbered(100)


async def test_commit_takes_the_message_in_hand_along(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    async with connect() as mq, mq.consumer("b", "orders", commit_interval=100) as consumer:
        await take(consumer, 2)
        await consumer.commit()
        assert group.offsets["b", "orders", 0] == 2


@pytest.mark.parametrize(("start", "first"), [("first", 5), ("last", 20), (12, 12)])
async def test_where_to_start_is_a_choice(group, connect, autojump_clock, start, first):
    group.put("orders", 0, numbered(20))
    group.min_offsets["orders", 0] = 5
    async with connect() as mq, mq.consumer("b", "orders", queues=[0], start=start) as consumer:
        assert consumer.position(0) == first
        group.put("orders", 0, [b"next"])
        assert (await take(consumer, 1))[0].queue_offset == first


async def test_a_new_group_begins_with_the_oldest_message_kept(group, connect, autojump_clock):
    group.put("orders", 0, numbered(20))
    group.min_offsets["orders", 0] = 5
    async with connect() as mq, mq.consumer("new", "orders") as consumer:
        assert (await take(consumer, 1))[0].queue_offset == 5


async def test_seek_goes_anywhere_and_forgets_what_was_read_ahead(group, connect, autojump_clock):
    group.put("orders", 0, numbered(100))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        assert [m.queue_offset for m in await take(consumer, 3)] == [0, 1, 2]
        consumer.seek(0, 50)
        assert consumer.position(0) == 50
        assert [m.queue_offset for m in await take(consumer, 3)] == [50, 51, 52]
        consumer.seek(0, 1)
        assert [m.queue_offset for m in await take(consumer, 3)] == [1, 2, 3]
        with pytest.raises(ValueError, match="queue 3 of topic orders is not read here"):
            consumer.seek(3, 0)


async def test_seeking_again_and_again_leaves_room_to_read_ahead(group, connect, autojump_clock):
    group.put("orders", 0, [b"x" * 1000] * 500)
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], prefetch_bytes=100_000) as consumer,
    ):
        for _ in range(20):
            await take(consumer, 1)
            await trio.sleep(0.01)
            consumer.seek(0, 0)
        assert len(await take(consumer, 500)) == 500


async def test_an_answer_that_crosses_a_seek_is_thrown_away(autojump_clock, caplog):
    """It has arrived, and its task has not run yet, when the user goes elsewhere."""
    pulled = encode_record(topic=b"orders", queue_id=0, queue_offset=50, body=b"old place")

    class CrossingLink:
        async def request(self, command, **_):
            if command.ext_fields["queueOffset"] == 0:
                await trio.sleep_forever()
            reader.seek(0)
            return response(command, 0, None, {}, pulled)

    reader = QueueReader(
        group="g",
        topic="orders",
        queue_id=0,
        requests=SimpleNamespace(
            leader=SimpleNamespace(nodes=("a:1",), leader="a:1"), links={"a:1": CrossingLink()}
        ),
        pull_size_max=1000,
        poll_wait=1.0,
        on_arrival=lambda reader, count: None,
        has_room=lambda: True,
        chance=lambda: 0.0,
    )
    reader.seek(50)
    with trio.move_on_after(0.05):
        await reader.run()
    assert not reader.batches
    assert reader.next_offset == 0
    assert not caplog.records, "nothing is taken for damage"


async def test_what_retention_removed_is_passed_over(group, connect, autojump_clock):
    group.put("orders", 0, numbered(100))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0], start=3) as consumer:
        group.min_offsets["orders", 0] = 60
        consumer.seek(0, 3)
        assert (await take(consumer, 1))[0].queue_offset == 60


async def test_a_node_that_is_behind_never_takes_a_consumer_back(group, connect, autojump_clock):
    """The leader dies; the node asked next lacks the last 40 messages for a while."""
    group.put("orders", 0, numbered(100))
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        found = await take(consumer, 100)
        group.elect(None)
        group.nodes[0].kill()
        group.nodes[1].lag = group.nodes[2].lag = 40
        with trio.move_on_after(3) as scope:
            found += await take(consumer, 1)
        assert scope.cancelled_caught
        group.elect(1)
        group.nodes[1].lag = group.nodes[2].lag = 0
        group.put("orders", 0, numbered(5, first=100))
        found += await take(consumer, 5)
    assert [message.body for message in found] == numbered(105)


async def test_reading_goes_on_while_the_group_elects(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3000))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], prefetch_bytes=65_536) as consumer,
    ):
        found = await take(consumer, 10)
        group.elect(None)
        group.nodes[0].kill()
        found += await take(consumer, 2000)
        assert trio.current_time() < 1
        group.elect(1)  # for the last commit
    assert [message.body for message in found] == numbered(2010)


async def test_a_frozen_leader_holds_a_consumer_up_for_a_moment_only(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        group.put("orders", 0, [b"1"])
        await take(consumer, 1)
        group.nodes[0].freeze()
        group.elect(1)
        group.put("orders", 0, [b"2"])
        began = trio.current_time()
        (message,) = await take(consumer, 1)
        assert message.body == b"2"
        assert trio.current_time() - began < 2.5


async def test_commits_follow_the_leader(group, connect, autojump_clock):
    group.put("orders", 0, numbered(20))
    async with (
        connect() as mq,
        mq.consumer("b", "orders", queues=[0], commit_interval=0.1) as consumer,
    ):
        await take(consumer, 5)
        group.elect(1)
        await take(consumer, 5)
        await trio.sleep(1)
        assert group.offsets["b", "orders", 0] == 9
        group.nodes[1].kill()
        group.elect(2)
    assert group.offsets["b", "orders", 0] == 10


async def test_a_damaged_record_is_asked_of_another_node(group, connect, autojump_clock):
    group.put("orders", 0, numbered(10))

    def damage(node, command):
        if node is group.nodes[0] and command.code == RequestCode.PULL_MESSAGE:
            answer = group.try_pull(node, command)
            if answer is not None and answer.body:
                answer.body = bytearray(answer.body)
                answer.body[90] ^= 1
            return answer
        return None

    group.refuse = damage
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        assert [m.body for m in await take(consumer, 10)] == numbered(10)


async def test_damage_on_every_node_is_an_error_and_not_a_message(group, connect, autojump_clock):
    group.put("orders", 0, numbered(3))
    record = bytearray(group.queues["orders", 0][1])
    record[90] ^= 1
    group.queues["orders", 0][1] = bytes(record)
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        with pytest.raises(
            broker.CorruptAnswerError, match=r"topic orders queue 0 offset 0.*body_crc"
        ):
            await take(consumer, 3)


async def test_a_queue_that_does_not_exist_is_refused(group, connect, autojump_clock):
    async with connect() as mq:
        with pytest.raises(broker.InvalidMessageError, match="no queue 9: it has 0 to 3"):
            async with mq.consumer("b", "orders", queues=[9]):
                pass


async def test_a_topic_that_may_not_be_read_says_so(group, connect, autojump_clock):
    def refuse(node, command):
        if command.code == RequestCode.PULL_MESSAGE:
            return response(command, Code.NO_PERMISSION, "perm is 2")
        return None

    group.refuse = refuse
    async with connect() as mq, mq.consumer("b", "orders", queues=[0]) as consumer:
        with pytest.raises(broker.NoPermissionError, match="perm is 2"):
            await take(consumer, 1)


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_skipped_or_repeated_over_any_failovers(
    group, connect, autojump_clock, seed
):
    chance = random.Random(seed)
    found = []

    async def torment():
        for _ in range(12):
            await trio.sleep(chance.uniform(0.05, 0.4))
            what = chance.choice(["kill", "freeze", "break", "depose", "lag"])
            if what == "lag":
                node = chance.choice([node for node in group.nodes if node is not group.leader])
                node.lag = chance.randrange(1, 50)
                await trio.sleep(0.2)
                node.lag = 0
                group.wake_pulls()
            else:
                await group.harm_leader(what, chance)

    async def write():
        for number in range(1200):
            group.put("orders", number % 4, [b"%06d" % number])
            await trio.sleep(0.004)

    async with (
        connect() as mq,
        mq.consumer("b", "orders", prefetch_bytes=3000) as consumer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(torment)
        nursery.start_soon(write)
        found += await take(consumer, 1200)

    for queue in range(4):
        mine = [m for m in found if m.queue_id == queue]
        assert [m.queue_offset for m in mine] == list(range(300))
        assert [int(m.body) for m in mine] == list(range(queue, 1200, 4))
    assert [group.offsets["b", "orders", queue] for queue in range(4)] == [300] * 4
