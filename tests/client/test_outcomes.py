"""What becomes of a message by its deadline: written once, not written, or unknown."""

from __future__ import annotations

import itertools

import pytest
import trio

import broker
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response
from tests.client.streams import Stream, sends_of


async def test_without_a_leader_nothing_is_written_and_the_error_says_so(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer(send_timeout=2.0) as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(None)
        with pytest.raises(
            broker.NotWrittenError, match=r"topic orders queue 0.*cannot duplicate"
        ) as caught:
            await producer.send("orders", b"2", queue=0)
        assert not isinstance(caught.value, broker.OutcomeUnknownError)
        assert trio.current_time() == pytest.approx(2.0, abs=0.2)
        group.elect(1)
        await producer.send("orders", b"3", queue=0)

    assert group.bodies("orders")[0] == [b"1", b"3"]


async def test_a_lost_answer_and_no_leader_since_is_unknown(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(send_timeout=2.0) as producer:
        await producer.send("orders", b"1", queue=0)
        group.lose_acks = 1
        group.nodes[0].believes = None

        def refuse(node, command):
            if group.lose_acks == 0:
                group.elect(None)
            return

        group.refuse = refuse
        with pytest.raises(
            broker.OutcomeUnknownError, match=r"topic orders queue 0.*look for it before"
        ):
            await producer.send("orders", b"2", queue=0)
        group.refuse = lambda node, command: None
        group.elect(1)
        await producer.send("orders", b"3", queue=0)

    # It was written: the caller was told that nobody knew.
    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]


async def test_expired_and_fresh_messages_of_one_queue_part_ways(group, connect, autojump_clock):
    """What has expired unwritten is never written; what has time left goes on, in order."""
    group.elect(None)
    outcomes = {}

    async def send(number):
        try:
            await producer.send("orders", b"%d" % number, queue=0)
            outcomes[number] = "acked"
        except broker.NotWrittenError:
            outcomes[number] = "not written"

    async with (
        connect() as mq,
        mq.producer(send_timeout=3.0) as producer,
        trio.open_nursery() as nursery,
    ):
        for number in range(20):
            nursery.start_soon(send, number)
            await trio.sleep(0.2)
        group.elect(2)

    stored = [int(body) for body in group.bodies("orders")[0]]
    assert stored == [number for number in range(20) if outcomes[number] == "acked"]
    assert 2 < len(stored) < 18


async def test_a_busy_leader_is_asked_again_later(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)

        def busy(node, command):
            if command.code == RequestCode.SEND_BATCH_MESSAGE and trio.current_time() < 1.0:
                return response(command, Code.SYSTEM_BUSY, "too much at once")
            return None

        group.refuse = busy
        await producer.send("orders", b"2", queue=0)
        assert 1.0 <= trio.current_time() < 1.3
        # 5 ms, doubled up to 200 ms: a dozen requests at most, not a storm.
        assert len(sends_of(group.nodes[0])) < 20
    assert group.bodies("orders")[0] == [b"1", b"2"]


async def test_a_producer_the_broker_has_forgotten_takes_a_new_id(group, connect, autojump_clock):
    """Idle for days: the first attempt is refused, nothing can have been written."""
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.producers.clear()
        await producer.send("orders", b"2", queue=0)
        await producer.send("orders", b"3", queue=0)

    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]
    ids = [c.ext_fields["producerId"] for c in sends_of(group.nodes[0])]
    assert len(set(ids)) == 2


async def test_forgotten_between_a_lost_answer_and_its_retry_is_unknown(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.lose_acks = 1
        original = group.send

        def forget_after(node, stream, command):
            answer = original(node, stream, command)
            if answer is None:
                group.producers.clear()
            return answer

        group.send = forget_after
        with pytest.raises(broker.OutcomeUnknownError, match="UNKNOWN_PRODUCER"):
            await producer.send("orders", b"2", queue=0)
        await producer.send("orders", b"3", queue=0)
    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]


async def test_a_broker_that_lacks_an_acknowledged_message_does_not_block_the_queue(
    group, connect, autojump_clock
):
    """It must not happen; if it does, the numbers behind the gap are dead and new ones are due."""
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        await producer.send("orders", b"2", queue=0)
        (state,) = group.producers.values()
        state["next"] = 1
        await producer.send("orders", b"3", queue=0)
        await producer.send("orders", b"4", queue=0)
        assert producer.stats.retried == 1
    assert group.bodies("orders")[0] == [b"1", b"2", b"3", b"4"]


async def test_sequences_are_dense_for_each_queue(group, connect, autojump_clock):
    async with (
        connect() as mq,
        mq.producer(batch_count_max=7) as producer,
        trio.open_nursery() as nursery,
    ):
        for number in range(300):
            nursery.start_soon(
                lambda n: producer.send("orders", b"x", ordering_key=f"k{n}"), number
            )
    following = {}
    for command in sends_of(group.nodes[0]):
        queue = command.ext_fields["queueId"]
        assert command.ext_fields["sequence"] == following.get(queue, 0)
        following[queue] = command.ext_fields["sequence"] + len(command.ext_fields["sizes"]) // 4
    assert sum(following.values()) == 300


async def test_without_idempotence_one_request_of_a_queue_is_under_way(
    group, connect, autojump_clock
):
    group.ack_delay = 0.010
    async with connect() as mq, mq.producer(idempotent=False, batch_count_max=5) as producer:
        stream = Stream(producer, 100, interval=0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await trio.sleep(0.0305)
            broken = trio.current_time()
            group.nodes[0].break_connections()
    assert {c.ext_fields["producerId"] for c in sends_of(group.nodes[0])} == {0}
    for sooner, later in itertools.pairwise(group.send_times):
        assert later - sooner > 0.0099 or sooner <= broken <= later
    stored = [int(body) for body in group.bodies("orders")[0]]
    assert stored == sorted(set(stored)), "in order, and nothing twice"


async def test_without_idempotence_what_may_be_written_is_unknown_and_never_repeated(
    group, connect, autojump_clock
):
    """It was sent again to the next leader, and the old one had written it."""
    group.ack_delay = 0.010
    async with connect() as mq, mq.producer(idempotent=False, batch_count_max=5) as producer:
        stream = Stream(producer, 100, interval=0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await trio.sleep(0.0305)
            group.nodes[0].break_connections()
    assert stream.failed
    assert {type(error) for error in stream.failed.values()} == {broker.OutcomeUnknownError}
    stored = [int(body) for body in group.bodies("orders")[0]]
    assert len(set(stored)) == len(stored)
    assert set(stored) >= set(stream.acked)
    assert set(stored) | set(stream.failed) == set(range(100))


async def test_a_duplicate_whose_place_is_forgotten_is_written_all_the_same(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.lose_acks = 1
        original = group.send

        def forget_place(node, stream, command):
            answer = original(node, stream, command)
            for state in group.producers.values():
                state["places"].clear()
            return answer

        group.send = forget_place
        result = await producer.send("orders", b"2", queue=0)
    assert (result.queue_offset, result.position, result.message_id) == (-1, -1, "")
    assert producer.stats.duplicates_answered == 1
    assert group.bodies("orders")[0] == [b"1", b"2"]


async def test_a_vanished_topic_is_created_again(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        del group.topics["orders"]
        await producer.send("orders", b"2", queue=0)
    assert group.bodies("orders")[0] == [b"1", b"2"]
