"""Bytes and connections that a server does not take, and what they cost the others."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from dledger.remoting.command import SerializeType, response
from dledger.remoting.errors import ConnectionLostError
from dledger.remoting.server import RemotingServer
from dledger.remoting.turned_away import AT_ONCE_MIN
from tests.fakes.network import MemoryNetwork
from tests.remoting.conftest import frame, is_ended, receive_commands

pytestmark = pytest.mark.usefixtures("only_warnings")


async def test_a_frame_over_the_limit_is_answered_and_closes_only_its_connection(
    server, network, handler, autojump_clock, caplog
):
    hostile = await network.connect("127.0.0.1", 10911)
    healthy = await network.connect("127.0.0.1", 10911)
    good = frame(10, opaque=1)
    header = frame(11, opaque=2)[8:]
    bad = struct.pack(">II", 1 << 30, 77 << 24 | len(header)) + header
    hostile.send_now([good + bad + bytes(30_000)])
    first, second = await receive_commands(hostile, 2)
    assert (first.opaque, first.code) == (1, 0)
    assert (second.opaque, second.code) == (2, 1)
    assert "over the limit of 16777216" in second.remark
    assert await is_ended(hostile)
    assert [session.peer_address for session in handler.closed] == [hostile.local_address]
    assert "over the limit" in caplog.text
    healthy.send_now([good])
    assert len(await receive_commands(healthy, 1)) == 1


@pytest.mark.parametrize("kind", SerializeType)
def test_every_serialization_has_its_own_wrong_header(kind):
    assert wrong_header(kind)


def wrong_header(kind: SerializeType) -> bytes:
    """A frame whose header names opaque 9 and is wrong in its last byte."""
    data = frame(10, opaque=9, serialization=kind)
    if kind is SerializeType.MSGPACK:
        return data[:-1] + b"\x01"
    if kind is SerializeType.JSON:
        return data.replace(b'"code":10', b'"code":[]')
    return data[:-1] + b"\x01"


@pytest.mark.parametrize("kind", SerializeType)
async def test_a_wrong_header_is_answered_in_its_own_serialization(
    server, network, kind, autojump_clock
):
    stream = await network.connect("127.0.0.1", 10911)
    stream.send_now([wrong_header(kind)])
    (answer,) = await receive_commands(stream, 1)
    assert (answer.code, answer.opaque, answer.serialization) == (1, 9, kind)
    assert kind.name in answer.remark


async def test_bytes_of_another_protocol_close_the_connection(
    server, network, handler, autojump_clock, caplog
):
    stream = await network.connect("127.0.0.1", 10911)
    stream.send_now([b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"])
    assert await is_ended(stream)
    assert handler.commands == []
    assert stream.local_address in caplog.text


async def test_a_hostile_sender_is_not_waited_for(server, network, autojump_clock):
    """After the refusal its bytes are thrown away for a second; then it is closed."""
    stream = await network.connect("127.0.0.1", 10911)
    start = trio.current_time()

    async def send_on() -> None:
        while True:
            stream.send_now([b"\xff" * 1000])
            await trio.sleep(0.1)

    with pytest.raises(ConnectionLostError):
        await send_on()
    assert trio.current_time() - start < 2


async def test_one_connection_too_many_is_closed_at_once(
    server, network, handler, autojump_clock, caplog
):
    kept = [await network.connect("127.0.0.1", 10911) for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked()
    extra = await network.connect("127.0.0.1", 10911)
    assert await is_ended(extra)
    assert len(handler.opened) == 3
    assert "connections_max" in caplog.text
    kept[0].close()
    await trio.testing.wait_all_tasks_blocked()
    again = await network.connect("127.0.0.1", 10911)
    again.send_now([frame(10)])
    assert len(await receive_commands(again, 1)) == 1


async def test_one_connection_too_many_hears_why(network, handler, autojump_clock):
    """It was closed without a word, which looks like a broken network."""
    server = RemotingServer(
        network,
        host="",
        port=10912,
        handler=handler,
        connections_max=1,
        refusal=lambda request: response(request, 2, "too many"),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        await network.connect("127.0.0.1", 10912)
        await trio.testing.wait_all_tasks_blocked()
        extra = await network.connect("127.0.0.1", 10912)
        extra.send_now([frame(10, opaque=7) + frame(10, opaque=8)])
        for opaque, answer in zip((7, 8), await receive_commands(extra, 2), strict=True):
            assert (answer.code, answer.opaque, answer.remark) == (2, opaque, "too many")
        extra.send_now([frame(10, opaque=9)])
        assert await is_ended(extra)

        silent = await network.connect("127.0.0.1", 10912)
        assert await is_ended(silent)
        assert trio.current_time() < 3

        many = [await network.connect("127.0.0.1", 10912) for _ in range(AT_ONCE_MIN + 5)]
        await trio.testing.wait_all_tasks_blocked()
        for stream in many[:AT_ONCE_MIN]:
            stream.send_now([frame(10)])
        for stream in many[AT_ONCE_MIN:]:
            with trio.fail_after(0.1):
                assert await is_ended(stream)
        assert len(handler.opened) == 1
        began = trio.current_time()
        await server.close(grace_seconds=0)
        assert trio.current_time() - began < 0.1


async def test_a_flood_of_refused_connections_does_not_flood_the_log(
    server, network, autojump_clock, caplog
):
    for _ in range(3):
        await network.connect("127.0.0.1", 10911)
    for _ in range(200):
        await network.connect("127.0.0.1", 10911)
        await trio.testing.wait_all_tasks_blocked()
    assert len([r for r in caplog.records if "connections_max" in r.getMessage()]) == 10
    await trio.sleep(60)
    await network.connect("127.0.0.1", 10911)
    await trio.testing.wait_all_tasks_blocked()
    assert "190 more lines" in caplog.text


async def test_a_refusal_reaches_a_client_that_still_sends(handler, autojump_clock):
    """Closing with its bytes unread would be a reset, and the reset would overtake the answer."""
    network = MemoryNetwork(receive_size_max=100, latency_seconds=0.01)
    server = RemotingServer(network, host="127.0.0.1", port=1, handler=handler)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        stream = await network.connect("127.0.0.1", 1)
        stream.send_now([wrong_header(SerializeType.MSGPACK), bytes(5_000)])
        (answer,) = await receive_commands(stream, 1)
        assert answer.code == 1
        nursery.cancel_scope.cancel()
