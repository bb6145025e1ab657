"""``dledger backup`` and ``dledger restore``: a log kept elsewhere, and brought back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from broker.cli.ask import ask_group, ask_node
from broker.cli.backup_copy import Manifest, members_of, take_backup
from broker.cli.backup_copy import restore as restore_folder
from broker.cli.local_group import GroupPlan, LocalGroup
from broker.cli.output import json_option, plural, print_json
from broker.cli.servers import DEFAULT_FOLDER
from broker.config_file import load_config
from dledger.clock import SystemClock
from dledger.errors import ConfigError, FolderInUseError
from dledger.store.os_disk import OsDisk

if TYPE_CHECKING:
    from broker.cli.ask import GroupView
    from broker.config import NodeConfig

CATCH_UP_SECONDS = 60.0  # longest wait until the node has what was committed when we began
ANSWER_SECONDS = 3.0

_POLL_SECONDS = 0.05
_PATH = click.Path(path_type=Path)
_NEW, _OLD, _LIVING = "new-group", "old-group", "living-group"


@click.command()
@click.argument("target", type=_PATH)
@click.option(
    "-c", "--config", "path", type=_PATH, metavar="FILE",
    help="The node.toml of a node on this machine, running or not.",
)  # fmt: skip
@click.option(
    "--data", type=_PATH, metavar="DIR",
    help=f"Or the local group in DIR.  [{DEFAULT_FOLDER}]",
)  # fmt: skip
@click.option("--node", "node_id", metavar="ID", help="Of a local group; else a follower.")
@json_option
def backup(
    target: Path, *, path: Path | None, data: Path | None, node_id: str | None, as_json: bool
) -> None:
    """Copy a node's log into the new folder TARGET, while the node runs or not.

    Every entry is proved. Of a running node it is all that was committed when the copy began, and a
    follower is the better choice. Of one that does not run it is all that it has.
    `dledger log verify TARGET` proves it again; `dledger restore` brings it back.

    Example: dledger backup /backups/orders-1 -c /etc/dledger/node.toml
    """
    config = _source(path, data, node_id)
    manifest = trio.run(_backup, config, target)
    if as_json:
        print_json(_as_json(manifest, target))
        return
    print(_describe(manifest, target))
    print(
        "all that was committed when it began"
        if manifest.is_hot
        else "all that the node has; it does not run"
    )


@click.command()
@click.argument("source", type=_PATH)
@click.option(
    "-c", "--config", "path", type=_PATH, metavar="FILE",
    help="The node.toml of the node whose data folder is to be filled.",
)  # fmt: skip
@click.option("--data", type=_PATH, metavar="DIR", help="Or the local group in DIR.")
@click.option("--node", "node_id", metavar="ID", help="Of a local group; else every node of it.")
@click.option(
    "--base-port", type=click.IntRange(1, 63_000),
    help="Make a local group in DIR where there is none: the port of n1 for clients.",
)  # fmt: skip
@click.option(
    "--into", type=click.Choice([_NEW, _OLD, _LIVING]), required=True,
    help="new-group: another name, or other addresses. old-group: the same, and no member has its "
    "old data. living-group: one member that lost its data.",
)  # fmt: skip
@json_option
def restore(
    source: Path,
    *,
    path: Path | None,
    data: Path | None,
    node_id: str | None,
    base_port: int | None,
    into: str,
    as_json: bool,
) -> None:
    """Fill empty data folders with the backup in the folder SOURCE.

    A group begins anew from a backup when a majority of its nodes, better all of them, are filled
    from the same one; nodes left empty are filled by the others.

    Example: dledger restore /backups/orders-1 -c /etc/dledger/node.toml --into new-group
    """
    manifest = Manifest.read(source)
    if data is not None and base_port is not None:
        data.mkdir(parents=True, exist_ok=True)
        plan = GroupPlan(base_port=base_port, segment_size=manifest.segment_size)
        LocalGroup.find_or_create(data, plan)
    configs = _targets(path, data, node_id)
    for config in configs:
        _check_group(manifest, config, into, count=len(configs))
    for config in configs:
        restore_folder(source, config, may_vote=into != _LIVING)
        if not as_json:
            print(f"{config.node_id}: {_describe(manifest, Path(config.data_folder))}")
    if as_json:
        print_json([_as_json(manifest, Path(config.data_folder)) for config in configs])


def _source(path: Path | None, data: Path | None, node_id: str | None) -> NodeConfig:
    if path is not None:
        if data is not None or node_id is not None:
            raise click.UsageError("give -c FILE, or --data DIR and --node ID")
        return load_config(path)
    group = _local(DEFAULT_FOLDER if data is None else data)
    if node_id is not None:
        return group.node(node_id).config
    return trio.run(_pick_follower, group)


async def _pick_follower(group: LocalGroup) -> NodeConfig:
    """Return a node that does not lead: the leader has enough to do."""
    view = await ask_group(group.addresses)
    leader = view.leader
    for answer in view.answering:
        if leader is not None and answer.node_id != leader.node_id:
            return group.node(answer.node_id).config
    if len(view.answering) == len(group.nodes) == 1:
        return group.nodes[0].config
    raise ConfigError(
        f"no follower of the group in {group.folder} answers; say which node with --node"
    )


def _targets(path: Path | None, data: Path | None, node_id: str | None) -> list[NodeConfig]:
    if path is not None:
        if data is not None or node_id is not None:
            raise click.UsageError("give -c FILE, or --data DIR and --node ID")
        return [load_config(path)]
    group = _local(data)
    return [node.config for node in ([group.node(node_id)] if node_id else group.nodes)]


def _local(data: Path | None) -> LocalGroup:
    if data is None:
        raise click.UsageError("say which node: -c FILE, or --data DIR for a local group")
    group = LocalGroup.find(data)
    if group is None:
        raise ConfigError(f"no group in {data}; say which node: -c FILE, or --data DIR")
    return group


def _check_group(manifest: Manifest, config: NodeConfig, into: str, *, count: int) -> None:
    same = (config.group, members_of(config)) == (manifest.group, manifest.members)
    if into == _NEW and same:
        raise ConfigError(
            f"the backup is of group {manifest.group!r} with the very members of the "
            "configuration: one that still has its old data would take part in both. Give the new "
            f"group another name, or say --into {_OLD} when no member has its old data any more"
        )
    if into != _NEW and not same:
        raise ConfigError(
            f"the backup is of group {manifest.group!r} with {manifest.members}, the configuration "
            f"of {config.group!r} with {members_of(config)}; correct it there, or say --into {_NEW}"
        )
    if into == _LIVING and count > 1:
        raise ConfigError("one member of a living group at a time: say which with --node")
    if into == _LIVING and not manifest.is_hot:
        raise ConfigError(
            "the backup is of a node that was stopped: the group may have other entries in the "
            "place of its last ones. Take one from a node that runs, or start the member with an "
            "empty folder: the leader fills it"
        )
    if into == _LIVING and len(config.members) == 1:
        raise ConfigError(f"{config.node_id} is its only member: say --into {_OLD}")


async def _backup(config: NodeConfig, target: Path) -> Manifest:
    """Copy what is committed now from a running node; all there is from another."""
    taken_at_ms = SystemClock().wall_ms()
    own = await ask_node(config.advertised_address, seconds=ANSWER_SECONDS)
    if own.status is None:
        disk = OsDisk()
        if not disk.exists(f"{config.data_folder}/identity.json"):
            raise ConfigError(f"{config.data_folder} is no data folder; see `data_folder`")
        try:
            lock = disk.lock_folder(config.data_folder)
        except FolderInUseError:
            raise ConfigError(
                f"node {config.node_id} runs and does not answer ({own.problem}); wait, or stop it"
            ) from None
        try:
            return take_backup(config, target, end_index=None, taken_at_ms=taken_at_ms)
        finally:
            lock.release()
    end_index = await _committed_now(config)
    return await trio.to_thread.run_sync(
        lambda: take_backup(config, target, end_index=end_index, taken_at_ms=taken_at_ms)
    )


async def _committed_now(config: NodeConfig) -> int:
    """Return an entry that this node has, and all that was acknowledged before the call is below.

    Raises:
        ConfigError: nobody leads, or the node does not catch up.
    """
    addresses = [member.broker_address for member in config.members]
    wanted = -1
    with trio.move_on_after(CATCH_UP_SECONDS):
        while True:
            if wanted < 0:
                wanted = _committed_index(await ask_group(addresses))
            else:
                own = (await ask_node(config.advertised_address)).status
                if own is not None and own.commit_index >= wanted:
                    return own.commit_index
            await trio.sleep(_POLL_SECONDS)
    if wanted < 0:
        raise ConfigError(
            f"nobody has led for {CATCH_UP_SECONDS:g} s, so nobody can say what is committed; stop "
            f"{config.node_id} to copy all that it has"
        )
    raise ConfigError(
        f"{config.node_id} does not catch up with entry {wanted}; take the backup from another node"
    )


def _committed_index(view: GroupView) -> int:
    """Return an entry at or behind all that was acknowledged before *view* was asked for; or -1.

    What a leader of the past says does not count: a majority was in its term when it was asked, so
    nobody had been elected after it.
    """
    leader = view.leader
    if leader is None or leader.status is None:
        return -1
    term = leader.status.term
    agree = [answer for answer in view.answering if answer.status and answer.status.term == term]
    return leader.status.commit_index if 2 * len(agree) > view.member_count else -1


def _describe(manifest: Manifest, folder: Path) -> str:
    return (
        f"{plural(manifest.entries, 'entry')} ({manifest.begin_index} to {manifest.end_index}) of "
        f"group {manifest.group} in {folder}"
    )


def _as_json(manifest: Manifest, folder: Path) -> dict[str, object]:
    return {
        "folder": str(folder),
        "group": manifest.group,
        "node_id": manifest.node_id,
        "begin_index": manifest.begin_index,
        "end_index": manifest.end_index,
        "entries": manifest.entries,
        "is_hot": manifest.is_hot,
        "taken_at_ms": manifest.taken_at_ms,
    }
