"""``python -m bench``: see ``--help``."""

from __future__ import annotations

import dataclasses
import random
import sys
import tempfile
from pathlib import Path

import click
import trio

from bench.measured import GroupReport, LoadError
from bench.plan import Plan, choose, quick
from bench.report import print_table, write_json
from bench.run import run_group
from broker.cli.output import first_leaf
from broker.errors import BrokerError
from dledger.config import FlushDiskType
from dledger.errors import LedgerError
from dledger.remoting.errors import RemotingError

_EXPECTED = (LoadError, BrokerError, LedgerError, RemotingError, OSError)


@click.command()
@click.option("--quick", "is_quick", is_flag=True, help="Half a minute: a look, no measurement.")
@click.option("--only", metavar="NAMES", help="Loads whose names begin with one of these words.")
@click.option("--body", "bodies", type=int, multiple=True, help="Size of bodies, in bytes.")
@click.option("--nodes", type=click.Choice(["1", "3", "5"]), default="3", help="Of the group.")
@click.option("--flush", type=click.Choice(["sync", "async"]), help="One flush mode only.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds, of which medians are taken.")
@click.option("--seconds", type=click.FloatRange(0.2), help="Seconds of each load and round.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
@click.option(
    "--profile",
    "profile_folder",
    type=click.Path(path_type=Path),
    help="Write stacks of leader and a follower there (needs py-spy; slows them down).",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder for the nodes' data.")
def main(
    is_quick: bool,
    only: str | None,
    bodies: tuple[int, ...],
    nodes: str,
    flush: str | None,
    rounds: int | None,
    seconds: float | None,
    json_path: Path | None,
    profile_folder: Path | None,
    data: Path | None,
) -> None:
    """Measure a group of real nodes on this machine, and prove what it acknowledged."""
    plan = quick() if is_quick else Plan()
    try:
        plan = dataclasses.replace(
            plan,
            loads=choose(only) if only else plan.loads,
            body_sizes=bodies or plan.body_sizes,
            flush_types=(FlushDiskType(f"{flush.upper()}_FLUSH"),) if flush else plan.flush_types,
            node_count=int(nodes),
            round_count=rounds or plan.round_count,
            seconds=seconds or plan.seconds,
            profile_folder=profile_folder,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if profile_folder is not None:
        profile_folder.mkdir(parents=True, exist_ok=True)
    _say(f"{plan.seconds_least:.0f} s of load, and the time to start, check and compare")
    reports = _run(plan, data)
    print_table(reports)
    if json_path is not None:
        write_json(json_path, plan, reports)


def _run(plan: Plan, data: Path | None) -> list[GroupReport]:
    reports: list[GroupReport] = []
    folder = Path(tempfile.mkdtemp(prefix="dledger-bench-", dir=data))
    for body_size in plan.body_sizes:
        for flush in plan.flush_types:
            _say(f"{flush.value}, bodies of {body_size} bytes")
            home = folder / f"{flush.value.lower()}-{body_size}"
            try:
                reports.append(trio.run(_run_group, plan, flush, body_size, home))
            except (*_EXPECTED, BaseExceptionGroup) as error:
                cause = first_leaf(error)
                if not isinstance(cause, _EXPECTED):
                    raise
                _say(f"stopped: {cause}; data and logs of the nodes are kept in {home}")
                sys.exit(1)
    folder.rmdir()
    return reports


async def _run_group(plan: Plan, flush: FlushDiskType, body_size: int, folder: Path) -> GroupReport:
    return await run_group(
        plan,
        flush=flush,
        body_size=body_size,
        folder=folder,
        chance=random.Random(body_size),
        say=_say,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
