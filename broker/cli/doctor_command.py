"""``dledger doctor``: look at a group, or at what a node needs before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from broker.cli.ask import ask_group, ask_node
from broker.cli.checks import Check, Level, checks_table, describe, exit_code, summary
from broker.cli.doctor_group import check_group
from broker.cli.doctor_host import check_host, check_program, check_same_group
from broker.cli.local_group import LocalGroup
from broker.cli.output import format_bytes, json_option, print_json, remark
from broker.cli.servers import DEFAULT_FOLDER, add_group_options, choose_group
from broker.cli.status_table import status_json
from broker.config_file import load_config
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from broker.cli.ask import GroupView
    from broker.cli.local_node import LocalNode
    from broker.config import NodeConfig

ANSWER_SECONDS = 3.0  # a node with trouble may be slow to answer, and is worth waiting for

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "-c", "--config", "paths", type=_FILE, multiple=True, metavar="FILE",
    help="Look at this node.toml and its machine, not at a group.",
)  # fmt: skip
@click.option("--bundle", type=_FILE, metavar="FILE", help="Write all of it to a .tar.gz, too.")
@json_option
@add_group_options
def doctor(
    paths: tuple[Path, ...],
    *,
    bundle: Path | None,
    as_json: bool,
    server: str | None,
    context: str | None,
    data: Path | None,
) -> None:
    """Check a group and its machines, and say what to do.

    With --config it checks what a node needs before it starts: ports, disk, file system, time of a
    sync, limits. The bundle has status, configurations, the ends of logs and versions; no message.

    Exit code 0 when all is well, 3 with warnings only, 1 when something fails.

    \b
    Example: dledger doctor
             dledger doctor -c /etc/dledger/node.toml
             dledger doctor --bundle trouble.tar.gz
    """
    checks = check_program()
    view: GroupView | None = None
    asks_group = not paths or any(value is not None for value in (server, context, data))
    if asks_group:
        choice = choose_group(server=server, context=context, data=data)
        view = trio.run(lambda: ask_group(choice.servers, seconds=ANSWER_SECONDS))
        checks += check_group(view)
        local = LocalGroup.find(data or DEFAULT_FOLDER) if choice.is_local else None
        if local is not None:
            paths += tuple(node.folder / "node.toml" for node in local.nodes)
            checks += [_ended(node) for node in local.nodes if node.process is None]
    nodes: list[tuple[str, Path, Path]] = []
    configs: list[NodeConfig] = []
    for path in paths:
        try:
            config = load_config(path)
        except ConfigError as error:
            checks.append(_broken(path, error))
            continue
        nodes.append((config.node_id, path, Path(config.data_folder)))
        configs.append(config)
        checks += check_host(config, runs=_runs(config))
    if configs:
        checks += check_same_group(configs)
    if bundle is not None:
        status = None if view is None else status_json(view)
        size = write(bundle, checks, status, nodes)
        remark(f"{bundle}: {format_bytes(size)}; no message is in it")
    if as_json:
        print_json(describe(checks))
    else:
        checks_table(checks).print()
        print(summary(checks))
    raise SystemExit(exit_code(checks))


def write(
    path: Path,
    checks: list[Check],
    status: dict[str, object] | None,
    nodes: list[tuple[str, Path, Path]],
) -> int:
    """Write the bundle; return its size in bytes."""
    from broker.cli.doctor_bundle import write_bundle

    return write_bundle(path, doctor=describe(checks), status=status, nodes=nodes)


def _ended(node: LocalNode) -> Check:
    return Check(
        name="process",
        subject=node.node_id,
        level=Level.WARN,
        text=f"it does not run; its log ends: {node.last_words()}",
        remedy="docs/operations.md explains last words; `dledger up --detach` starts what is "
        "missing",
    )


def _runs(config: NodeConfig) -> bool:
    """Whether the node of *config* answers at its address."""
    answer = trio.run(ask_node, config.advertised_address)
    return answer.status is not None and answer.node_id == config.node_id


def _broken(path: Path, error: ConfigError) -> Check:
    return Check(
        name="config",
        subject=path.parent.name,
        level=Level.FAIL,
        text=str(error),
        remedy="docs/configuration.md says what each key means",
    )
