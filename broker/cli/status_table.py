"""What ``dledger status`` shows of a group."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker.cli.ask import LEADER
from broker.cli.output import Table, format_bytes, join_words

if TYPE_CHECKING:
    from broker.cli.ask import GroupView, NodeAnswer
    from broker.cli.output import Cell
    from broker.protocol.bodies import GroupStatus

_NUMBERS = ("term", "commit", "end", "lag", "memory", "disk")


def status_table(view: GroupView) -> Table:
    """Return one row for each node; it fits a terminal of 90 columns."""
    table = Table(
        "node", "role", "term", "address", "commit", "end", "lag", "flush", "memory", "disk",
        right=_NUMBERS,
    )  # fmt: skip
    for answer in view.answers:
        if answer.status is None:
            table.add_row(answer.node_id, (silence_of(answer), "red"), "", answer.address)
            continue
        status = answer.status
        lag = lag_of(view, answer)
        table.add_row(
            status.node_id,
            _role_of(answer),
            str(status.term),
            answer.address,
            f"{status.commit_index:,}",
            f"{status.end_index:,}",
            "" if lag is None else f"{lag:,}",
            status.flush_disk_type.removesuffix("_FLUSH").lower(),
            format_bytes(status.rss_bytes),
            _disk_of(status),
        )
    return table


def silence_of(answer: NodeAnswer) -> str:
    """Return what stands for the role of a node that has not said how it is."""
    return "refuses" if answer.is_refusal else "unreachable"


def problems(view: GroupView) -> list[str]:
    """Return one line for each node that did not answer: which, and why."""
    return [
        f"{'' if answer.node_id == '?' else answer.node_id + ': '}{answer.problem}"
        for answer in view.answers
        if answer.problem
    ]


def found_by(view: GroupView) -> list[str]:
    """Return a line with the name servers by which the nodes were found, if any were."""
    if not view.name_servers:
        return []
    return [f"found by way of the name server {join_words(list(view.name_servers))}"]


def kept_lines(view: GroupView) -> list[str]:
    """Return from where on the nodes have the log, and which would take no messages."""
    kept: dict[str, list[str]] = {}
    refusing = []
    for answer in view.answers:
        status = answer.status
        if status is None:
            continue
        when = ""
        if status.begin_time_ms >= 0:
            moment = datetime.fromtimestamp(status.begin_time_ms / 1000, UTC).astimezone()
            when = f", the oldest message is of {moment:%Y-%m-%d %H:%M:%S}"
        text = f"the log from entry {status.begin_index:,} on{when}"
        kept.setdefault(text, []).append(status.node_id)
        if status.write_refusal:
            takes = (
                "takes no messages"
                if status.role.upper() == LEADER
                else "would take no messages as the leader"
            )
            refusing.append(f"{status.node_id} {takes}: {status.write_refusal}")
    return [f"{join_words(nodes)}: {text}" for text, nodes in kept.items()] + refusing


def lag_of(view: GroupView, answer: NodeAnswer) -> int | None:
    """Return how many entries the node lacks of the leader's log; None while nobody leads."""
    leader = view.leader
    if leader is None or leader.status is None or answer.status is None:
        return None
    return max(0, leader.status.end_index - answer.status.end_index)


def verdict(view: GroupView) -> str:
    """Return the one sentence that says how the group stands."""
    answering, count = len(view.answering), view.member_count
    leader = view.leader
    if leader is not None and leader.status is not None:
        head = f"{leader.node_id} leads {leader.status.group!r} in term {leader.status.term}"
        if not view.is_healthy:
            return f"{head}, but only {answering} of {count} nodes answer: it cannot commit"
        return f"{head}; {answering} of {count} nodes answer"
    if any(answer.is_refusal for answer in view.answers) and not answering:
        return "no node answers; what was asked refused, and says why"
    if not answering:
        return "no node answers; `dledger up` starts a group on this machine"
    return f"nobody leads; {answering} of {count} nodes answer"


def status_json(view: GroupView) -> dict[str, Any]:
    """Return what the table shows and all the nodes said, fit for JSON."""
    leader = view.leader
    return {
        "healthy": view.is_healthy,
        "leader": leader.node_id if leader else None,
        **({"name_servers": list(view.name_servers)} if view.name_servers else {}),
        "term": leader.status.term if leader and leader.status else None,
        "nodes": [
            {
                "address": answer.address,
                "node_id": answer.node_id,
                "reachable": answer.status is not None,
                "problem": answer.problem or None,
                "lag": lag_of(view, answer),
                **answer.details,
            }
            for answer in view.answers
        ],
    }


def _disk_of(status: GroupStatus) -> Cell:
    if status.disk_percent < 0:
        return ""
    text = f"{status.disk_percent:.0f} %"
    return (text, "red") if status.write_refusal else text


def _role_of(answer: NodeAnswer) -> Cell:
    assert answer.status is not None
    role = answer.status.role.lower()
    if not answer.status.is_ready:
        return (f"{role}, not ready", "yellow")
    return (role, "bold green") if answer.status.role.upper() == LEADER else role
