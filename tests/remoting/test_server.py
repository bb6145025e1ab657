"""Serving connections: one pass a receive, back-pressure, hostile bytes, limits, closing."""

from __future__ import annotations

import logging
import struct

import pytest
import trio
import trio.testing

from dledger.remoting.command import FLAG_ONEWAY, Command, SerializeType, response
from dledger.remoting.errors import AddressInUseError, ConnectFailedError, ConnectionLostError
from dledger.remoting.frame import encode_frame
from dledger.remoting.server import Flow, RemotingServer
from dledger.remoting.turned_away import AT_ONCE_MIN
from dledger.remoting.turns import PASS_COUNT_FIRST, PASS_COUNT_MAX
from tests.fakes.network import MemoryNetwork
from tests.remoting.conftest import receive_commands


def frame(*args, **kwargs) -> bytes:
    return b"".join(encode_frame(Command(*args, **kwargs)))


async def is_ended(stream) -> bool:
    """Whether the other end closes within ten (virtual) seconds."""
    with trio.move_on_after(10):
        try:
            while await stream.receive_some():
                pass
        except ConnectionLostError:
            pass
        await trio.testing.wait_all_tasks_blocked()
        return True
    return False


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


@pytest.fixture(autouse=True)
def _log_level(caplog):
    caplog.set_level(logging.WARNING, logger="dledger.remoting")


@pytest.fixture
async def small_server(network, handler, nursery):
    """A server that keeps at most 100,000 bytes of requests which have begun to arrive."""
    server = RemotingServer(
        network, host="127.0.0.1", port=10912, handler=handler, partial_size_max=100_000
    )
    await nursery.start(server.serve)
    return server


async def test_of_too_much_that_has_begun_to_arrive_the_oldest_goes(
    small_server, network, handler, autojump_clock, caplog
):
    """Ten thousand connections may each begin a frame of 16 MiB, and never end it."""
    whole = frame(10, body=bytes(50_000))
    streams = []
    for _ in range(3):
        streams.append(await network.connect("127.0.0.1", 10912))
        streams[-1].send_now([whole[:40_000]])
        await trio.testing.wait_all_tasks_blocked()

    assert await is_ended(streams[0])
    assert "longest time" in caplog.text
    assert small_server._partials.total == 80_000
    for stream in streams[1:]:
        stream.send_now([whole[40_000:]])
        assert len(await receive_commands(stream, 1)) == 1
    assert small_server._partials.total == 0


async def test_who_sends_one_frame_after_another_does_not_grow_old(
    small_server, network, handler, autojump_clock
):
    whole = frame(10, body=bytes(30_000))
    busy = await network.connect("127.0.0.1", 10912)
    busy.send_now([whole[:20_000]])
    await trio.testing.wait_all_tasks_blocked()
    idle = await network.connect("127.0.0.1", 10912)
    idle.send_now([whole[:20_000]])
    await trio.testing.wait_all_tasks_blocked()
    busy.send_now([whole[20_000:] + whole[:20_000]])
    assert len(await receive_commands(busy, 1)) == 1
    other = await network.connect("127.0.0.1", 10912)
    other.send_now([frame(10, body=bytes(90_000))[:70_000]])
    await trio.testing.wait_all_tasks_blocked()

    assert await is_ended(idle)
    busy.send_now([whole[20_000:]])
    assert len(await receive_commands(busy, 1)) == 1


async def test_what_a_connection_kept_goes_with_it(small_server, network, handler, autojump_clock):
    for _ in range(10):
        stream = await network.connect("127.0.0.1", 10912)
        stream.send_now([frame(10, body=bytes(50_000))[:40_000]])
        await trio.testing.wait_all_tasks_blocked()
        stream.close()
        await trio.testing.wait_all_tasks_blocked()

    assert small_server._partials.total == 0


async def test_a_flood_of_requests_leaves_others_their_turns(
    server, network, handler, autojump_clock
):
    """One receive may bring thousands; who sent one meanwhile is served between them."""
    network.receive_size_max = 1 << 20
    flood = await network.connect("127.0.0.1", 10911)
    other = await network.connect("127.0.0.1", 10911)
    await trio.testing.wait_all_tasks_blocked()
    flood.send_now([b"".join(frame(10, flag=FLAG_ONEWAY, opaque=n) for n in range(2000))])
    other.send_now([frame(11, flag=FLAG_ONEWAY)])
    await trio.sleep(1)

    assert [command.opaque for command in handler.commands if command.code == 10] == [*range(2000)]
    assert max(map(len, handler.passes)) == PASS_COUNT_MAX
    where = [one[0].code for one in handler.passes].index(11)
    assert where < len(handler.passes) - 1


