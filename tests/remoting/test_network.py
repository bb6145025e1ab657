"""Real TCP on loopback: IPv4, IPv6, ports in use, partial sends, closes and resets."""

from __future__ import annotations

import errno
import socket
from typing import ClassVar

import pytest
import trio
import trio.testing

from dledger.remoting import tcp_stream
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.errors import (
    AddressInUseError,
    ConnectFailedError,
    ConnectionClosedError,
    ConnectionLostError,
    ListenFailedError,
)
from dledger.remoting.server import RemotingServer
from dledger.remoting.tcp import TcpNetwork
from tests.remoting.conftest import RecordingHandler

LOOPBACKS = ["127.0.0.1", "::1"]


@pytest.fixture
def tcp() -> TcpNetwork:
    return TcpNetwork()


@pytest.fixture
async def pair(tcp):
    """Two ends of one real connection."""
    listener = await tcp.listen("127.0.0.1", 0)
    caller = await tcp.connect("127.0.0.1", listener.port)
    callee = await listener.accept()
    yield caller, callee
    for end in (caller, callee, listener):
        end.close()


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_requests_are_answered_over_real_tcp(tcp, host):
    server = RemotingServer(tcp, host=host, port=0, handler=RecordingHandler())
    async with trio.open_nursery() as nursery:
        port = await nursery.start(server.serve)
        with trio.fail_after(60):
            async with open_remoting_client(tcp, host, port) as client:
                for size in (0, 10, 5_000, 3_000_000):
                    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
                    answer = await client.request(Command(10, body=body), timeout_seconds=50)
                    assert answer.body == body
                    assert len(answer.body) == size
            await server.close()


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_addresses_are_host_and_port_with_ipv6_in_brackets(tcp, host):
    listener = await tcp.listen(host, 0)
    caller = await tcp.connect(host, listener.port)
    callee = await listener.accept()
    text = f"[{host}]:{listener.port}" if ":" in host else f"{host}:{listener.port}"
    assert caller.peer_address == callee.local_address == text
    assert caller.local_address == callee.peer_address != text
    for end in (caller, callee, listener):
        end.close()


async def test_an_ipv4_client_of_an_ipv6_listener_has_an_ipv4_address(tcp):
    listener = await tcp.listen("::", 0)
    caller = await tcp.connect("127.0.0.1", listener.port)
    callee = await listener.accept()
    assert callee.peer_address == caller.local_address
    for end in (caller, callee, listener):
        end.close()


async def test_a_name_can_be_listened_on_and_connected_to(tcp):
    listener = await tcp.listen("localhost", 0)
    caller = await tcp.connect("localhost", listener.port)
    caller.close()
    listener.close()


async def test_a_port_in_use_names_the_port_and_the_remedy(tcp):
    listener = await tcp.listen("127.0.0.1", 0)
    with pytest.raises(AddressInUseError, match=rf"port {listener.port} is in use.*another port"):
        await tcp.listen("127.0.0.1", listener.port)
    listener.close()


async def test_a_port_is_free_again_while_old_connections_fade_out(tcp):
    listener = await tcp.listen("127.0.0.1", 0)
    caller = await tcp.connect("127.0.0.1", listener.port)
    callee = await listener.accept()
    callee.close()
    listener.close()
    assert await caller.receive_some() == b""
    caller.close()
    again = await tcp.listen("127.0.0.1", listener.port)
    again.close()


async def test_an_address_of_another_machine_cannot_be_listened_on(tcp):
    with pytest.raises(ListenFailedError, match=r"192\.0\.2\.1:0"):
        await tcp.listen("192.0.2.1", 0)
    with pytest.raises(ListenFailedError, match="host name"):
        await tcp.listen("no-such-name.invalid", 0)


async def test_a_refused_connection_names_the_address_and_the_reason(tcp):
    listener = await tcp.listen("127.0.0.1", 0)
    listener.close()
    with pytest.raises(ConnectFailedError, match=rf"127.0.0.1:{listener.port}: .*refused"):
        await tcp.connect("127.0.0.1", listener.port)


async def test_a_name_that_does_not_exist_is_a_failed_connection(tcp):
    with pytest.raises(ConnectFailedError, match=r"no-such-name\.invalid:1"):
        await tcp.connect("no-such-name.invalid", 1)


async def test_a_send_takes_what_fits_and_gives_back_the_rest(pair):
    caller, callee = pair
    buffers = [bytes([n % 256]) * 40_000 for n in range(1_000)]
    wanted = b"".join(buffers)
    rest = caller.send_now(buffers)
    assert 0 < sum(map(len, rest)) < len(wanted)
    received = bytearray()

    async def send_rest(rest: list[memoryview]) -> None:
        while rest:
            await caller.wait_writable()
            rest = caller.send_now(rest)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_rest, rest)
            while len(received) < len(wanted):
                received += await callee.receive_some()
    assert received == wanted


