"""``dledger restart``: every node of a local group anew, without a failed send."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click
import trio

from broker.cli.ask import ask_group
from broker.cli.local_group import STOP_SECONDS, LocalGroup
from broker.cli.node_operations import drain_node
from broker.cli.output import json_lines_option, tell
from broker.cli.servers import data_option
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.cli.local_node import LocalNode

READY_SECONDS = 60.0  # longest time for a node to start and to catch up

_POLL_SECONDS = 0.05


@click.command()
@click.option(
    "--node",
    "node_ids",
    multiple=True,
    metavar="ID",
    help="Only this one; several times for several.  [all]",
)
@data_option
@json_lines_option
def restart(node_ids: tuple[str, ...], *, data: Path, as_json: bool) -> None:
    """Restart the nodes of the group on this machine one after another.

    The leader comes last, after it has handed over. The next node is stopped only when the one
    before has caught up, so clients notice nothing. On several machines the same is done by hand:
    `dledger node drain`, restart the service, wait until /readyz answers 200.

    Example: dledger restart --data .dledger
    """
    group = LocalGroup.find(data)
    if group is None:
        raise ConfigError(f"no group in {data}; `dledger up --detach` starts one")
    nodes = [group.node(node_id) for node_id in node_ids] or group.nodes
    group.check_readable(nodes)  # before anything is stopped
    trio.run(_restart_all, group, nodes, as_json)


async def _restart_all(group: LocalGroup, nodes: list[LocalNode], as_json: bool) -> None:
    view = await ask_group(group.addresses)
    leader_id = view.leader.node_id if view.leader else None
    with group.starting():
        for node in sorted(nodes, key=lambda node: node.node_id == leader_id):
            began = trio.current_time()
            if node.process is not None:
                if len(group.nodes) > 1:
                    await drain_node(group.addresses, node.node_id)
                await _stop(node)
            stopped = trio.current_time()
            node.start()
            await _wait_ready(group, node)
            stop_seconds, ready_seconds = stopped - began, trio.current_time() - stopped
            tell(
                f"{node.node_id} restarted: stopped in {stop_seconds:.2f} s, ready "
                f"{ready_seconds:.2f} s later",
                {
                    "node_id": node.node_id,
                    "stop_seconds": round(stop_seconds, 3),
                    "ready_seconds": round(ready_seconds, 3),
                },
                as_json=as_json,
            )


async def _stop(node: LocalNode) -> None:
    mark = node.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_SECONDS):
        while node.process is not None:  # noqa: ASYNC110 - nothing tells of its end
            await trio.sleep(_POLL_SECONDS / 5)
        return
    if mark is not None:
        raise ConfigError(
            f"{node.node_id} did not stop within {STOP_SECONDS:g} s; see {node.log_path}"
        )


async def _wait_ready(group: LocalGroup, node: LocalNode) -> None:
    """Wait until *node* has what the leader has committed, and all follow one leader."""
    with trio.move_on_after(READY_SECONDS):
        while True:
            if node.process is None:
                raise ConfigError(f"{node.node_id} ended: {node.last_words()} ({node.log_path})")
            view = await ask_group(group.addresses)
            leader = view.leader
            own = next((item for item in view.answering if item.node_id == node.node_id), None)
            if (
                leader is not None
                and leader.status is not None
                and own is not None
                and own.status is not None
                and own.status.is_ready
                and own.status.leader_id == leader.node_id
            ):
                return
            await trio.sleep(_POLL_SECONDS)
    raise ConfigError(
        f"{node.node_id} has not caught up within {READY_SECONDS:g} s; the others are left as they "
        "are. `dledger status` shows more"
    )
