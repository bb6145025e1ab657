"""``dledger dlq``: what consumer groups have given up, shown and sent to them once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import trio

from broker.cli import exits
from broker.cli.completing import GROUP
from broker.cli.confirming import confirm, yes_option
from broker.cli.connecting import open_client
from broker.cli.message_output import message_json
from broker.cli.output import (
    Table,
    join_words,
    json_lines_option,
    json_option,
    plural,
    preview,
    print_json,
    remark,
    tell,
)
from broker.cli.servers import group_options
from broker.cli.values import format_time
from broker.message.limits import DLQ_PREFIX

if TYPE_CHECKING:
    from typing import Any

    from broker.client.message import Message


@click.group()
def dlq() -> None:
    """Show dead letters, and send them to their group once more."""


@dlq.command("list")
@json_option
@group_options
def list_(*, servers: list[str], as_json: bool) -> None:
    """List the groups that have dead letters: messages that they have given up.

    Waiting are those that nobody has sent again or skipped.

    Example: dledger dlq list
    """

    async def run() -> list[dict[str, Any]]:
        async with open_client(servers, auto_create_topic=False) as mq:
            rows = []
            for entry in await mq.admin.list_topics():
                if not entry.topic.startswith(DLQ_PREFIX):
                    continue
                group = entry.topic.removeprefix(DLQ_PREFIX)
                found = await mq.admin.describe_topic(entry.topic)
                rows.append(
                    {
                        "group": group,
                        "waiting": await mq.dead_letters(group).count(),
                        "kept": found.message_count,
                        "size": found.size,
                        "newest_ms": found.newest_ms,
                    }
                )
            return rows

    rows = trio.run(run)
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("no consumer group has given a message up")
        return
    table = Table("group", "waiting", "kept", "newest", right=("waiting", "kept"))
    for row in rows:
        table.add_row(
            row["group"], f"{row['waiting']:,}", f"{row['kept']:,}", format_time(row["newest_ms"])
        )
    table.print()


@dlq.command()
@click.argument("group", type=GROUP)
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True,
    help="Most letters to print, the oldest first.",
)  # fmt: skip
@click.option(
    "--from", "start", type=click.IntRange(min=0), metavar="NUMBER",
    help="Begin with that one; 0: with the oldest kept.  [the first that waits]",
)  # fmt: skip
@json_lines_option
@group_options
def show(group: str, *, limit: int, start: int | None, servers: list[str], as_json: bool) -> None:
    """Print the dead letters of the consumer group GROUP; nothing changes by that.

    Exit code 1 when there is none.

    \b
    Example: dledger dlq show billing
             dledger dlq show billing --from 0 --json
    """

    async def run() -> list[Message]:
        async with open_client(servers, auto_create_topic=False) as mq:
            letters = await mq.dead_letters(group).read(limit, start=start)
            if not letters:
                await mq.admin.describe_group(group)  # it may be mistyped
            return letters

    found = trio.run(run)
    if not found:
        where = "waits" if start is None else f"has number {start} or a higher one"
        remark(f"no dead letter of group {group} {where}")
        raise SystemExit(exits.FAILURE)
    if as_json:
        for letter in found:
            print_json({"number": letter.queue_offset, **message_json(letter)})
        return
    columns = ("number", "given up", "tries", "topic", "keys", "bytes", "body")
    table = Table(*columns, right=("number", "tries", "bytes"))
    for letter in found:
        table.add_row(
            f"{letter.queue_offset}",
            format_time(letter.store_timestamp_ms),
            f"{letter.reconsume_times}",
            letter.topic,
            " ".join(letter.keys),
            f"{len(letter.body):,}",
            preview(bytes(letter.body)),
        )
    table.print()
    if len(found) == limit:
        remark(f"there may be more; --limit prints more than {limit}")


@dlq.command()
@click.argument("group", type=GROUP)
@click.argument("numbers", nargs=-1, type=click.IntRange(min=0), metavar="[NUMBER]...")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), help="Only so many, the oldest.  [all that wait]"
)
@yes_option
@json_option
@group_options
def resend(
    group: str,
    numbers: tuple[int, ...],
    *,
    limit: int | None,
    yes: bool,
    servers: list[str],
    as_json: bool,
) -> None:
    """Have the dead letters of GROUP come to it once more, and to no other group.

    All that wait, and then they wait no longer; or those with the given numbers, whether they wait
    or not. They count their failures anew.

    \b
    Example: dledger dlq resend billing
             dledger dlq resend billing 17 21 --yes
    """
    if numbers and limit is not None:
        raise click.UsageError("give numbers, or --limit")
    missing: list[int] = []

    async def run() -> int:
        async with open_client(servers, auto_create_topic=False) as mq:
            letters = mq.dead_letters(group)
            if not numbers:
                waiting = await letters.count()
                count = waiting if limit is None else min(waiting, limit)
                if not count:
                    await mq.admin.describe_group(group)  # it may be mistyped
                    return 0
                confirm(f"send {plural(count, 'dead letter')} to group {group} again?", yes=yes)
                return await letters.resend_all(count)
            found = []
            for number in numbers:
                one = await letters.read(1, start=number)
                if not one or one[0].queue_offset != number:
                    missing.append(number)
                found += one
            if missing:
                await mq.admin.describe_group(group)
                return 0
            confirm(f"send {plural(len(found), 'dead letter')} to group {group} again?", yes=yes)
            for letter in found:
                await letters.resend(letter)
            return len(found)

    count = trio.run(run)
    if missing:
        those = join_words([str(number) for number in missing])
        remark(f"group {group} has no dead letter {those}; nothing was sent")
        raise SystemExit(exits.FAILURE)
    tell(
        f"sent {plural(count, 'dead letter')} to group {group} again"
        if count
        else f"no dead letter of group {group} waits",
        {"group": group, "sent": count},
        as_json=as_json,
    )
