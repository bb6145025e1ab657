"""What the documents point at is there: files, sections, paths in code, functions, tests."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

# Folders of the repository; a path in backticks that begins with one of them must exist.
_TOP = "bench|broker|dledger|docs|examples|jepsen_like|tests"


@cache
def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def without_blocks(name):
    return re.sub(r"^```.*?^```", "", text_of(name), flags=re.DOTALL | re.MULTILINE)


def anchors_of(text):
    """The anchors a renderer makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def functions_of(path):
    """Names of functions and of ``Class.method`` that a file defines."""
    names = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        names.add(getattr(node, "name", ""))
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if hasattr(inner, "name")}
    return names


def test_there_are_documents():
    assert {"README.md", "docs/architecture.md", "docs/protocol.md"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(name)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text("utf-8"))):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_every_path_named_exists(name):
    paths = re.findall(rf"`((?:{_TOP})/[\w./-]*)`", without_blocks(name))

    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_speaks_of_one_machine(name):
    assert not re.search(r"/(?:home|root|work|Users|tmp/w)/", text_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(name):
    odd, width = [], 0
    for line in without_blocks(name).splitlines():
        # A bar inside of a cell is written with a backslash.
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1 if line.startswith("|") else 0
        if cells and width and cells != width:
            odd.append(line)
        width = width if cells and width else cells

    assert odd == []


def test_the_house_in_the_architecture_is_the_one_there_is():
    block = re.search(r"## The house.*?```text\n(.*?)```", text_of("docs/architecture.md"), re.S)[1]
    missing, folder = [], ""
    for line in block.splitlines():
        names = re.match(r" *((?:[\w.]+[/]? ?)+?)(?:  |$)", line)[1].split()
        if not line.startswith(" "):
            folder = names[0]
            missing += [name for name in names if not (ROOT / name).exists()]
        else:
            missing += [folder + name for name in names if not (ROOT / folder / name).exists()]

    assert missing == []


def test_every_stop_of_a_message_is_a_function_there_is():
    rows = re.findall(
        r"^\| \d+ \| `([^`]+)` \| ([^|]+) \|", text_of("docs/architecture.md"), re.MULTILINE
    )
    missing = [
        f"{path}: {function}"
        for path, functions in rows
        for function in re.findall(r"`([^`]+)`", functions)
        if function not in functions_of(path)
    ]

    assert len(rows) > 20
    assert missing == []


def test_every_piece_of_code_the_engine_page_names_is_there():
    """``engine.propose`` and the like: a name of ``dledger/raft`` or of ``dledger/core.py``."""
    modules = {path.stem: path for path in (ROOT / "dledger/raft").glob("*.py")}
    modules["core"] = ROOT / "dledger/core.py"
    named = re.findall(r"`([a-z_]+)\.([A-Za-z_]+)`", text_of("docs/raft-engine.md"))
    missing = [
        f"{module}.{name}"
        for module, name in named
        if module in modules
        and name != "py"
        and not re.search(rf"\b(?:def|class) {name}\b", modules[module].read_text("utf-8"))
    ]

    assert len(named) > 10
    assert missing == []


def test_every_scenario_the_engine_page_names_is_a_test():
    rows = re.findall(r"^\|.*\|([^|]*)\|$", text_of("docs/raft-engine.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} - {""}
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests/scenarios").glob("*.py"))

    assert {"truncate_acked", "duplicate_vote"} <= named
    assert sorted(name for name in named if f"def test_{name}(" not in tests) == []
