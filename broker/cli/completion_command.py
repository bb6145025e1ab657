"""``dledger completion``: the script that makes a shell complete this command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that has SHELL complete commands and names.

    \b
    Example, for this session: source <(dledger completion bash)
    For every session, zsh: dledger completion zsh > ~/.zfunc/_dledger
    fish: dledger completion fish > ~/.config/fish/completions/dledger.fish
    """
    from broker.cli.main import cli  # it imports this module

    kind = get_completion_class(shell)
    assert kind is not None, "click knows all three"
    click.echo(kind(cli, {}, "dledger", "_DLEDGER_COMPLETE").source())
