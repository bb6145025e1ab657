"""``dledger node``: one node in this process; what is done to those of a group.

Each command's module is imported when the command is used: a node that runs for months keeps what
was imported for its start, and the client with all that it needs is 2.5 MiB.
"""

from __future__ import annotations

import importlib

import click

# Name -> module and function.
_COMMANDS = {
    "drain": ("node_operations", "drain"),
    "list": ("node_list", "list_"),
    "log-level": ("node_operations", "log_level"),
    "start": ("node_start", "start"),
}


class _NodeGroup(click.Group):
    """Finds its commands in `_COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module_name, function = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"broker.cli.{module_name}"), function)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_NodeGroup)
def node() -> None:
    """Run a single node; look after those of a group."""
