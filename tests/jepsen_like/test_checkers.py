"""A good history raises nothing; the same with one edit raises exactly one kind of anomaly."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jepsen_like.checkers
from jepsen_like.checkers import KINDS, check
from jepsen_like.history import NEMESIS, Event, operations
from tests.jepsen_like.handmade import (
    S,
    busy,
    cut_short,
    members_at_work,
    one_edit,
    picked,
    whole,
)

SOURCES = sorted(Path(jepsen_like.checkers.__file__).parent.glob("*.py"))


def kinds_of(lines, **options) -> set[str]:
    return {anomaly.kind for anomaly in check(lines.history(), **options)}


@pytest.mark.parametrize("make", [whole, cut_short, busy, members_at_work, picked])
def test_a_good_history_raises_nothing(make) -> None:
    assert check(make().history()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_edit_raises_exactly_its_anomaly(kind: str) -> None:
    history = one_edit(kind).history()

    found = check(history)

    assert {anomaly.kind for anomaly in found} == {kind}
    for anomaly in found:  # a person can look at what is told
        assert anomaly.lines
        assert all(0 <= line < len(history.events) for line in anomaly.lines)


def test_every_kind_that_is_raised_has_a_definition() -> None:
    named = {
        node.args[0].value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Anomaly"
        and isinstance(node.args[0], ast.Constant)
    }

    assert len(named) > 15
    assert named <= set(KINDS)


# -- retention ----------------------------------------------------------------------------------


def test_what_retention_dropped_is_not_lost() -> None:
    lines = whole()
    for event in lines.events:
        if event.f in ("drain", "dump"):
            event.v = event.v[2:]
    lines.find("drain").o = 2

    assert kinds_of(lines, has_retention=True) == set()
    assert kinds_of(lines) == {"unseen", "lost-on-node"}


def test_what_retention_has_left_must_be_there() -> None:
    lines = whole()
    for event in lines.events:
        if event.f in ("drain", "dump"):
            event.v = [pair for pair in event.v if pair[0] == 1 or pair[0] == 3]
    lines.find("drain").o = 1

    assert kinds_of(lines, has_retention=True) == {"unseen", "lost-on-node"}


def test_a_reader_may_pass_over_what_retention_dropped_and_nothing_else() -> None:
    lines = whole()
    lines.find("poll", nth=1).v.pop(0)
    for event in lines.events:
        if event.f in ("drain", "dump"):
            event.v = event.v[3:]
    lines.find("drain").o = 3
    assert kinds_of(lines, has_retention=True) == set()

    for event in lines.events:
        if event.f in ("drain", "dump"):
            event.v.insert(0, [2, "c-2"])
    lines.find("drain").o = 2
    assert kinds_of(lines, has_retention=True) == {"poll-skip"}


def test_a_reader_of_a_node_that_dropped_more_is_not_accused() -> None:
    """Seed 503724 of 10 s: n1 could write nothing, so it dropped nothing; n2 and n3 did."""
    lines = whole()
    lines.find("poll", nth=1).v.pop(0)  # offset 2
    lines.find("dump", nth=1).v = lines.find("dump", nth=1).v[3:]

    assert kinds_of(lines, has_retention=True) == set()


def test_a_message_that_retention_took_after_it_was_left_comes_no_more() -> None:
    """Seed 200012 of 10 s: left, sought again, and gone when it was asked for."""
    lines = one_edit("left-lost")
    lines.find("assign", nth=2).v = [[0, 4]]
    for event in lines.events:
        if event.f in ("drain", "dump"):
            event.v = event.v[3:]
    lines.find("drain").o = 3

    assert kinds_of(lines, has_retention=True) == set()


# -- progress -----------------------------------------------------------------------------------


def pause(lines, *, after: int, seconds: int) -> None:
    for event in lines.events:
        if event.t > after:
            event.t += seconds * S


def add_at(lines, t: int, f: str, **fields) -> None:
    at = next(n for n, event in enumerate(lines.events) if event.t >= t)
    lines.events.insert(at, Event(0, t, NEMESIS, "info", f, **fields))


def test_a_standstill_of_a_healthy_group_is_no_progress() -> None:
    lines = busy()
    pause(lines, after=12 * S, seconds=6)

    assert kinds_of(lines) == {"no-progress"}


def test_a_standstill_with_a_minority_down_is_no_progress() -> None:
    lines = busy()
    add_at(lines, 2 * S, "fault", v="kill n1")
    add_at(lines, 2 * S + 1, "exit", node="n1", v="killed")
    pause(lines, after=12 * S, seconds=6)

    assert kinds_of(lines) == {"no-progress"}


@pytest.mark.parametrize("fault", ["kill n1,n2", "wire 5 ways", "one-way to n1", "slow-disk n1"])
def test_a_standstill_is_excused_where_a_majority_may_be_hit(fault: str) -> None:
    lines = busy()
    add_at(lines, 11 * S, "fault", v=fault)
    pause(lines, after=12 * S, seconds=6)
    add_at(lines, 19 * S, "heal", v=fault)

    assert kinds_of(lines) == set()


def test_a_standstill_is_excused_where_a_majority_is_down() -> None:
    lines = busy()
    for node in ("n1", "n2"):
        add_at(lines, 11 * S, "exit", node=node, v="killed")
    pause(lines, after=12 * S, seconds=6)

    assert kinds_of(lines) == set()


@pytest.mark.parametrize(
    ("hits", "excused"),
    [
        (["n1", "n1", "n1", "n1"], False),  # n2 and n3 were healthy all the time
        (["n1", "n2", "n1", "n2"], True),  # no majority was there for long
        (["n3", "n3", "n3", "n3"], True),  # it leads, so that another one has to be found
    ],
)
def test_a_majority_is_healthy_while_the_same_minority_is_hit(hits, excused) -> None:
    lines = busy()
    add_at(lines, 0, "leader", node="n3", o=1)
    pause(lines, after=12 * S, seconds=6)
    for number, name in enumerate(hits):
        add_at(lines, (7 + 4 * number) * S, "fault", v=f"kill {name}")
        add_at(lines, (8 + 4 * number) * S, "heal", v=f"kill {name}")
    lines.events.sort(key=lambda event: event.t)

    assert kinds_of(lines) == (set() if excused else {"no-progress"})


def test_a_reader_that_works_off_what_it_found_is_not_stale() -> None:
    lines = busy()
    polls = [event for event in lines.events if event.f == "poll"]
    for event in polls:  # it begins at 10 s and gets what is there at three times the pace
        event.t = max(event.t, 10 * S + event.t // 3)
    lines.find("assign").t = 10 * S
    lines.events.sort(key=lambda event: event.t)

    assert kinds_of(lines) == set()


def test_a_reader_that_is_always_seven_seconds_late_is_stale() -> None:
    lines = busy()
    for event in lines.events:
        if event.f == "poll" and event.t > 3 * S:
            event.t += 7 * S
    lines.events.sort(key=lambda event: event.t)

    assert kinds_of(lines) == {"stale-poll"}


@pytest.mark.parametrize("is_told", [True, False])
def test_a_reader_that_asks_for_nothing_meanwhile_is_not_stale(is_told: bool) -> None:
    """A queue that its reader has paused for seconds, on and off for a moment in between."""
    lines = busy()
    reader = lines.find("assign").p
    for event in lines.events:
        if event.f == "poll" and 12 * S < event.t < 21 * S:
            event.t = 21 * S
    if is_told:
        for at, f in ((12, "pause"), (16, "resume"), (16, "pause"), (21, "resume")):
            lines.events += [Event(0, at * S, reader, "ok", f, k=queue) for queue in (0, 1)]
    lines.events.sort(key=lambda event: (event.t, event.f == "poll"))

    assert kinds_of(lines) == (set() if is_told else {"stale-poll"})


# -- the rest -----------------------------------------------------------------------------------


def test_a_recovery_that_takes_too_long_is_none() -> None:
    lines = whole()
    pause(lines, after=lines.find("healed", "info").t, seconds=20)

    assert kinds_of(lines) == {"no-recovery"}


def test_a_recovery_that_is_never_told_is_none() -> None:
    lines = whole()
    lines.events.remove(lines.find("recovered", "info"))
    pause(lines, after=lines.events[-2].t, seconds=20)

    assert kinds_of(lines) == {"no-recovery"}


def test_two_acknowledgements_of_one_place_are_inconsistent() -> None:
    lines = cut_short()
    lines.find("send", nth=6).o = 6

    assert "inconsistent-offsets" in kinds_of(lines)


def test_a_send_without_an_answer_may_be_written_or_not() -> None:
    lines = whole()
    lines.add(30, "invoke", "send", k=0, v="c-30")

    assert kinds_of(lines) == set()
    (last,) = [op for op in operations(lines.events, "send") if op.v == "c-30"]
    assert last.type == "info"


# -- topics that come and go ----------------------------------------------------------------------


def test_what_nobody_heard_the_end_of_may_still_happen_to_a_topic() -> None:
    lines = whole()
    lines.find("listed", "info").v["s0"] = 2
    assert kinds_of(lines) == {"topic-lost"}

    lines.find("topic", nth=2).type = "info"

    assert kinds_of(lines) == set()


def test_a_topic_that_was_acknowledged_is_there_for_the_leader() -> None:
    lines = whole()
    put = lines.find("put", nth=1)
    put.type, put.err = "fail", "TopicNotFoundError: there is none"
    assert kinds_of(lines) == {"topic-lost"}

    lines.find("topic", nth=1).type = "info"  # the deletion may still have come

    assert kinds_of(lines) == set()


def test_a_message_sent_while_its_topic_was_deleted_may_be_on_either_side() -> None:
    lines = whole()
    lines.find("look", nth=1).v[1].append("side-1")
    lines.find("put").type = "info"

    assert kinds_of(lines) == set()


def test_a_commit_refused_or_of_an_older_epoch_moves_nothing() -> None:
    lines = whole()
    lines.find("place", nth=1).o = 40
    lines.find("mark").v = [40, 0]
    assert kinds_of(lines) == {"reset-undone"}
    lines.find("mark").v = [40, 1]
    lines.find("mark").type = "fail"
    assert kinds_of(lines) == {"reset-undone"}


def test_a_reset_of_unknown_outcome_may_still_come() -> None:
    lines = whole()
    lines.find("place", nth=2).o = 5
    assert kinds_of(lines) == {"reset-undone"}

    lines.find("reset").type = "info"

    assert kinds_of(lines) == set()
