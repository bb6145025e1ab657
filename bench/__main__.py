"""``python -m bench``: see ``--help``."""

from __future__ import annotations

import dataclasses
import random
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import trio

from bench.failover import Unsettled
from bench.measured import GroupReport, LoadError
from bench.parts import PARTS, QUICK, PartReport, Sizes, choose_parts, memory_figure
from bench.plan import BODY_SIZE_MAX, Plan, choose, of_other_sizes, quick
from bench.plot import can_plot, plot
from bench.report import (
    json_of,
    markdown_of,
    print_figures,
    print_loads,
    title_of,
    write_json,
)
from bench.run import run_group
from bench.scratch import check_writable, scratch_folder
from broker.cli.output import first_leaf
from broker.errors import BrokerError
from dledger.config import FlushDiskType
from dledger.errors import LedgerError
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable

_EXPECTED = (LoadError, Unsettled, BrokerError, LedgerError, RemotingError, OSError)
_PATH = click.Path(path_type=Path)
_T = TypeVar("_T")


@click.command()
@click.option(
    "--quick", "is_quick", is_flag=True, help="One or two minutes: a look, no measurement."
)
@click.option("--only", metavar="NAMES", help="Loads whose names begin with one of these words.")
@click.option(
    "--body",
    "bodies",
    type=click.IntRange(1, BODY_SIZE_MAX),
    multiple=True,
    help="Size of bodies, in bytes.",
)
@click.option(
    "--nodes",
    type=click.Choice(["1", "3", "5"]),
    help="Of the group. [3, and for a few loads 1 and 5; 3 with --only or --quick]",
)
@click.option("--flush", type=click.Choice(["sync", "async"]), help="One flush mode only.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds, of which medians are taken.")
@click.option("--seconds", type=click.FloatRange(0.2), help="Seconds of each load and round.")
@click.option("--cold-memory", is_flag=True, help="Pay the host for the first use of each page.")
@click.option(
    "--parts",
    metavar="NAMES",
    help=f"What else: {', '.join(PARTS)}, all or none. [all; none with --only, --quick or --nodes]",
)
@click.option(
    "--no-ten-million",
    "is_without_ten_million",
    is_flag=True,
    help="No starts with 10 million messages: some minutes, and 8 GB of disk, less.",
)
@click.option("--out", type=_PATH, help="Write figures.json, figures.md and figures.png there.")
@click.option("--json", "json_path", type=_PATH, help="Write figures there.")
@click.option("--markdown", "markdown_path", type=_PATH, help="Write tables there.")
@click.option("--plot", "plot_path", type=_PATH, help="Draw figures there, as a PNG.")
@click.option(
    "--profile",
    "profile_folder",
    type=_PATH,
    help="Write a flame graph of each node under each load there (slows the nodes a little).",
)
@click.option("--data", type=_PATH, help="Folder for the nodes' data.")
def main(
    is_quick: bool,
    only: str | None,
    bodies: tuple[int, ...],
    nodes: str | None,
    flush: str | None,
    rounds: int | None,
    seconds: float | None,
    cold_memory: bool,
    parts: str | None,
    is_without_ten_million: bool,
    out: Path | None,
    json_path: Path | None,
    markdown_path: Path | None,
    plot_path: Path | None,
    profile_folder: Path | None,
    data: Path | None,
) -> None:
    """Measure a group of real nodes on this machine, and prove what it acknowledged."""
    plan = quick() if is_quick else Plan()
    sizes = QUICK if is_quick else Sizes()
    if is_without_ten_million:
        sizes = dataclasses.replace(sizes, restart_messages=sizes.restart_messages[:1])
    is_partial = bool(only or is_quick or nodes)
    if parts is None and is_partial:
        parts = "none"
    try:
        chosen_parts = choose_parts(parts)
        plan = dataclasses.replace(
            plan,
            loads=() if only == "none" else choose(only) if only else plan.loads,
            body_sizes=bodies or plan.body_sizes,
            flush_types=(FlushDiskType(f"{flush.upper()}_FLUSH"),) if flush else plan.flush_types,
            node_count=int(nodes or 3),
            round_count=rounds or plan.round_count,
            seconds=seconds or plan.seconds,
            profile_folder=profile_folder,
            is_warm=not cold_memory,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if out is not None:
        json_path = json_path or out / "figures.json"
        markdown_path = markdown_path or out / "figures.md"
        plot_path = plot_path or (out / "figures.png" if can_plot() else None)
        if plot_path is None:
            _say("no picture: matplotlib is not installed; pip install --group report")
    elif plot_path is not None and not can_plot():
        raise click.UsageError("--plot needs matplotlib; pip install --group report")
    check_writable(json_path, markdown_path, plot_path)
    if profile_folder is not None:
        check_writable(profile_folder / "any")
    plans = [plan] if is_partial else [plan, *of_other_sizes(plan)]
    seconds_least = sum(each.seconds_least for each in plans)
    _say(f"{seconds_least:.0f} s of load, and the time to start, check and compare")
    reports: list[GroupReport] = []
    part_reports: list[PartReport] = []
    stopped = ""
    try:
        with scratch_folder("dledger-bench-", where=data) as folder:
            try:
                for each in plans:
                    _run_loads(each, folder, reports)
            finally:
                print_loads(reports)
            _run_parts(chosen_parts, sizes, folder, part_reports)
    except _StoppedError as error:
        # What was measured before is worth having: it may have taken an hour.
        stopped = str(error)
        _say(f"stopped: {stopped}")
    figures = [figure for part in part_reports for figure in part.figures]
    if (memory := memory_figure(reports)) is not None:
        figures.append(memory)
    print_figures(figures)
    content = json_of(reports, part_reports, figures, plan, stopped=stopped)
    if json_path is not None:
        write_json(json_path, content)
    if markdown_path is not None:
        command = "python -m bench" + "".join(f" {word}" for word in sys.argv[1:])
        text = markdown_of(reports, figures, plan, command, stopped=stopped)
        markdown_path.write_text(text, encoding="utf-8")
    if plot_path is not None and (reports or part_reports):
        plot(content, plot_path)
        _say(f"drawn: {plot_path}")
    if stopped:
        sys.exit(1)


class _StoppedError(Exception):
    """A group or a part came to no end; says why."""


def _run_loads(plan: Plan, folder: Path, reports: list[GroupReport]) -> None:
    """Add what each group comes to."""
    for body_size in plan.body_sizes:
        for flush in plan.flush_types:
            if not plan.loads_for(body_size):
                continue
            nodes = plan.node_count
            _say(title_of(nodes, flush.value, body_size))
            home = folder / f"{nodes}-{flush.value.lower()}-{body_size}"
            run = partial(
                run_group,
                plan,
                flush=flush,
                body_size=body_size,
                folder=home,
                chance=random.Random(body_size),
                say=_say,
            )
            reports.append(_or_stop(partial(trio.run, run)))


def _run_parts(names: list[str], sizes: Sizes, folder: Path, reports: list[PartReport]) -> None:
    """Add what each part comes to."""
    for name in names:
        _say(f"{name}:")
        home = folder / name
        reports += _or_stop(partial(PARTS[name], home, sizes))
        shutil.rmtree(home, ignore_errors=True)


def _or_stop(run: Callable[[], _T]) -> _T:
    try:
        return run()
    except (*_EXPECTED, BaseExceptionGroup) as error:
        cause = first_leaf(error)
        if not isinstance(cause, _EXPECTED):
            raise
        raise _StoppedError(str(cause)) from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
