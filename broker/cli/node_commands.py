"""``dledger node``: one node in this process, as a service manager runs it; those of a group."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click
import trio

from broker.cli.ask import ask_group
from broker.cli.node_operations import drain, log_level
from broker.cli.output import Table, json_option, print_json
from broker.cli.servers import group_options
from broker.cli.status_table import problems, silence_of
from broker.cli.values import format_duration
from broker.config import LOG_LEVELS
from broker.config_file import load_config
from dledger.config import format_address
from dledger.errors import ConfigError
from dledger.machine import check_supported


@click.group()
def node() -> None:
    """Run a single node; look after those of a group."""


@node.command()
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


@node.command("list")
@json_option
@group_options
def list_(*, servers: list[str], as_json: bool) -> None:
    """List the nodes of a group with role, version and time since their start.

    Example: dledger node list
    """
    view = trio.run(ask_group, servers)
    if as_json:
        print_json(
            [
                {
                    "node_id": answer.node_id,
                    "address": answer.address,
                    "reachable": answer.status is not None,
                    "role": answer.status.role if answer.status else None,
                    "version": answer.status.version if answer.status else None,
                    "uptime_seconds": answer.status.uptime_seconds if answer.status else None,
                    "connections": answer.status.connection_count if answer.status else None,
                    "problem": answer.problem or None,
                }
                for answer in view.answers
            ]
        )
        return
    table = Table("node", "address", "role", "version", "up", "connections", right=("connections",))
    for answer in view.answers:
        status = answer.status
        if status is None:
            table.add_row(answer.node_id, answer.address, (silence_of(answer), "red"))
            continue
        table.add_row(
            answer.node_id,
            answer.address,
            status.role.lower(),
            status.version,
            format_duration(status.uptime_seconds),
            f"{status.connection_count:,}",
        )
    table.print()
    for line in problems(view):
        print(line)


node.add_command(drain)
node.add_command(log_level)
