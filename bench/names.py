"""What a name server's work costs, and how many groups one can serve: ``python -m bench.names``.

A real ``dledger nameserver``, with which many made-up groups of three register and from which
routes are asked, over plain sockets. What each thing costs in processor time is measured; how many
groups, nodes and clients that allows is reckoned, as nobody has them at hand.

Nodes register every 30 s, and RocketMQ's clients ask for the route of each of their topics every
30 s: that is all there is to do but for changes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from bench.machine import machine_line, machine_of
from bench.measured import LoadError
from bench.peers.servers import anonymous_rss, free_ports
from bench.report import markdown_table
from bench.scratch import check_writable, scratch_folder
from broker.cli.processes import ending_with_us
from broker.config import RouteMode
from broker.nameserver.registrations import BROKERS_MAX
from broker.protocol.bodies import TopicEntry
from broker.protocol.name_headers import RegisterBrokerRequest
from broker.protocol.registration import encode_topic, join_topics
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import Command, SerializeType
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NODES = 3  # of a group
PERIOD_SECONDS = 30.0  # of registrations and of clients' questions
SHARE = 0.5  # of a processor that is to be used at most: the rest is for what comes in bursts
QUEUES = 8
_SILENCE_SECONDS = 60.0
_START_SECONDS = 20.0
_WINDOW = 64  # requests under way


class NameServer:
    """The process, and one connection to it."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self._log = (folder / "nameserver.log").open("wb")
        arguments = ["nameserver", "--port", str(port), "--data", str(folder / "names")]
        self._process = subprocess.Popen(
            ending_with_us([sys.executable, "-m", "broker.cli.main", *arguments]),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.socket = self._connect(port)

    def _connect(self, port: int) -> socket.socket:
        until = perf_counter() + _START_SECONDS
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_SECONDS)
            except OSError as error:
                if perf_counter() > until or self._process.poll() is not None:
                    self.close()
                    raise LoadError(f"the name server does not start: {error}") from None
                time.sleep(0.05)

    def cpu_seconds(self) -> float:
        """Return the processor time it has spent."""
        return time.clock_gettime_ns((~self._process.pid << 3) | 2) / 1e9

    def rss_mib(self) -> float:
        """Return its memory in MiB, mapped files not counted."""
        return anonymous_rss(self._process.pid) / (1 << 20)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def cost_of(self, requests: Sequence[bytes]) -> tuple[float, int]:
        """Have all *requests* answered; return processor us of each, and bytes of an answer.

        Raises:
            LoadError: one is refused.
        """
        connection = Connection()
        before, size = self.cpu_seconds(), 0
        waiting, at = 0, 0
        while waiting or at < len(requests):
            room = min(_WINDOW - waiting, len(requests) - at)
            if room:
                self.socket.sendall(b"".join(requests[at : at + room]))
                at, waiting = at + room, waiting + room
            data = self.socket.recv(1 << 20)
            if not data:
                raise LoadError("the name server closed the connection")
            size += len(data)
            connection.receive_data(data)
            for command in connection.commands():
                if command.code:
                    raise LoadError(f"refused with code {command.code}: {command.remark}")
                waiting -= 1
        return 1e6 * (self.cpu_seconds() - before) / len(requests), size // len(requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Processor us of one each, memory and sizes, with so many topics in a group."""

    topic_count: int
    first_us: float  # a registration of a node that tells something new
    again_us: float  # one that tells the same, as every 30 s
    route_us: float
    route_size: int  # bytes of the answer
    kib_a_group: float

    def groups_at_most(self, *, questions_a_group: float) -> int:
        """Return for how many groups half a processor is enough.

        Args:
            questions_a_group: clients of a group, times the topics that each of them uses.
        """
        each = NODES * self.again_us + questions_a_group * self.route_us
        return int(SHARE * PERIOD_SECONDS * 1e6 / each)

    def questions_at_most(self) -> int:
        """Return how many routes half a processor hands out in each period, and nothing else."""
        return int(SHARE * PERIOD_SECONDS * 1e6 / self.route_us)


