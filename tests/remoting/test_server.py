"""Serving connections: one pass a receive, back-pressure, hostile bytes, limits, closing."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dledger.remoting.command import FLAG_ONEWAY, Command
from dledger.remoting.errors import AddressInUseError, ConnectFailedError, ConnectionLostError
from dledger.remoting.frame import encode_frame
from dledger.remoting.server import RemotingServer
from tests.remoting.conftest import frame, is_ended, receive_commands

pytestmark = pytest.mark.usefixtures("only_warnings")


async def test_all_frames_of_a_receive_are_one_pass_and_one_send(
    server, network, handler, autojump_clock
):
    stream = await network.connect("127.0.0.1", 10911)
    stream.send_now([frame(10, opaque=n, body=b"%d" % n) for n in range(100)])
    answers = await receive_commands(stream, 100)
    assert [(answer.opaque, bytes(answer.body)) for answer in answers] == [
        (n, b"%d" % n) for n in range(100)
    ]
    assert len(handler.passes) == 1
    assert network.streams[1].send_count == 1


async def test_a_reply_from_elsewhere_goes_out_at_its_flush(
    server, network, handler, autojump_clock
):
    handler.answers = False
    stream = await network.connect("127.0.0.1", 10911)
    stream.send_now([frame(10, opaque=5)])
    await trio.testing.wait_all_tasks_blocked()
    (session,) = handler.opened
    session.reply(Command(0, flag=1, opaque=5))
    session.flush()
    assert (await receive_commands(stream, 1))[0].opaque == 5
    session.write(encode_frame(Command(0, flag=1, opaque=6)))
    session.flush_soon()
    assert (await receive_commands(stream, 1))[0].opaque == 6


async def test_sessions_have_numbers_addresses_and_a_place_for_the_handler(
    server, network, handler, autojump_clock
):
    streams = [await network.connect("127.0.0.1", 10911) for _ in range(2)]
    await trio.testing.wait_all_tasks_blocked()
    assert [session.session_id for session in handler.opened] == [1, 2]
    assert [session.peer_address for session in handler.opened] == [
        stream.local_address for stream in streams
    ]
    assert handler.opened[0].local_address == "127.0.0.1:10911"
    assert handler.opened[0].context is None
    assert server.sessions == handler.opened


async def test_a_client_that_closes_is_reported_once(server, network, handler, autojump_clock):
    stream = await network.connect("127.0.0.1", 10911)
    stream.send_now([frame(10, flag=FLAG_ONEWAY)])
    stream.close()
    await trio.testing.wait_all_tasks_blocked()
    assert handler.closed == handler.opened
    assert len(handler.commands) == 1
    assert handler.closed[0].closed
    assert handler.closed[0].close_reason == "the client closed"
    assert server.sessions == []


async def test_a_reset_connection_is_reported_and_the_others_live(
    server, network, handler, autojump_clock
):
    broken = await network.connect("127.0.0.1", 10911)
    healthy = await network.connect("127.0.0.1", 10911)
    await trio.testing.wait_all_tasks_blocked()
    broken.abort()
    await trio.testing.wait_all_tasks_blocked()
    assert [session.peer_address for session in handler.closed] == [broken.local_address]
    assert "reset" in handler.closed[0].close_reason
    healthy.send_now([frame(10, opaque=1)])
    assert len(await receive_commands(healthy, 1)) == 1


async def test_a_client_that_does_not_read_is_not_read_from(
    server, network, handler, autojump_clock
):
    """Its answers wait at the limit, its further requests in its own send buffer."""
    slow = await network.connect("127.0.0.1", 10911)
    request = frame(10, body=bytes(20_000))
    sent = 0
    for _ in range(100):
        await trio.testing.wait_all_tasks_blocked()
        if slow.send_now([request]):
            break
        sent += 1
    (session,) = handler.opened
    assert 100_000 < session.pending_size < 200_000
    assert session.is_congested
    assert len(handler.commands) <= sent < 30

    quick = await network.connect("127.0.0.1", 10911)
    quick.send_now([frame(10, opaque=1)])
    assert len(await receive_commands(quick, 1)) == 1

    handled = len(handler.commands)
    answers = await receive_commands(slow, sent)
    assert len(answers) == sent
    assert len(handler.commands) > handled
    assert not session.is_congested


async def test_a_client_that_leaves_too_many_answers_unread_is_closed(
    server, network, handler, autojump_clock, caplog
):
    stream = await network.connect("127.0.0.1", 10911)
    await trio.testing.wait_all_tasks_blocked()
    (session,) = handler.opened
    for _ in range(20):
        session.reply(Command(0, flag=1, body=bytes(60_000)))
        session.flush()
    await trio.testing.wait_all_tasks_blocked()
    assert session.closed
    assert handler.closed == [session]
    assert "over the limit of 1000000" in session.close_reason
    assert "over the limit of 1000000" in caplog.text
    with pytest.raises(ConnectionLostError):
        await stream.receive_some()


async def test_a_handler_that_closes_gets_nothing_more_of_that_connection(
    server, network, handler, autojump_clock
):
    def close(session, commands, *, ends_pass):
        handler.passes.append(commands)
        session.close("wrong password")

    handler.on_commands = close
    stream = await network.connect("127.0.0.1", 10911)
    stream.send_now([frame(10)])
    assert await is_ended(stream)
    assert len(handler.passes) == 1
    assert handler.closed[0].close_reason == "wrong password"


async def test_what_follows_in_the_same_receive_is_not_judged_after_the_handler_closed(
    server, network, handler, autojump_clock, caplog
):
    handler.on_commands = lambda session, commands, ends_pass: session.close("wrong password")
    stream = await network.connect("127.0.0.1", 10911)
    stream.send_now([frame(10), b"\xff" * 100])
    assert await is_ended(stream)
    assert handler.closed[0].close_reason == "wrong password"
    assert caplog.records == []


@pytest.mark.parametrize("name", ["on_opened", "on_commands", "on_closed"])
async def test_an_exception_out_of_the_handler_ends_the_server(
    network, handler, name, autojump_clock
):
    def fail(*_, **__):
        raise ZeroDivisionError("a bug")

    setattr(handler, name, fail)
    server = RemotingServer(network, host="127.0.0.1", port=1, handler=handler)

    async def serve_one() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            stream = await network.connect("127.0.0.1", 1)
            stream.send_now([frame(10)])
            await trio.testing.wait_all_tasks_blocked()
            stream.close()
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await serve_one()
    assert caught.value.subgroup(ZeroDivisionError) is not None
    assert handler.opened == handler.closed or name != "on_commands"


async def test_closing_sends_what_is_answered_and_ends_serve(network, handler, autojump_clock):
    network.capacity = 1000
    server = RemotingServer(network, host="127.0.0.1", port=1, handler=handler)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        stream = await network.connect("127.0.0.1", 1)
        stream.send_now([frame(10, body=bytes(500))])
        await trio.testing.wait_all_tasks_blocked()
        (session,) = handler.opened
        session.reply(Command(0, flag=1, opaque=7, body=bytes(50_000)))
        nursery.start_soon(server.close)
        answers = await receive_commands(stream, 2)
        assert len(answers[1].body) == 50_000
        assert await is_ended(stream)
    assert handler.closed == [session]
    with pytest.raises(ConnectFailedError):
        await network.connect("127.0.0.1", 1)


async def test_closing_waits_no_longer_than_its_grace(network, handler, autojump_clock):
    network.capacity = 1000
    server = RemotingServer(network, host="127.0.0.1", port=1, handler=handler)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        await network.connect("127.0.0.1", 1)
        await trio.testing.wait_all_tasks_blocked()
        handler.opened[0].reply(Command(0, flag=1, body=bytes(50_000)))
        start = trio.current_time()
        await server.close(grace_seconds=2.0)
        assert trio.current_time() - start == pytest.approx(2.0)


async def test_a_port_in_use_is_told_before_anything_starts(
    server, network, handler, autojump_clock
):
    second = RemotingServer(network, host="127.0.0.1", port=10911, handler=handler)
    with pytest.raises(AddressInUseError, match="10911"):
        await second.serve()


async def test_cancelling_the_server_closes_every_connection(network, handler, autojump_clock):
    server = RemotingServer(network, host="127.0.0.1", port=1, handler=handler)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        stream = await network.connect("127.0.0.1", 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert handler.closed == handler.opened
    assert await is_ended(stream)
