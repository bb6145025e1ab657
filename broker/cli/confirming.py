"""Asking before something is done that cannot be taken back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def yes_option(command: _Command) -> _Command:
    """Give *command* the option ``--yes`` as the argument ``yes``: do not ask."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask *question* on the terminal, unless *yes*; the answer no ends the command.

    Raises:
        click.UsageError: there is nobody to ask.
        click.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is nobody to ask here: give --yes to do it")
    click.confirm(question, abort=True, err=True)
