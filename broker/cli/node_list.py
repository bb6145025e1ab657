"""``dledger node list``: the nodes of a group."""

from __future__ import annotations

import click
import trio

from broker.cli.ask import ask_group
from broker.cli.output import Table, json_option, print_json
from broker.cli.servers import group_options
from broker.cli.status_table import problems, silence_of
from broker.cli.values import format_duration


@click.command("list")
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
