"""The lines that operations.md explains are lines the code can say."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")

GAP = "\0"  # where a message has something that changes
_CHANGING = re.compile(r"\.\.\.|\bn2\b|\b[NMP]\b|HOST:PORT|0\.3\.17")


@cache
def messages():
    """Every text in the code, implicit pieces joined, with gaps for what is filled in."""
    found = []
    for path in [*ROOT.glob("dledger/**/*.py"), *ROOT.glob("broker/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else GAP for part in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[.0-9]*[sdfr]", GAP, node.value))
    return found


def explained():
    """Each line in the first column of the tables of last words."""
    section = OPERATIONS.partition("## Last words")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        for line in re.findall(r"`([^`]+)`", row):
            yield pytest.param(line, id=line)


@pytest.mark.parametrize("line", list(explained()))
def test_every_line_explained_is_said_somewhere(line):
    """By pieces, as a line may be put together from several texts."""
    pieces = [piece.strip(" ;,:/'") for piece in _CHANGING.split(line)]

    assert max(map(len, pieces)) > 4
    assert [piece for piece in pieces if not any(piece in message for message in messages())] == []


def test_there_are_lines():
    assert len(list(explained())) > 15
