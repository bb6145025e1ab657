"""The definitions of the anomalies once more: every pair is looked at, and nothing is clever.

`naive` returns (kind, queue, last line that shows it) for all kinds but those of the group itself.
"""

from __future__ import annotations

from jepsen_like.history import NEMESIS, Event

READS = ("poll", "drain", "dump")
Found = set[tuple[str, int | None, int]]


class Op:
    """A question and its answer."""

    def __init__(self, asked: Event, events: list[Event]) -> None:
        self.asked = asked
        self.answer = None
        for event in events[asked.i + 1 :]:
            if event.p == asked.p and event.f == asked.f:
                self.answer = event if event.type != "invoke" else None
                break
        self.is_ok = self.answer is not None and self.answer.type == "ok"
        self.o = self.answer.o if self.is_ok else None
        self.v = asked.v
        self.k = asked.k
        self.p = asked.p

    def is_before(self, other: Op) -> bool:
        return self.answer.t < other.asked.t


def ops(events: list[Event], f: str) -> list[Op]:
    return [Op(event, events) for event in events if event.f == f and event.type == "invoke"]


def naive(events: list[Event], *, has_retention: bool) -> Found:
    sends = ops(events, "send")
    acked = [send for send in sends if send.is_ok]
    placed = [send for send in acked if send.o is not None]
    shown = [
        (event.k, offset, value, event.i)
        for event in events
        if event.f in READS and event.type == "ok"
        for offset, value in event.v
    ]
    first = {event.k: event.o for event in events if event.f == "drain"}
    found: Found = set()
    found |= places(sends, placed, shown)
    found |= lost(events, acked, shown, first, has_retention=has_retention)
    for send in placed:
        for other in placed:
            if other is send or other.k != send.k or other.o < send.o:
                continue
            if other.p == send.p and other.asked.i < send.asked.i:
                found.add(("nonmonotonic-send", send.k, send.answer.i))
            if other.p != send.p and other.is_before(send):
                found.add(("realtime-order", send.k, send.answer.i))
    found |= ends(events, sends, placed)
    found |= begins(events)
    everywhere = dict(first)
    for event in events:
        if event.f == "dump" and event.v:
            everywhere[event.k] = max(everywhere.get(event.k, 0), event.v[0][0])
        elif event.f == "begins":
            for queue, offset in event.v:
                everywhere[queue] = max(everywhere.get(queue, 0), offset)
    found |= polls(events, everywhere, has_retention=has_retention)
    found |= groups(events, everywhere, has_retention=has_retention)
    return found


def begins(events: list[Event]) -> Found:
    """Where a member begins below what its group was told to be committed before."""
    return {
        ("came-again", queue, event.i)
        for event in events
        if (event.f, event.type) == ("assign", "ok") and event.g is not None
        for queue, offset in event.v
        for earlier in events[: event.i]
        if (earlier.f, earlier.type, earlier.g) == ("commit", "ok", event.g)
        for committed_queue, committed in earlier.v
        if committed_queue == queue and committed > offset
    }


def places(sends, placed, shown) -> Found:
    found: Found = set()

    def since(place=None, value=None) -> int:
        """First line that shows it."""
        return min(
            line
            for k, o, v, line in shown
            if (place is None or (k, o) == place) and (value is None or v == value)
        )

    for place in {(k, o) for k, o, _, _ in shown}:
        values = {v for k, o, v, _ in shown if (k, o) == place}
        if len(values) > 1:
            last = max(since(place, value) for value in values)
            found.add(("inconsistent-offsets", place[0], last))
    for value in {v for _, _, v, _ in shown}:
        at = {(k, o) for k, o, v, _ in shown if v == value}
        last = max(since(place, value) for place in at)
        queue = next(k for k, _, v, _ in shown if v == value)
        mine = [send for send in sends if send.v == value]
        if len(at) > 1:
            found.add(("duplicate", queue, last))
        if not mine:
            found.add(("phantom", queue, last))
        elif mine[0].answer is not None and mine[0].answer.type == "fail":
            found.add(("g1a", queue, last))
    for number, send in enumerate(placed):
        others = {v for k, o, v, _ in shown if (k, o) == (send.k, send.o)}
        if others and send.v not in others:
            last = max(since((send.k, send.o), value) for value in others)
            found.add(("inconsistent-offsets", send.k, last))
        if any((other.k, other.o) == (send.k, send.o) for other in placed[:number]):
            found.add(("inconsistent-offsets", send.k, send.answer.i))
    return found