async def test_receives_grow_with_what_waits_and_shrink_again(pair):
    caller, callee = pair
    size = 20_000_000 - sum(map(len, caller.send_now([bytes(20_000_000)])))
    pieces = []
    while sum(pieces) < size:
        pieces.append(len(await callee.receive_some()))
    assert max(pieces) > 64 * 1024
    for _ in range(10):
        caller.send_now([b"x"])
        await callee.receive_some()
    assert callee._receive_size == 32 * 1024


async def test_more_buffers_than_one_system_call_takes_are_sent(pair):
    caller, callee = pair
    assert caller.send_now([b"x"] * 3_000) == []
    received = b""
    while len(received) < 3_000:
        received += await callee.receive_some()
    assert received == b"x" * 3_000


async def test_an_orderly_close_is_an_end_after_the_last_byte(pair):
    caller, callee = pair
    caller.send_now([b"last words"])
    caller.close()
    caller.close()
    assert await callee.receive_some() == b"last words"
    assert await callee.receive_some() == b""


async def test_an_abort_is_a_reset_at_the_other_end(pair):
    caller, callee = pair
    caller.abort()
    caller.abort()
    with pytest.raises(ConnectionLostError, match="broke"):
        await callee.receive_some()
    with pytest.raises(ConnectionLostError):
        callee.send_now([b"x"])


@pytest.mark.parametrize("wait", ["receive_some", "wait_writable"])
async def test_closing_wakes_who_waits_on_this_end(pair, wait):
    caller, _ = pair
    if wait == "wait_writable":
        caller.send_now([bytes(20_000_000)])

    async def expect_closed() -> None:
        with pytest.raises(ConnectionClosedError, match="by this end"):
            await getattr(caller, wait)()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed)
            await trio.testing.wait_all_tasks_blocked()
            caller.close()
    with pytest.raises(ConnectionClosedError):
        await getattr(caller, wait)()
    with pytest.raises(ConnectionClosedError):
        caller.send_now([b"x"])


async def test_closing_a_listener_wakes_accept(tcp):
    listener = await tcp.listen("127.0.0.1", 0)

    async def expect_closed() -> None:
        with pytest.raises(ConnectionClosedError):
            await listener.accept()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed)
            await trio.testing.wait_all_tasks_blocked()
            listener.close()
            listener.close()
    with pytest.raises(ConnectionClosedError):
        await listener.accept()


async def test_running_out_of_descriptors_does_not_stop_accepting(
    tcp, monkeypatch, caplog, mock_clock
):
    listener = await tcp.listen("127.0.0.1", 0)
    real = listener._socket

    class Exhausted:
        """A socket whose first accept finds no descriptor left, and the second nobody any more."""

        errors: ClassVar = [errno.EMFILE, errno.ECONNABORTED]

        def accept(self):
            if self.errors:
                raise OSError(self.errors.pop(0), "as the kernel says")
            return real.accept()

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(listener, "_socket", Exhausted())
    mock_clock.autojump_threshold = 0.05
    caller = await tcp.connect("127.0.0.1", listener.port)
    callee = await listener.accept()
    assert "ulimit" in caplog.text
    for end in (caller, callee, listener):
        end.close()


async def test_connections_go_out_without_nagles_delay(pair):
    for end in pair:
        assert end._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert end._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_client_killed_in_mid_frame_ends_only_its_session(tcp):
    handler = RecordingHandler()
    server = RemotingServer(tcp, host="127.0.0.1", port=0, handler=handler)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(server.serve)
        with trio.fail_after(60):
            async with open_remoting_client(tcp, "127.0.0.1", port) as client:
                broken = await tcp.connect("127.0.0.1", port)
                broken.send_now([b"\x00\x00\x00\x64\x4d\x00"])
                await client.request(Command(10), timeout_seconds=50)
                broken.abort()
                while not handler.closed:
                    await client.request(Command(10), timeout_seconds=50)
                assert handler.closed[0].peer_address == broken.local_address
        nursery.cancel_scope.cancel()


async def test_a_peer_gone_right_after_accepting_is_a_failed_connection(tcp, monkeypatch):
    """It stopped the whole node: the error of asking for the peer's address was nobody's."""

    def gone(_connected):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr("dledger.remoting.tcp.TcpStream", gone)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.raises(ConnectFailedError, match="not connected"),
    ):
        await tcp.connect("127.0.0.1", listening.getsockname()[1])


async def test_a_system_without_sendmsg_sends_all_the_same(monkeypatch, nursery):
    monkeypatch.setattr(tcp_stream, "_HAS_SENDMSG", False)
    network = TcpNetwork()
    listener = await network.listen("127.0.0.1", 0)
    caller = await network.connect("127.0.0.1", listener.port)
    callee = await listener.accept()
    sent = [b"one", memoryview(b"two"), bytes(30_000_000), b"end"]

    async def send_all():
        rest = caller.send_now(sent)
        assert rest, "more than the kernel takes at once"
        while rest:
            await caller.wait_writable()
            rest = caller.send_now(rest)
        caller.close()

    nursery.start_soon(send_all)
    received = b""
    while data := await callee.receive_some():
        received += data
    assert received == b"".join(sent)
    callee.close()
    listener.close()
