"""What a shell may complete: names of topics and consumer groups, asked of the group itself.

A shell waits while it completes, so the group gets a fraction of a second to answer; without an
answer there is nothing to choose from, and no error.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from broker.errors import BrokerError
from dledger.errors import LedgerError
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import broker

PATIENCE_SECONDS = 0.7


class TopicName(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks
    """The name of a topic."""

    name = "topic"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Return the topics whose names begin with *incomplete*."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in _topic_names(ctx) if name.startswith(incomplete)]


class GroupName(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks
    """The name of a consumer group."""

    name = "group"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Return the consumer groups whose names begin with *incomplete*."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in _group_names(ctx) if name.startswith(incomplete)]


TOPIC = TopicName()
GROUP = GroupName()


def _topic_names(context: click.Context) -> list[str]:
    async def ask(client: broker.Client) -> list[str]:
        return [entry.topic for entry in await client.admin.list_topics()]

    return _ask(context, ask)


def _group_names(context: click.Context) -> list[str]:
    async def ask(client: broker.Client) -> list[str]:
        return [config.group for config in await client.admin.list_groups()]

    return _ask(context, ask)


def _ask(context: click.Context, ask: Callable[[broker.Client], Awaitable[list[str]]]) -> list[str]:
    """Return what *ask* gets of the group that the command line names so far."""
    import trio

    import broker
    from broker.cli.servers import choose_group

    found: list[str] = []

    async def run(servers: list[str]) -> None:
        with trio.move_on_after(PATIENCE_SECONDS):
            async with broker.connect(servers, auto_create_topic=False) as client:
                found.extend(await ask(client))

    # Nobody could read an error here: the shell shows no more than what there is to choose from.
    with contextlib.suppress(BrokerError, LedgerError, RemotingError, click.UsageError, OSError):
        given = context.params
        choice = choose_group(
            server=given.get("server"), context=given.get("context"), data=given.get("data")
        )
        trio.run(run, choice.servers)
    return found
