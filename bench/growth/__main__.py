"""``python -m bench.growth``: see ``--help``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from bench.growth.axes import AXES, Axis, choose_axes
from bench.machine import machine_line, machine_of
from bench.measured import LoadError
from bench.scratch import check_writable, scratch_folder
from bench.tables import print_table
from broker.cli.output import first_leaf
from broker.errors import BrokerError

if TYPE_CHECKING:
    from bench.growth.table import GrowthTable


@click.command()
@click.option("--only", metavar="NAMES", help=f"Some of {', '.join(axis.name for axis in AXES)}.")
@click.option("--most", type=click.IntRange(1), help="Leave out points above this one.")
@click.option("--points", metavar="COUNTS", help="Other points, divided by commas; with one axis.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for the nodes' data.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write tables.")
def main(
    only: str | None,
    most: int | None,
    points: str | None,
    data: Path | None,
    json_path: Path | None,
    markdown_path: Path | None,
) -> None:
    """Measure by what power costs grow with what a group holds.

    Costs are processor time, so that a machine used by others matters little; `p50 ms` and
    `start s` are not. GROWS and SUPERLINEAR mark a cost whose slope is above what is right for it.
    """
    try:
        axes = choose_axes(only)
        wanted = [int(point) for point in points.split(",")] if points else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if wanted and len(axes) != 1:
        raise click.UsageError("--points goes with one name in --only")
    check_writable(json_path, markdown_path)
    tables = []
    for axis in axes:
        chosen = wanted or [point for point in axis.points if most is None or point <= most]
        table = _run(axis, chosen, data)
        if table is not None:
            tables.append(table)
            _print(table)
    findings = [finding for table in tables for finding in table.findings]
    print("\n".join(findings) if findings else "nothing grows by more than is right for it")
    if json_path is not None:
        content = {"machine": machine_of(), "tables": [table.as_json() for table in tables]}
        json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if markdown_path is not None:
        sections = [f"### By {table.axis}\n\n{table.markdown()}" for table in tables]
        markdown_path.write_text(f"{machine_line()}\n\n" + "\n".join(sections), encoding="utf-8")
    if len(tables) < len(axes):
        sys.exit(1)


def _run(axis: Axis, points: list[int], data: Path | None) -> GrowthTable | None:
    """Measure one axis; None, and the reason told, where that fails: the others go on."""
    try:
        with scratch_folder("dledger-growth-", where=data) as folder:
            return trio.run(axis.run, folder / axis.name, points, _say)
    except (LoadError, BrokerError, BaseExceptionGroup) as error:
        cause = first_leaf(error)
        if not isinstance(cause, (LoadError, BrokerError)):
            raise
        _say(f"{axis.name} is left out: {cause}")
        return None


def _print(table: GrowthTable) -> None:
    head, *rows = table.cells()
    plain = [[cell.replace("**", "") for cell in row] for row in rows]
    print_table(f"by {table.axis}", head, plain)
    print(table.note)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
