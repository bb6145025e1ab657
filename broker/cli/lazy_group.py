"""Commands whose modules are imported when they are used: help and errors come at once.

A node that runs for months keeps only what was imported for its start.
"""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod

import click


class LazyGroup(click.Group, ABC):
    """Finds its commands by `place_of`; suggests a name for one that there is not."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the commands' names, in the order of the help."""

    @abstractmethod
    def place_of(self, name: str) -> tuple[str, str] | None:
        """Return the module in `broker.cli` and the function of a command; None: there is none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return self.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        place = self.place_of(cmd_name)
        if place is None:
            return None
        module_name, function = place
        command = getattr(importlib.import_module(f"broker.cli.{module_name}"), function)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group`; a slip of the finger is answered with what was meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.names(), n=1)
            if not close:
                raise
            text = f"{error.message} Did you mean {close[0]}?"
            raise click.UsageError(text, ctx) from None
