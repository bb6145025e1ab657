"""The tables for people, the same as markdown for a page, and JSON for machines."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.machine import machine_line, machine_of
from bench.tables import print_table
from bench.warm import gives_memory_back

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bench.measured import GroupReport, Line
    from bench.parts import Figure, PartReport
    from bench.plan import Plan

LOAD_HEADS = (
    "load",
    "messages/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "nodes us",
    "client us",
    "RSS MiB",
    "",
)
FIGURE_HEADS = ("what", "figure", "goal")
_LEGEND = (
    "us: processor time a message, of each node, the leader first, and of the process that makes "
    "the load; RSS: of the largest node afterwards, mapped files not counted"
)


def load_cells(line: Line) -> list[str]:
    """Return one line of the table of loads as text."""
    return [
        line.load,
        f"{line.rate:,.0f}",
        *(f"{value:.2f}" if value else "" for value in (line.p50, line.p99, line.p999)),
        line.cpu_text,
        f"{line.client_cpu_us:.2f}",
        f"{line.rss / (1 << 20):.0f}",
        line.note,
    ]


def title_of(node_count: int, flush: str, body_size: int) -> str:
    """Return what group it is, and what is sent to it."""
    nodes = f"{node_count} node{'s' if node_count > 1 else ''}"
    return f"{nodes}, {flush}, bodies of {body_size:,} bytes"


def _title_of(report: GroupReport) -> str:
    return title_of(report.node_count, report.flush, report.body_size)


def proof_of(report: GroupReport) -> str:
    """Return what was proved of a group after its loads."""
    size = f"{report.entry_count:,} entries, {report.log_size / 1e6:,.0f} MB"
    logs = f"logs of {size}, identical on all nodes"
    return f"{report.message_count:,} messages acknowledged and there; " + (
        logs if report.node_count > 1 else f"a log of {size}, every entry whole"
    )


def print_loads(reports: Sequence[GroupReport]) -> None:
    """Print one table a group."""
    for report in reports:
        rows = [load_cells(line) for line in report.lines]
        print_table(_title_of(report), LOAD_HEADS, rows, left=("load", ""))
        print(f"{_LEGEND}\n{proof_of(report)}")


def print_figures(figures: Sequence[Figure]) -> None:
    """Print what is no load."""
    if figures:
        rows = [(figure.what, figure.text, figure.verdict) for figure in figures]
        print_table("failures, starts, minutes", FIGURE_HEADS, rows, left=FIGURE_HEADS)


def markdown_of(
    reports: Sequence[GroupReport],
    figures: Sequence[Figure],
    plan: Plan,
    command: str,
    *,
    stopped: str = "",
) -> str:
    """Return all tables as markdown, with the command and the machine.

    Args:
        reports: of all groups.
        figures: what is no load.
        plan: what the loads were.
        command: that repeats them.
        stopped: why that is not all; empty where it is.
    """
    memory = ", memory at hand" if plan.is_warm and gives_memory_back() else ""
    text = [
        f"`{command}`, medians of {plan.round_count} rounds{memory}. {machine_line()}.",
        "",
    ]
    if stopped:
        text += [f"**Stopped before the end: {stopped}**", ""]
    for report in reports:
        text += [f"{_title_of(report)}:", ""]
        text += markdown_table(LOAD_HEADS, map(load_cells, report.lines))
        text += ["", proof_of(report) + ".", ""]
    if figures:
        text += markdown_table(
            FIGURE_HEADS,
            ([figure.what, figure.text, figure.verdict] for figure in figures),
        )
        text.append("")
    return "\n".join(text)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def json_of(
    reports: Sequence[GroupReport],
    parts: Sequence[PartReport],
    figures: Sequence[Figure],
    plan: Plan,
    *,
    stopped: str = "",
) -> dict[str, Any]:
    """Return all figures, with what they were measured on, and why they are not all, if so."""
    return {
        "machine": machine_of(),
        "stopped": stopped,
        "rounds": plan.round_count,
        "seconds": plan.seconds,
        "groups": [asdict(report) for report in reports],
        "parts": {part.name: part.raw for part in parts},
        "figures": [asdict(figure) for figure in figures],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures for machines."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
