"""Small histories written by hand, and one edit for each anomaly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers import delivery, membership, picking, promises
from jepsen_like.history import NEMESIS, Event, History

if TYPE_CHECKING:
    from collections.abc import Callable

S = 1_000_000_000


class Lines:
    """A history written by hand: ten lines a second unless told otherwise."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, p, type, f, **fields) -> None:
        t = fields.pop("t", len(self.events) * S // 10)
        self.events.append(Event(len(self.events), t, p, type, f, **fields))

    def note(self, f, **fields) -> None:
        self.add(NEMESIS, "info", f, **fields)

    def send(self, p, value, offset, *, type="ok", queue=0) -> None:
        self.add(p, "invoke", "send", k=queue, v=value)
        self.add(p, type, "send", k=queue, v=value, o=offset if type == "ok" else None)

    def find(self, f: str, type: str = "ok", nth: int = 0) -> Event:
        return [event for event in self.events if (event.f, event.type) == (f, type)][nth]

    def history(self) -> History:
        """The lines numbered anew, as an edit may have taken some out."""
        for number, event in enumerate(self.events):
            event.i = number
        return History(lambda: 0.0, self.events)


def whole() -> Lines:
    """Sends of every outcome, a reader of a group, questions, a drain, two replicas."""
    lines = Lines()
    lines.note("setup", v={"members": ["n1", "n2"], "ok_sends_min": 3})
    lines.note("start", node="n1")
    lines.note("start", node="n2")
    lines.note("leader", node="n1", o=1)
    for number in range(3):
        lines.send(1, f"c-{number}", number)
    lines.add(2, "invoke", "end", k=0)
    lines.add(2, "ok", "end", k=0, o=3)
    lines.send(1, "c-3", None, type="fail")
    lines.send(3, "c-4", 3, type="info")
    lines.send(31, "c-5", None, type="info")
    lines.note("leader", node="n2", o=2)
    lines.add(4, "ok", "assign", v=[[0, 0]], g="g1")
    lines.add(4, "ok", "poll", k=0, v=[[0, "c-0"], [1, "c-1"]], g="g1")
    lines.add(4, "invoke", "commit", v=[[0, 2]], g="g1")
    lines.add(4, "ok", "commit", v=[[0, 2]], g="g1")
    lines.add(4, "ok", "poll", k=0, v=[[2, "c-2"], [3, "c-4"]], g="g1")
    lines.add(5, "invoke", "committed", k=0, g="g1")
    lines.add(5, "ok", "committed", k=0, g="g1", o=2)
    administrate(lines)
    lines.add(4, "ok", "left", k=0, o=2, g="g1")
    lines.add(4, "ok", "pause", k=0)
    lines.add(4, "ok", "resume", k=0)
    lines.add(4, "ok", "assign", v=[[0, 2]])
    lines.add(4, "ok", "poll", k=0, v=[[2, "c-2"], [3, "c-4"]], g="g1")
    lines.add(4, "ok", "left", k=0, o=2, g="g1")
    lines.add(4, "invoke", "commit", v=[[0, 2]], g="g1")
    lines.add(4, "ok", "commit", v=[[0, 2]], g="g1")
    lines.add(41, "ok", "assign", v=[[0, 2]], g="g1")
    lines.note("healed")
    lines.note("recovered")
    everything = [[0, "c-0"], [1, "c-1"], [2, "c-2"], [3, "c-4"]]
    lines.add(6, "ok", "drain", k=0, v=list(everything), o=0)
    lines.note("drained")
    for node in ("n1", "n2"):
        lines.add(7, "ok", "dump", k=0, v=list(everything), o=0, node=node)
        lines.note("dumped", node=node)
        lines.note("listed", node=node, v={"t": 0, "s0": 3})
        lines.note("kept", node=node, v={"k0": "2"})
    return lines


RETRY, DEAD = "%RETRY%w-group", "%DLQ%w-group"
# Offset, value, count, and milliseconds when it was stored.
COPIES = {
    "w": [(0, "x-1-f9", 0, 105), (1, "x-2-f0", 0, 305), (2, "d-1-f0", 0, 1710)],
    RETRY: [(0, "x-1-f9", 1, 2930), (1, "x-1-f9", 2, 4000)],
    DEAD: [(0, "x-1-f9", 3, 4010)],
}


def members_at_work() -> Lines:
    """Two members of one group, one of which leaves; a lock, a delay, and a dead letter."""
    lines = Lines()
    for node in ("n1", "n2", "n3"):
        lines.note("start", node=node, t=0)
    lines.note("leader", node="n1", o=1, t=0)
    ms = S // 1000
    group = {"g": "w-group"}

    def ask(p, f, t, value, answer=None, **fields) -> None:
        lines.add(p, "invoke", f, v=value, t=t * ms, **fields)
        found = [*value, answer] if answer is not None else value
        lines.add(p, "ok", f, v=found, t=(t + 10) * ms, **fields)

    for client, node in (("a", "n1"), ("b", "n2")):
        ask(20, "beat", 0, [client, None], node=node, **group)
    ask(21, "list", 20, ["a", None], ["a", "b"], **group)
    ask(22, "issue", 100, "x-1-f9", k=0, o=0)
    ask(22, "issue", 300, "x-2-f0", k=0, o=0)
    ask(23, "issue", 700, "d-1-f0", k=0, o=1000)
    ask(24, "lock", 750, ["a", [0]], [0], o=500, **group)
    for offset, value, times, _ in COPIES["w"]:
        v = ["w", offset, value, times]
        lines.add(25, "ok", "got", k=0, v=v, t=1800 * ms, **group)
    ask(26, "back", 1920, ["a", ["x-1-f9", 0, 1000]], **group)
    ask(27, "lock", 2300, ["b", [0]], [0], o=500, **group)
    ask(28, "advance", 2320, ["a", ["w", 0, 3]], **group)
    ask(28, "stand", 2340, ["b", ["w", 0]], [3], **group)
    ask(20, "quit", 2360, ["a", None], **group)
    ask(21, "list", 2380, ["b", None], ["b"], **group)
    for times, at in ((1, 2950), (2, 4000)):
        v = [RETRY, times - 1, "x-1-f9", times]
        lines.add(25, "ok", "got", k=0, v=v, t=at * ms, **group)
        delay_ms = 1000 if times == 1 else 0
        ask(26, "back", at, ["b", ["x-1-f9", times, delay_ms]], **group)
    ask(20, "beat", 4100, ["b", None], node="n2", **group)
    ask(21, "list", 4200, ["b", None], ["b"], **group)
    lines.note("settled", t=20 * S)
    for topic, copies in COPIES.items():
        v = [topic, [list(copy) for copy in copies]]
        lines.add(7, "ok", "copies", k=0, v=v, node="n1", t=20 * S)
    return lines


def administrate(lines: Lines) -> None:
    """A topic that is made, filled, deleted and made again; a group that is put elsewhere."""

    def ask(p, f, *, asked=None, **fields) -> None:
        lines.add(p, "invoke", f, **({"v": fields["v"]} if asked is None else asked))
        lines.add(p, "ok", f, **fields)

    ask(10, "topic", v=["s0", "create", 1])
    ask(10, "put", v=["s0", "side-1"])
    ask(10, "look", v=["s0", ["side-1"]], asked={"v": ["s0", []]})
    ask(10, "topic", v=["s0", "delete", None])
    ask(10, "topic", v=["s0", "create", 2])
    ask(10, "put", v=["s0", "side-2"])
    ask(10, "look", v=["s0", ["side-2"]], asked={"v": ["s0", []]})
    ask(10, "topic", v=["s0", "alter", 3])
    for value in ("1", None, "2"):
        ask(13, "setting", v=["k0", value])
    group = {"g": "marked", "k": 0}
    ask(11, "reset", v=5, o=1, **group, asked={**group, "v": 5})
    ask(12, "place", v=1, o=5, **group, asked=group)
    ask(12, "mark", v=[40, 1], **group, asked={**group, "v": [40, 1]})
    ask(12, "place", v=1, o=40, **group, asked=group)
    ask(11, "reset", v=2, o=2, **group, asked={**group, "v": 2})
    ask(12, "place", v=2, o=2, **group, asked=group)


def picked() -> Lines:
    """Two readers of one tag, one after the other; every fourth value has it."""
    lines = Lines()
    everything = []
    for number in range(12):
        lines.send(1, f"c-{number}", number)
        everything.append([number, f"c-{number}"])
    lines.add(2, "ok", "assign", v=[[0, 0]])
    lines.add(2, "ok", "poll", k=0, v=list(everything))
    lines.add(4, "ok", "want", v=[[0, 0]], g="f")
    lines.add(4, "ok", "pick", k=0, v=[[0, "c-0"]], g="f")
    lines.add(4, "ok", "pick", k=0, v=[[4, "c-4"]], g="f")
    lines.add(5, "ok", "want", v=[[0, 3]], g="f")
    lines.add(5, "ok", "pick", k=0, v=[[4, "c-4"]], g="f")
    lines.add(5, "ok", "pick", k=0, v=[[8, "c-8"]], g="f")
    lines.add(6, "ok", "want", v=[[0, 12]], g="f")
    return lines


def cut_short() -> Lines:
    """Two readers and a queue that nobody reads; it ends before a drain."""
    lines = Lines()
    for number in range(4):
        lines.send(1, f"c-{number}", number)
    lines.send(3, "c-9", None, type="info")
    lines.send(1, "y-0", 5, queue=1)
    lines.send(1, "y-1", 6, queue=1)
    lines.send(8, "y-2", 7, queue=1)
    for reader in (4, 5):
        lines.add(reader, "ok", "assign", v=[[0, 0]])
        lines.add(reader, "ok", "poll", k=0, v=[[0, "c-0"], [1, "c-1"], [2, "c-2"]])
        lines.add(reader, "ok", "poll", k=0, v=[[3, "c-3"]])
    return lines


def busy() -> Lines:
    """25 s of ten sends a second to two queues, all read at once, by a group of three."""
    lines = Lines()
    for node in ("n1", "n2", "n3"):
        lines.note("start", node=node, t=0)
    lines.add(2, "ok", "assign", v=[[0, 0], [1, 0]], t=0)
    for number in range(250):
        t, queue, offset = number * S // 10, number % 2, number // 2
        value = f"c-{number}"
        lines.add(1, "invoke", "send", k=queue, v=value, t=t)
        lines.add(1, "ok", "send", k=queue, v=value, o=offset, t=t + S // 50)
        lines.add(2, "ok", "poll", k=queue, v=[[offset, value]], t=t + S // 25)
    return lines


def _history_for(kind: str) -> Callable[[], Lines]:
    if kind in membership.KINDS or kind in delivery.KINDS:
        return members_at_work
    if kind in picking.KINDS:
        return picked
    if kind == "stale-poll":
        return busy
    return cut_short if kind in _OF_CUT_SHORT else whole


def one_edit(kind: str) -> Lines:
    """A good history with one edit that raises *kind* and nothing else."""
    lines = _history_for(kind)()
    find = lines.find
    match kind:
        case "lost-write":
            find("send", "info").type = "ok"
        case "unseen":
            find("drain").v.pop(1)
        case "lost-on-node":
            find("dump", nth=1).v.pop(1)
        case "inconsistent-offsets":
            find("dump", nth=1).v[3] = [3, "c-5"]
        case "duplicate":
            find("dump").v.append([4, "c-4"])
        case "g1a":
            find("send", "info").type = "fail"
        case "phantom":
            find("drain").v.append([4, "c-99"])
        case "nonmonotonic-send":
            find("send", nth=5).o = 4
        case "realtime-order":
            find("send", nth=6).o = 4
        case "int-poll-skip":
            find("poll").v.pop(1)
        case "int-nonmonotonic-poll":
            find("poll").v.insert(1, [0, "c-0"])
        case "poll-skip":
            find("poll").v.pop()
        case "nonmonotonic-poll":
            find("poll", nth=1).v.insert(0, [2, "c-2"])
        case "stale-read":
            find("end").o = 2
        case "future-read":
            find("end").o = 9
        case "commit-regress":
            find("committed").o = 1
        case "commit-ahead-of-delivery":
            find("committed").o = 5
        case "group-loss":
            find("poll").g = None
        case "left-lost":
            find("assign", nth=2).v = [[0, 3]]
        case "came-again":
            find("assign", nth=2).v = [[0, 1]]
        case "paused-poll":
            lines.events.remove(find("resume"))
        case "key-order":
            # Of two processes at the same time, which is all right for messages without a key.
            lines.events.insert(0, Event(0, 0, 71, "invoke", "send", k=1, v="o-a-1"))
            lines.events.insert(1, Event(0, 0, 72, "invoke", "send", k=1, v="o-a-2"))
            lines.events.insert(2, Event(0, 0, 71, "ok", "send", k=1, v="o-a-1", o=1))
            lines.events.insert(3, Event(0, 0, 72, "ok", "send", k=1, v="o-a-2", o=0))
            everything = [[0, "o-a-2"], [1, "o-a-1"]]
            lines.add(6, "ok", "drain", k=1, v=list(everything), o=0)
            for node in ("n1", "n2"):
                lines.add(7, "ok", "dump", k=1, v=list(everything), o=0, node=node)
        case "unwanted":
            find("pick", nth=1).v = [[4, "c-4"], [5, "c-5"]]
        case "pick-skip":
            lines.events.remove(find("pick", nth=2))
        case "pick-back":
            find("want", nth=1).v = [[0, 5]]
        case "wanted-lost":
            lines.events.remove(find("pick", nth=3))
        case "two-leaders":
            find("leader", "info", nth=1).o = 1
        case "crash":
            lines.note("exit", node="n1", v="crashed", err="KeyError: 7")
        case "no-recovery":
            find("recovered", "info").err = "no leader"
        case "topic-lost":
            find("listed", "info").v.pop("s0")
        case "setting-lost":
            find("kept", "info").v["k0"] = "1"
        case "deleted-back":
            find("look", nth=1).v[1].append("side-1")
        case "reset-undone":
            find("place", nth=2).o = 40
        case "unreadable":
            lines.note("unreadable", node="n1", err="damage at position 7")
        case _ if kind in promises.KINDS:
            lines.note(kind, node="n1", err="as the simulator saw")
        case "early-loss":
            lines.events = [event for event in lines.events if event.f != "leader"]
            lines.add(33, "invoke", "send", k=0, v="c-8")
            lines.note("early", k=0, v="c-8", o=9, err="leader/sync")
            lines.add(33, "info", "send", k=0, v="c-8")
        case "two-holders":
            find("lock").o = 2000
        case "member-lost":
            find("list").v[2].remove("b")
        case "left-listed":
            find("list", nth=1).v[2].append("a")
        case "unsettled":
            find("settled", "info").err = "group w-group has ['a'], and ['b'] live"
        case "passed-over":
            lines.events.remove(find("got", nth=2))
        case "order-lost":
            first, second = find("got"), find("got", nth=1)
            first.v, second.v = second.v, first.v
        case "never-delivered":
            find("copies").v[1].pop()
            lines.events.remove(find("got", nth=2))
            find("advance").v[1][2] = 2
            find("stand").v[2] = [2]
        case "delivered-twice":
            find("copies").v[1].append([3, "d-1-f0", 0, 1800])
        case "delivered-early":
            find("copies").v[1][2][3] = 1500
        case "delivered-late":
            find("copies").v[1][2][3] = 9000
        case "misfiled":
            find("copies", nth=2).v[0] = RETRY
        case "stop-failed-send":
            lines.events.insert(0, Event(0, 0, NEMESIS, "info", "fault", v="rolling one by one"))
            lines.note("heal", v="rolling one by one")
        case "no-progress":
            lines.events.insert(0, Event(0, 0, NEMESIS, "info", "healed"))
            lines.events.insert(1, Event(0, 0, NEMESIS, "info", "recovered"))
        case "stale-poll":
            lines.events = [
                e for e in lines.events if not (e.f == "poll" and e.k == 1 and e.t > 12 * S)
            ]
        case _:
            raise AssertionError(f"no edit raises {kind}")
    return lines


_OF_CUT_SHORT = {
    "lost-write", "nonmonotonic-send", "realtime-order", "int-poll-skip", "int-nonmonotonic-poll",
    "poll-skip", "nonmonotonic-poll", "no-progress",
}  # fmt: skip