def measure(folder: Path, *, group_count: int, topic_count: int, route_count: int) -> Measured:
    """Register groups and ask for routes.

    Raises:
        LoadError: the name server does not start, or refuses something.
    """
    folder.mkdir(parents=True)
    server = NameServer(folder)
    try:
        before = server.rss_mib()
        first, _ = server.cost_of(list(_registrations(group_count, topic_count)))
        after = server.rss_mib()
        again, _ = server.cost_of(list(_registrations(group_count, topic_count)))
        route, size = server.cost_of(list(_questions(group_count, topic_count, route_count)))
    finally:
        server.close()
    return Measured(
        topic_count=topic_count,
        first_us=first,
        again_us=again,
        route_us=route,
        route_size=size,
        kib_a_group=1024 * (after - before) / group_count,
    )


def _registrations(group_count: int, topic_count: int) -> Iterable[bytes]:
    for group in range(group_count):
        rows = [
            encode_topic(TopicEntry(_topic(group, topic), QUEUES, QUEUES, 6))
            for topic in range(topic_count)
        ]
        body = join_topics(rows, version=1)
        addresses = [f"10.{group >> 8}.{group & 255}.{node + 1}:9876" for node in range(NODES)]
        for node, address in enumerate(addresses):
            header = RegisterBrokerRequest(
                broker_name=f"group-{group}",
                broker_addr=address,
                cluster_name="many",
                broker_id=node,
                body_crc32=zlib.crc32(body) & 0x7FFFFFFF,
                node_id=f"n{node + 1}",
                members=",".join(f"n{n + 1}={each}" for n, each in enumerate(addresses)),
                route=RouteMode.PER_NODE.value,
                term=1,
            )
            yield _frame(RequestCode.REGISTER_BROKER, header.encode(), body)


def _questions(group_count: int, topic_count: int, count: int) -> Iterable[bytes]:
    for number in range(count):
        topic = _topic(number % group_count, number // group_count % topic_count)
        yield _frame(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic}, b"")


def _frame(code: RequestCode, fields: dict[str, object], body: bytes) -> bytes:
    command = Command(code.value, ext_fields=fields, body=body, serialization=SerializeType.JSON)
    return b"".join(encode_frame(command))


def _topic(group: int, topic: int) -> str:
    return f"orders-of-{group:05}-{topic:05}"


HEADS = (
    "topics of a group",
    "registration, us",
    "the same again, us",
    "route, us",
    "route, bytes",
    "memory a group, KiB",
    "groups, none asking",
    "groups, 1,000 questions each in 30 s",
    "questions in 30 s",
)


def row_of(found: Measured) -> list[str]:
    """Return a line of the table."""
    return [
        f"{found.topic_count:,}",
        f"{found.first_us:,.0f}",
        f"{found.again_us:,.0f}",
        f"{found.route_us:,.0f}",
        f"{found.route_size:,}",
        f"{found.kib_a_group:,.0f}",
        f"{found.groups_at_most(questions_a_group=0):,}",
        f"{found.groups_at_most(questions_a_group=1000):,}",
        f"{found.questions_at_most():,}",
    ]


@click.command()
@click.option("--groups", type=click.IntRange(1, BROKERS_MAX // NODES), default=200)
@click.option("--topics", "counts", type=click.IntRange(1), multiple=True, help="[10, 100, 1000]")
@click.option("--routes", type=click.IntRange(1), default=3000, help="Questions that are asked.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write table.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
def main(
    groups: int,
    counts: tuple[int, ...],
    routes: int,
    markdown_path: Path | None,
    json_path: Path | None,
) -> None:
    """Measure what a name server's work costs, and reckon how many groups one can serve."""
    check_writable(markdown_path, json_path)
    rows = []
    with scratch_folder("dledger-names-") as folder:
        for count in counts or (10, 100, 1000):
            home = folder / str(count)
            try:
                found = measure(home, group_count=groups, topic_count=count, route_count=routes)
            except LoadError as error:
                print(f"stopped: {error}", file=sys.stderr)
                sys.exit(1)
            rows.append(row_of(found))
            print("; ".join(f"{h}: {v}" for h, v in zip(HEADS, rows[-1], strict=True)))
    print(
        f"reckoned with half of one processor, {NODES} nodes a group, all of them and all clients "
        f"speaking every {PERIOD_SECONDS:g} s; a process takes {BROKERS_MAX:,} nodes at most"
    )
    if markdown_path is not None:
        text = [f"`python -m bench.names`. {machine_line()}.", "", *markdown_table(HEADS, rows)]
        markdown_path.write_text("\n".join(text) + "\n", encoding="utf-8")
    if json_path is not None:
        lines = [dict(zip(HEADS, row, strict=True)) for row in rows]
        content = {"machine": machine_of(), "rows": lines}
        json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
