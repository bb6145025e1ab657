"""Which group a command speaks to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from broker.cli.local_group import DEFAULT_BASE_PORT, DEFAULT_FOLDER, LocalGroup
from dledger.config import format_address, parse_address
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENT = "DLEDGER"

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def data_option(command: _Command) -> _Command:
    """Give *command* the option ``--data``: the folder of a local group."""
    return click.option(
        "--data", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_FOLDER,
        show_default=True, help="Folder of the local group.",
    )(command)  # fmt: skip


def servers_options(command: _Command) -> _Command:
    """Give *command* the options that `choose_servers` takes."""
    command = click.option(
        "--data", type=click.Path(path_type=Path, file_okay=False),
        help="Folder of a local group: its nodes are the servers.",
    )(command)  # fmt: skip
    return click.option(
        "-s", "--servers", metavar="HOST:PORT,...",
        help=f"Nodes of the group; one that answers is enough. Otherwise ${ENVIRONMENT}, then the "
        f"group in ./{DEFAULT_FOLDER}, then 127.0.0.1:{DEFAULT_BASE_PORT}.",
    )(command)  # fmt: skip


def choose_servers(servers: str | None, data: Path | None) -> list[str]:
    """Return the addresses of the group that the user means.

    Raises:
        ConfigError: an address is none, or *data* holds no group.
    """
    if servers:
        return parse_servers(servers)
    if data is not None:
        group = LocalGroup.find(data)
        if group is None:
            raise ConfigError(f"{data} holds no group; `dledger up --data {data}` starts one")
        return group.addresses
    if from_environment := os.environ.get(ENVIRONMENT):
        try:
            return parse_servers(from_environment)
        except ConfigError as error:
            raise ConfigError(f"environment variable {ENVIRONMENT}: {error}") from None
    group = LocalGroup.find(DEFAULT_FOLDER)
    if group is not None:
        return group.addresses
    return [f"127.0.0.1:{DEFAULT_BASE_PORT}"]


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
