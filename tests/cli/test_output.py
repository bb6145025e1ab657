"""Tables for people and for pipes."""

import io

import pytest
from click.testing import CliRunner
from rich.console import Console

from broker.cli.main import cli
from broker.cli.output import Table


def table():
    found = Table("topic", "messages", right=("messages",))
    found.add_row("orders", "1,000")
    found.add_row(("[red]x[/]", "bold red"), "5")
    found.add_row("short")
    return found


def test_a_pipe_gets_plain_columns(capsys):
    table().print()

    assert capsys.readouterr().out == (
        "topic      messages\norders        1,000\n[red]x[/]         5\nshort\n"
    )


def test_a_terminal_gets_the_same_text():
    """What stands in brackets in a name is no style."""
    screen = Console(
        file=io.StringIO(), width=80, force_terminal=True, color_system="standard", record=True
    )
    screen.print(table().to_rich())

    lines = screen.export_text().splitlines()
    assert [line.rstrip() for line in lines] == table().plain_lines()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_script_for_completion_is_printed(shell):
    done = CliRunner().invoke(cli, ["completion", shell], catch_exceptions=False)

    assert f"_DLEDGER_COMPLETE={shell}_complete" in done.stdout
