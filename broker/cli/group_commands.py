"""``dledger up``, ``down``, ``status`` and ``kill-leader``: a local group, from start to stop."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, TextIO

import click
import trio

from broker.cli import exits
from broker.cli.ask import ask_group
from broker.cli.local_group import (
    DEFAULT_GROUP,
    DEFAULT_SEGMENT_SIZE,
    STOP_SECONDS,
    GroupPlan,
    LocalGroup,
)
from broker.cli.output import join_words, json_option, plural, print_json, tell
from broker.cli.servers import DEFAULT_BASE_PORT, SERVER_VARIABLE, data_option, group_options
from broker.cli.status_table import (
    found_by,
    kept_lines,
    problems,
    status_json,
    status_table,
    verdict,
)
from broker.cli.values import SIZE
from broker.cli.watching import show_frame, show_repeatedly, watch_option
from broker.config import NameserverConfig
from broker.config_file import format_size
from dledger.config import MIB, FlushDiskType
from dledger.errors import ConfigError
from dledger.machine import check_supported

if TYPE_CHECKING:
    from pathlib import Path

    from broker.cli.ask import GroupView
    from broker.cli.local_node import LocalNode
    from broker.cli.watching import Frame

DEV_SEGMENT_SIZE = 16 * MIB
START_SECONDS = 30.0  # longest wait for a leader of a fresh group
NEW_LEADER_SECONDS = 10.0

_POLL_SECONDS = 0.05
_FLUSH = {"sync": FlushDiskType.SYNC_FLUSH, "async": FlushDiskType.ASYNC_FLUSH}


def _check_addresses(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    # Here, so that the option is named: one without a value takes the next option for it.
    try:
        NameserverConfig(addresses=text or "")
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    return text


@click.command()
@click.option("--nodes", type=click.Choice(["1", "3", "5"]), help="Nodes of a new group.  [3]")
@data_option
@click.option(
    "--base-port", type=click.IntRange(1, 64_000),
    help=f"Port of n1 for clients; n2 has the next.  [{DEFAULT_BASE_PORT}]",
)  # fmt: skip
@click.option(
    "--flush", type=click.Choice(list(_FLUSH)),
    help="What an acknowledgement stands on: the disks of a majority, or its memory.  [sync]",
)  # fmt: skip
@click.option(
    "--segment-size", type=SIZE, metavar="SIZE",
    help=f"Size of one file of the log.  [{format_size(DEFAULT_SEGMENT_SIZE)}]",
)  # fmt: skip
@click.option(
    "--group", "group_name", metavar="NAME", help=f"Name of a new group.  [{DEFAULT_GROUP}]"
)
@click.option("--cluster", metavar="NAME", help="Cluster that a new group belongs to.")
@click.option(
    "--name-server", "name_servers", metavar="HOST:PORT;...", callback=_check_addresses,
    help="Name servers that the nodes of a new group register with.",
)  # fmt: skip
@click.option(
    "--dev", is_flag=True,
    help="A new group is one node, --flush async, files of 16 MiB, unless said otherwise.",
)  # fmt: skip
@click.option("--detach/--no-detach", help="Return at once and leave the group running.")
@json_option
def up(
    nodes: str | None,
    data: Path,
    *,
    base_port: int | None,
    flush: str | None,
    segment_size: int | None,
    group_name: str | None,
    cluster: str | None,
    name_servers: str | None,
    dev: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Start a group on this machine, or what is missing of it.

    The first `up` in a folder writes a node.toml for each node; later ones keep it.

    \b
    Example: dledger up --detach
             dledger up --dev --data .dledger-dev --base-port 19876
    """
    check_supported()
    if dev and not any(data.glob("*/node.toml")):
        nodes = nodes or "1"
        flush = flush or "async"
        segment_size = segment_size or DEV_SEGMENT_SIZE
    plan = GroupPlan(
        node_count=int(nodes) if nodes else None,
        base_port=base_port,
        flush_disk_type=_FLUSH[flush] if flush else None,
        segment_size=segment_size,
        group=group_name,
        cluster=cluster,
        name_servers=name_servers,
    )
    data.mkdir(parents=True, exist_ok=True)
    group = LocalGroup.find_or_create(data, plan)
    if not trio.run(_up, group, detach, as_json):
        raise SystemExit(exits.FAILURE)


@click.command()
@data_option
@json_option
def down(data: Path, *, as_json: bool) -> None:
    """Stop the group on this machine; its data stays.

    Example: dledger down
    """
    group = LocalGroup.find(data)
    if group is None:
        tell(f"no group in {data}", {}, as_json=as_json)
        return
    outcome = trio.run(group.stop)
    lines = [f"{node_id} {what}" for node_id, what in outcome.items()]
    tell("\n".join(lines), outcome, as_json=as_json)


@click.command()
@watch_option
@json_option
@group_options
def status(*, servers: list[str], watch: float | None, as_json: bool) -> None:
    """Show who leads and how far each node has come.

    Exit code 0 when a leader serves and a majority of the nodes answers, otherwise 3.

    Example: dledger status --watch 2
    """
    if watch is not None:
        trio.run(_watch, servers, watch, as_json)
        return
    view = trio.run(ask_group, servers)
    show_frame(_frame(view), as_json=as_json)
    if not view.is_healthy:
        raise SystemExit(exits.UNHEALTHY)


@click.command("kill-leader")
@data_option
@json_option
def kill_leader(data: Path, *, as_json: bool) -> None:
    """Kill the leader of the group on this machine with SIGKILL and tell who follows it.

    To see what a failover is like; `dledger up --detach` starts the node again.

    Example: dledger kill-leader
    """
    group = LocalGroup.find(data)
    if group is None:
        raise ConfigError(f"no group in {data}; `dledger up --detach` starts one")
    trio.run(_kill_leader, group, as_json)


