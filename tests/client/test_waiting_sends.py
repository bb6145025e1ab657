"""Senders that wait: for room, for an answer, for the end; given up, or told that it is over."""

from __future__ import annotations

import pytest
import trio

import broker
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response


async def test_a_cancelled_send_does_not_break_its_batch(group, connect, autojump_clock):
    group.ack_delay = 0.050
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"stays")
            with trio.move_on_after(0.010) as scope:
                await producer.send("orders", b"cancelled")
            nursery.start_soon(producer.send, "orders", b"later")
        assert scope.cancelled_caught

    assert {b"stays", b"later"} <= set(group.all_bodies("orders"))
    assert producer.buffered_size == 0


async def test_a_send_can_be_cancelled_after_its_batch_was_split(group, connect, autojump_clock):
    """The halves wait for a busy leader while a sender of the first half gives up."""
    halves = []

    def refuse(node, command):
        if command.code != RequestCode.SEND_BATCH_MESSAGE or trio.current_time() > 1:
            return None
        if len(command.ext_fields["sizes"]) == 8 * 4:
            return response(command, Code.MESSAGE_ILLEGAL, "one of eight")
        halves.append(command)
        return response(command, Code.SYSTEM_BUSY, "later")

    bodies = [b"%d" % number for number in range(8)]
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"first", queue=0)
        group.refuse = refuse
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in bodies]

            async def send(number):
                with scopes[number]:
                    await producer.send("orders", bodies[number], queue=0)

            for number in range(8):
                nursery.start_soon(send, number)
            await trio.sleep(0.5)
            assert halves
            for scope in scopes[::2]:
                scope.cancel()
    assert sorted(group.bodies("orders")[0]) == sorted([*bodies, b"first"])


async def test_a_full_buffer_makes_senders_wait(group, connect, autojump_clock):
    group.ack_delay = 1.0
    async with connect() as mq, mq.producer(buffer_size_max=10_000) as producer:
        highest = 0

        async def send():
            nonlocal highest
            await producer.send("orders", b"x" * 900)
            highest = max(highest, producer.buffered_size)

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(send)
            await trio.sleep(0.5)
            assert 9_000 < producer.buffered_size < 11_500

    assert len(group.all_bodies("orders")) == 40


async def test_no_room_until_the_deadline_is_not_written(group, connect, autojump_clock):
    group.elect(None)
    async with (
        connect() as mq,
        mq.producer(buffer_size_max=100, send_timeout=2.0) as producer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(expect, broker.NotWrittenError, producer, b"first")
        await trio.sleep(0.1)
        nursery.start_soon(expect, broker.NotWrittenError, producer, b"second")
    assert group.all_bodies("orders") == []


async def expect(error, producer, body, **options):
    with pytest.raises(error):
        await producer.send("orders", body, **options)


async def test_closing_waits_for_what_is_under_way(group, connect, autojump_clock):
    group.ack_delay = 0.3
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        nursery.start_soon(producer.send, "orders", b"last")
        await trio.sleep(0.01)
        nursery.start_soon(producer.close)
        await trio.sleep(0.01)
        with pytest.raises(broker.ClosedError, match="open another"):
            await producer.send("orders", b"too late")
    assert group.all_bodies("orders") == [b"last"]


async def test_flush_returns_when_nothing_is_under_way(group, connect, autojump_clock):
    group.ack_delay = 0.3
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(producer.send, "orders", b"x")
        await trio.sleep(0.01)
        assert producer.buffered_size > 0
        await producer.flush()
        assert producer.buffered_size == 0


async def test_an_error_in_the_block_comes_out_as_it_is(group, connect, autojump_clock):
    async def fail():
        async with connect() as mq, mq.producer() as producer:
            await producer.send("orders", b"x")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()


async def test_what_was_not_opened_says_so(group, connect, autojump_clock):
    async with connect() as mq:
        producer, consumer = mq.producer("shop"), mq.consumer("b", "orders")
        for call in (
            lambda: producer.send("orders", b"x"),
            lambda: consumer.get(wait=0),
            lambda: consumer.get(wait=1),
            lambda: anext(consumer),
        ):
            with (
                trio.fail_after(10),
                pytest.raises(broker.ClosedError, match="inside 'async with'"),
            ):
                await call()
        with trio.fail_after(10), pytest.raises(broker.SendManyError) as caught:
            await producer.send_many("orders", [b"x"])
        assert "inside 'async with'" in str(caught.value.results[0])
        async with producer, consumer:
            await producer.send("orders", b"y")
            assert (await anext(consumer)).body == b"y"
        with pytest.raises(broker.ClosedError, match="open another"):
            await consumer.get(wait=0)


async def test_a_client_that_closes_loses_no_leader(group, connect, autojump_clock, caplog):
    caplog.set_level("INFO", "broker.client")
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"x")
    assert "leader is " in caplog.text
    assert "lost" not in caplog.text


async def test_whoever_waits_hears_that_the_client_was_closed(
    group, connect, autojump_clock, nursery
):
    """Tasks of their own may outlive the client; under asyncio they often do."""
    errors = []

    async def expect(error, function, *arguments):
        with pytest.raises(error) as caught:
            await function(*arguments)
        errors.append(str(caught.value))

    async with connect() as mq:
        producer = await mq.producer(linger=10).__aenter__()
        await mq.admin.create_topic("orders", 4)
        consumer = await mq.consumer("b", "orders").__aenter__()
        nursery.start_soon(expect, broker.NotWrittenError, producer.send, "orders", b"x")
        nursery.start_soon(expect, broker.ClosedError, consumer.__anext__)
        await trio.sleep(1)
    await trio.sleep(1)
    assert len(errors) == 2
    assert "the client was closed" in "".join(errors)
    with pytest.raises(broker.ClosedError):
        await producer.send("orders", b"y")