async def test_between_two_turns_answers_are_waited_for(server, network, handler, autojump_clock):
    """Whose answers pile up is not served on meanwhile, however many of its requests are read."""
    network.receive_size_max = 1 << 20
    slow = await network.connect("127.0.0.1", 10911)
    await trio.testing.wait_all_tasks_blocked()
    slow.send_now([b"".join(frame(10, opaque=n, body=bytes(300)) for n in range(150))])
    await trio.testing.wait_all_tasks_blocked()
    rest = slow.send_now([b"".join(frame(10, opaque=n, body=bytes(20)) for n in range(3000))])
    for _ in range(50):
        await trio.testing.wait_all_tasks_blocked()
        rest = slow.send_now(rest) if rest else rest
    (session,) = handler.opened

    assert session.pending_size < 100_000 + PASS_COUNT_MAX * 100
    assert not session.closed


class PassHandler:
    """Notes how many requests came at a time, and whether the pass ended with them."""

    def __init__(self, *, closes: bool = False) -> None:
        self.told: list[tuple[str, int, bool]] = []
        self.closes = closes

    def on_opened(self, session):
        pass

    def on_closed(self, session):
        pass

    def on_commands(self, session, commands, *, ends_pass=True):
        self.told.append(("commands", len(commands), ends_pass))
        if self.closes:
            session.close("enough")

    def on_run(self, session, run, *, ends_pass):
        self.told.append(("run", run.count, ends_pass))
        return True


@pytest.mark.parametrize("closes", [False, True])
async def test_a_frame_that_had_begun_before_and_a_run_behind_it_are_one_pass(
    network, nursery, autojump_clock, closes
):
    """Else the first alone becomes an entry, with a sync on every node, in front of 400 others."""
    handler = PassHandler(closes=closes)
    server = RemotingServer(
        network, host="127.0.0.1", port=10912, handler=handler, on_run=handler.on_run
    )
    await nursery.start(server.serve)
    stream = await network.connect("127.0.0.1", 10912)
    frames = [frame(10, opaque=1000 + n, ext_fields={"n": n}, body=b"b") for n in range(400)]
    stream.send_now([frames[0][:10]])
    await trio.testing.wait_all_tasks_blocked()

    stream.send_now([frames[0][10:], *frames[1:]])
    await trio.testing.wait_all_tasks_blocked()

    kinds = [kind for kind, _, _ in handler.told]
    assert handler.told[0] == ("commands", 1, False)
    assert [ends for *_, ends in handler.told] == [False] * (len(kinds) - 1) + [True]
    if closes:
        assert handler.told[1:] == [("commands", 0, True)]  # what was taken is seen to all the same
    else:
        assert "run" in kinds
        assert sum(count for _, count, _ in handler.told) == 400


class ChargingPassHandler(PassHandler):
    """Charges for every run, and answers it as soon as its pass has ended, or never."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__()
        self.answers = answers
        self.charged = 0

    def on_commands(self, session, commands, *, ends_pass=True):
        super().on_commands(session, commands, ends_pass=ends_pass)
        if ends_pass and self.answers:
            session.release(self.charged)
            self.charged = 0

    def on_run(self, session, run, *, ends_pass):
        session.charge(run.count)
        self.charged += run.count
        return super().on_run(session, run, ends_pass=ends_pass)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_run_in_front_of_too_many_requests_is_a_pass_that_ends(
    network, nursery, autojump_clock, answers
):
    """Else they wait for the room that the run takes, which waits for the end of its pass.

    And if the connection ends meanwhile, nobody sees to what was taken.
    """
    network.receive_size_max = 1 << 20
    handler = ChargingPassHandler(answers=answers)
    server = RemotingServer(
        network,
        host="127.0.0.1",
        port=10912,
        handler=handler,
        on_run=handler.on_run,
        flow=Flow(size_max=1),
    )
    await nursery.start(server.serve)
    stream = await network.connect("127.0.0.1", 10912)
    many = PASS_COUNT_FIRST + 1
    run = [frame(10, opaque=1000 + n, ext_fields={"n": n}, body=b"b") for n in range(100)]
    others = [frame(10, opaque=n, serialization=SerializeType.JSON) for n in range(many)]
    stream.send_now([b"".join(run + others)])
    await trio.testing.wait_all_tasks_blocked()

    assert handler.told[:2] == [("run", 100, False), ("commands", 0, True)]
    assert sum(count for kind, count, _ in handler.told[1:]) == (many if answers else 0)