def lost(events, acked, shown, first, *, has_retention) -> Found:
    found: Found = set()
    nodes = {event.node for event in events if event.f in ("dump", "dumped")}
    for send in acked:
        k, o, line = send.k, send.o, send.answer.i

        def must_be(begin, o=o) -> bool:
            return not has_retention or (o is not None and begin is not None and o >= begin)

        polled = [
            offset for e in events if (e.f, e.type, e.k) == ("poll", "ok", k) for offset, _ in e.v
        ]
        is_lost = (
            all(v != send.v for _, _, v, _ in shown)
            and (o is None or o <= max(polled, default=-1))
            and must_be(first.get(k))
        )
        if is_lost:
            found.add(("lost-write", k, line))
        drained = [v for e in events if e.f == "drain" and e.k == k for _, v in e.v]
        if not is_lost and k in first and must_be(first[k]) and send.v not in drained:
            found.add(("unseen", k, line))
        for node in nodes:
            pairs = [
                pair for e in events if (e.f, e.node, e.k) == ("dump", node, k) for pair in e.v
            ]
            has_dump = any((e.f, e.node, e.k) == ("dump", node, k) for e in events)
            begin = min((offset for offset, _ in pairs), default=0) if has_dump else None
            is_there = any(v == send.v if o is None else offset == o for offset, v in pairs)
            if must_be(begin) and not is_there:
                found.add(("lost-on-node", k, line))
    return found


def ends(events, sends, placed) -> Found:
    found: Found = set()
    asked = [end for end in ops(events, "end") if end.is_ok and end.o is not None]
    for end in asked:
        line = end.answer.i
        if any(s.k == end.k and s.is_before(end) and s.o >= end.o for s in placed):
            found.add(("stale-read", end.k, line))
        if any(e.k == end.k and e.is_before(end) and e.o > end.o for e in asked):
            found.add(("stale-read", end.k, line))
        begun = [send for send in sends if send.k == end.k and send.asked.t <= end.answer.t]
        if end.o > len(begun):
            found.add(("future-read", end.k, line))
    return found


def polls(events, first, *, has_retention) -> Found:
    found: Found = set()
    for process in {event.p for event in events if event.f == "poll"}:
        for queue in first:
            wanted = None
            for event in events:
                if event.p != process or event.type != "ok":
                    continue
                if event.f == "assign":
                    wanted = dict(map(tuple, event.v)).get(queue, wanted)
                elif event.f == "poll" and event.k == queue:
                    for number, (offset, _) in enumerate(event.v):
                        within = "int-" if number else ""
                        if wanted is not None and offset < wanted:
                            found.add((f"{within}nonmonotonic-poll", queue, event.i))
                        elif wanted is None or offset == wanted:
                            pass
                        elif not has_retention or offset > first[queue]:
                            found.add((f"{within}poll-skip", queue, event.i))
                        wanted = offset + 1
    return found


def groups(events, first, *, has_retention) -> Found:
    found: Found = set()
    answers = [a for a in ops(events, "committed") if a.is_ok and a.o is not None]
    commits = [c for c in ops(events, "commit") if c.is_ok]
    for answer in answers:
        g, k = answer.asked.g, answer.k
        before = [a.o for a in answers if (a.asked.g, a.k) == (g, k) and a.is_before(answer)]
        before += [
            offset
            for c in commits
            if c.asked.g == g and c.is_before(answer)
            for queue, offset in c.answer.v
            if queue == k
        ]
        if any(offset > answer.o for offset in before):
            found.add(("commit-regress", k, answer.answer.i))
    told = [(e.g, e.k, e.o, e.i) for e in events if (e.f, e.type) == ("committed", "ok")]
    told += [
        (e.g, queue, offset, e.i)
        for e in events
        if e.f == "assign" and e.g is not None
        for queue, offset in e.v
    ]
    told = [each for each in told if each[2] is not None]
    for g, k, offset, line in told:
        handed = [
            o
            for e in events[:line]
            if (e.f, e.g, e.k, e.type) == ("poll", g, k, "ok")
            for o, _ in e.v
        ]
        if offset > max(handed, default=-1) + 1 and (not has_retention or offset > first[k]):
            found.add(("commit-ahead-of-delivery", k, line))
    for g, k in {(g, k) for g, k, _, _ in told}:
        mine = [(offset, -line) for g2, k2, offset, line in told if (g2, k2) == (g, k)]
        upto, line = max(mine)
        handed = {
            o for e in events if (e.f, e.g, e.k, e.type) == ("poll", g, k, "ok") for o, _ in e.v
        }
        begin = first[k] if has_retention else 0
        behind = max(handed, default=-1) + 1
        if any(o not in handed for o in range(begin, min(upto, behind))):
            found.add(("group-loss", k, -line))
    return found


def leaders(events) -> Found:
    found: Found = set()
    elected = [e for e in events if e.f == "leader" and e.p == NEMESIS]
    for at, event in enumerate(elected):
        same = [other for other in elected[:at] if other.o == event.o]
        if same and same[0].node != event.node:
            found.add(("two-leaders", None, event.i))
    return found
