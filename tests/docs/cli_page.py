"""docs/cli.md beside the tree of commands: what each section has to say, and a draft of it.

python tests/docs/cli_page.py COMMAND...    prints the draft of a section, to be put into words
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
# Said once for all commands that have them, at the top of the page.
GROUP_OPTIONS = ("server", "context", "data")


def commands() -> dict[str, click.Command]:
    """Return every command that is shown, by its words behind ``dledger``."""
    return {" ".join(words): command for words, command in _walk(cli, [])}


def _walk(command: click.Command, words: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        if not found.hidden:
            yield from _walk(found, [*words, name])


def options(command: click.Command) -> list[click.Option]:
    """Return the options of *command* that its section lists."""
    found = [item for item in command.params if isinstance(item, click.Option)]
    names = {item.name for item in found}
    if names.issuperset(GROUP_OPTIONS):
        found = [item for item in found if item.name not in GROUP_OPTIONS]
    return found


def heading(words: str, command: click.Command) -> str:
    """Return the heading of the command's section."""
    context = click.Context(command)
    arguments = [
        item.make_metavar(context) for item in command.params if isinstance(item, click.Argument)
    ]
    return f"### `{' '.join(['dledger', words, *arguments])}`"


def section(words: str, command: click.Command) -> str:
    """Return what stands below the command's heading; "" when it has none."""
    _, found, rest = PAGE.partition(heading(words, command) + "\n")
    return re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0] if found else ""


def default_of(option: click.Option) -> str:
    """Return the default as it is typed; "" for none."""
    value = option.default
    if option.is_flag or option.multiple or not isinstance(value, str | int | float | Path):
        return ""
    return str(value)


def draft(words: str, command: click.Command) -> str:
    """Return a section for *command*, made of its help."""
    text, _, example = (command.help or "").replace("\b\n", "").partition("Example:")
    lines = [heading(words, command), "", *text.split("\n\n"), "", "```console"]
    lines += [f"$ {line.strip()}" for line in example.splitlines() if line.strip()]
    lines += ["```", ""]
    if options(command):
        lines += ["| option | default | meaning |", "|---|---|---|"]
    for option in options(command):
        names = ", ".join([*option.opts, *option.secondary_opts])
        metavar = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
        shown = f"`{value}`" if (value := default_of(option)) else ""
        lines.append(f"| `{names}{metavar}` | {shown} | {option.help or ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or commands():
        sys.stdout.write(draft(wanted, commands()[wanted]) + "\n")
