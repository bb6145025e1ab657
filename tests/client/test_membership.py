"""Consumers of one group share its queues, whoever comes and goes."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

import pytest
import trio

import broker
from broker.client.rebalance import ByConfig
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import FLAG_ONEWAY, Command
from tests.client.fake_node import FakeClock


@pytest.fixture
def connect_as(group):
    """Return what makes a client of that name."""

    def connect(name):
        return broker.connect(
            group.addresses,
            network=group.network,
            clock=FakeClock(),
            chance=random.Random(name),
            client_id=name,
        )

    return connect


def numbered(count):
    return [b"%06d" % number for number in range(count)]


async def drain(consumer, wait=0.5):
    found = []
    while (message := await consumer.get(wait)) is not None:
        found.append(message)
    return found


async def test_two_members_read_each_message_once_between_them(group, connect_as, autojump_clock):
    for queue in range(4):
        group.put("orders", queue, numbered(100))
    async with (
        connect_as("b") as mq_b,
        connect_as("a") as mq_a,
        mq_b.consumer("g", "orders", auto_commit=False) as b,
        mq_a.consumer("g", "orders", auto_commit=False) as a,
    ):
        await trio.sleep(0.1)
        assert (a.queues, b.queues) == ((0, 1), (2, 3))
        found = await drain(a) + await drain(b)
    places = [(message.queue_id, message.queue_offset) for message in found]
    assert sorted(places) == [(queue, offset) for queue in range(4) for offset in range(100)]


async def test_who_leaves_hands_over_where_it_stopped(group, connect_as, autojump_clock):
    for queue in range(4):
        group.put("orders", queue, numbered(10))
    async with connect_as("a") as mq_a, connect_as("b") as mq_b, AsyncExitStack() as stack:
        a = await stack.enter_async_context(mq_a.consumer("g", "orders", commit_interval=1000))
        async with mq_b.consumer("g", "orders", commit_interval=1000) as b:
            await trio.sleep(0.1)
            seen = [await anext(b) for _ in range(7)]
            began = trio.current_time()
        await trio.sleep(0.1)
        assert a.queues == (0, 1, 2, 3)
        assert trio.current_time() - began < 1
        seen += await drain(a)
    places = [(message.queue_id, message.queue_offset) for message in seen]
    assert sorted(places) == [(queue, offset) for queue in range(4) for offset in range(10)]


async def test_a_queue_handed_over_takes_its_offset_along(group, connect_as, autojump_clock):
    """No commit was due: whoever gives a queue away commits what is done of it."""
    for queue in range(4):
        group.put("orders", queue, numbered(10))
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders", commit_interval=1000) as a,
    ):
        seen = await drain(a)
        async with mq_b.consumer("g", "orders", commit_interval=1000) as b:
            await trio.sleep(0.1)
            assert (a.queues, b.queues) == ((0, 1), (2, 3))
            seen += await drain(b)
    assert len(seen) == 40
    assert group.offsets == {("g", "orders", queue): 10 for queue in range(4)}


async def test_what_is_in_hand_as_its_queue_goes_is_committed_when_it_is_done(
    group, connect_as, autojump_clock
):
    for queue in range(4):
        group.put("orders", queue, numbered(1))
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders", auto_commit=False) as a,
    ):
        held = {message.queue_id: message for message in await drain(a)}
        async with mq_b.consumer("g", "orders", auto_commit=False) as b:
            await trio.sleep(0.1)
            assert b.queues == (2, 3)
            assert group.offsets == {}
            held[3].ack()
            await trio.sleep(0.1)
            assert group.offsets == {("g", "orders", 3): 1}


async def test_a_member_that_is_taken_for_dead_comes_back_among_others(
    group, connect_as, autojump_clock
):
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders") as a,
        mq_b.consumer("g", "orders"),
    ):
        await trio.sleep(0.1)
        assert a.queues == (0, 1)
        group.expel("g", "b")
        await trio.sleep(0.1)
        # Both were told at once: the one took all, the other came back, and they share again.
        assert a.queues == (0, 1)
        assert sorted(group.members["g"]) == ["a", "b"]


async def test_a_member_that_nobody_tells_finds_out_by_itself(group, connect_as, autojump_clock):
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders") as a,
    ):
        async with mq_b.consumer("g", "orders"):
            await trio.sleep(0.1)
            assert a.queues == (0, 1)
            group.listeners.clear()
            began = trio.current_time()
        await trio.sleep(1)
        assert a.queues == (0, 1)
        await trio.sleep_until(began + 21)
        assert a.queues == (0, 1, 2, 3)


async def test_a_member_that_was_taken_for_dead_comes_back(group, connect_as, autojump_clock):
    async with connect_as("a") as mq, mq.consumer("g", "orders") as consumer:
        group.expel("g", "a")
        await trio.sleep(0.1)
        assert consumer.queues == (0, 1, 2, 3)
        assert list(group.members["g"]) == ["a"]


async def test_every_node_hears_heartbeats_and_the_leader_first(group, connect_as, autojump_clock):
    def beats(node):
        return sum(command.code == RequestCode.HEART_BEAT for command in node.requests)

    async with connect_as("a") as mq, mq.consumer("g", "orders"):
        await trio.sleep(1)
        assert [min(beats(node), 1) for node in group.nodes] == [1, 1, 1]
        before = [beats(node) for node in group.nodes]
        await trio.sleep(4 * broker.MemberTimes().heartbeat)
        assert all(3 <= beats(n) - b <= 5 for n, b in zip(group.nodes, before, strict=True))


async def test_a_node_is_told_again_when_its_connection_broke(group, connect_as, autojump_clock):
    async with connect_as("a") as mq, mq.consumer("g", "orders"):
        await trio.sleep(1)
        for node in group.nodes:
            node.requests.clear()
            node.break_connections()
        await trio.sleep(3)
        for node in group.nodes:
            assert RequestCode.HEART_BEAT in [command.code for command in node.requests]


async def test_members_outlive_their_leader(group, connect_as, autojump_clock):
    for queue in range(4):
        group.put("orders", queue, numbered(50))
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders") as a,
    ):
        async with mq_b.consumer("g", "orders") as b:
            await trio.sleep(0.1)
            seen = [await anext(a) for _ in range(30)] + [await anext(b) for _ in range(30)]
            group.nodes[0].kill()
            group.elect(1)
            seen += await drain(a) + await drain(b)
        await trio.sleep(1)
        assert a.queues == (0, 1, 2, 3)
    assert len(seen) == 200
    assert len({(message.queue_id, message.queue_offset) for message in seen}) == 200


async def test_consumers_of_one_client_are_one_member_and_share_its_queues(
    group, connect_as, autojump_clock
):
    for queue in range(4):
        group.put("orders", queue, numbered(5))
    async with connect_as("a") as mq, mq.consumer("g", "orders") as first:
        async with mq.consumer("g", "orders") as second:
            await trio.sleep(0.1)
            assert sorted((*first.queues, *second.queues)) == [0, 1, 2, 3]
            assert len(first.queues) == 2
            assert list(group.members["g"]) == ["a"]
            seen = await drain(first) + await drain(second)
        await trio.sleep(0.1)
        assert sorted(first.queues) == [0, 1, 2, 3]
        assert await drain(first) == []
        assert len(seen) == 20
    assert not group.members["g"]


async def test_a_group_is_read_in_one_way_only(group, connect_as, autojump_clock):
    group.topics["invoices"] = 2
    async with connect_as("a") as mq, mq.consumer("g", "orders"):
        for topic, options, word in (
            ("invoices", {}, "topics"),
            ("orders", {"tags": "A"}, "tags"),
            ("orders", {"ordered": True}, "ordered"),
            ("orders", {"rebalance": "circle"}, "rebalance"),
        ):
            with pytest.raises(broker.InvalidMessageError, match=f"has {word} = "):
                async with mq.consumer("g", topic, **options):
                    pass
        async with mq.consumer("g", "invoices", queues=[0]):  # told its queues: no member
            pass


async def test_several_topics_have_one_handler(group, connect_as, autojump_clock):
    group.topics["invoices"] = 2
    group.put("orders", 3, numbered(3))
    group.put("invoices", 1, numbered(2))
    async with connect_as("a") as mq, mq.consumer("g", ["orders", "invoices"]) as consumer:
        assert consumer.topics == ("orders", "invoices")
        assert consumer.positions(topic="invoices") == {0: 0, 1: 0}
        found = await drain(consumer)
        consumer.seek(1, 1, topic="invoices")
        found += await drain(consumer)
        with pytest.raises(ValueError, match="is not read here; these are: orders, invoices"):
            consumer.position(0, topic="letters")
    assert sorted((message.topic, message.queue_offset) for message in found) == [
        ("invoices", 0),
        ("invoices", 1),
        ("invoices", 1),
        *[("orders", offset) for offset in range(3)],
    ]
    assert group.offsets["g", "invoices", 1] == 2


async def test_who_is_told_its_queues_is_no_member(group, connect_as, autojump_clock):
    async with connect_as("a") as mq, mq.consumer("g", "orders", queues=[1]) as consumer:
        assert consumer.queues == (1,)
        assert not group.members


async def test_broadcasting_brings_everything_to_everybody(group, connect_as, autojump_clock):
    group.put("orders", 0, numbered(5))  # before they came
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders", broadcasting=True) as a,
        mq_b.consumer("g", "orders", broadcasting=True) as b,
        mq_b.consumer("g", "orders", broadcasting=True) as c,
    ):
        await trio.sleep(0.1)
        for queue in range(4):
            group.put("orders", queue, numbered(10))
        for consumer in (a, b, c):
            assert len(await drain(consumer)) == 40
        message = None
        group.put("orders", 0, [b"bad"])
        with pytest.raises(KeyError):
            async with await anext(a) as message:
                raise KeyError
        assert message is not None
        assert a.left == {0: [15]}
        with pytest.raises(RuntimeError, match="cannot come again"):
            message.retry()
        with pytest.raises(ValueError, match="broadcasting"):
            await a.commit()
        assert {data.message_model for data in group.members["g"].values()} == {"BROADCASTING"}
    assert group.offsets == {}
    assert not group.members["g"]


async def test_more_members_than_queues_leave_some_idle_until_they_are_needed(
    group, connect_as, autojump_clock
):
    group.topics["orders"] = 1
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_b.consumer("g", "orders") as b,
    ):
        async with mq_a.consumer("g", "orders") as a:
            await trio.sleep(0.1)
            assert (a.queues, b.queues) == ((0,), ())
            assert await b.get(1) is None
        group.put("orders", 0, numbered(1))
        assert (await b.get(1)).body == b"000000"


async def test_queues_added_to_a_topic_are_read_within_a_minute(group, connect_as, autojump_clock):
    async with connect_as("a") as mq, mq.consumer("g", "orders", start="last") as consumer:
        group.topics["orders"] = 6
        group.put("orders", 5, numbered(3))
        found = [await consumer.get(60) for _ in range(3)]
    assert [message.queue_offset for message in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("rebalance", "mine"),
    [("circle", (0, 2)), ("averagely", (0, 1)), (ByConfig({"orders": [3]}), (3,))],
)
async def test_the_strategy_is_the_consumers_choice(
    group, connect_as, autojump_clock, rebalance, mine
):
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders", rebalance=rebalance) as a,
        mq_b.consumer("g", "orders", rebalance=rebalance),
    ):
        await trio.sleep(0.1)
        assert a.queues == mine


async def test_starts_are_for_the_opening_and_not_for_what_comes_later(
    group, connect_as, autojump_clock
):
    """Else every change of the group would begin from the first message again."""
    for queue in range(4):
        group.put("orders", queue, numbered(10))
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders", start="first") as a,
    ):
        assert len(await drain(a)) == 40
        async with mq_b.consumer("g", "orders", start="last"):
            await trio.sleep(0.1)
            assert a.queues == (0, 1)
        await trio.sleep(0.1)
        assert a.queues == (0, 1, 2, 3)
        assert await drain(a) == []


async def test_a_group_that_began_with_the_last_message_loses_none_that_came_since(
    group, connect_as, autojump_clock
):
    """Its first member was gone before it committed anything."""
    group.put("orders", 0, numbered(10))
    async with connect_as("a") as mq:
        with pytest.raises(KeyError):
            async with mq.consumer("g", "orders", start="last", commit_interval=1000):
                raise KeyError
        group.put("orders", 0, [b"meanwhile"])
        async with mq.consumer("g", "orders") as consumer:
            assert [message.body for message in await drain(consumer)] == [b"meanwhile"]


async def test_what_a_client_does_not_do_it_says(group, connect_as, autojump_clock):
    async with connect_as("a") as mq, mq.consumer("g", "orders"):
        node = group.nodes[0]
        (stream,) = [found for found, (of, _) in group.listeners.items() if of is node]
        node.send(stream, [Command(307, opaque=77), Command(308, FLAG_ONEWAY, opaque=78)])
        await trio.sleep(0.1)
        assert [(c.opaque, c.code) for c in node.requests if c.is_response] == [(77, 3)]


async def test_leaving_while_nobody_leads_is_made_good_later(group, connect_as, autojump_clock):
    async with connect_as("a") as mq:
        async with mq.consumer("g", "orders"):
            await trio.sleep(0.1)
            group.elect(None)
            for node in group.nodes:
                node.knows_leader = False
        assert list(group.members["g"]) == ["a"]
        for node in group.nodes:
            node.knows_leader = True
        group.elect(2)
        await trio.sleep(15)
        assert not group.members["g"]


class Moody:
    """A strategy that fails when two are there."""

    def share(self, member, members, queues):
        if len(members) == 2:
            raise ZeroDivisionError
        return list(queues)


async def test_a_strategy_that_fails_ends_nobody(group, connect_as, autojump_clock, caplog):
    moody = Moody()
    async with (
        connect_as("a") as mq_a,
        connect_as("b") as mq_b,
        mq_a.consumer("g", "orders", rebalance=moody) as a,
    ):
        with pytest.raises(ZeroDivisionError):
            async with mq_b.consumer("g", "orders", rebalance=moody):
                pass
        await trio.sleep(5)
        group.put("orders", 3, numbered(1))
        assert (await a.get(1)).body == b"000000"
        assert a.queues == (0, 1, 2, 3)
        assert list(group.members["g"]) == ["a"]
    assert "group g cannot be shared out" in caplog.text
