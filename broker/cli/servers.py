"""Which group a command speaks to.

The first of these that says something:

1.  ``--server``, ``--context`` or ``--data``, of which a command takes one
2.  ``$DLEDGER_SERVER``, then ``$DLEDGER_CONTEXT``
3.  the context chosen by ``dledger context use``
4.  the local group in ``./.dledger``
5.  ``127.0.0.1:9876``
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from broker.cli.contexts import Contexts
from dledger.config import format_address, parse_address
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SERVER_VARIABLE = "DLEDGER_SERVER"
CONTEXT_VARIABLE = "DLEDGER_CONTEXT"
DEFAULT_FOLDER = Path(".dledger")
DEFAULT_BASE_PORT = 9876

_FOLDER = click.Path(path_type=Path, file_okay=False)
_Command = TypeVar("_Command", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The nodes a command asks, and what said so."""

    servers: list[str]  # host:port, at least one
    source: str  # "--server", "context prod", "the local group in .dledger", ...
    is_local: bool = False  # whether it is a group of `dledger up` in a folder


def data_option(command: _Command) -> _Command:
    """Give *command* the option ``--data``: the folder of a local group."""
    return click.option(
        "--data", type=_FOLDER, default=DEFAULT_FOLDER,
        show_default=True, help="Folder of the local group.",
    )(command)  # fmt: skip


def group_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options that name a group; it is called with ``servers``, a list.

    Put it right above the function, below the command's own options.
    """

    @functools.wraps(command)
    def with_servers(
        *arguments: object,
        server: str | None,
        context: str | None,
        data: Path | None,
        **others: object,
    ) -> object:
        servers = choose_group(server=server, context=context, data=data).servers
        return command(*arguments, servers=servers, **others)

    return add_group_options(with_servers)


def add_group_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options that name a group, as the arguments of `choose_group`."""
    for option in (
        click.option("--data", type=_FOLDER, metavar="DIR", help="Or the local group in DIR."),
        click.option(
            "--context", metavar="NAME", shell_complete=_complete_context,
            help="Or the group of that name; see `dledger context`.",
        ),
        click.option(
            "-s", "--server", metavar="HOST:PORT,...",
            help="Nodes of the group, or name servers; one that answers is enough.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def choose_group(
    *,
    server: str | None = None,
    context: str | None = None,
    data: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Choice:
    """Return the nodes of the group that the user means, and what said so.

    Raises:
        ConfigError: an address of the environment or a context is none, a context is unknown, or
            *data* holds no group.
        click.UsageError: more than one of *server*, *context* and *data* is given, or *server* is
            no address.
    """
    named = {"--server": server, "--context": context, "--data": data}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"give one of {', '.join(given)}: each of them names a group")
    if server is not None:
        try:
            return Choice(servers=parse_servers(server), source="--server")
        except ConfigError as error:
            raise click.UsageError(f"--server: {error}") from None
    if context is not None:
        return _from_context(Contexts.load(environment), context, "--context")
    if data is not None:
        if (addresses := _local_addresses(data)) is None:
            raise ConfigError(f"{data} holds no group; `dledger up --data {data}` starts one")
        return Choice(servers=addresses, source="--data", is_local=True)
    if text := environment.get(SERVER_VARIABLE):
        try:
            return Choice(servers=parse_servers(text), source=f"${SERVER_VARIABLE}")
        except ConfigError as error:
            raise ConfigError(f"environment variable {SERVER_VARIABLE}: {error}") from None
    contexts = Contexts.load(environment)
    if name := environment.get(CONTEXT_VARIABLE):
        return _from_context(contexts, name, f"${CONTEXT_VARIABLE}")
    if contexts.current is not None:
        return _from_context(contexts, contexts.current, f"context {contexts.current}")
    if (addresses := _local_addresses(DEFAULT_FOLDER)) is not None:
        source = f"the local group in {DEFAULT_FOLDER}"
        return Choice(servers=addresses, source=source, is_local=True)
    return Choice(servers=[f"127.0.0.1:{DEFAULT_BASE_PORT}"], source="the default")


def parse_servers(text: str) -> list[str]:
    """Return the addresses that *text* lists, comma between them.

    Raises:
        ConfigError: one of them is no address, or there is none.
    """
    parts = [part.strip() for part in text.replace(";", ",").split(",")]
    found = [
        format_address(*parse_address(part, default_port=DEFAULT_BASE_PORT))
        for part in parts
        if part
    ]
    if not found:
        raise ConfigError("no server is named; write host:port, several with commas between them")
    return found


def _from_context(contexts: Contexts, name: str, source: str) -> Choice:
    try:
        return Choice(servers=list(contexts.get(name).servers), source=source)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _local_addresses(folder: Path) -> list[str] | None:
    if not folder.is_dir():
        return None
    from broker.cli.local_group import LocalGroup  # trio and more, not needed to name a server

    group = LocalGroup.find(folder)
    return None if group is None else group.addresses


def _complete_context(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    try:
        return [name for name in Contexts.load().items if name.startswith(incomplete)]
    except ConfigError:  # a shell that completes has no place for errors
        return []
