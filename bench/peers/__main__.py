"""``python -m bench.peers``: see ``--help``."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from bench.measured import LoadError
from bench.peers.nats import Nats
from bench.peers.ours import Ours, OursAsync, OursSync
from bench.peers.rabbit import RabbitMq
from bench.peers.redis import Redis
from bench.peers.servers import MissingProgramError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measured import Measured
    from bench.peers.peer import Peer

_PEERS: dict[str, type[Peer] | type[Ours]] = {
    "ours-async": OursAsync,
    "ours-sync": OursSync,
    "nats": Nats,
    "redis": Redis,
    "rabbitmq": RabbitMq,
}
_DISKS = "disks of a majority"
_MANY = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One peer in one round; rates in messages a second, latencies in milliseconds."""

    one_p50: float
    one_p99: float
    many_rate: float
    many_p99: float
    batch_rate: float  # 0: the peer has no batches of its own
    consume_rate: float
    cpu_us: float  # of all three servers, for a message with 1000 under way
    rss_mib: float  # of the largest server, at the end


@click.command()
@click.option("--only", metavar="NAMES", help=f"Some of {', '.join(_PEERS)}, divided by commas.")
@click.option("--body", type=click.IntRange(1, 1 << 20), default=100, help="Size of bodies.")
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=3.0, help="Of each load.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, help="Medians are taken of them.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
def main(only: str | None, body: int, seconds: float, rounds: int, json_path: Path | None) -> None:
    """Give this project and other brokers with three replicas the same loads, in turn.

    Each peer is started afresh in each round, alone, and removed. One plain socket makes the load
    (Redis: four); sends are encoded beforehand.
    """
    names = [name.strip() for name in only.split(",")] if only else list(_PEERS)
    if unknown := [name for name in names if name not in _PEERS]:
        raise click.UsageError(f"no peer is called {unknown[0]}; there are {', '.join(_PEERS)}")
    results: dict[str, list[Outcome]] = {name: [] for name in names}
    for number in range(rounds):
        for name in [name for name in names if name in results]:
            _say(f"round {number + 1}: {_PEERS[name].name}")
            try:
                results[name].append(_measure(name, body, seconds))
            except MissingProgramError as error:
                _say(f"left out: {error}")
                del results[name]
            except LoadError as error:
                _say(f"{_PEERS[name].name} failed: {error}")
                sys.exit(1)
    medians = {name: _median(outcomes) for name, outcomes in results.items()}
    _print(medians, body)
    if json_path is not None:
        _write(json_path, medians, results, body=body, seconds=seconds)


def _measure(name: str, body: int, seconds: float) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="bench-peers-"))
    peer = _PEERS[name](folder / name, body_size=body)
    try:
        warm_up = seconds / 5
        first = peer.send(in_flight=_MANY, seconds=warm_up, warm_up_seconds=0.0)
        one = peer.send(in_flight=1, seconds=seconds, warm_up_seconds=warm_up)
        before = peer.cpu_seconds()
        many = peer.send(in_flight=_MANY, seconds=seconds, warm_up_seconds=warm_up)
        spent = peer.cpu_seconds() - before
        batches: Measured | None = None
        if isinstance(peer, Ours):
            batches = peer.send_batches(seconds=seconds, warm_up_seconds=warm_up)
        written = first.written_count + one.written_count + many.written_count
        consumed = peer.consume(count=written, seconds=seconds)
        rss = peer.rss()
    finally:
        peer.close()
        folder.rmdir()
    return Outcome(
        one_p50=one.p50,
        one_p99=one.p99,
        many_rate=many.rate,
        many_p99=many.p99,
        batch_rate=batches.rate if batches is not None else 0.0,
        consume_rate=consumed.rate,
        cpu_us=spent / max(many.written_count, 1) * 1e6,
        rss_mib=rss / (1 << 20),
    )


def _median(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        **{
            field.name: median(getattr(outcome, field.name) for outcome in outcomes)
            for field in dataclasses.fields(Outcome)
        }
    )


def _print(medians: dict[str, Outcome], body: int) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(title=f"three replicas, bodies of {body} bytes; medians")
    table.add_column("", no_wrap=True)
    table.add_column("an ack stands on")
    for head in (
        "one in flight\np50 / p99 ms",
        "1000 in flight\nmessages/s",
        "p99 ms",
        "batches of 256\nmessages/s",
        "consumed\nmessages/s",
        "servers'\ncpu us",
        "largest\nRSS MiB",
    ):
        table.add_column(head, justify="right")
    for name, outcome in medians.items():
        table.add_row(
            _PEERS[name].name,
            _PEERS[name].durability,
            f"{outcome.one_p50:.2f} / {outcome.one_p99:.2f}",
            f"{outcome.many_rate:,.0f}",
            f"{outcome.many_p99:.1f}",
            f"{outcome.batch_rate:,.0f}" if outcome.batch_rate else "",
            f"{outcome.consume_rate:,.0f}",
            f"{outcome.cpu_us:.1f}",
            f"{outcome.rss_mib:.0f}",
        )
    console.print(table)
    for line in ratios(medians):
        console.print(line)


def ratios(medians: dict[str, Outcome]) -> list[str]:
    """Return a line for each peer: this project beside it, in the mode that promises as much."""
    lines = []
    for name, peer in medians.items():
        mode = "ours-sync" if _PEERS[name].durability == _DISKS else "ours-async"
        ours = medians.get(mode)
        if ours is None or name.startswith("ours"):
            continue
        many, batches, consumed = (
            f"{rate / other:.1f}x" if other else "-"
            for rate, other in (
                (ours.many_rate, peer.many_rate),
                (ours.batch_rate, peer.many_rate),
                (ours.consume_rate, peer.consume_rate),
            )
        )
        lines.append(
            f"{_PEERS[mode].name} beside {_PEERS[name].name}: one in flight "
            f"{ours.one_p50 / peer.one_p50:.2f}x its p50; 1000 in flight {many} its rate, "
            f"batches of 256 {batches}; consuming {consumed}"
        )
    return lines


def _write(
    path: Path,
    medians: dict[str, Outcome],
    results: dict[str, list[Outcome]],
    *,
    body: int,
    seconds: float,
) -> None:
    content = {
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
            "load_average": os.getloadavg(),
        },
        "body_size": body,
        "seconds": seconds,
        "peers": {
            name: {
                "name": _PEERS[name].name,
                "durability": _PEERS[name].durability,
                "median": dataclasses.asdict(outcome),
                "rounds": [dataclasses.asdict(each) for each in results[name]],
            }
            for name, outcome in medians.items()
        },
        "ratios": ratios(medians),
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
