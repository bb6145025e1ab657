"""``python -m bench.peers``: see ``--help``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.machine import machine_line, machine_of
from bench.measured import LoadError
from bench.peers.clients import MissingClientError
from bench.peers.goals import GOALS, HEADS, LARGE, SMALL, Standing, standings
from bench.peers.nats import Nats
from bench.peers.ours import Ours, OursAsync, OursSync
from bench.peers.outcome import Outcome
from bench.peers.rabbit import RabbitMq
from bench.peers.redis import Redis
from bench.peers.servers import MissingProgramError
from bench.report import markdown_table
from bench.scratch import check_writable, scratch_folder
from bench.tables import print_table
from bench.warm import gives_memory_back, taken_at_most, warm_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.peers.peer import Peer

_PEERS: dict[str, type[Peer] | type[Ours]] = {
    "ours-async": OursAsync,
    "ours-sync": OursSync,
    "nats": Nats,
    "redis": Redis,
    "rabbitmq": RabbitMq,
}
_DURABILITY = {name: peer.durability for name, peer in _PEERS.items()}
_MANY = 1000
_SHORT = 3  # with large bodies only batches are compared: a third of the time will do

Outcomes = dict[tuple[str, int], list[Outcome]]


@click.command()
@click.option("--only", metavar="NAMES", help=f"Some of {', '.join(_PEERS)}, divided by commas.")
@click.option(
    "--body",
    "bodies",
    type=click.IntRange(1, 1 << 20),
    multiple=True,
    help="Sizes of bodies. [100 and, for batches, 1024]",
)
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=3.0, help="Of each load.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, help="Medians are taken of them.")
@click.option("--cold-memory", is_flag=True, help="Pay the host for the first use of each page.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write tables.")
def main(
    only: str | None,
    bodies: tuple[int, ...],
    seconds: float,
    rounds: int,
    cold_memory: bool,
    json_path: Path | None,
    markdown_path: Path | None,
) -> None:
    """Give this project and other brokers with three replicas the same loads, in turn.

    Each peer is started afresh in each round, alone, and removed. One plain socket makes the load
    (Redis: four), sends encoded beforehand; then the peer's client library for Python makes it,
    from one task and from 1000. At the end our figures are set beside the goals.
    """
    names = [name.strip() for name in only.split(",")] if only else list(_PEERS)
    if unknown := [name for name in names if name not in _PEERS]:
        raise click.UsageError(f"no peer is called {unknown[0]}; there are {', '.join(_PEERS)}")
    check_writable(json_path, markdown_path)
    outcomes: Outcomes = {}
    has_failed = False
    sizes = bodies or (SMALL, LARGE)
    for number in range(rounds):
        for body in sizes:
            for name in list(names):
                _say(f"round {number + 1}, bodies of {body} bytes: {_PEERS[name].name}")
                try:
                    outcome = _measure(name, body, seconds, is_warm=not cold_memory)
                except MissingProgramError as error:
                    _say(f"left out: {error}")
                    names.remove(name)
                except LoadError as error:
                    # What the others came to is still worth having.
                    _say(f"{_PEERS[name].name} failed, and is left out from now on: {error}")
                    names.remove(name)
                    has_failed = True
                else:
                    outcomes.setdefault((name, body), []).append(outcome)
    medians = {key: Outcome.median_of(found) for key, found in outcomes.items()}
    found = standings(medians)
    for body in sizes:
        _print(medians, body)
    _print_goals(found)
    if json_path is not None:
        _write(json_path, medians, outcomes, found, seconds=seconds)
    if markdown_path is not None:
        command = "python -m bench.peers" + "".join(f" {word}" for word in sys.argv[1:])
        memory = ", memory at hand" if gives_memory_back() and not cold_memory else ""
        text = _markdown(medians, sizes, found, command, rounds, memory)
        markdown_path.write_text(text, "utf-8")
    if has_failed:
        sys.exit(1)


def _measure(name: str, body: int, seconds: float, *, is_warm: bool) -> Outcome:
    with scratch_folder("bench-peers-") as folder:
        peer = _PEERS[name](folder / name, body_size=body)
        try:
            return _ask(peer, seconds / _SHORT if body > SMALL else seconds, body, is_warm=is_warm)
        finally:
            peer.close()


def _ask(peer: Peer | Ours, seconds: float, body: int, *, is_warm: bool) -> Outcome:
    warm_up = seconds / 5
    taken = taken_at_most(body, seconds + warm_up) if is_warm else 0
    first = peer.send(in_flight=_MANY, seconds=warm_up, warm_up_seconds=0.0)
    written = first.written_count
    found: dict[str, float] = {}
    has_library = body <= SMALL
    if body <= SMALL:
        # Before anything heavy, and for that reason: the system goes on writing out for seconds
        # what many sends have left behind, and that is more the faster they were.
        one = peer.send(in_flight=1, seconds=seconds, warm_up_seconds=warm_up)
        found |= {"one_p50": one.p50, "one_p99": one.p99}
        written += one.written_count
        try:
            alone = peer.send_by_library(task_count=1, seconds=seconds, warm_up_seconds=warm_up)
        except MissingClientError as error:
            has_library = False
            _say(f"{peer.name}, client library: left out: {error}")
        else:
            found |= {"client_one_p50": alone.p50, "client_one_p99": alone.p99}
            written += alone.written_count
    with warm_memory(taken):
        before = peer.cpu_seconds()
        many = peer.send(in_flight=_MANY, seconds=seconds, warm_up_seconds=warm_up)
    spent = peer.cpu_seconds() - before
    found |= {"many_rate": many.rate, "many_p99": many.p99}
    found["cpu_us"] = spent / max(many.written_count, 1) * 1e6
    written += many.written_count
    if isinstance(peer, Ours):
        with warm_memory(taken):
            batches = peer.send_batches(seconds=seconds, warm_up_seconds=warm_up)
        found["batch_rate"] = batches.rate
        written += batches.written_count
    if body <= SMALL:
        # The plain socket reads a part: RabbitMQ's queue is emptied by reading.
        raw = peer.consume(count=written // 2, seconds=seconds)
        found["consume_rate"] = raw.rate
        if has_library:
            left = written - (raw.message_count if peer.is_emptied else 0)
            found |= _ask_library(peer, seconds, warm_up, left, taken)
    return Outcome(**found, rss_mib=peer.rss() / (1 << 20))


def _ask_library(
    peer: Peer | Ours, seconds: float, warm_up: float, written: int, taken: int
) -> dict[str, float]:
    with warm_memory(taken):
        many = peer.send_by_library(task_count=_MANY, seconds=seconds, warm_up_seconds=warm_up)
    consumed = peer.consume_by_library(
        count=max(1, (written + many.written_count) * 9 // 10), seconds=seconds
    )
    return {"client_many_rate": many.rate, "client_consume_rate": consumed.rate}


_COLUMNS = (
    "",
    "an ack stands on",
    "one in flight, p50 / p99 ms",
    "1000 in flight, messages/s",
    "p99 ms",
    "batches of 256",
    "consumed a second",
    "library",
    "its one in flight, p50 / p99 ms",
    "its 1000 tasks, messages/s",
    "it hands over a second",
    "servers' cpu us",
    "largest RSS, MiB",
)


def _cells(name: str, outcome: Outcome) -> list[str]:
    peer = _PEERS[name]
    return [
        peer.name,
        peer.durability,
        _pair(outcome.one_p50, outcome.one_p99),
        f"{outcome.many_rate:,.0f}",
        f"{outcome.many_p99:.1f}",
        _rate(outcome.batch_rate),
        _rate(outcome.consume_rate),
        peer.library,
        _pair(outcome.client_one_p50, outcome.client_one_p99),
        _rate(outcome.client_many_rate),
        _rate(outcome.client_consume_rate),
        f"{outcome.cpu_us:.1f}",
        f"{outcome.rss_mib:.0f}",
    ]


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate else ""


def _pair(p50: float, p99: float) -> str:
    return f"{p50:.2f} / {p99:.2f}" if p50 else ""


def _rows(medians: dict[tuple[str, int], Outcome], body: int) -> list[list[str]]:
    return [_cells(name, outcome) for (name, size), outcome in medians.items() if size == body]


def _print(medians: dict[tuple[str, int], Outcome], body: int) -> None:
    rows = _rows(medians, body)
    used = [at for at in range(len(_COLUMNS)) if any(row[at] for row in rows)]
    print_table(
        f"three replicas, bodies of {body:,} bytes; medians",
        [_COLUMNS[at] for at in used],
        [[row[at] for at in used] for row in rows],
        left=_COLUMNS[:2],
    )


def _print_goals(found: Sequence[Standing]) -> None:
    if found:
        rows = [standing.cells(_DURABILITY) for standing in found]
        print_table("beside the goals", HEADS, rows, left=("flush", "what", *HEADS[-2:]))
    if len(found) < len(GOALS):
        _say(f"{len(GOALS) - len(found)} of {len(GOALS)} goals were not measured on both sides")


def _markdown(
    medians: dict[tuple[str, int], Outcome],
    sizes: Sequence[int],
    found: Sequence[Standing],
    command: str,
    rounds: int,
    memory: str,
) -> str:
    medians_of = "one round" if rounds == 1 else f"medians of {rounds} rounds"
    text = [f"`{command}`, {medians_of}{memory}. {machine_line()}.", ""]
    for body in sizes:
        rows = _rows(medians, body)
        used = [at for at in range(len(_COLUMNS)) if any(row[at] for row in rows)]
        text += [f"Bodies of {body:,} bytes:", ""]
        text += markdown_table(
            [_COLUMNS[at] for at in used], ([row[at] for at in used] for row in rows)
        )
        text.append("")
    if found:
        text += ["Beside the goals:", ""]
        text += markdown_table(HEADS, (standing.cells(_DURABILITY) for standing in found))
    return "\n".join(text) + "\n"


def _write(
    path: Path,
    medians: dict[tuple[str, int], Outcome],
    outcomes: Outcomes,
    found: Sequence[Standing],
    *,
    seconds: float,
) -> None:
    content = {
        "machine": machine_of(),
        "seconds": seconds,
        "peers": [
            {
                "name": _PEERS[name].name,
                "durability": _PEERS[name].durability,
                "library": _PEERS[name].library,
                "body_size": body,
                "median": dataclasses.asdict(outcome),
                "rounds": [dataclasses.asdict(each) for each in outcomes[name, body]],
            }
            for (name, body), outcome in medians.items()
        ],
        "goals": [
            dataclasses.asdict(standing.goal)
            | {
                "ours": standing.ours,
                "theirs": standing.theirs,
                "ratio": standing.ratio,
                "is_met": standing.is_met,
            }
            for standing in found
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
