"""``dledger node``: one node in this process, as a service manager or `dledger up` runs it."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import click
import trio

from broker.config import LOG_LEVELS, NodeConfig, load_config
from dledger.config import format_address


@click.group()
def node() -> None:
    """Run a single node."""


@node.command()
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="The node's settings; docs/configuration.md lists every key.",
)  # fmt: skip
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Overrules the file.")
def start(path: Path, *, log_level: str | None) -> None:
    """Run one node until SIGTERM or Ctrl-C; what it has to say goes to stderr."""
    config = load_config(path)
    if log_level:
        config = dataclasses.replace(
            config, broker=dataclasses.replace(config.broker, log_level=log_level)
        )
    _set_up_logging(config)
    from broker.node import run_node  # numpy and the engine: only now, when they are needed

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
        await run_node(config, ready=ready)

    trio.run(run)


def _set_up_logging(config: NodeConfig) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=config.broker.log_level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
