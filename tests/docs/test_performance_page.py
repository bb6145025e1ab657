"""The goals at the head of performance.md say what the tables below them say."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text("utf-8")
HEAD, _, REST = PAGE.partition("\n## Measuring\n")
GOALS = [
    [cell.strip() for cell in row.strip("|").split("|")]
    for row in re.findall(r"^\|.*\|$", HEAD, re.MULTILINE)[2:]
]
# Which block of the page the command of a goal writes.
WRITTEN_BY = {"make bench-peers": "peers", "python -m bench.growth": "growth"}


def block(name):
    """The tables that a command has put into the page."""
    return re.search(rf"<!-- begin {name} -->(.*?)<!-- end {name} -->", PAGE, re.DOTALL)[1]


def source_of(command):
    """The text that a goal's figures have to stand in."""
    for start, name in WRITTEN_BY.items():
        if command.strip("`").startswith(start):
            # The share that topics cost is worked out below their table.
            return block(name) + (REST.split("What rises, and why:")[1] if name == "growth" else "")
    return block("figures")


def figures_of(text):
    """Its numbers with what follows them, ``0.52x``, ``5 %``, ``570 ms`` or ``253``."""
    return re.findall(r"\d[\d,.]*\d?(?:x| ?%| MiB| ms)?", text)


def test_there_are_goals():
    assert len(GOALS) == 16
    assert {len(row) for row in GOALS} == {5}


@pytest.mark.parametrize("row", GOALS, ids=lambda row: row[0])
def test_what_a_goal_has_reached_stands_in_the_tables(row):
    _, _, reached, _, command = row
    source = source_of(command)
    missing = [
        figure
        for figure in figures_of(reached)
        if not re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d])", source)
    ]

    assert figures_of(reached)
    assert missing == []


def test_goals_beside_peers_are_met_where_their_rows_are():
    rows = block("peers").split("Beside the goals:")[1]
    ratios = re.findall(r"\| ([\d.]+x) \| at (?:most|least) ([\d.]+)x \| ([^|]+) \|", rows)
    beside = [row for row in GOALS if row[4] == "`make bench-peers`"]
    named = [figure for row in beside for figure in figures_of(row[2])]

    assert sorted(named) == sorted(ratio for ratio, _, _ in ratios)
    verdict_of = {ratio: verdict for ratio, _, verdict in ratios}
    for _, _, reached, verdict, _ in beside:
        met = all(verdict_of[figure] == "met" for figure in figures_of(reached))
        assert (verdict == "met") == met