async def _up(group: LocalGroup, detach: bool, as_json: bool) -> bool:
    """Start what is missing and wait for a leader; without *detach* until the group is stopped."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        stopped = False
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                nonlocal stopped
                await signals.__anext__()
                stopped = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            with group.starting():
                started = group.start_missing()
                if started:
                    names = join_words([node.node_id for node in started])
                    print(f"starting {names}", file=_talk(as_json), flush=True)
                view = await _wait_for_leader(group, started)
            _introduce(group, started, view, as_json=as_json)
            detach = detach or not started  # a second `up` only tells how the first one stands
            if not detach:
                print("Ctrl-C stops the group", file=_talk(as_json), flush=True)
                await _wait_until_ended(group, _talk(as_json))
            nursery.cancel_scope.cancel()
        if not detach or (stopped and started):
            print("\nstopping", file=_talk(as_json), flush=True)
            await group.stop()
            return stopped
    return True


async def _wait_for_leader(group: LocalGroup, started: list[LocalNode]) -> GroupView:
    """Return the first view in which a leader serves and all nodes that were started answer.

    Raises:
        ConfigError: a node that was started has ended, or there is no leader in time; what was
            started is stopped again.
    """
    try:
        with trio.move_on_after(START_SECONDS):
            while True:
                for node in started:
                    if node.process is None:
                        raise ConfigError(
                            f"{node.node_id} ended: {node.last_words()} ({node.log_path})"
                        )
                view = await ask_group(group.addresses)
                answering = {answer.node_id for answer in view.answering}
                if view.leader and all(node.node_id in answering for node in started):
                    return view
                await trio.sleep(_POLL_SECONDS)
    except BaseException:
        with trio.CancelScope(shield=True):
            await _stop_nodes(started)
        raise
    await _stop_nodes(started)
    raise ConfigError(
        f"no leader within {START_SECONDS:g} s; see {started[0].log_path if started else 'logs'}"
    )


async def _stop_nodes(nodes: list[LocalNode]) -> None:
    if nodes:
        await LocalGroup(nodes[0].folder.parent, nodes).stop(seconds=STOP_SECONDS / 2)


def _talk(as_json: bool) -> TextIO:
    """Return where to say what is no result."""
    return sys.stderr if as_json else sys.stdout


def _introduce(
    group: LocalGroup, started: list[LocalNode], view: GroupView, *, as_json: bool
) -> None:
    leader = view.leader
    assert leader is not None
    assert leader.status is not None
    if as_json:
        print_json(
            {
                "folder": str(group.folder),
                "leader": leader.node_id,
                "term": leader.status.term,
                "servers": group.addresses,
                "started": [node.node_id for node in started],
                "nodes": [
                    {"node_id": node.node_id, "address": node.address, "log": str(node.log_path)}
                    for node in group.nodes
                ],
            }
        )
        return
    if not started:
        print(f"the group in {group.folder} runs already")
    for node in group.nodes:
        role = "leader" if node.node_id == leader.node_id else "follower"
        print(f"{node.node_id}  {node.address}  {role:8}  log {node.log_path}")
    print(f"{leader.node_id} leads in term {leader.status.term}; data in {group.folder}")
    print(f"export {SERVER_VARIABLE}={','.join(group.addresses)}", flush=True)


async def _wait_until_ended(group: LocalGroup, talk: TextIO) -> None:
    """Return when no node runs any more; tell of each that ends."""
    running = {node.node_id for node in group.running()}
    while running:
        await trio.sleep(_POLL_SECONDS)
        now = {node.node_id for node in group.running()}
        for node_id in sorted(running - now):
            print(f"{node_id} ended: {group.node(node_id).last_words()}", file=talk, flush=True)
        for node_id in sorted(now - running):
            print(f"{node_id} runs again", file=talk, flush=True)
        running = now


async def _watch(servers: list[str], seconds: float, as_json: bool) -> None:
    async def take() -> Frame:
        return _frame(await ask_group(servers))

    await show_repeatedly(take, seconds=seconds, as_json=as_json)


def _frame(view: GroupView) -> Frame:
    lines = [*kept_lines(view), *found_by(view), *problems(view), verdict(view)]
    return [status_table(view), *lines], status_json(view)


async def _kill_leader(group: LocalGroup, as_json: bool) -> None:
    view = await ask_group(group.addresses)
    if view.leader is None or view.leader.status is None:
        raise ConfigError(f"nobody leads the group in {group.folder}; `dledger status` shows why")
    leader, term = view.leader.node_id, view.leader.status.term
    mark = group.node(leader).send_signal(signal.SIGKILL)
    if mark is None:
        raise ConfigError(f"{leader} leads, but it is no process of {group.folder}")
    found: dict[str, object] = {"killed": leader, "pid": mark.pid, "term": term}
    talk = _talk(as_json)
    print(f"killed {leader} (pid {mark.pid}), leader of term {term}", file=talk, flush=True)
    killed_at = trio.current_time()
    others = [node.address for node in group.nodes if node.node_id != leader]
    with trio.move_on_after(NEW_LEADER_SECONDS):
        while others:
            now = (await ask_group(others)).leader
            if now is not None and now.status is not None and now.status.term > term:
                seconds = trio.current_time() - killed_at
                tell(
                    f"{now.node_id} leads in term {now.status.term}, {seconds:.2f} s later",
                    found | {"leader": now.node_id, "seconds": round(seconds, 3)},
                    as_json=as_json,
                )
                return
            await trio.sleep(_POLL_SECONDS / 5)
    tell(
        f"no new leader: {plural(len(group.running()), 'node')} left of {len(group.nodes)}",
        found | {"leader": None, "seconds": None},
        as_json=as_json,
    )
