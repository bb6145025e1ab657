"""What `dledger doctor` says of a running group, from what its nodes answered.

Limits are reckoned from what a group on ordinary disks does: an entry carries up to thousands of
messages, so that a healthy follower lags a few entries at any load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli.ask import LEADER
from broker.cli.checks import Check, Level
from broker.cli.output import format_bytes, join_words, plural
from broker.cli.status_table import lag_of
from broker.cli.values import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.ask import GroupView, NodeAnswer
    from broker.protocol.bodies import GroupStatus

LAG_MAX = 1_000  # entries
UNDISPATCHED_MAX = 1_000  # entries
SYNC_SECONDS_MAX = 0.1  # a sync that takes longer costs every sender that much
DISK_WARN_PERCENT = 75.0  # where retention begins to clean, as in RocketMQ
DISK_FAIL_PERCENT = 90.0  # where writes are refused
SKEW_SECONDS_MAX = 0.5
HELD_PULLS_MAX = 80_000  # of the 100,000 a node holds before it answers at once


def check_group(view: GroupView) -> list[Check]:
    """Return what there is to say of the group as a whole and of every node of it."""
    found = [_reachable(view), _leader(view)]
    statuses = [answer.status for answer in view.answers if answer.status]
    if statuses:
        found += [_terms(statuses), _connections(view), _versions(statuses), _flush(statuses)]
    if len(statuses) > 1:
        found.append(_clocks(view))
    for answer in view.answers:
        if answer.status is not None:
            found += _node(view, answer, answer.status)
    return found


def _reachable(view: GroupView) -> Check:
    count, answering = view.member_count, len(view.answering)
    silent = [f"{answer.node_id}: {answer.problem}" for answer in view.answers if answer.problem]
    if not silent:
        return Check(name="nodes", level=Level.OK, text=f"all {count} answer")
    has_quorum = 2 * answering > count
    remedy = "start what does not run; the end of its log says why it ended"
    if all(answer.is_refusal for answer in view.answers if answer.problem):
        remedy = "do what the answer says"
    text = f"{answering} of {plural(count, 'node')} answer; {'; '.join(silent)}"
    return Check(
        name="nodes",
        level=Level.WARN if has_quorum else Level.FAIL,
        text=text,
        remedy=remedy + ("" if has_quorum else ". Without a majority nothing is committed"),
    )


def _leader(view: GroupView) -> Check:
    leaders = [
        answer.status
        for answer in view.answers
        if answer.status and answer.status.role.upper() == LEADER
    ]
    if not leaders:
        return Check(
            name="leader",
            level=Level.FAIL,
            text="nobody leads",
            remedy="a majority has to run and reach each other; docs/operations.md, Nobody leads",
        )
    newest = max(leaders, key=lambda status: status.term)
    if not newest.is_ready:
        return Check(
            name="leader",
            level=Level.FAIL,
            text=f"{newest.node_id} leads in term {newest.term} and does not serve yet",
            remedy="it takes in what its predecessors left; ask again in some seconds",
        )
    if len(leaders) > 1:
        names = join_words([f"{status.node_id} (term {status.term})" for status in leaders])
        return Check(
            name="leader",
            level=Level.WARN,
            text=f"{names} each say they lead; the latest term counts",
            remedy="the older one is cut off or frozen and hears of it late; ask again",
        )
    return Check(
        name="leader", level=Level.OK, text=f"{newest.node_id} leads and serves, term {newest.term}"
    )


def _terms(statuses: list[GroupStatus]) -> Check:
    terms = {status.term for status in statuses}
    if len(terms) == 1:
        return Check(name="terms", level=Level.OK, text=f"all are in term {terms.pop()}")
    text = ", ".join(f"{status.node_id} {status.term}" for status in statuses)
    return Check(
        name="terms",
        level=Level.WARN,
        text=text,
        remedy="an election is going on, or a node cannot reach the others; ask again",
    )


def _connections(view: GroupView) -> Check:
    answering = {answer.node_id for answer in view.answering}
    missing = [
        f"{answer.node_id} to {member.node_id}"
        for answer in view.answers
        if answer.status
        for member in answer.status.members
        if not member.is_connected and member.node_id in answering
    ]
    if not missing:
        return Check(name="peers", level=Level.OK, text="all that answer are connected")
    return Check(
        name="peers",
        level=Level.WARN,
        text=f"no connection from {join_words(missing)}",
        remedy="look for 'refused by' in the nodes' logs (configurations differ), and at the "
        "network on the peer ports",
    )


def _versions(statuses: list[GroupStatus]) -> Check:
    versions = {status.version for status in statuses}
    if len(versions) == 1:
        return Check(name="versions", level=Level.OK, text=f"all run {versions.pop()}")
    text = ", ".join(f"{status.node_id} {status.version}" for status in statuses)
    return Check(
        name="versions", level=Level.WARN, text=text, remedy="finish the upgrade, node by node"
    )


def _flush(statuses: list[GroupStatus]) -> Check:
    modes = {status.flush_disk_type for status in statuses}
    if len(modes) > 1:
        text = ", ".join(f"{status.node_id} {status.flush_disk_type}" for status in statuses)
        return Check(
            name="flush",
            level=Level.WARN,
            text=text,
            remedy="what an acknowledgement stands on changes with the leader; set "
            "flush_disk_type alike on every node",
        )
    mode = modes.pop()
    means = "on their disks" if mode == "SYNC_FLUSH" else "in their memory"
    return Check(
        name="flush",
        level=Level.OK,
        text=f"{mode}: nodes have {means} what they acknowledge, unless a topic says otherwise",
    )


def _clocks(view: GroupView) -> Check:
    skews = {
        answer.node_id: answer.clock_skew_seconds
        for answer in view.answers
        if answer.clock_skew_seconds is not None
    }
    if len(skews) < 2:
        return Check(
            name="clocks", level=Level.OK, text="not compared: nodes of this version tell no time"
        )
    spread = max(skews.values()) - min(skews.values())
    if spread <= SKEW_SECONDS_MAX:
        return Check(
            name="clocks", level=Level.OK, text=f"within {format_duration(spread)} of each other"
        )
    text = ", ".join(f"{name} {skew:+.1f} s" for name, skew in skews.items())
    return Check(
        name="clocks",
        level=Level.WARN,
        text=f"{format_duration(spread)} apart (beside this machine: {text})",
        remedy="run a time service (chrony, systemd-timesyncd): store times, look-up by time and "
        "retention by time follow the leader's clock",
    )


def _node(view: GroupView, answer: NodeAnswer, status: GroupStatus) -> Iterator[Check]:
    lag = lag_of(view, answer)
    node = status.node_id
    if lag is not None and lag > LAG_MAX:
        yield Check(
            name="lag",
            subject=node,
            level=Level.WARN,
            text=f"{lag:,} entries behind the leader",
            remedy="it was away, or its disk or network is slower than the others'; watch whether "
            "it catches up: dledger status --watch",
        )
    elif lag is not None:
        yield Check(name="lag", subject=node, level=Level.OK, text=plural(lag, "entry"))
    undispatched = status.commit_index - status.dispatched_index
    if undispatched > UNDISPATCHED_MAX:
        yield Check(
            name="dispatch",
            subject=node,
            level=Level.WARN,
            text=f"{undispatched:,} committed entries are not in the consume queues yet",
            remedy="it catches up after a start; if it does not, look for a full disk in its log",
        )
    yield _sync(status)
    if (disk := _disk(status)) is not None:
        yield disk
    if status.write_refusal:
        yield Check(
            name="writes",
            subject=node,
            level=Level.FAIL,
            text=f"refused: {status.write_refusal}",
            remedy="free some room, or let retention keep less",
        )
    yield Check(
        name="clients",
        subject=node,
        level=Level.WARN if status.held_pull_count > HELD_PULLS_MAX else Level.OK,
        text=f"{plural(status.connection_count, 'connection')}, "
        f"{plural(status.held_pull_count, 'held pull')}, "
        f"{format_bytes(status.rss_bytes)} of memory",
        remedy="at pulls_held_max further pulls are refused as SYSTEM_BUSY",
    )


def _sync(status: GroupStatus) -> Check:
    seconds = status.sync_seconds_last
    is_slow = seconds > SYNC_SECONDS_MAX
    return Check(
        name="last sync",
        subject=status.node_id,
        level=Level.WARN if is_slow else Level.OK,
        text=format_duration(seconds),
        remedy="the disk is slow or shared; every acknowledgement waits for it. Measure it: "
        "dledger doctor -c node.toml"
        if is_slow
        else "",
    )


def _disk(status: GroupStatus) -> Check | None:
    percent = status.disk_percent
    if percent < 0:  # nodes of 0.1 do not tell
        return None
    level = Level.OK
    if percent >= DISK_WARN_PERCENT:
        level = Level.FAIL if percent >= DISK_FAIL_PERCENT else Level.WARN
    return Check(
        name="disk",
        subject=status.node_id,
        level=level,
        text=f"{percent:.0f} % used, {format_bytes(status.disk_available)} left",
        remedy="let retention keep less (file_reserved_hours, log_size_max), or give it a larger "
        "disk",
    )
