"""Idempotent sends: each message once, however often it is sent."""

import pytest
import trio

from broker.protocol.response_code import ResponseCode
from tests.fakes.brokers import bodies_of, ext
from tests.fakes.nodes import until


async def test_a_repeated_send_is_answered_with_its_first_place(autojump_clock, caller):
    first = await caller.sent(b"a", b"b", producer_id=1, sequence=0)
    await caller.sent(b"c", producer_id=1, sequence=2)

    again = await caller.sent(b"a", b"b", producer_id=1, sequence=0)

    assert again.code == ResponseCode.SUCCESS
    assert again.ext_fields["queueOffset"] == first.ext_fields["queueOffset"] == 0
    assert bodies_of(await caller.pull()) == [b"a", b"b", b"c"]


async def test_a_repeated_send_gets_a_grouped_ack_like_the_first(autojump_clock, caller):
    for _ in range(2):
        caller.send(b"a", producer_id=1, is_grouped=True)
        caller.flush()
        await trio.sleep(0.5)

    assert [(ack.code, ack.queue_offset) for ack in caller.acks] == [(0, 0), (0, 0)]


async def test_a_repetition_is_not_acknowledged_before_the_first_is_committed(
    autojump_clock, make_brokers
):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        for other in group.others(leader):
            other.workers["sync"].stall()
        first = caller.send(b"a", producer_id=1)
        caller.flush()
        await trio.sleep(0.1)
        again = caller.send(b"a", producer_id=1)
        caller.flush()
        await trio.sleep(0.2)
        assert not first
        assert not again

        for other in group.others(leader):
            other.workers["sync"].go_on()
        await until("both answers", lambda: first and again)

        assert ext(first)["queueOffset"] == ext(again)["queueOffset"] == 0
        assert bodies_of(await caller.pull()) == [b"a"]


async def test_a_repetition_of_what_waits_to_be_appended_is_put_off(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        for other in group.others(leader):
            other.workers["sync"].stall()
        caller.send(b"a", producer_id=1)
        caller.flush()
        await trio.sleep(0.1)
        waiting = caller.send(b"b", producer_id=1, sequence=1)  # for the first to be committed
        caller.flush()
        await trio.sleep(0.1)

        again = await caller.sent(b"b", producer_id=1, sequence=1)

        assert again.code == ResponseCode.NOT_READY
        assert "ask again in a moment" in again.remark
        for other in group.others(leader):
            other.workers["sync"].go_on()
        await until("the first try's answer", lambda: waiting)
        assert ext(waiting)["queueOffset"] == 1
        assert bodies_of(await caller.pull()) == [b"a", b"b"]


async def test_a_gap_is_refused_and_can_be_filled(autojump_clock, caller):
    await caller.sent(b"a", producer_id=1, sequence=0)

    gap = await caller.sent(b"c", producer_id=1, sequence=2)
    assert gap.code == ResponseCode.OUT_OF_ORDER_SEQUENCE
    assert "send again from the first" in gap.remark

    assert (await caller.sent(b"b", producer_id=1, sequence=1)).code == ResponseCode.SUCCESS
    assert (await caller.sent(b"c", producer_id=1, sequence=2)).code == ResponseCode.SUCCESS
    assert bodies_of(await caller.pull()) == [b"a", b"b", b"c"]


async def test_a_gap_behind_what_still_waits_is_refused_too(autojump_clock, caller):
    answers = [
        caller.send(b"a", producer_id=1, sequence=0),
        caller.send(b"b", producer_id=1, sequence=1),
        caller.send(b"d", producer_id=1, sequence=3),
    ]
    caller.flush()
    await until("all answers", lambda: all(answers))

    assert [answer[0].code for answer in answers] == [0, 0, ResponseCode.OUT_OF_ORDER_SEQUENCE]


async def test_an_unknown_producer_may_only_begin_at_zero(autojump_clock, caller):
    answer = await caller.sent(b"x", producer_id=77, sequence=5)

    assert answer.code == ResponseCode.UNKNOWN_PRODUCER
    assert "another producer id" in answer.remark
    assert (await caller.sent(b"x", producer_id=77, sequence=0)).code == ResponseCode.SUCCESS


async def test_sequences_are_counted_by_queue_and_producer(autojump_clock, caller):
    for producer_id in (1, 2):
        for queue_id in (0, 1):
            answer = await caller.sent(b"x", producer_id=producer_id, queue_id=queue_id, sequence=0)
            assert answer.code == ResponseCode.SUCCESS

    assert len(bodies_of(await caller.pull(queue_id=0))) == 2


async def test_without_a_producer_id_nothing_is_recognised(autojump_clock, caller):
    await caller.sent(b"x", producer_id=0, sequence=0)
    await caller.sent(b"x", producer_id=0, sequence=0)

    assert bodies_of(await caller.pull()) == [b"x", b"x"]


@pytest.mark.parametrize("is_repeated_at_once", [True, False])
async def test_many_repetitions_of_one_receive_are_recognised(
    autojump_clock, caller, is_repeated_at_once
):
    """Handled together or one by one: the same answers."""
    first = [caller.send(b"%d" % n, producer_id=1, sequence=n) for n in range(8)]
    if not is_repeated_at_once:
        caller.flush()
        await until("the first answers", lambda: all(first))
    again = [caller.send(b"%d" % n, producer_id=1, sequence=n) for n in range(8)]
    caller.flush()
    await until("all answers", lambda: all(first) and all(again))

    assert [ext(answer)["queueOffset"] for answer in first] == list(range(8))
    for n, answer in enumerate(again):
        if answer[0].code == ResponseCode.SUCCESS:
            assert ext(answer)["queueOffset"] == n
        else:
            assert answer[0].code == ResponseCode.NOT_READY
            assert is_repeated_at_once
    assert bodies_of(await caller.pull()) == [b"%d" % n for n in range(8)]


async def test_a_new_leader_knows_the_sequences_of_the_old(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    old = await group.leader()
    async with group.caller(old) as caller:
        await caller.create_topic("t")
        for n in range(5):
            await caller.sent(b"%d" % n, producer_id=1, sequence=n)
    await old.kill()
    async with group.caller(await group.leader()) as caller:
        again = await caller.sent(b"3", producer_id=1, sequence=3)
        following = await caller.sent(b"5", producer_id=1, sequence=5)

        assert again.ext_fields["queueOffset"] == 3
        assert following.ext_fields["queueOffset"] == 5
        assert len(bodies_of(await caller.pull())) == 6


async def test_a_restarted_node_knows_the_sequences_from_its_log(autojump_clock, brokers):
    async with brokers.caller(brokers["n1"]) as caller:
        await caller.sent(b"0", b"1", producer_id=1, sequence=0)
    await brokers["n1"].kill()
    await brokers["n1"].start()
    async with brokers.caller(await brokers.leader()) as caller:
        again = await caller.sent(b"0", b"1", producer_id=1, sequence=0)

        assert again.ext_fields["queueOffset"] == 0
        assert bodies_of(await caller.pull()) == [b"0", b"1"]
