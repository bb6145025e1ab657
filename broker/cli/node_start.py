"""``dledger node start``: one node in this process, as a service manager runs it.

What is imported here stays in memory as long as the node runs: nothing of the client, and nothing
that only prints.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click
import trio

from broker.config import LOG_LEVELS
from broker.config_file import load_config
from dledger.config import format_address
from dledger.errors import ConfigError
from dledger.machine import check_supported


@click.command()
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="The node's settings; docs/configuration.md lists every key.",
)  # fmt: skip
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Overrules the file.")
def start(path: Path, *, log_level: str | None) -> None:
    """Run one node until SIGTERM or Ctrl-C; what it has to say goes to stderr.

    Example: dledger node start -c /etc/dledger/node.toml
    """
    check_supported()
    config = load_config(path)
    if log_level:
        config = dataclasses.replace(
            config, broker=dataclasses.replace(config.broker, log_level=log_level)
        )
    from broker.logs import NodeLog

    try:
        log = NodeLog(config.broker, node_id=config.node_id)
    except OSError as error:
        raise ConfigError(
            f"log_file = {config.broker.log_file!r}: {error.strerror}; name a file that can be "
            "written, or leave it out"
        ) from None
    from broker.running import Operator, run_node  # numpy and the engine: only now

    def read_log_level() -> str:
        return log_level or load_config(path).broker.log_level

    def ready() -> None:
        listening = format_address(config.listen_host or "*", config.listen_broker_port)
        peers = format_address(config.listen_host or "*", config.listen_peer_port)
        print(
            f"node {config.node_id} ready: broker {listening}, peers {peers}, "
            f"data {config.data_folder}",
            file=sys.stderr,
            flush=True,
        )

    async def run() -> None:
        operator = Operator(log=log, read_log_level=read_log_level)
        await run_node(config, ready=ready, operator=operator)

    trio.run(run)
