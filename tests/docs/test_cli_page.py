"""Every command and every option has its place in docs/cli.md, with its default and an example.

A failure prints a draft of the section; `python tests/docs/cli_page.py COMMAND` does as well.
"""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import click
import pytest

from broker.cli.cheat_command import SHEET
from broker.cli.main import cli

_SPEC = importlib.util.spec_from_file_location("cli_page", Path(__file__).parent / "cli_page.py")
page = importlib.util.module_from_spec(_SPEC)
sys.modules["cli_page"] = page
_SPEC.loader.exec_module(page)

COMMANDS = page.commands()
each_command = pytest.mark.parametrize("words", list(COMMANDS))


def parse(line):
    """Have click read *line*, `dledger ...`, as the command would; runs nothing."""
    words = shlex.split(line, comments=True)
    for end in ("|", ">", "<", "&&", ";"):
        if end in words:
            words = words[: words.index(end)]
    command, context = cli, click.Context(cli, info_name="dledger")
    arguments = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments[0])
        assert found is not None, f"{command.name} has no command {arguments[0]}"
        context = click.Context(found, info_name=arguments[0], parent=context)
        command, arguments = found, arguments[1:]
    if not {"-h", "--help"} & set(arguments):
        command.parse_args(context, arguments)


def examples(text):
    """Every `dledger ...` of the lines at a prompt, those behind a pipe or in <( ) as well."""
    for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE):
        yield from re.findall(r"dledger [^|)]*", line)


@each_command
def test_it_has_a_section(words):
    assert page.section(words, COMMANDS[words]), "\n" + page.draft(words, COMMANDS[words])


@each_command
def test_every_option_has_a_row_with_its_default(words):
    rows = re.findall(
        r"^\| `(-[^`]*)` \|([^|]*)\| (.+) \|$", page.section(words, COMMANDS[words]), re.M
    )
    found = {
        name: (default, meaning)
        for names, default, meaning in rows
        for name in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", names)
    }  # fmt: skip
    for option in page.options(COMMANDS[words]):
        for name in [*option.opts, *option.secondary_opts]:
            assert name in found, f"{name} has no row:\n{page.draft(words, COMMANDS[words])}"
            default, meaning = found[name]
            assert meaning.strip()
            if page.default_of(option):
                assert page.default_of(option) in default, f"{name}: default"


@each_command
def test_no_row_names_an_option_that_is_none(words):
    rows = re.findall(r"^\| `(-[^`]*)`", page.section(words, COMMANDS[words]), re.M)
    named = {name for row in rows for name in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)}

    assert named <= {
        name
        for option in page.options(COMMANDS[words])
        for name in [*option.opts, *option.secondary_opts]
    }


@each_command
def test_it_has_an_example_of_its_own(words):
    section = page.section(words, COMMANDS[words])

    assert any(line.startswith(f"dledger {words}") for line in examples(section))


@each_command
def test_what_json_holds_is_said(words):
    if any(option.name == "as_json" for option in page.options(COMMANDS[words])):
        assert re.search(r"^JSON: .*`\w+`", page.section(words, COMMANDS[words]), re.M)


# They print what another program reads, or go on for ever.
WITHOUT_JSON = {"completion", "nameserver", "node start"}


@each_command
def test_programs_can_read_what_it_says(words):
    names = {option.name for option in page.options(COMMANDS[words])}

    assert ("as_json" in names) != (words in WITHOUT_JSON)


@each_command
def test_its_help_has_an_example(words):
    text = COMMANDS[words].help or ""

    assert "Example" in text
    for line in re.findall(r"dledger [a-z][^`\n]*", text.partition("Example")[2]):
        parse(line.rstrip(" )"))


@pytest.mark.parametrize("line", sorted(set(examples(page.PAGE))))
def test_an_example_of_the_page_parses(line):
    parse(line)


@pytest.mark.parametrize("command", [command for rows in SHEET.values() for _, command in rows])
def test_what_the_cheat_sheet_says_parses(command):
    for line in re.findall(r"dledger [^|)]*", command):
        parse(line)


def test_the_way_to_a_group_is_said_once_for_all():
    top = page.PAGE.partition("\n## ")[2].partition("\n## ")[0]

    for name in ("-s, --server HOST", "--context NAME", "--data DIR"):
        assert f"`{name}" in top


@pytest.mark.parametrize(
    "line",
    [
        "dledger nonsense", "dledger status --nonsense", "dledger produce",
        "dledger tail t --from x",
    ],
)  # fmt: skip
def test_an_example_that_does_not_parse_is_found(line):
    with pytest.raises((AssertionError, click.UsageError)):
        parse(line)
