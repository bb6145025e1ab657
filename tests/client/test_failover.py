"""Leaders that die, freeze, are deposed or cannot be reached, while messages are on their way."""

from __future__ import annotations

import pytest
import trio

import broker
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response
from tests.client.streams import Stream, assert_stored_once_and_in_order, sends_of


@pytest.mark.parametrize("knows_no_waiting", [False, True])
async def test_a_killed_leader_costs_the_election_and_a_few_milliseconds(
    group, connect, autojump_clock, knows_no_waiting
):
    """Also where nodes are of an earlier version: they tell at once that they know of nobody."""
    group.knows_no_waiting = knows_no_waiting
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 400)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        group.elect(None)
        group.nodes[0].kill()
        await trio.sleep(0.100)
        group.elect(1)

    assert not stream.failed
    assert_stored_once_and_in_order(group, 400)
    assert stream.longest_gap < 0.130


async def test_acks_lost_with_the_connection_write_nothing_twice(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        stream = Stream(producer, 300)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            for _ in range(10):
                await trio.sleep(0.1)
                group.lose_acks = 1

    assert not stream.failed
    assert_stored_once_and_in_order(group, 300)
    assert producer.stats.retried >= 10
    for number, result in stream.acked.items():
        assert result.queue_offset == number


async def test_many_batches_under_way_are_resent_in_order(group, connect, autojump_clock):
    """Five requests of one queue are on their way when the connection breaks."""
    group.ack_delay = 0.020
    async with connect() as mq, mq.producer(batch_count_max=3) as producer:
        stream = Stream(producer, 500, interval=0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            for _ in range(8):
                await trio.sleep(0.050)
                group.nodes[0].break_connections()

    assert not stream.failed
    assert_stored_once_and_in_order(group, 500)


async def test_a_deposed_leader_that_names_the_new_one_is_followed_at_once(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(2)
        began = trio.current_time()
        await producer.send("orders", b"2", queue=0)
        assert trio.current_time() - began < 0.010
        assert mq.leader_address == group.nodes[2].address
    assert group.bodies("orders")[0] == [b"1", b"2"]


async def test_a_node_that_forwards_tells_where_the_leader_is(group, connect, autojump_clock):
    group.forwards = True
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(2)
        await producer.send("orders", b"2", queue=0)
        assert mq.leader_address == group.nodes[2].address
        await producer.send("orders", b"3", queue=0)
        assert producer.stats.retried == 0
    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]
    assert [len(sends_of(node)) for node in group.nodes] == [2, 0, 1]


async def test_a_leader_that_steps_down_is_not_asked_until_it_leads_again(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 200)
        nursery.start_soon(stream.run)
        await trio.sleep(0.3)
        group.elect(None)
        before = len(sends_of(group.nodes[0]))
        await trio.sleep(0.200)
        assert len(sends_of(group.nodes[0])) <= before + 1
        group.elect(1)

    assert_stored_once_and_in_order(group, 200)
    assert stream.longest_gap < 0.230


async def test_a_node_that_cannot_forward_after_all_is_not_asked_in_circles(
    group, connect, autojump_clock
):
    """The leader is out of our reach, and of the reach of the others too, who still name it."""

    def refuse(node, command):
        if node is not group.nodes[0] and command.code == RequestCode.SEND_BATCH_MESSAGE:
            return response(command, Code.NOT_LEADER, "cannot reach it either")
        return None

    async with connect() as mq, mq.producer(send_timeout=4.0) as producer:
        await producer.send("orders", b"1", queue=0)
        group.refuse = refuse
        group.nodes[0].kill()
        await trio.sleep(0.01)  # or the send goes out on a connection that breaks under it
        with pytest.raises(broker.NotWrittenError, match="cannot reach it either"):
            await producer.send("orders", b"2", queue=0)
        assert 1 <= sum(len(sends_of(node)) for node in group.nodes[1:]) < 1000


async def test_a_new_leader_ends_all_waiting(group, connect, autojump_clock):
    """The pauses for a busy leader have grown to 200 ms when another one takes over."""
    busy = group.nodes[0]

    def refuse(node, command):
        if node is busy and group.leader is busy and command.code == RequestCode.SEND_BATCH_MESSAGE:
            return response(command, Code.SYSTEM_BUSY, "busy")
        return None

    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.refuse = refuse
        heard = []
        mq._session.finder.listen(lambda: heard.append(trio.current_time()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"2")
            await trio.sleep(2)
            group.elect(1)
        assert trio.current_time() - heard[-1] < 0.005
        assert mq.leader_address == group.nodes[1].address


async def test_a_leader_that_refuses_is_not_asked_in_circles(group, connect, autojump_clock):
    """It says it leads, and that it does not: at most once in 10 ms, until another one leads."""
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(1)
        await producer.send("orders", b"2", queue=0)
        before = len(sends_of(group.nodes[0]))
        group.nodes[0].believes = group.nodes[0]
        group.elect(None)
        group.nodes[1].kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"3")
            await trio.sleep(0.5)
            assert len(sends_of(group.nodes[0])) <= before + 55
            group.elect(2)
            elected = trio.current_time()
        assert trio.current_time() - elected < 0.030
    assert len(group.all_bodies("orders")) == 3


async def test_a_node_that_claims_an_older_lead_is_not_followed(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(1)
        group.elect(2)
        await producer.send("orders", b"2", queue=0)
        await trio.sleep(2)  # the new leader's term has been heard by now
        group.elect(None)
        group.nodes[2].kill()
        group.nodes[0].believes = group.nodes[0]
        before = len(sends_of(group.nodes[0]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"3")
            await trio.sleep(0.5)
            group.elect(1)
        assert len(sends_of(group.nodes[0])) == before
    assert len(group.all_bodies("orders")) == 3


async def test_a_frozen_leader_is_left_once_others_follow_another(group, connect, autojump_clock):
    """SIGSTOP: the connection stands, and nothing comes; what it took may be written later."""
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 400)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        group.nodes[0].freeze()
        await trio.sleep(0.150)
        group.elect(1)
        await trio.sleep(2.0)
        group.nodes[0].thaw()

    assert not stream.failed
    assert_stored_once_and_in_order(group, 400)
    assert stream.longest_gap < 0.600


async def test_a_slow_leader_is_not_left(group, connect, autojump_clock):
    """A disk that stalls for three seconds: the leader still says that it leads."""
    group.ack_delay = 3.0
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        assert producer.stats.retried == 0
        assert len(group.nodes[0].streams) == 1


async def test_nodes_that_still_name_the_dead_leader_do_not_bring_it_back(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 200)
        nursery.start_soon(stream.run)
        await trio.sleep(0.3)
        dead = group.nodes[0]
        dead.kill()
        group.nodes[1].believes = group.nodes[2].believes = dead
        await trio.sleep(0.2)
        group.nodes[1].believes = group.nodes[2].believes = None
        group.elect(2)

    assert not stream.failed
    assert_stored_once_and_in_order(group, 200)
    assert stream.longest_gap < 0.250


async def test_the_first_address_may_be_dead_from_the_start(group, connect, autojump_clock):
    group.nodes[0].kill()
    group.elect(2)
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1")
        assert trio.current_time() < 0.1
        assert mq.leader_address == group.nodes[2].address


async def test_one_address_is_enough_to_find_the_group(group, connect, autojump_clock):
    async with (
        broker.connect(group.nodes[1].address, network=group.network) as mq,
        mq.producer() as producer,
    ):
        await producer.send("orders", b"1")
        group.nodes[1].kill()
        group.elect(2)
        group.nodes[0].kill()
        await producer.send("orders", b"2")
    assert sorted(group.all_bodies("orders")) == [b"1", b"2"]


async def test_a_restarted_leader_is_found_again(group, connect, autojump_clock):
    """A group of one: there is nobody else to ask."""
    group.nodes[1].kill()
    group.nodes[2].kill()
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 300)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        group.nodes[0].kill()
        await trio.sleep(0.5)
        await group.nodes[0].start()

    assert not stream.failed
    assert_stored_once_and_in_order(group, 300)


async def test_a_leader_out_of_reach_is_reached_through_another_node(
    group, connect, autojump_clock
):
    """The link between client and leader is cut; the group itself is well, so nobody is elected."""

    def forward(node, command):
        if node is group.nodes[1] and command.code == RequestCode.SEND_BATCH_MESSAGE:
            return group.send(group.nodes[0], None, command)
        return None

    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.refuse = forward
        group.nodes[0].kill()
        group.nodes[2].kill()
        result = await producer.send("orders", b"2", queue=0)

    assert group.bodies("orders")[0] == [b"1", b"2"]
    assert result.queue_offset == 1
