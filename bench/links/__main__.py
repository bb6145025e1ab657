"""``python -m bench.links``: see ``--help``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from bench.links.paper import Paper, Range
from bench.links.simulated import Links
from bench.report import markdown_table
from dledger.config import RaftConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

SYNC_SECONDS = 0.0005
TASKS = 1000
SLACK = 0.15  # of what is reckoned: paper knows no jitter
HEADS = (
    "links, one way",
    "client",
    "what",
    "on paper",
    "simulated",
    "elections",
    "",
)


@click.command()
@click.option("--ms", "delays", type=float, multiple=True, help="Of links. [1, 10 and 50]")
@click.option("--runs", type=click.IntRange(1, 100), default=8, help="Leaders that die of each.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write table.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
def main(
    delays: tuple[float, ...], runs: int, markdown_path: Path | None, json_path: Path | None
) -> None:
    """Reckon what a group of three does over slow links, and simulate the same.

    Members are so many milliseconds apart, one way; the client is beside them (0.1 ms) or as far.
    Default settings, SYNC_FLUSH, a sync of half a millisecond, bodies of 100 bytes, whole nodes in
    virtual time: half a minute, and the same figures in every run.  What lies in the range is as
    reckoned, what lies outside of it by no more than 15 % is told to be so.
    """
    rows: list[list[str]] = []
    for delay_ms in delays or (1.0, 10.0, 50.0):
        for home_ms in (0.1, delay_ms):
            _say(f"links of {delay_ms:g} ms, client {home_ms:g} ms away")
            rows += _rows(delay_ms / 1000, home_ms / 1000, runs, is_near=home_ms != delay_ms)
    table = Table(title="a group over slow links")
    for head in HEADS:
        table.add_column(head)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    if markdown_path is not None:
        markdown_path.write_text("\n".join(markdown_table(HEADS, rows)) + "\n", "utf-8")
    if json_path is not None:
        content = [dict(zip(HEADS[:-1], row, strict=False)) for row in rows]
        json_path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _rows(link: float, home: float, runs: int, *, is_near: bool) -> list[list[str]]:
    raft = RaftConfig()
    paper = Paper(link=link, home=home, sync=SYNC_SECONDS, raft=raft)

    def group(seed: int = 1) -> Links:
        return Links(link=link, home=home, sync=SYNC_SECONDS, raft=raft, seed=seed)

    lead = [f"{1000 * link:g} ms", f"{1000 * home:g} ms away"]
    one = group().one_in_flight(40)
    text = _times(paper.one_in_flight, [median(one)])
    rows = [[*lead, "one in flight, p50", *text[:2], "", text[2]]]
    rate = group().many_in_flight(TASKS, max(0.3, 20 * link))
    many = paper.many_in_flight(TASKS)
    rows.append(
        [
            *lead,
            f"{TASKS:,} tasks, messages/s",
            f"{many.least:,.0f} to {many.most:,.0f}",
            f"{rate:,.0f}",
            "",
            _verdict(many, [rate]),
        ]
    )
    if is_near:
        rows.append([*lead, "calm for 60 s", "none elected", "", *_calm(group())])
        return rows
    for is_frozen, expected in ((False, paper.after_a_kill), (True, paper.after_a_freeze)):
        found = [group(seed).after_the_leader_dies(is_frozen=is_frozen) for seed in range(runs)]
        what = "frozen" if is_frozen else "killed"
        text = _times(expected, [seconds for seconds, _ in found])
        terms = max(terms for _, terms in found)
        rows.append(
            [*lead, f"leader {what}, to the next ack", *text[:2], f"{terms} at most", text[2]]
        )
    return rows


def _calm(group: Links) -> list[str]:
    elected = group.elections_in(60)
    return [f"{elected}", "as reckoned" if not elected else "NOT AS RECKONED"]


def _times(expected: Range, values: Sequence[float]) -> list[str]:
    shown = f"{1000 * median(values):,.1f} ms"
    if len(values) > 1:
        shown = f"{shown} ({1000 * min(values):,.0f} to {1000 * max(values):,.0f})"
    text = f"{1000 * expected.least:,.1f} to {1000 * expected.most:,.1f} ms"
    return [text, shown, _verdict(expected, values)]


def _verdict(expected: Range, values: Sequence[float]) -> str:
    if expected.holds(values):
        return "as reckoned"
    return f"within {SLACK:.0%} of it" if expected.holds(values, slack=SLACK) else "NOT AS RECKONED"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
