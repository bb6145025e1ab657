"""``dledger group``: consumer groups, how far each has come, and what they may do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import trio

from broker.cli.completing import GROUP
from broker.cli.confirming import confirm, yes_option
from broker.cli.connecting import open_client
from broker.cli.output import Table, join_words, json_option, plural, print_json, tell
from broker.cli.servers import group_options
from broker.cli.values import format_duration, format_time, parse_duration
from broker.cli.watching import show_frame, show_repeatedly, watch_option
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.cli.watching import Frame
    from broker.protocol.descriptions import GroupDescription
    from broker.protocol.subscription_group import SubscriptionGroupConfig


@click.group()
def group() -> None:
    """List, describe, create, alter and delete consumer groups."""


def _read_delays(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(round(parse_duration(part) * 1000) for part in text.split(",") if part)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options for what a group has."""
    for option in (
        click.option(
            "--consume/--no-consume", "consume_enable", default=None,
            help="Whether it may consume.  [yes]",
        ),
        click.option(
            "--retry-delays", "retry_delays_ms", callback=_read_delays, metavar="TIME,...",
            help="Before each retry, the last for all that follow.  [10s to 2h]",
        ),
        click.option(
            "--retry-times", "retry_times_max", type=click.IntRange(-1, 1_000_000),
            help="Then a message that failed goes to the dead letters.  [16]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@group.command("list")
@json_option
@group_options
def list_(*, servers: list[str], as_json: bool) -> None:
    """List the consumer groups, who is in them, and how many messages they have not done.

    Example: dledger group list
    """

    async def run() -> list[GroupDescription]:
        async with open_client(servers) as mq:
            return [
                await mq.admin.describe_group(config.group)
                for config in await mq.admin.list_groups()
            ]

    groups = trio.run(run)
    if as_json:
        print_json([_summary(found) for found in groups])
        return
    if not groups:
        print("no consumer group yet; the first `dledger consume` makes one")
        return
    counts = ("members", "topics", "lag")
    table = Table("group", *counts, "last commit", "settings", right=counts)
    for found in groups:
        table.add_row(
            found.group,
            str(len(found.members)),
            str(len(found.topics)),
            f"{found.lag:,}",
            _moment(max((topic.committed_ms for topic in found.topics), default=0)),
            _words(found.config),
        )
    table.print()


@group.command()
@click.argument("name", type=GROUP)
@watch_option
@json_option
@group_options
def describe(name: str, *, watch: float | None, servers: list[str], as_json: bool) -> None:
    """Show how far the consumer group NAME has come in each queue, and who consumes for it.

    Lag counts the messages that are kept and not committed. Members are the clients that share the
    group's queues; they are known by their heartbeats.

    Example: dledger group describe billing --watch
    """

    async def run() -> None:
        async with open_client(servers) as mq:

            async def take() -> Frame:
                return _frame(await mq.admin.describe_group(name))

            if watch is None:
                show_frame(await take(), as_json=as_json)
            else:
                await show_repeatedly(take, seconds=watch, as_json=as_json)

    trio.run(run)


@group.command()
@click.argument("name")
@_settings
@json_option
@group_options
def create(name: str, *, servers: list[str], as_json: bool, **settings: Any) -> None:  # noqa: ANN401
    """Create the consumer group NAME; one that is there gets these settings and no others.

    A group also comes to be by being used, unless the brokers do not allow it.

    Example: dledger group create billing --retry-times 5 --retry-delays 1s,10s,1m
    """

    async def run() -> SubscriptionGroupConfig:
        async with open_client(servers) as mq:
            await mq.admin.create_group(name, **_given(settings))
            return (await mq.admin.describe_group(name)).config

    config = trio.run(run)
    tell(_headline(config), asdict(config), as_json=as_json)


@group.command()
@click.argument("name", type=GROUP)
@_settings
@json_option
@group_options
def alter(name: str, *, servers: list[str], as_json: bool, **settings: Any) -> None:  # noqa: ANN401
    """Change what is given of the consumer group NAME; all else stays as it is.

    Example: dledger group alter billing --no-consume
    """
    given = _given(settings)
    if not given:
        raise click.UsageError("nothing to change; give an option, see --help")

    async def run() -> SubscriptionGroupConfig:
        async with open_client(servers) as mq:
            await mq.admin.alter_group(name, **given)
            return (await mq.admin.describe_group(name)).config

    config = trio.run(run)
    tell(_headline(config), asdict(config), as_json=as_json)


@group.command()
@click.argument("name", type=GROUP)
@yes_option
@json_option
@group_options
def delete(name: str, *, yes: bool, servers: list[str], as_json: bool) -> None:
    """Delete the consumer group NAME with all it has committed.

    A consumer of it that still runs makes it again.

    Example: dledger group delete billing --yes
    """

    async def run() -> None:
        async with open_client(servers) as mq:
            found = await mq.admin.describe_group(name)
            what = f"what it has committed in {plural(len(found.topics), 'topic')}"
            confirm(f"delete consumer group {name} and {what}?", yes=yes)
            await mq.admin.delete_group(name)

    trio.run(run)
    tell(f"deleted consumer group {name}", {"deleted": name}, as_json=as_json)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _frame(found: GroupDescription) -> Frame:
    numbers = ("queue", "committed", "first", "end", "lag")
    table = Table("topic", *numbers, "done up to", "last commit", right=numbers)
    for topic in found.topics:
        for queue in topic.queues:
            table.add_row(
                topic.topic,
                str(queue.queue_id),
                "-" if queue.committed < 0 else f"{queue.committed:,}",
                f"{queue.min_offset:,}",
                f"{queue.max_offset:,}",
                f"{queue.lag:,}",
                format_time(queue.consumed_ms),
                _moment(topic.committed_ms),
            )
    value = _summary(found) | {
        "config": asdict(found.config),
        "members": [asdict(member) for member in found.members],
        "topic_list": [
            asdict(topic) | {
                "lag": topic.lag,
                "queues": [asdict(queue) | {"lag": queue.lag} for queue in topic.queues],
            }
            for topic in found.topics
        ],
    }  # fmt: skip
    line = f"{_headline(found.config)}; lag {found.lag:,}"
    shown: list[str | Table] = [line, table]
    if not found.topics:
        shown = [f"{line}; it has committed nothing"]
    if found.members:
        shown += [plural(len(found.members), "member"), _members(found)]
    return shown, value


def _members(found: GroupDescription) -> Table:
    table = Table("client", "from", "written in", "model", "reads")
    for member in found.members:
        reads = (
            topic if expression == "*" else f"{topic} ({expression})"
            for topic, expression in member.subscriptions.items()
        )
        table.add_row(
            member.client_id,
            member.address or "-",
            member.language.capitalize() if len(member.language) > 4 else member.language or "-",
            member.message_model.lower(),
            ", ".join(reads),
        )
    return table


def _summary(found: GroupDescription) -> dict[str, Any]:
    return {
        "group": found.group,
        "member_count": len(found.members),
        "topics": [topic.topic for topic in found.topics],
        "lag": found.lag,
        "committed_ms": max((topic.committed_ms for topic in found.topics), default=0),
        "consume_enable": found.config.consume_enable,
    }


def _headline(config: SubscriptionGroupConfig) -> str:
    return f"consumer group {config.group}: {_words(config)}"


def _words(config: SubscriptionGroupConfig) -> str:
    parts = [] if config.consume_enable else ["may not consume"]
    parts.append(f"up to {config.retry_times_max} retries")
    if config.retry_delays_ms:
        delays = join_words([format_duration(delay / 1000) for delay in config.retry_delays_ms])
        parts.append(f"after {delays}")
    return ", ".join(parts)


def _moment(milliseconds: int) -> str:
    return format_time(milliseconds) if milliseconds else "-"
