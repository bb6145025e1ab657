"""``dledger nameserver``: one name server in this process, for several broker groups."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from broker.config import LOG_LEVELS
from broker.nameserver.config import (
    DEFAULT_PORT,
    NameServerProcessConfig,
    load_name_server_config,
)
from dledger.config import format_address
from dledger.errors import ConfigError
from dledger.machine import check_supported

if TYPE_CHECKING:
    from broker.logs import NodeLog

DEFAULT_FOLDER = ".dledger-nameserver"


@click.command()
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), metavar="FILE",
    help="Its settings; docs/configuration.md lists every key.",
)  # fmt: skip
@click.option(
    "--host", metavar="HOST",
    help="Address to listen on; 0.0.0.0 is every interface.  [127.0.0.1]",
)  # fmt: skip
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    metavar="PORT",
    help=f"Port to listen on.  [{DEFAULT_PORT}]",
)
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help=f"Folder of what it keeps for others.  [{DEFAULT_FOLDER}]",
)  # fmt: skip
@click.option(
    "--metrics-port", type=click.IntRange(0, 65_535), metavar="PORT",
    help="Port for /metrics, /healthz and /readyz; 0: none.  [0]",
)  # fmt: skip
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Which lines its log has.  [info]")
def nameserver(
    path: Path | None,
    *,
    host: str | None,
    port: int | None,
    data: Path | None,
    metrics_port: int | None,
    log_level: str | None,
) -> None:
    """Run a name server for several broker groups until SIGTERM or Ctrl-C.

    A group of its own needs none: each of its nodes answers what a name server would. Nodes
    register with those that their node.toml names ([nameserver] addresses). Options overrule the
    file.

    Example: dledger nameserver --host 0.0.0.0 --port 9876 --data /var/lib/dledger-nameserver
    """
    check_supported()
    given: dict[str, Any] = {
        "listen_host": host,
        "port": port,
        "data_folder": None if data is None else str(data),
        "metrics_port": metrics_port,
        "log_level": log_level,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    config = read_config(path, changes)
    from broker.logs import NodeLog

    try:
        log = NodeLog(config.log_settings(), node_id="nameserver")
    except OSError as error:
        raise ConfigError(
            f"log_file = {config.log_file!r}: {error.strerror}; name a file that can be written, "
            "or leave it out"
        ) from None
    trio.run(_run, config, log, path, changes)


def read_config(path: Path | None, changes: dict[str, Any]) -> NameServerProcessConfig:
    """Return the settings in the file at *path*, or the defaults, with *changes*.

    Raises:
        ConfigError: names the key and the remedy.
    """
    if path is None:
        return NameServerProcessConfig(**{"data_folder": DEFAULT_FOLDER, **changes})
    return dataclasses.replace(load_name_server_config(path), **changes)


async def _run(
    config: NameServerProcessConfig, log: NodeLog, path: Path | None, changes: dict[str, Any]
) -> None:
    from broker.nameserver.running import run_name_server
    from broker.process import Operator

    def ready() -> None:
        print(
            f"name server ready: {format_address(config.listen_host or '*', config.port)}, "
            f"data {config.data_folder}",
            file=sys.stderr,
            flush=True,
        )

    operator = Operator(log=log, read_log_level=lambda: read_config(path, changes).log_level)
    await run_name_server(config, ready=ready, operator=operator)
