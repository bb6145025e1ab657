"""A good history raises nothing; the same with one edit raises exactly one kind of anomaly."""

from __future__ import annotations

import pytest

from jepsen_like.checkers import check
from jepsen_like.history import NEMESIS, Event, History, operations, read_history, to_edn

S = 1_000_000_000


class Lines:
    """A history written by hand: one line a second unless told otherwise."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, p, type, f, **fields) -> None:
        t = fields.pop("t", len(self.events) * S)
        self.events.append(Event(len(self.events), t, p, type, f, **fields))

    def send(self, p, value, offset, *, type="ok", queue=0) -> None:
        self.add(p, "invoke", "send", k=queue, v=value)
        self.add(p, type, "send", k=queue, v=value, o=offset if type == "ok" else None)


def good() -> Lines:
    """Four sends, one reader of a group, questions, two replicas."""
    lines = Lines()
    lines.add(NEMESIS, "info", "leader", node="n1", o=1)
    for number in range(3):
        lines.send(1, f"c-{number}", number)
    lines.add(2, "invoke", "end", k=0)
    lines.add(2, "ok", "end", k=0, o=3)
    lines.send(1, "c-3", None, type="fail")
    lines.send(3, "c-4", 3, type="info")
    lines.add(NEMESIS, "info", "leader", node="n2", o=2)
    lines.add(4, "ok", "assign", v=[[0, 0]], g="g1")
    lines.add(4, "ok", "poll", k=0, v=[[0, "c-0"], [1, "c-1"]], g="g1")
    lines.add(4, "invoke", "commit", v=[[0, 2]], g="g1")
    lines.add(4, "ok", "commit", v=[[0, 2]], g="g1")
    lines.add(4, "ok", "poll", k=0, v=[[2, "c-2"], [3, "c-4"]], g="g1")
    lines.add(5, "invoke", "committed", k=0, g="g1")
    lines.add(5, "ok", "committed", k=0, g="g1", o=2)
    lines.add(NEMESIS, "info", "healed")
    lines.add(NEMESIS, "info", "recovered")
    everything = [[0, "c-0"], [1, "c-1"], [2, "c-2"], [3, "c-4"]]
    lines.add(6, "ok", "drain", k=0, v=list(everything), o=0)
    for node in ("n1", "n2"):
        lines.add(7, "ok", "dump", k=0, v=list(everything), o=0, node=node)
        lines.add(NEMESIS, "info", "dumped", node=node)
    return lines


def find(lines: Lines, f: str, type: str = "ok", nth: int = 0) -> Event:
    return [event for event in lines.events if (event.f, event.type) == (f, type)][nth]


def lose_from_all_reads(lines: Lines) -> None:
    """c-1 is nowhere, though what lies behind it was polled; its place is empty, not taken."""
    for event in lines.events:
        if event.f in ("poll", "drain", "dump"):
            event.v = [pair for pair in event.v if pair[1] != "c-1"]


def edit(kind: str, lines: Lines) -> set[str]:
    """Do one edit; return the kinds it must raise."""
    match kind:
        case "lost-write":
            lose_from_all_reads(lines)
            return {"lost-write", "unseen", "lost-on-node", "poll-skip", "group-loss"}
        case "unseen":
            find(lines, "drain").v.pop(1)
        case "lost-on-node":
            find(lines, "dump", nth=1).v.pop(1)
        case "inconsistent-offsets":
            lines.send(8, "c-5", 4)
            find(lines, "drain").v.append([4, "c-5"])
            find(lines, "dump", nth=0).v.append([4, "c-5"])
            lines.send(9, "c-6", None, type="info")
            find(lines, "dump", nth=1).v.append([4, "c-6"])
        case "duplicate":
            for nth in (0, 1):
                find(lines, "dump", nth=nth).v.append([4, "c-4"])
            find(lines, "drain").v.append([4, "c-4"])
        case "g1a":
            find(lines, "send", "info").type = "fail"
        case "phantom":
            find(lines, "drain").v.append([4, "c-99"])
        case "nonmonotonic-send":
            first, second = find(lines, "send"), find(lines, "send", nth=1)
            first.o, second.o = second.o, first.o
            for event in lines.events:
                if event.f in ("poll", "drain", "dump"):
                    swapped = {"c-0": "c-1", "c-1": "c-0"}
                    event.v = [[o, swapped.get(v, v)] for o, v in event.v]
            return {"nonmonotonic-send", "realtime-order"}
        case "realtime-order":
            nonmonotonic = edit("nonmonotonic-send", lines)
            find(lines, "send", "invoke", nth=1).p = find(lines, "send", nth=1).p = 21
            return nonmonotonic - {"nonmonotonic-send"}
        case "int-poll-skip":
            poll = find(lines, "poll")
            poll.g = find(lines, "assign").g = find(lines, "poll", nth=1).g = None
            find(lines, "poll", nth=1).v.insert(0, [1, "c-1"])
            poll.v = poll.v[:1]
            del find(lines, "poll", nth=1).v[1]
            drop_group_lines(lines)
        case "int-nonmonotonic-poll":
            find(lines, "poll").v.insert(1, [0, "c-0"])
        case "poll-skip":
            find(lines, "poll").v.pop()
            drop_group_lines(lines)
        case "nonmonotonic-poll":
            find(lines, "poll", nth=1).v.insert(0, [1, "c-1"])
        case "stale-read":
            find(lines, "end").o = 2
        case "future-read":
            find(lines, "end").o = 9
        case "commit-regress":
            find(lines, "committed").o = 1
        case "commit-ahead-of-delivery":
            find(lines, "committed").o = 5
            return {"commit-ahead-of-delivery", "group-loss"}
        case "group-loss":
            assign = find(lines, "assign")
            assign.v = [[0, 1]]
            find(lines, "poll").v.pop(0)
            return {"group-loss", "commit-ahead-of-delivery"}
        case "two-leaders":
            find(lines, "leader", "info", nth=1).o = 1
        case "crash":
            lines.add(NEMESIS, "info", "exit", node="n1", v="crashed", err="KeyError: 7")
        case "no-recovery":
            find(lines, "recovered", "info").err = "no leader"
        case "no-progress":
            healed = lines.events.index(find(lines, "healed", "info"))
            lines.events.insert(0, lines.events.pop(healed))
        case "unreadable":
            lines.add(NEMESIS, "info", "unreadable", node="n1", err="damage at position 7")
        case _:
            raise AssertionError(kind)
    return {kind}


def drop_group_lines(lines: Lines) -> None:
    """Turn the group's reader into one of no group."""
    lines.events = [e for e in lines.events if e.f not in ("commit", "committed")]
    for event in lines.events:
        event.g = None


