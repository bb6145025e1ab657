"""What peers answer, however the bytes are cut; and the loop that is the same for all."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from bench.measured import LoadError
from bench.peers.nats import _Publisher as NatsPublisher
from bench.peers.rabbit import _Channel, _frame
from bench.peers.rabbit import _Publisher as RabbitPublisher
from bench.peers.redis import _Adder
from bench.peers.servers import MissingProgramError, Servers, cpu_seconds, find_program
from bench.window import run_window


class _Connected:
    """Stands for a socket on which nothing is read."""

    def __init__(self) -> None:
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def recv(self, size: int) -> bytes:
        return b""


class _Confirming(_Channel):
    def __init__(self) -> None:
        self.socket = _Connected()  # type: ignore[assignment]
        self._buffer = b""

    def confirm(self) -> None:
        pass


def _nats_ack(number: int) -> bytes:
    body = b'{"stream":"BENCH", "seq":%d}' % number
    return b"MSG bench.acks 1 %d\r\n%b\r\n" % (len(body), body)


def _cuts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 1000])
def test_acks_of_nats_are_counted_however_they_are_cut(size):
    publisher = NatsPublisher(_Connected(), 10)
    data = b"".join(_nats_ack(number) for number in range(1, 21))
    assert sum(publisher.settle(piece) for piece in _cuts(data, size)) == 20


def test_a_refusal_of_nats_ends_the_load():
    publisher = NatsPublisher(_Connected(), 10)
    with pytest.raises(LoadError, match="refused"):
        publisher.settle(b'MSG bench.acks 1 40\r\n{"error":{"code":503}}\r\n')


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_sends_to_redis_settle_with_the_wait_behind_them(size):
    adder = _Adder(_Connected(), 10)
    adder.encode(3)
    adder.encode(2)
    data = b"$3\r\n1-0\r\n" * 3 + b":1\r\n" + b"$3\r\n2-0\r\n" * 2
    assert sum(adder.settle(piece) for piece in _cuts(data, size)) == 3
    assert adder.settle(b":2\r\n") == 2


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_confirms_of_rabbitmq_settle_once_in_any_order(size):
    publisher = RabbitPublisher(_Confirming(), 10)
    acks = [(2, 0), (1, 0), (5, 1), (4, 0), (7, 0)]
    data = b"".join(
        _frame(1, 1, struct.pack(">HHQB", 60, 80, tag, multiple)) for tag, multiple in acks
    )
    assert sum(publisher.settle(piece) for piece in _cuts(data, size)) == 6


def test_the_window_counts_what_is_answered():
    near, far = socket.socketpair()

    class Echo:
        socket = near

        def encode(self, count: int) -> bytes:
            return b"m" * count

        def settle(self, data: bytes) -> int:
            return len(data)

    def answer() -> None:
        while data := far.recv(1 << 16):
            far.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    near.settimeout(10)
    measured = run_window([Echo()], in_flight=10, seconds=0.05, warm_up_seconds=0.0)
    near.close()
    thread.join()
    far.close()
    assert measured.written_count >= max(10, measured.message_count)
    assert measured.p50 > 0


def test_a_missing_program_names_the_package():
    with pytest.raises(MissingProgramError, match="apt-get install nothing"):
        find_program("no-such-program", "nothing")


def test_servers_are_ended_with_their_children_and_leave_nothing(tmp_path):
    servers = Servers(tmp_path / "peer")
    servers.start("one", ["sh", "-c", "sleep 1000 & echo started; wait"])
    log = tmp_path / "peer" / "one.log"
    servers.wait_until(lambda: b"started" in log.read_bytes(), seconds=10, what="a word")
    pid = servers._processes[0].pid
    assert servers.rss() > 0
    servers.stop()
    assert cpu_seconds(pid) == 0  # nobody of the session is left
    assert not (tmp_path / "peer").exists()
