"""Requests and their answers: matched by opaque, with deadlines, over one connection."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dledger.remoting.client import RemotingClient, open_remoting_client
from dledger.remoting.command import FLAG_GROUPED, FLAG_RESPONSE, Command, response
from dledger.remoting.errors import (
    ConnectFailedError,
    ConnectionLostError,
    LocalProtocolError,
    NotConnectedError,
    RequestTimeoutError,
)
from dledger.remoting.frame import encode_frame
from dledger.remoting.server import RemotingServer
from tests.fakes.network import MemoryNetwork


@pytest.fixture
async def client(server, network, nursery) -> RemotingClient:
    client = RemotingClient(network, "127.0.0.1", 10911)
    await nursery.start(client.run)
    return client


async def test_a_request_returns_its_answer(client, autojump_clock):
    answer = await client.request(Command(10, body=b"hello"), timeout_seconds=1)
    assert (answer.code, answer.body, answer.is_response) == (0, b"hello", True)


async def test_answers_out_of_order_find_their_requests(client, handler, nursery, autojump_clock):
    handler.answers = False
    found = {}

    async def ask(n: int) -> None:
        answer = await client.request(Command(10, body=b"%d" % n), timeout_seconds=1)
        found[n] = bytes(answer.body)

    async with trio.open_nursery() as askers:
        for n in range(20):
            askers.start_soon(ask, n)
        await trio.testing.wait_all_tasks_blocked()
        (session,) = handler.opened
        for command in reversed(handler.commands):
            session.reply(response(command, 0, body=command.body))
        session.flush()
    assert found == {n: b"%d" % n for n in range(20)}


async def test_requests_made_together_share_sends(client, network, autojump_clock):
    """The first finds itself alone and goes at once; the others go in one send."""
    async with trio.open_nursery() as askers:
        for _ in range(100):

            async def ask() -> None:
                await client.request(Command(10), timeout_seconds=1)

            askers.start_soon(ask)
    assert network.streams[0].send_count == 2


async def test_no_answer_in_time_is_a_timeout_and_a_late_one_is_dropped(
    client, handler, autojump_clock
):
    handler.answers = False
    start = trio.current_time()
    with pytest.raises(RequestTimeoutError, match=r"request 10 to 127.0.0.1:10911 .* in 3 s"):
        await client.request(Command(10), timeout_seconds=3)
    assert trio.current_time() - start == pytest.approx(3)
    assert client.unanswered_count == 0
    (session,) = handler.opened
    session.reply(response(handler.commands[0], 0))
    session.flush()
    handler.answers = True
    answer = await client.request(Command(11, body=b"x"), timeout_seconds=3)
    assert answer.body == b"x"


async def test_each_request_has_its_own_deadline(client, handler, autojump_clock):
    handler.answers = False
    start = trio.current_time()
    ended = {}

    async def ask(seconds: float) -> None:
        with pytest.raises(RequestTimeoutError):
            await client.request(Command(10), timeout_seconds=seconds)
        ended[seconds] = trio.current_time() - start

    async with trio.open_nursery() as askers:
        for seconds in (5.0, 1.0, 3.0, 2.0, 4.0):
            askers.start_soon(ask, seconds)
    assert ended == {seconds: pytest.approx(seconds) for seconds in ended}
    assert len(ended) == 5


async def test_deadlines_of_answered_requests_do_not_pile_up(client, autojump_clock):
    for _ in range(5_000):
        await client.request(Command(10), timeout_seconds=1000)
    assert len(client._deadlines) < 1100


async def test_a_cancelled_request_is_forgotten(client, handler, autojump_clock):
    handler.answers = False
    with trio.move_on_after(1):
        await client.request(Command(10), timeout_seconds=5)
    assert client.unanswered_count == 0
    (session,) = handler.opened
    session.reply(response(handler.commands[0], 0))
    session.flush()
    await trio.sleep(10)
    handler.answers = True
    await client.request(Command(10), timeout_seconds=5)


async def test_a_lost_connection_ends_every_request_with_outcome_unknown(
    client, handler, autojump_clock
):
    handler.answers = False
    ended = []

    async def ask() -> None:
        with pytest.raises(ConnectionLostError, match=r"127.0.0.1:10911 ended before the answer"):
            await client.request(Command(10), timeout_seconds=5)
        ended.append(trio.current_time())

    async with trio.open_nursery() as askers:
        for _ in range(5):
            askers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        handler.opened[0].close("test")
    assert ended == [start] * 5
    assert client.closed


async def test_after_the_end_nothing_is_sent_and_the_error_says_why(
    client, handler, autojump_clock
):
    await client.request(Command(10), timeout_seconds=1)
    handler.opened[0].close("test")
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(NotConnectedError, match="closed by the server"):
        await client.request(Command(10), timeout_seconds=1)
    with pytest.raises(NotConnectedError):
        client.submit(Command(10), print)
    with pytest.raises(NotConnectedError):
        client.submit_frames([b""])
    with pytest.raises(NotConnectedError):
        client.send(Command(10))


async def test_before_the_connection_stands_nothing_is_sent(network, autojump_clock):
    client = RemotingClient(network, "127.0.0.1", 10911)
    assert client.closed
    with pytest.raises(NotConnectedError, match="not connected yet"):
        await client.request(Command(10), timeout_seconds=1)


async def test_no_server_is_an_error_of_run_not_wrapped_in_a_group(
    network, nursery, autojump_clock
):
    with pytest.raises(ConnectFailedError, match=r"127.0.0.1:10911"):
        await nursery.start(RemotingClient(network, "127.0.0.1", 10911).run)


async def test_submitted_commands_call_back_in_order_of_their_answers(client, autojump_clock):
    found = []
    opaques = [client.submit(Command(10), lambda a: found.append(a.opaque)) for _ in range(50)]
    assert found == []
    client.flush()
    await trio.testing.wait_all_tasks_blocked()
    assert found == opaques
    assert len(set(opaques)) == 50


async def test_a_submitted_command_calls_back_on_loss_and_on_timeout(
    client, handler, autojump_clock
):
    handler.answers = False
    found = []
    client.submit(Command(10), found.append, timeout_seconds=2)
    client.submit(Command(10), found.append)
    client.flush()
    await trio.sleep(3)
    assert [type(answer) for answer in found] == [RequestTimeoutError]
    handler.opened[0].close("test")
    await trio.testing.wait_all_tasks_blocked()
    assert [type(answer) for answer in found] == [RequestTimeoutError, ConnectionLostError]


async def test_a_command_that_cannot_be_written_leaves_nothing_behind(client, autojump_clock):
    with pytest.raises(LocalProtocolError):
        await client.request(Command(10, ext_fields={"x": object()}), timeout_seconds=1)
    assert client.unanswered_count == 0
    await client.request(Command(10), timeout_seconds=1)


async def test_requests_of_the_server_and_grouped_acks_are_pushed_whole(
    client, handler, autojump_clock
):
    pushed = []
    client.on_push = pushed.append
    handler.answers = False
    found = []
    client.submit(Command(10), found.append)
    client.flush()
    await trio.testing.wait_all_tasks_blocked()
    (session,) = handler.opened
    session.reply(Command(40, opaque=handler.commands[0].opaque))
    session.reply(Command(0, flag=FLAG_RESPONSE | FLAG_GROUPED, body=b"acks"))
    session.flush()
    await trio.testing.wait_all_tasks_blocked()
    assert [command.code for command in pushed] == [40, 0]
    assert pushed[1].body == b"acks"
    assert found == []  # an opaque of the server's is not an answer to ours

    client.send(response(pushed[0], 0))
    client.flush()
    await trio.testing.wait_all_tasks_blocked()
    assert handler.commands[-1].is_response


async def test_raw_frames_use_opaques_nobody_else_has(client, handler, autojump_clock):
    pushed = []
    client.on_push = pushed.append
    first = client.reserve_opaques(3)
    frames = [b"".join(encode_frame(Command(10, opaque=first + n))) for n in range(3)]
    client.submit_frames(frames)
    answer = await client.request(Command(10), timeout_seconds=1)
    assert answer.opaque == first + 3
    assert [command.opaque for command in handler.commands] == [
        first,
        first + 1,
        first + 2,
        first + 3,
    ]


async def test_opaques_start_again_after_the_last_positive_number(client, autojump_clock):
    client._next_opaque = (1 << 31) - 3
    assert [client.submit(Command(10), lambda _: None) for _ in range(4)] == [
        (1 << 31) - 3,
        (1 << 31) - 2,
        1,
        2,
    ]


async def test_an_opaque_that_came_around_has_its_own_deadline(client, handler, autojump_clock):
    found = []
    client.submit(Command(10), found.append, timeout_seconds=2)
    client.flush()
    await trio.testing.wait_all_tasks_blocked()
    handler.answers = False
    client._next_opaque = 1
    client.submit(Command(10), found.append, timeout_seconds=10)
    client.flush()
    await trio.sleep(5)
    assert len(found) == 1
    await trio.sleep(6)
    assert isinstance(found[1], RequestTimeoutError)


async def test_a_client_that_submits_without_end_is_told_why_it_lost_its_connection(
    network, autojump_clock
):
    listener = await network.listen("127.0.0.1", 1)
    reasons = []
    client = RemotingClient(
        network, "127.0.0.1", 1, on_lost=reasons.append, outbox_size_max=20_000_000
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        await listener.accept()
        for _ in range(3):
            client.submit(Command(10, body=bytes(10_000_000)), lambda _: None)
    assert "over the limit of 20000000" in str(reasons[0])


async def test_on_lost_is_told_once_after_the_callbacks(server, network, handler, autojump_clock):
    handler.answers = False
    told = []
    client = RemotingClient(network, "127.0.0.1", 10911, on_lost=lambda _: told.append("lost"))
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        client.submit(Command(10), lambda _: told.append("callback"))
        client.flush()
        await trio.testing.wait_all_tasks_blocked()
        client.close()
        client.close()
    assert told == ["callback", "lost"]


async def test_a_server_that_does_not_read_makes_requests_wait_then_time_out(
    network, handler, autojump_clock
):
    listener = await network.listen("127.0.0.1", 1)
    client = RemotingClient(network, "127.0.0.1", 1, pending_size_max=100_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        await listener.accept()
        for _ in range(5):
            client.submit(Command(10, body=bytes(50_000)), lambda _: None)
        client.flush()
        assert client.pending_size > 100_000
        start = trio.current_time()
        with pytest.raises(RequestTimeoutError, match="was not sent"):
            await client.request(Command(10), timeout_seconds=2)
        assert trio.current_time() - start == pytest.approx(2)
        client.close()


async def test_bytes_that_are_no_answer_end_the_connection_with_the_reason(network, autojump_clock):
    listener = await network.listen("127.0.0.1", 1)
    reasons = []
    client = RemotingClient(network, "127.0.0.1", 1, on_lost=reasons.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        (await listener.accept()).send_now([b"HTTP/1.1 400 Bad Request\r\n\r\n"])
    assert client.closed
    assert "over the limit" in str(reasons[0])


async def test_the_block_closes_its_connection_at_the_end(server, network, handler, autojump_clock):
    async with open_remoting_client(network, "127.0.0.1", 10911) as client:
        await client.request(Command(10), timeout_seconds=1)
    assert client.closed
    await trio.testing.wait_all_tasks_blocked()
    assert handler.closed == handler.opened


async def test_an_error_inside_the_block_comes_out_as_it_is(server, network, autojump_clock):
    with pytest.raises(ZeroDivisionError):
        async with open_remoting_client(network, "127.0.0.1", 10911):
            raise ZeroDivisionError
    with pytest.raises(ConnectFailedError):
        async with open_remoting_client(network, "127.0.0.1", 1):
            pass


async def test_a_cancelled_block_closes_its_connection(server, network, handler, autojump_clock):
    with trio.move_on_after(1) as scope:
        async with open_remoting_client(network, "127.0.0.1", 10911) as client:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert client.closed


async def test_an_exception_out_of_a_callback_is_not_swallowed(server, network, autojump_clock):
    def fail(_) -> None:
        raise ZeroDivisionError("a bug")

    async def use_it() -> None:
        async with open_remoting_client(network, "127.0.0.1", 10911) as client:
            client.submit(Command(10), fail)
            client.flush()
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await use_it()
    assert caught.value.subgroup(ZeroDivisionError) is not None


async def test_latency_is_paid_once_for_pipelined_requests(handler, autojump_clock):
    network = MemoryNetwork(latency_seconds=0.05)
    server = RemotingServer(network, host="127.0.0.1", port=1, handler=handler)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        async with open_remoting_client(network, "127.0.0.1", 1) as client:
            start = trio.current_time()
            async with trio.open_nursery() as askers:
                for _ in range(100):

                    async def ask() -> None:
                        await client.request(Command(10), timeout_seconds=1)

                    askers.start_soon(ask)
            assert trio.current_time() - start == pytest.approx(0.1)
        nursery.cancel_scope.cancel()
