"""What the README shows is there: its links, its commands, its make targets, its Python."""

import ast
import re
from pathlib import Path

import click
import pytest

from broker.cli.main import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_link_to_a_file_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_python_is_python():
    trees = [ast.parse(code) for code in blocks("python")]
    nodes = [node for tree in trees for node in ast.walk(tree)]

    assert {node.name for node in nodes if isinstance(node, ast.AsyncFunctionDef)} == {"main"}
    assert len(trees) == 2


def shown_commands():
    for block in blocks("console"):
        for line in re.findall(r"^\$ (.+)$", block, re.MULTILINE):
            for part in line.split("|"):
                words = re.findall(r"'[^']*'|\S+", part.partition("#")[0])
                yield pytest.param(words, id=" ".join(words))


@pytest.mark.parametrize("words", list(shown_commands()))
def test_every_command_shown_exists_with_its_options(words):
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
        return
    if words[0] != "dledger":
        return
    command, context = cli, click.Context(cli)
    names = iter(words[1:])
    while isinstance(command, click.Group):
        command = command.get_command(context, next(names))
        assert command is not None
    options = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)  # --follow, --no-follow
    }
    assert {word for word in names if re.match(r"--?[a-zA-Z]", word)} <= options  # -5m is a time


def test_every_make_target_named_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))

    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= targets
