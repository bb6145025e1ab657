"""What peers answer, however the bytes are cut; and the loop that is the same for all."""

from __future__ import annotations

import asyncio  # noqa: TID251 - what the peers' client libraries run on
import socket
import struct
import threading
from dataclasses import fields

import pytest

from bench.measured import LoadError
from bench.peers import clients
from bench.peers.goals import GOALS, standings
from bench.peers.nats import _Publisher as NatsPublisher
from bench.peers.outcome import Outcome
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
    assert (measured.p50 > 0) == (measured.message_count > 0)  # none in time: a busy machine


def test_goals_are_ratios_of_what_was_measured_on_both_sides():
    ours = Outcome(one_p50=0.4, many_rate=400_000, batch_rate=1_000_000)
    nats = Outcome(client_one_p50=0.5, many_rate=100_000)
    found = {s.goal.what: s for s in standings({("ours-async", 100): ours, ("nats", 100): nats})}

    assert len(found) == 3  # what one side lacks has no ratio
    latency = found["one in flight, p50 ms: plain socket beside nats-py"]
    assert (latency.ratio, latency.is_met) == (0.8, False)
    assert latency.verdict == "NOT MET: 1.14x the goal"
    many = found["1000 in flight, beside NATS, plain sockets"]
    figures = ["400,000", "100,000", "4.00x", "at least 5x", "NOT MET: 80% of it"]
    stands_on = {"ours-async": "disks", "nats": "page caches"}
    assert many.cells(stands_on)[2:] == [*figures, "disks; page caches"]
    batches = found["batches of 256, beside NATS, plain sockets"]
    assert (batches.ratio, batches.verdict) == (10.0, "NOT MET: 90.9% of it")


def test_a_goal_that_is_missed_by_little_is_not_told_to_be_all_of_it():
    ours, rabbit = Outcome(many_rate=129_900), Outcome(many_rate=10_000)
    (missed,) = standings({("ours-sync", 100): ours, ("rabbitmq", 100): rabbit})
    assert missed.verdict == "NOT MET: 99.9% of it"


def test_every_goal_names_figures_that_there_are():
    names = {field.name for field in fields(Outcome)}
    for goal in GOALS:
        assert {goal.field, goal.peer_field} <= names
        assert goal.ours in ("ours-async", "ours-sync")
    assert len({(goal.ours, goal.what) for goal in GOALS}) == len(GOALS) == 16


def test_outcomes_are_medians_figure_by_figure():
    outcomes = [Outcome(one_p50=p50, many_rate=rate) for p50, rate in ((1, 9), (3, 8), (2, 7))]
    assert Outcome.median_of(outcomes) == Outcome(one_p50=2, many_rate=8)


def test_a_closed_loop_of_tasks_counts_what_was_sent_in_its_time():
    sent = 0

    async def send() -> None:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0)

    measured = clients.run(
        clients._closed_loop(send, task_count=5, seconds=0.05, warm_up_seconds=0.01)
    )
    assert measured.written_count == sent >= 5
    assert measured.message_count <= sent


def test_a_missing_client_library_names_the_group():
    with pytest.raises(clients.MissingClientError, match="--group peers"):
        clients.need("no_such_library")


def test_a_missing_program_names_the_package():
    with pytest.raises(MissingProgramError, match="apt-get install nothing"):
        find_program("no-such-program", "nothing")


def test_servers_are_ended_with_their_children_and_leave_nothing(tmp_path):
    servers = Servers(tmp_path / "peer")
    servers.start("one", ["sh", "-c", "sleep 1000 & echo started; wait"])
    log = tmp_path / "peer" / "one.log"
    servers.wait_until(lambda: b"started" in log.read_bytes(), seconds=60, what="a word")
    pid = servers._processes[0].pid
    assert servers.rss() > 0
    servers.stop()
    assert cpu_seconds(pid) == 0  # nobody of the session is left
    assert not (tmp_path / "peer").exists()
