"""Who is in a group, who holds a queue's lock, and whether a group of members gets everything.

What a client asks is written as ``[client, question]``, and answered as ``[client, question,
answer]``; what happens to it is told with its id alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.history import NEMESIS, NEVER_NS, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event, Operation

KINDS = {
    "two-holders": "two members of a group believe at one moment that they hold the lock of one "
    "queue",
    "member-lost": "a member is not listed, though its heartbeat was acknowledged shortly before "
    "by the one node it was ever connected to, and neither has ended",
    "left-listed": "a member is listed that has left in peace",
    "unsettled": "healed, and within 40 s a group has other members than those that live, or they "
    "were not handed all that was acknowledged",
    "passed-over": "committed past a message that was handed to no member of the group",
    "order-lost": "a message is handed out for the first time after a later one of its key, in a "
    "group that reads in order",
}

HEARD_NS = 5_000_000_000  # after which a client may count as silent; it sends more often
# Heartbeats of our own client are not written down: one may lie at a node that stands still, be
# taken in after its member has left, and count until that has been silent for long enough.
UNHEARD_NS = 20_000_000_000

Key = tuple[str, int]  # group, queue


def check_membership(events: list[Event]) -> Iterator[Anomaly]:
    """Yield what is wrong with groups whose members come and go."""
    yield from _two_holders(events)
    lists = [each for each in operations(events, "list") if each.type == "ok"]
    beats = operations(events, "beat")
    quits = operations(events, "quit")
    yield from _lost(events, lists, beats, quits)
    yield from _left(lists, beats, quits)
    for event in events:
        if event.f == "settled" and event.err is not None:
            yield Anomaly("unsettled", event.err, (event.i,))
    yield from _passed_over(events)
    yield from _order(events)


def _two_holders(events: list[Event]) -> Iterator[Anomaly]:
    holders: dict[Key, dict[str, tuple[int, int]]] = {}  # client: until when, and the line
    for event in events:
        if event.g is None:
            continue
        if event.f == "gone":
            for held in holders.values():
                held.pop(event.v, None)
        elif event.f == "unlock" and event.type == "invoke":
            client, queues = event.v
            for queue in queues:
                holders.get((event.g, queue), {}).pop(client, None)
        elif event.f == "lock" and event.type == "ok":
            client, asked, answered = event.v
            for queue in asked:
                held = holders.setdefault((event.g, queue), {})
                held.pop(client, None)
                if queue not in answered:
                    continue
                for other, (until, line) in sorted(held.items()):
                    if until > event.t:
                        yield Anomaly(
                            "two-holders",
                            f"group {event.g}, queue {queue}: {client} is given the lock, which "
                            f"{other} has for another {(until - event.t) / 1e9:.3f} s",
                            (line, event.i),
                            queue,
                            event.p,
                        )
                held[client] = (event.t + (event.o or 0) * 1_000_000, event.i)


def _lost(
    events: list[Event], lists: list[Operation], beats: list[Operation], quits: list[Operation]
) -> Iterator[Anomaly]:
    ends: dict[str, int] = {}  # client: from when on it may be missing
    exits: dict[str, list[int]] = {}  # node: when its process ended
    for event in events:
        if event.f in ("gone", "cut") and event.p != NEMESIS:
            ends.setdefault(event.v, event.t)
        elif event.f == "exit" and event.node is not None:
            exits.setdefault(event.node, []).append(event.t)
    for quit_ in quits:
        client = quit_.v[0]
        ends[client] = min(ends.get(client, NEVER_NS), quit_.invoked)
    nodes: dict[str, set[str | None]] = {}  # client: all that it ever asked
    begins: dict[str, int] = {}
    acked: dict[str, list[Operation]] = {}
    for beat in beats:
        client = beat.v[0]
        nodes.setdefault(client, set()).add(beat.node)
        begins.setdefault(client, beat.invoked)
        if beat.type == "ok":
            acked.setdefault(client, []).append(beat)
    for client, mine in sorted(acked.items()):
        if len(nodes[client]) != 1:
            continue
        node = mine[0].node
        end = ends.get(client, NEVER_NS)
        end = min([end, *(t for t in exits.get(node or "", ()) if t >= begins[client])])
        for listed in lists:
            if listed.g != mine[0].g or listed.completed >= end or client in listed.v[2]:
                continue
            before = [
                beat
                for beat in mine
                if beat.completed <= listed.invoked and listed.completed - beat.invoked < HEARD_NS
            ]
            if before:
                yield Anomaly(
                    "member-lost",
                    f"group {listed.g}: {client} is not listed, though {node} has acknowledged "
                    f"its heartbeat {(listed.invoked - before[-1].completed) / 1e9:.3f} s before",
                    (*before[-1].lines, *listed.lines),
                    None,
                    listed.p,
                )


def _left(
    lists: list[Operation], beats: list[Operation], quits: list[Operation]
) -> Iterator[Anomaly]:
    heard = {beat.v[0] for beat in beats}
    for quit_ in quits:
        client = quit_.v[0]
        gone = quit_.completed + (0 if client in heard else UNHEARD_NS)
        if quit_.type != "ok" or any(
            beat.v[0] == client and (beat.type == "info" or beat.completed > quit_.invoked)
            for beat in beats
        ):
            continue
        for listed in lists:
            if listed.g == quit_.g and listed.invoked > gone and client in listed.v[2]:
                yield Anomaly(
                    "left-listed",
                    f"group {quit_.g}: {client} is listed, and has left",
                    (*quit_.lines, *listed.lines),
                    None,
                    listed.p,
                )
                break


def _passed_over(events: list[Event]) -> Iterator[Anomaly]:
    got: dict[tuple[str, str, int], set[int]] = {}  # group, topic, queue
    for event in events:
        if event.f == "got" and event.g is not None and event.k is not None:
            got.setdefault((event.g, event.v[0], event.k), set()).add(event.v[1])
    highest: dict[tuple[str, str, int], tuple[int, Operation]] = {}
    for commit in operations(events, "advance"):
        if commit.type != "ok" or commit.g is None:
            continue
        topic, queue, offset = commit.v[1]
        key = (commit.g, topic, queue)
        if offset > highest.get(key, (0,))[0]:
            highest[key] = (offset, commit)
    for key, (upto, commit) in sorted(highest.items(), key=lambda item: item[0]):
        missing = sorted(set(range(upto)) - got.get(key, set()))
        if missing:
            group, topic, queue = key
            yield Anomaly(
                "passed-over",
                f"group {group}, topic {topic}, queue {queue}: {upto} is committed, never handed "
                f"out: {', '.join(map(str, missing[:5]))}{' ...' if len(missing) > 5 else ''}",
                commit.lines,
                queue,
                commit.p,
            )


def _order(events: list[Event]) -> Iterator[Anomaly]:
    """Look at groups that have ever locked a queue, and at what was sent without a delay."""
    ordered = {event.g for event in events if event.f == "lock"}
    sends = {send.v: send for send in operations(events, "issue") if send.type == "ok"}
    latest: dict[tuple[str | None, str], tuple[Operation, Event]] = {}  # group, key
    seen: set[tuple[str | None, str]] = set()  # group, value
    for event in events:
        if event.f != "got" or event.g not in ordered:
            continue
        value = event.v[2]
        send = sends.get(value)
        if send is None or send.o or (event.g, value) in seen:
            continue
        seen.add((event.g, value))
        key = (event.g, str(value).partition("-")[0])
        later = latest.get(key)
        if later is not None and send.completed < later[0].invoked:
            yield Anomaly(
                "order-lost",
                f"group {event.g}: {value} is handed out after {later[0].v}, and was "
                "acknowledged before that was sent",
                (*send.lines, *later[0].lines, later[1].i, event.i),
                event.k,
                event.p,
            )
        if later is None or send.invoked > later[0].invoked:
            latest[key] = (send, event)
