"""``dledger node``: one node in this process; what is done to those of a group.

Each command's module is imported when the command is used: a node that runs for months keeps what
was imported for its start, and the client with all that it needs is 2.5 MiB.
"""

from __future__ import annotations

import click

from broker.cli.lazy_group import LazyGroup

# Name -> module and function.
_COMMANDS = {
    "drain": ("node_operations", "drain"),
    "list": ("node_list", "list_"),
    "log-level": ("node_operations", "log_level"),
    "start": ("node_start", "start"),
}


class _NodeCommands(LazyGroup):
    """The commands of `_COMMANDS`."""

    def names(self) -> list[str]:
        return list(_COMMANDS)

    def place_of(self, name: str) -> tuple[str, str] | None:
        return _COMMANDS.get(name)


@click.group(cls=_NodeCommands)
def node() -> None:
    """Run a single node; look after those of a group."""
