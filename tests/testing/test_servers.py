"""The brokers users test with: a real one in a thread, and one in memory under virtual time."""

from __future__ import annotations

import pytest
import trio

import broker
from broker.config import BrokerConfig
from broker.testing import BrokerServer, memory_broker


def test_a_server_takes_messages_at_once_and_deletes_its_folder():
    with BrokerServer() as server:
        folder = server.folder
        assert folder.is_dir()
        with server.connect_sync() as mq:
            assert mq.send("orders", b"hello").queue_offset == 0
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.address


def test_a_folder_of_ones_own_outlives_the_server(tmp_path):
    server = BrokerServer(tmp_path / "data")
    with server, server.connect_sync() as mq:
        mq.send("orders", b"kept", queue=0)
    with server, server.connect_sync() as mq, mq.consumer("billing", "orders") as consumer:
        assert next(consumer).body == b"kept"


def test_many_servers_have_ports_of_their_own():
    servers = [BrokerServer() for _ in range(3)]
    try:
        for server in servers:
            server.start()
        assert len({server.address for server in servers}) == 3
    finally:
        for server in servers:
            server.stop()


def test_a_server_that_cannot_start_says_why(tmp_path):
    other = BrokerServer(tmp_path)
    with (
        BrokerServer(tmp_path),
        pytest.raises(RuntimeError, match=r"does not start: .*another process uses"),
    ):
        other.start()


def test_limits_can_be_set():
    with (
        BrokerServer(config=BrokerConfig(body_size_max=100)) as server,
        server.connect_sync() as mq,
        pytest.raises(broker.MessageRefusedError),
    ):
        mq.send("orders", bytes(101))


async def test_a_broker_in_memory_has_the_tests_time(autojump_clock):
    async with memory_broker() as memory, memory.connect() as mq:
        async with mq.consumer("billing", "orders") as consumer:
            began = trio.current_time()
            assert await consumer.get(60) is None
            assert trio.current_time() - began == pytest.approx(60)
        assert memory.clock.wall_ms() >= 1_700_000_000_000 + 60_000


async def test_it_keeps_what_it_acknowledged_when_it_is_killed(autojump_clock):
    async with memory_broker() as memory, memory.connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"before", queue=0)
        await memory.kill()
        assert not memory.is_running
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: producer.send("orders", b"meanwhile", queue=0))
            await trio.sleep(5)
            await memory.start()
        async with mq.consumer("billing", "orders", queues=[0]) as consumer:
            bodies = [(await anext(consumer)).body for _ in range(2)]
    assert bodies == [b"before", b"meanwhile"]


async def test_the_fixture_in_memory(virtual_broker, autojump_clock):
    async with virtual_broker.connect() as mq, mq.producer() as producer:
        assert (await producer.send("orders", b"hello")).queue_offset == 0


def test_the_fixture_of_a_server(broker_server):
    with broker_server.connect_sync() as mq:
        mq.send("orders", b"hello")


pytest_plugins = ["pytester"]
