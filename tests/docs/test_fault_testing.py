"""fault-testing.md names every anomaly, fault, note, field and command, as the code has them."""

import argparse
import dataclasses
import re
from pathlib import Path

import pytest

from jepsen_like import __main__ as command_line
from jepsen_like.checkers import KINDS
from jepsen_like.faults.catalogue import CATALOGUE
from jepsen_like.history import Event

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/fault-testing.md").read_text("utf-8")
LAYERS = {"both": "both", "sim": "simulation", "real": "real"}


def rows_after(heading):
    """Cells of the first table behind *heading*; the first cell may hold several names."""
    _, found, rest = PAGE.partition(heading)
    assert found, heading
    table = re.search(r"^\|[^\n]*\n\|[-|]+\|\n((?:\|.*\n)+)", rest, re.MULTILINE)[1]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def names_after(heading):
    return [name for row in rows_after(heading) for name in row[0].split(", ")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_anomaly_has_its_row_and_definition(kind):
    assert [kind, KINDS[kind]] in rows_after("## Anomalies")


def test_no_anomaly_is_told_that_nothing_raises():
    assert set(names_after("## Anomalies")) == set(KINDS)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_fault_of_the_catalogue_has_its_row(name):
    rows = {row[0]: row[1] for row in rows_after("## Faults")}

    assert rows[name] == LAYERS[CATALOGUE[name].where]


def test_no_fault_is_told_that_is_not_in_the_catalogue():
    assert set(names_after("## Faults")) == set(CATALOGUE)


def test_every_field_of_a_line_is_told():
    assert names_after("## The history") == [field.name for field in dataclasses.fields(Event)]


def sources():
    return "".join(path.read_text("utf-8") for path in ROOT.glob("jepsen_like/**/*.py"))


def test_every_note_that_is_written_is_told_and_every_one_told_is_written():
    text = sources()
    noted = set(re.findall(r'\bnote\(\s*"([a-z-]+)"', text)) | {"counts"}

    assert set(names_after("Notes of the world")) == noted


def test_every_operation_that_is_told_is_written():
    text = sources()
    told = names_after("What clients do")

    assert len(told) > 8
    assert [name for name in told if f'"{name}"' not in text] == []


def test_every_command_is_on_the_page(monkeypatch):
    commands = []
    original = argparse._SubParsersAction.add_parser

    def add_parser(self, name, **rest):
        commands.append(name)
        return original(self, name, **rest)

    monkeypatch.setattr(argparse._SubParsersAction, "add_parser", add_parser)
    monkeypatch.setattr("sys.argv", ["jepsen_like"])
    with pytest.raises(SystemExit):
        command_line.main()

    assert len(commands) >= 6
    run = PAGE.partition("## Run it")[2].partition("\n## ")[0]
    told = set(re.findall(r"python -m jepsen_like (\w+)", run))
    told |= set(re.findall(r"make (\w+)", run))
    assert set(commands) <= told


def test_every_make_target_of_the_page_is_there():
    makefile = (ROOT / "Makefile").read_text("utf-8")

    for target in re.findall(r"\bmake ([a-z-]+)", PAGE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
