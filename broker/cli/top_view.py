"""What ``dledger top`` shows of one moment: nodes, topics by rate, groups by lag.

Every node is asked by itself, so that there is something to see whoever answers: topics from the
leader, or from another node while nobody leads, and what goes out of each from all of them.  Groups
are known to the leader only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from broker.cli.ask import ANSWER_SECONDS, LEADER, ask_group
from broker.cli.output import Table, format_bytes
from broker.cli.status_table import lag_of, problems, silence_of, verdict
from broker.cli.values import format_duration, format_time
from broker.errors import HeaderError
from broker.protocol.bodies import decode_topic_table
from broker.protocol.descriptions import GroupDescription, TopicDescription, decode_body
from broker.protocol.headers import GroupRequest, TopicRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.subscription_group import decode_group_table
from dledger.clock import SystemClock
from dledger.config import parse_address
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.errors import RemotingError
from dledger.remoting.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.cli.ask import GroupView, NodeAnswer
    from broker.cli.output import Cell
    from dledger.remoting.client import RemotingClient
    from dledger.remoting.network import Network

TOPICS_MAX = 100  # asked about; a question costs a node a look at every queue
GROUPS_MAX = 100

LAG_NOTED = 1_000  # messages; a group with more is marked

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRow:
    """One topic at one moment."""

    topic: str
    queue_count: int
    messages: int  # kept
    taken: int  # ever: the sum of the ends of its queues
    size: int  # bytes of the messages kept
    is_size_estimated: bool
    in_minute: float  # messages a second over the last minute
    out_minute: float  # the same, out of all nodes that answered
    oldest_ms: int  # -1: no message
    in_now: float | None = None  # since the last frame; None: there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One consumer group in one topic at one moment."""

    group: str
    topic: str
    lag: int  # messages
    out_minute: float  # messages a second over the last minute, out of the leader
    committed_ms: int  # when it last committed; 0: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What all nodes said at about the same time."""

    view: GroupView
    at: float  # seconds on trio's clock
    wall_ms: int
    topics: tuple[TopicRow, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(slots=True)
class _Told:
    """What one node said beside its status."""

    topics: dict[str, TopicDescription] = field(default_factory=dict)
    groups: dict[str, GroupDescription] = field(default_factory=dict)
    topic_count: int = 0
    group_count: int = 0
    problem: str = ""


async def take_moment(
    servers: Sequence[str], *, before: Moment | None = None, network: Network | None = None
) -> Moment:
    """Ask all nodes of the group at *servers*; rates count from *before*."""
    view = await ask_group(servers, network=network)
    told: dict[str, _Told] = {}
    async with trio.open_nursery() as nursery:
        for answer in view.answering:
            told[answer.address] = _Told()
            nursery.start_soon(_ask, answer, told[answer.address], network or TcpNetwork())
    at = trio.current_time()
    first = view.leader or max(view.answering, key=_progress, default=None)
    if first is None:
        return Moment(view=view, at=at, wall_ms=SystemClock().wall_ms())
    main = told[first.address]
    remarks = [f"{first.node_id}: {main.problem}"] if main.problem else []
    for what, count, shown in (
        ("topics", main.topic_count, len(main.topics)),
        ("groups", main.group_count, len(main.groups)),
    ):
        if count > shown and not main.problem:
            remarks.append(f"{shown} of {count:,} {what} are asked about")
    return Moment(
        view=view,
        at=at,
        wall_ms=SystemClock().wall_ms(),
        topics=tuple(_topic_rows(main.topics.values(), told.values(), before, at)),
        groups=tuple(_group_rows(main.groups.values())),
        remarks=tuple(remarks),
    )


async def _ask(answer: NodeAnswer, told: _Told, network: Network) -> None:
    """Ask one node about topics, and about groups if it leads."""
    assert answer.status is not None
    leads = answer.status.role.upper() == LEADER
    host, port = parse_address(answer.address)
    with trio.move_on_after(ANSWER_SECONDS) as scope:
        try:
            async with open_remoting_client(network, host, port) as client:
                await _ask_topics(client, told)
                if leads:
                    await _ask_groups(client, told)
        except (RemotingError, HeaderError) as error:
            told.problem = str(error)
    if scope.cancelled_caught:
        told.problem = f"it had not told all after {ANSWER_SECONDS:g} s"


async def _ask_topics(client: RemotingClient, told: _Told) -> None:
    names = [entry.topic for entry in decode_topic_table(await _body(client, _TOPICS))]
    told.topic_count = len(names)
    for name in sorted(names)[:TOPICS_MAX]:
        request = Command(
            RequestCode.DESCRIBE_TOPIC.value, ext_fields=TopicRequest(topic=name).encode()
        )
        if (body := await _body(client, request)) != b"":  # deleted meanwhile
            told.topics[name] = decode_body(body, TopicDescription)


async def _ask_groups(client: RemotingClient, told: _Told) -> None:
    names = [config.group for config in decode_group_table(await _body(client, _GROUPS))]
    told.group_count = len(names)
    for name in sorted(names)[:GROUPS_MAX]:
        request = Command(
            RequestCode.DESCRIBE_CONSUMER_GROUP.value,
            ext_fields=GroupRequest(consumer_group=name).encode(),
        )
        if (body := await _body(client, request)) != b"":
            told.groups[name] = decode_body(body, GroupDescription)


_TOPICS = Command(RequestCode.GET_ALL_TOPIC_CONFIG.value)
_GROUPS = Command(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG.value)


async def _body(client: RemotingClient, request: Command) -> bytes:
    """Return the body of the answer; b"" when it is no success."""
    fresh = Command(request.code, ext_fields=request.ext_fields)
    answer = await client.request(fresh, timeout_seconds=ANSWER_SECONDS)
    if answer.code:
        return b""
    body = answer.body
    return b"".join(body) if isinstance(body, list) else bytes(body)


def _topic_rows(
    described: Iterable[TopicDescription],
    told: Iterable[_Told],
    before: Moment | None,
    at: float,
) -> list[TopicRow]:
    """Return rows, the busiest topic first."""
    earlier = {} if before is None else {row.topic: row.taken for row in before.topics}
    nodes = list(told)
    rows = []
    for topic in described:
        taken = sum(queue.max_offset for queue in topic.queues)
        in_now = None
        if before is not None and at > before.at:
            in_now = max(0.0, (taken - earlier.get(topic.topic, taken)) / (at - before.at))
        out_minute = sum(
            node.topics[topic.topic].out_rate.messages_per_second
            for node in nodes
            if topic.topic in node.topics
        )
        rows.append(
            TopicRow(
                topic=topic.topic,
                queue_count=topic.read_queue_count,
                messages=topic.message_count,
                taken=taken,
                size=topic.size,
                is_size_estimated=topic.is_size_estimated,
                in_minute=topic.in_rate.messages_per_second,
                out_minute=out_minute,
                oldest_ms=topic.oldest_ms,
                in_now=in_now,
            )
        )
    return sorted(
        rows, key=lambda row: (-(row.in_now or 0), -row.in_minute - row.out_minute, row.topic)
    )


def _group_rows(described: Iterable[GroupDescription]) -> list[GroupRow]:
    """Return rows, the group that is furthest behind first."""
    rows = [
        GroupRow(
            group=group.group,
            topic=topic.topic,
            lag=topic.lag,
            out_minute=topic.out_rate.messages_per_second,
            committed_ms=topic.committed_ms,
        )
        for group in described
        for topic in group.topics
    ]
    return sorted(rows, key=lambda row: (-row.lag, row.group, row.topic))


def _progress(answer: NodeAnswer) -> int:
    return answer.status.dispatched_index if answer.status else -1


# --- shown ---------------------------------------------------------------------------------------


def nodes_table(view: GroupView) -> Table:
    """Return one row for each node."""
    numbers = ("term", "commit", "applied", "lag", "sync", "disk", "memory", "conns", "held")
    table = Table("node", "role", *numbers, right=numbers)
    for answer in view.answers:
        status = answer.status
        if status is None:
            table.add_row(answer.node_id, (silence_of(answer), "red"))
            continue
        is_leader = status.role.upper() == LEADER
        role: Cell = status.role.lower()
        if not status.is_ready:
            role = (f"{status.role.lower()}, not ready", "yellow")
        elif is_leader:
            role = (status.role.lower(), "bold green")
        lag = lag_of(view, answer)
        table.add_row(
            status.node_id,
            role,
            str(status.term),
            f"{status.commit_index:,}",
            f"{status.dispatched_index:,}",
            "" if lag is None else f"{lag:,}",
            format_duration(status.sync_seconds_last),
            f"{status.disk_percent:.0f} %" if status.disk_percent >= 0 else "",
            format_bytes(status.rss_bytes),
            f"{status.connection_count:,}",
            f"{status.held_pull_count:,}",
        )
    return table


def topics_table(rows: Sequence[TopicRow]) -> Table:
    """Return one row for each topic; ``~`` marks a size that is estimated."""
    numbers = ("in/s", "in/s 1m", "out/s 1m", "queues", "kept", "size")
    table = Table("topic", *numbers, "oldest", right=numbers)
    for row in rows:
        now = "" if row.in_now is None else f"{row.in_now:,.0f}"
        table.add_row(
            row.topic,
            (now, "green") if row.in_now else now,
            f"{row.in_minute:,.0f}",
            f"{row.out_minute:,.0f}",
            f"{row.queue_count}",
            f"{row.messages:,}",
            f"{'~' if row.is_size_estimated else ''}{format_bytes(row.size)}",
            format_time(row.oldest_ms)[:19],
        )
    return table


def groups_table(rows: Sequence[GroupRow], *, wall_ms: int) -> Table:
    """Return one row for each group and topic."""
    numbers = ("lag", "out/s 1m", "last commit")
    table = Table("group", "topic", *numbers, right=numbers)
    for row in rows:
        lag = f"{row.lag:,}"
        since = (
            f"{format_duration(max(0, wall_ms - row.committed_ms) / 1000)} ago"
            if row.committed_ms > 0
            else ""
        )
        table.add_row(
            row.group,
            row.topic,
            (lag, "yellow") if row.lag > LAG_NOTED else lag,
            f"{row.out_minute:,.0f}",
            since,
        )
    return table


def moment_parts(moment: Moment, *, row_count: int | None = None) -> list[Table | str]:
    """Return what is shown of *moment*, with *row_count* rows for topics and groups together."""
    topics, groups = list(moment.topics), list(moment.groups)
    cut = ""
    if row_count is not None and len(topics) + len(groups) > row_count:
        for_groups = min(len(groups), max(row_count // 3, row_count - len(topics)))
        hidden = len(topics) + len(groups) - row_count
        topics, groups = topics[: row_count - for_groups], groups[:for_groups]
        cut = f"{hidden:,} more rows; --once shows all"
    parts: list[Table | str] = [
        f"{format_time(moment.wall_ms)[:19]}  {verdict(moment.view)}",
        "",
        nodes_table(moment.view),
        *problems(moment.view),
    ]
    if topics:
        parts += ["", topics_table(topics)]
    if groups:
        parts += ["", groups_table(groups, wall_ms=moment.wall_ms)]
    if moment.remarks or cut:
        parts += ["", *moment.remarks, *([cut] if cut else [])]
    return parts


def moment_json(moment: Moment) -> dict[str, Any]:
    """Return *moment* fit for JSON."""
    from broker.cli.status_table import status_json

    return {
        **status_json(moment.view),
        "wall_ms": moment.wall_ms,
        "topics": [
            {
                "topic": row.topic,
                "queues": row.queue_count,
                "kept": row.messages,
                "messages": row.taken,
                "size_bytes": row.size,
                "in_per_second": row.in_now,
                "in_per_second_minute": row.in_minute,
                "out_per_second_minute": row.out_minute,
                "oldest_ms": row.oldest_ms,
            }
            for row in moment.topics
        ],
        "groups": [
            {
                "group": row.group,
                "topic": row.topic,
                "lag": row.lag,
                "out_per_second_minute": row.out_minute,
                "committed_ms": row.committed_ms,
            }
            for row in moment.groups
        ],
        "remarks": list(moment.remarks),
    }
