"""Every ``dledger ...`` that a page names is a command there is, with options it has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from broker.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])

_INLINE = re.compile(r"`(dledger [^`]+)`")
_PROMPT = re.compile(r"^\$ (?:.*\| *)?(dledger .*)$", re.MULTILINE)
_LATER = {"divergence.md"}  # names what other programs have, and what is to come


def _named() -> list[tuple[str, str]]:
    texts = {page.name: page.read_text() for page in PAGES if page.name not in _LATER}
    return sorted(
        {
            (name, line)
            for name, text in texts.items()
            for line in [*_INLINE.findall(text), *_PROMPT.findall(text)]
        }
    )


def _words(line: str) -> list[str]:
    words = shlex.split(line.replace("...", ""), comments=True)[1:]
    for end in ("|", ">", "<", "&&", ";"):
        if end in words:
            words = words[: words.index(end)]
    return words


def _problem(line: str) -> str:
    """Return what is wrong with the command in *line*, or ""."""
    command: click.Command = cli
    context = click.Context(cli)
    words = _words(line)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"{command.name} has no command {words[0]}"
        command, words = found, words[1:]
    known = {
        option
        for parameter in [*command.params, *cli.params]
        if isinstance(parameter, click.Option)
        for option in [*parameter.opts, *parameter.secondary_opts]
    } | {"-h", "--help"}
    for word in words:
        if word == "--":
            break
        name = word.split("=", 1)[0]
        if re.fullmatch(r"--[a-z][a-z-]*|-[a-zA-Z]", name) and name not in known:
            return f"{command.name} has no option {name}"
    return ""


def test_commands_are_found_in_pages():
    assert len(_named()) > 10


@pytest.mark.parametrize(("page", "line"), _named())
def test_every_command_named_is_there(page, line):
    assert _problem(line) == "", f"{page}: {line}"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("dledger nonsense", "no command nonsense"),
        ("dledger topic nonsense", "no command nonsense"),
        ("dledger status --nonsense", "no option --nonsense"),
    ],
)
def test_what_is_not_there_is_told(line, problem):
    assert problem in _problem(line)
