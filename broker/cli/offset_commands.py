"""``dledger offset``: putting a consumer group elsewhere."""

from __future__ import annotations

import datetime
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import trio

from broker.cli.completing import GROUP, TOPIC
from broker.cli.confirming import confirm, yes_option
from broker.cli.connecting import open_client
from broker.cli.output import Table, json_option, plural, print_json, remark
from broker.cli.servers import group_options
from broker.cli.values import parse_place
from dledger.clock import SystemClock
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from broker.protocol.descriptions import OffsetReset

_SHIFT = re.compile(r"[+-][0-9]{1,18}\Z")
_OFFSET = re.compile(r"[0-9]{1,11}\Z")  # more digits are milliseconds since 1970


@click.group()
def offset() -> None:
    """Put a consumer group elsewhere in a topic."""


@offset.command()
@click.argument("group", type=GROUP)
@click.argument("topic", type=TOPIC)
@click.option(
    "--to", "place", required=True, metavar="PLACE",
    help="earliest, latest, a time (-1h, 2026-11-25T10:00), an offset (1234), or a number of "
    "messages on or back (+10, -10).",
)  # fmt: skip
@click.option("-q", "--queue", type=click.IntRange(min=0), help="Only this queue.  [all]")
@click.option("--dry-run", is_flag=True, help="Show what would be, and change nothing.")
@yes_option
@json_option
@group_options
def reset(
    group: str,
    topic: str,
    *,
    place: str,
    queue: int | None,
    dry_run: bool,
    yes: bool,
    servers: list[str],
    as_json: bool,
) -> None:
    """Have the consumer group GROUP go on elsewhere in TOPIC, in all queues at once.

    Consumers that run go on at the new place: those of this project at once, RocketMQ's in Java and
    C++ some ten seconds after they are told. npm's ali-ons has to be started again.

    Example: dledger offset reset billing orders --to -1h --dry-run
    """
    wanted = read_place(place, now_ms=SystemClock().wall_ms()) | {"queue": queue}

    async def run() -> OffsetReset:
        async with open_client(servers) as mq:
            planned = await mq.admin.reset_offsets(group, topic, **wanted, dry_run=True)
            if dry_run:
                return planned
            if not as_json and not yes:
                _show(planned)
            question = f"put group {group} there in {plural(len(planned.queues), 'queue')}?"
            confirm(question, yes=yes)
            return await mq.admin.reset_offsets(group, topic, **wanted)

    done = trio.run(run)
    if as_json:
        print_json(asdict(done))
    else:
        _show(done)


def read_place(text: str, *, now_ms: int) -> dict[str, Any]:
    """Return the arguments of `Admin.reset_offsets` that *text* says, seen from *now_ms*.

    Raises:
        click.UsageError: it says nothing.
    """
    text = text.strip()
    if _SHIFT.match(text):
        return {"shift": int(text)}
    if _OFFSET.match(text):
        return {"to": int(text)}
    try:
        place = parse_place(text, now_ms=now_ms)
    except ConfigError as error:
        raise click.UsageError(f"--to: {error}") from None
    if place.kind in ("earliest", "latest"):
        return {"to": place.kind}
    if place.kind == "time":
        return {"to": datetime.datetime.fromtimestamp(place.time_ms / 1000, datetime.UTC)}
    if place.kind == "offset" and place.queue_id is None:
        return {"to": place.queue_offset}
    raise click.UsageError(
        f"--to {text}: use earliest, latest, a time, an offset, +10 or -10; --queue names a queue"
    )


def _show(done: OffsetReset) -> None:
    numbers = ("queue", "from", "to", "messages", "first", "end")
    table = Table(*numbers, right=numbers)
    total = 0
    for item in done.queues:
        before = max(item.before, item.min_offset)
        total += item.after - before
        table.add_row(
            str(item.queue_id),
            "-" if item.before < 0 else f"{item.before:,}",
            f"{item.after:,}",
            f"{item.after - before:+,}",
            f"{item.min_offset:,}",
            f"{item.max_offset:,}",
        )
    table.print()
    if done.queues and all(item.before < 0 for item in done.queues):
        remark(f"group {done.group} has committed nothing in topic {done.topic} so far")
    what = "would go" if done.is_dry_run else "goes on from there:"
    where = f"{plural(abs(total), 'message')} {'on' if total >= 0 else 'back'}"
    print(f"group {done.group} in topic {done.topic} {what} {where}", flush=True)
