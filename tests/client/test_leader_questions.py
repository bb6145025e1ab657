"""How often a client that has lost its leader asks who is the next one."""

from __future__ import annotations

import pytest
import trio

import broker
from broker.client.leader_finder import FORWARD_AFTER
from broker.protocol.request_code import RequestCode
from tests.client.streams import Stream, assert_stored_once_and_in_order
from tests.fakes.nodes import until


def questions(node) -> list[dict[str, int]]:
    return [
        command.ext_fields
        for command in node.requests
        if command.code == RequestCode.GET_GROUP_STATUS
    ]


@pytest.fixture
def tries(group, monkeypatch) -> list[tuple[float, int]]:
    """When a connection was tried, and to which port."""
    found = []
    connect_to = group.network.connect

    async def counted(host, port):
        found.append((trio.current_time(), port))
        return await connect_to(host, port)

    monkeypatch.setattr(group.network, "connect", counted)
    return found


async def test_an_election_costs_each_node_one_question(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 400)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        before = [len(questions(node)) for node in group.nodes]
        group.elect(None)
        group.nodes[0].kill()
        await trio.sleep(0.400)
        during = [len(questions(node)) for node in group.nodes]
        group.elect(1)

    assert [now - then for now, then in zip(during, before, strict=True)] == [0, 1, 1]
    assert not stream.failed
    assert_stored_once_and_in_order(group, 400)
    assert stream.longest_gap < 0.410


async def test_a_frozen_leader_costs_each_node_one_question(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 400)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        group.nodes[0].freeze()
        before = [len(questions(node)) for node in group.nodes[1:]]
        await trio.sleep(0.500)
        during = [len(questions(node)) for node in group.nodes[1:]]
        group.elect(1)
        elected = trio.current_time()
        known = len(stream.acked)
        await until("one more is acknowledged", lambda: len(stream.acked) > known)
        assert trio.current_time() - elected < 0.005

    assert [now - then for now, then in zip(during, before, strict=True)] == [1, 1]
    assert not stream.failed
    assert_stored_once_and_in_order(group, 400)


async def test_a_group_without_a_leader_is_asked_twice_a_second(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(send_timeout=60) as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(None)
        group.nodes[0].kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"2")
            await trio.sleep(2)
            before = len(questions(group.nodes[1]))
            await trio.sleep(20)
            assert 30 <= len(questions(group.nodes[1])) - before <= 41
            group.elect(2)
            elected = trio.current_time()
        assert trio.current_time() - elected < 0.005
    assert len(group.all_bodies("orders")) == 2


async def test_a_group_that_stays_without_a_leader_is_connected_to_once_a_second(
    group, connect, autojump_clock, tries
):
    """Each client tried each dead node ten times a second, for as long as it was dead."""
    async with connect() as mq, mq.producer(send_timeout=60) as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(None)
        for node in group.nodes[:2]:
            node.kill()
        died = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"2")
            await trio.sleep(1)
            first = [port for at, port in tries if at > died]
            assert first.count(group.nodes[0].port) >= 8, "it may be back soon"
            await trio.sleep(24)
            late = [port for at, port in tries if at > died + 20]
            for node in group.nodes[:2]:
                assert 3 <= late.count(node.port) <= 7
            await group.nodes[0].start()
            group.elect(0)
            elected = trio.current_time()
        assert trio.current_time() - elected < 0.010, "the third node tells of it"
    assert len(group.all_bodies("orders")) == 2


async def test_a_group_that_is_away_as_a_whole_is_found_at_once_when_it_is_back(
    group, connect, autojump_clock, tries
):
    async with connect() as mq, mq.producer(send_timeout=60) as producer:
        await producer.send("orders", b"1", queue=0)
        for node in group.nodes:
            node.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"2")
            await trio.sleep(25)
            last = [port for at, port in tries if at > trio.current_time() - 1]
            assert all(last.count(node.port) >= 4 for node in group.nodes)
            for node in group.nodes:
                await node.start()
            began = trio.current_time()
        assert trio.current_time() - began < 0.3
    assert len(group.all_bodies("orders")) == 2


async def test_a_leader_out_of_reach_is_reached_by_way_of_another_node_within_a_second(
    group, connect, autojump_clock
):
    """The others follow it still: of them no other leader is to be heard."""
    group.forwards = True
    async with connect(request_timeout=1.6) as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.nodes[0].kill()
        began = trio.current_time()
        await producer.send("orders", b"2", queue=0)
        assert FORWARD_AFTER <= trio.current_time() - began < FORWARD_AFTER + 0.15
    assert group.bodies("orders")[0] == [b"1", b"2"]


@pytest.mark.parametrize("request_timeout", [0.05, 0.1, 0.2, 3.0])
async def test_a_node_that_waits_with_its_answer_keeps_its_connection(
    group, connect, autojump_clock, request_timeout
):
    """What is not answered in time breaks a connection; a question that may wait is no such."""
    async with connect(request_timeout=request_timeout) as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(None)
        group.nodes[0].kill()
        await trio.sleep(0.5)
        known = [set(node.streams) for node in group.nodes[1:]]
        assert all(known)
        await trio.sleep(5)
        assert [set(node.streams) for node in group.nodes[1:]] == known


async def test_who_begins_without_a_leader_is_told_so_at_once(group, connect, autojump_clock):
    group.elect(None)
    async with connect(group_timeout=0.2) as mq:
        with pytest.raises(broker.BrokerError, match="knows no leader"):
            await mq.admin.max_offset("orders", 0)
    assert questions(group.nodes[0])[0]["suspendTimeoutMillis"] == 0