KINDS = (
    "lost-write", "unseen", "lost-on-node", "inconsistent-offsets", "duplicate", "g1a", "phantom",
    "nonmonotonic-send", "realtime-order", "int-poll-skip", "int-nonmonotonic-poll", "poll-skip",
    "nonmonotonic-poll", "stale-read", "future-read", "commit-regress",
    "commit-ahead-of-delivery", "group-loss", "two-leaders", "crash", "no-recovery",
    "no-progress", "unreadable",
)  # fmt: skip


def test_a_good_history_raises_nothing() -> None:
    assert check(History(lambda: 0.0, good().events)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_edit_raises_exactly_its_anomaly(kind: str) -> None:
    lines = good()
    expected = edit(kind, lines)
    assert kind in expected

    found = check(History(lambda: 0.0, lines.events))

    assert {anomaly.kind for anomaly in found} == expected


def test_what_retention_dropped_is_not_lost() -> None:
    lines = good()
    for event in lines.events:
        if event.f in ("drain", "dump"):
            event.v = event.v[2:]
    find(lines, "drain").o = 2
    history = History(lambda: 0.0, lines.events)

    assert check(history, has_retention=True) == []
    assert {anomaly.kind for anomaly in check(history)} == {"lost-on-node"}


def test_a_send_without_an_answer_may_be_written_or_not() -> None:
    lines = good()
    lines.add(30, "invoke", "send", k=0, v="c-30")

    assert check(History(lambda: 0.0, lines.events)) == []
    (last,) = [op for op in operations(lines.events, "send") if op.v == "c-30"]
    assert last.type == "info"


def test_a_history_is_the_same_after_a_file(tmp_path) -> None:
    history = History(lambda: 0.0, good().events)

    history.write(tmp_path / "history.jsonl")

    assert read_history(tmp_path / "history.jsonl").events == history.events


def test_a_broken_line_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "history.jsonl").write_text('{"what": 7}\n')

    with pytest.raises(ValueError, match="no line of a history"):
        read_history(tmp_path / "history.jsonl")


def test_jepsen_reads_the_same_operations() -> None:
    lines = list(to_edn(good().events))

    assert lines[1] == (
        '{:index 1, :time 1000000000, :process 1, :type :invoke, :f :send, :value [0 "c-0" nil]}'
    )
    assert ":process :nemesis" in lines[0]
