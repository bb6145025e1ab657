"""What a shell may complete: names of topics and consumer groups, asked of the group itself.

A shell waits while it completes, so the group gets a fraction of a second to answer; without an
answer there is nothing to choose from, and no error.
"""

from __future__ import annotations

import contextlib

import click

from broker.errors import BrokerError
from dledger.errors import LedgerError
from dledger.remoting.errors import RemotingError

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


TOPIC = TopicName()


def _topic_names(context: click.Context) -> list[str]:
    import trio

    import broker
    from broker.cli.servers import choose_group

    found: list[str] = []

    async def ask(servers: list[str]) -> None:
        with trio.move_on_after(PATIENCE_SECONDS):
            async with broker.connect(servers, auto_create_topic=False) as client:
                found.extend(entry.topic for entry in await client.admin.list_topics())

    # Nobody could read an error here: the shell shows no more than what there is to choose from.
    with contextlib.suppress(BrokerError, LedgerError, RemotingError, click.UsageError, OSError):
        given = context.params
        choice = choose_group(
            server=given.get("server"), context=given.get("context"), data=given.get("data")
        )
        trio.run(ask, choice.servers)
    return found
