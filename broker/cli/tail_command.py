"""``dledger tail``: the messages of a topic as they are stored, for no group, leaving no trace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import trio

from broker.cli.completing import TOPIC
from broker.cli.connecting import open_client
from broker.cli.merge import COUNT_MAX, Merge
from broker.cli.message_output import FORMAT, LINE_FORMAT, MessageFormat, MessagePrinter
from broker.cli.output import join_words, json_lines_option, plural, remark
from broker.cli.servers import group_options
from broker.cli.starting import consumer_start
from broker.cli.values import DURATION, PLACE, Place
from broker.message.tags import parse_tag_expression

if TYPE_CHECKING:
    import broker

READER = ""  # of no consumer group: none comes to be, and no offset is ever committed
WINDOW = "200ms"


@click.command()
@click.argument("topic", type=TOPIC)
@click.option(
    "--from", "place", type=PLACE, metavar="PLACE",
    help="Where to begin: earliest, latest, offset:QUEUE:OFFSET, -5m, a time. "
    "[latest; earliest with --no-follow]",
)  # fmt: skip
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after so many messages.")
@click.option("--grep", "pattern", metavar="REGEX", help="Only bodies in which REGEX is found.")
@click.option("--filter", "tags", metavar="TAGS", help='Only these tags: "A || B".')
@click.option(
    "--follow/--no-follow", default=True, help="Wait for more, or stop at the end of now."
)
@click.option(
    "--window", type=DURATION, default=WINDOW, show_default=True, metavar="DURATION",
    help="How long a new message waits for older ones of other queues.",
)  # fmt: skip
@click.option(
    "--format", "layout", type=FORMAT, default=LINE_FORMAT, show_default=True,
    help="How a message is printed; %s and others are listed in docs/cli.md.",
)  # fmt: skip
@json_lines_option
@group_options
def tail(
    topic: str,
    *,
    place: Place | None,
    count: int | None,
    pattern: str | None,
    tags: str | None,
    follow: bool,
    window: float,
    layout: MessageFormat,
    as_json: bool,
    servers: list[str],
) -> None:
    """Print messages of TOPIC as they are stored, for no group.

    All queues merged by store time: exactly for what is there already, within --window for what
    comes. Within a queue the order is always that of the queue.

    \b
    Example: dledger tail orders --from -5m --grep chair
             dledger tail orders --from offset:3:100 -n 10 --no-follow --json
    """
    if place is None:
        place = Place(kind="latest" if follow else "earliest")
    if place.kind == "committed":
        raise click.BadParameter("tail belongs to no group; there is none", param_hint="--from")
    try:
        wanted = re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise click.BadParameter(f"{pattern!r}: {error}", param_hint="--grep") from None
    # Filtered here and not by the nodes: a node that finds nothing wanted keeps the pull, and the
    # other queues would wait for this one.
    run = _Tail(
        topic,
        place,
        count=count,
        wanted=wanted,
        tags=parse_tag_expression(tags),
        follow=follow,
    )
    run.printer = MessagePrinter(as_json=as_json, layout=layout)
    try:
        trio.run(run.run, servers, window)
    finally:
        if run.disorder_count:
            remark(
                f"{plural(run.disorder_count, 'message')} stood behind one with a later store "
                "time; a longer --window waits longer for them"
            )


class _Tail:
    """One run."""

    printer: MessagePrinter

    def __init__(
        self,
        topic: str,
        place: Place,
        *,
        count: int | None,
        wanted: re.Pattern[str] | None,
        tags: frozenset[str] | None,
        follow: bool,
    ) -> None:
        self.topic = topic
        self.place = place
        self.left = count
        self.wanted = wanted
        self.tags = tags
        self.follow = follow
        self.disorder_count = 0
        self._news = trio.Event()  # set when a message has come
        self._room = trio.Event()  # set when messages have gone

    async def run(self, servers: list[str], window: float) -> None:
        """Print until the end, or until cancelled."""
        async with open_client(servers, auto_create_topic=False) as mq:
            queues, start = consumer_start(self.place)
            async with mq.consumer(
                READER, self.topic, queues=queues, start=start, auto_commit=False
            ) as consumer:
                merge = await self._begin(mq, consumer, window)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, consumer, merge)
                    await self._print(merge)
                    nursery.cancel_scope.cancel()

    async def _begin(self, mq: broker.Client, consumer: broker.Consumer, window: float) -> Merge:
        places: dict[int, tuple[int, int]] = {}

        async def look(queue: int) -> None:
            first = consumer.position(queue)
            places[queue] = (first, await mq.admin.max_offset(self.topic, queue))

        async with trio.open_nursery() as nursery:
            for queue in consumer.queues:
                nursery.start_soon(look, queue)
        merge = Merge(places, window=window)
        merge.start(trio.current_time())
        return merge

    async def _read(self, consumer: broker.Consumer, merge: Merge) -> None:
        while True:
            while merge.count > COUNT_MAX:
                self._room = trio.Event()
                await self._room.wait()
            message = await anext(consumer)
            merge.add(message, trio.current_time())
            self._news.set()

    async def _print(self, merge: Merge) -> None:
        """Print what the merge lets go; return when enough is printed or the end is reached."""
        while True:
            now = trio.current_time()
            if silent := merge.give_up_on_silent(now):
                names = join_words([str(queue) for queue in sorted(silent)])
                remark(f"nothing more comes of what queue {names} had; going on without it")
            for message in merge.take_all() if self._is_over(merge) else merge.take(now):
                if self._print_one(message):
                    self.disorder_count = merge.disorder_count
                    return
            self.disorder_count = merge.disorder_count
            self._room.set()
            if self._is_over(merge):
                return
            self._news = trio.Event()
            with trio.move_on_at(merge.next_time(now)):
                await self._news.wait()

    def _is_over(self, merge: Merge) -> bool:
        return not self.follow and merge.is_at_end

    def _print_one(self, message: broker.Message) -> bool:
        """Print *message* if it is wanted; return whether it was the last."""
        if self.tags is not None and message.tag not in self.tags:
            return False
        if self.wanted is not None and not self.wanted.search(
            bytes(message.body).decode(errors="replace")
        ):
            return False
        self.printer.print(message)
        if self.left is None:
            return False
        self.left -= 1
        return self.left == 0
