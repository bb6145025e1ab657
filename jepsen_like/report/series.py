"""What the picture and the page show, worked out of a history: no drawing here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jepsen_like.checkers.health import HALF_ABLE, fault_kind, fault_text, members_of
from jepsen_like.history import NEMESIS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jepsen_like.history import Event

S = 1e9
MARKS = ("healed", "recovered", "drained")
ELSEWHERE = "links"  # the lane of faults that name no member

_MEMBER = re.compile(r"\bn\d+\b")

# What a fault is aimed at, for its colour.
CLASSES = {
    "process": (
        "kill", "crash-loop", "kill-at-step", "kill-at-place", "pause", "restart", "rolling",
        "scarce",
    ),
    "power and disk": (
        "power", "power-torn", "power-at-step", "lost-disk", "failed-sync", "broken-disk",
        "bit-rot", "damage", *sorted(HALF_ABLE - {"scarce"}),
    ),
    "network": (
        "isolate", "halves", "one-way", "ring", "client-cut", "swizzle", "wire",
        "rough-wire", "partition",
    ),
    "clock, lead, other": (),
}  # fmt: skip


def class_of(kind: str) -> str:
    """Return what a kind of fault is aimed at."""
    return next((name for name, kinds in CLASSES.items() if kind in kinds), "clock, lead, other")


@dataclass(frozen=True, slots=True)
class Point:
    """One operation of a client that was answered, or given up."""

    f: str
    outcome: str  # ok, info, fail
    at: float  # seconds, of the answer
    latency: float  # seconds


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted."""

    begin: float
    end: float
    text: str
    line: int


@dataclass(slots=True)
class FaultSpan:
    """One occurrence of a fault."""

    kind: str
    text: str
    begin: float
    end: float
    line: int
    members: tuple[str, ...]  # none when it names none
    proofs: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Series:
    """All of it."""

    members: list[str]
    begin: float
    end: float
    points: list[Point]
    unanswered: int  # operations that nothing ended
    faults: list[FaultSpan]
    downs: dict[str, list[Span]]
    leads: list[Span]  # text: member and term
    marks: list[tuple[float, str]]


def series_of(events: list[Event]) -> Series:
    """Return what *events* show."""
    begin = events[0].t / S if events else 0.0
    end = max(events[-1].t / S, begin + 1e-3) if events else 1.0
    members = members_of(events)
    points, unanswered = _points(events)
    return Series(
        members=members,
        begin=begin,
        end=end,
        points=points,
        unanswered=unanswered,
        faults=_faults(events, end),
        downs=_downs(events, members, end),
        leads=_leads(events, end),
        marks=[(event.t / S, event.f) for event in events if event.f in MARKS],
    )  # fmt: skip


def _points(events: Iterable[Event]) -> tuple[list[Point], int]:
    found: list[Point] = []
    open_: dict[int, Event] = {}
    unanswered = 0
    for event in events:
        if event.p == NEMESIS:
            continue
        if event.type == "invoke":
            unanswered += event.p in open_
            open_[event.p] = event
        elif event.p in open_ and open_[event.p].f == event.f:
            begun = open_.pop(event.p)
            found.append(Point(event.f, event.type, event.t / S, (event.t - begun.t) / S))
    return found, unanswered + len(open_)


def _faults(events: Iterable[Event], end: float) -> list[FaultSpan]:
    found: list[FaultSpan] = []
    open_: dict[str, list[FaultSpan]] = {}
    latest: dict[str, FaultSpan] = {}
    for event in events:
        if event.f == "healed":
            for spans in open_.values():
                for span in spans:
                    span.end = event.t / S
            open_.clear()
        if event.f not in ("fault", "heal", "effect"):
            continue
        text = fault_text(event)
        if event.f == "fault":
            span = FaultSpan(
                fault_kind(event), text, event.t / S, end, event.i,
                tuple(dict.fromkeys(_MEMBER.findall(text.partition(" to ")[0]))),
            )  # fmt: skip
            if not span.members:
                span.members = tuple(dict.fromkeys(_MEMBER.findall(text)))
            found.append(span)
            open_.setdefault(text, []).append(span)
            latest[text] = span
        elif event.f == "heal" and open_.get(text):
            open_[text].pop(0).end = event.t / S
        elif event.f == "effect" and text in latest:
            span = open_[text][0] if open_.get(text) else latest[text]
            if event.err is not None:
                span.doubts.append(event.err)
            else:
                proof = event.v[1] if isinstance(event.v, list) and len(event.v) > 1 else "yes"
                span.proofs.append(str(proof))
    return found


def _downs(events: Iterable[Event], members: list[str], end: float) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {name: [] for name in members}
    open_: dict[str, Event] = {}
    for event in events:
        if event.f == "drained":
            break  # from here on the run itself ends its processes
        if event.node is None:
            continue
        if event.f == "exit":
            open_.setdefault(event.node, event)
        elif event.f == "start" and event.node in open_:
            gone = open_.pop(event.node)
            found[event.node].append(Span(gone.t / S, event.t / S, str(gone.v), gone.i))
    for name, gone in open_.items():
        if end - gone.t / S > 1e-3:  # that of a run without a drain ends them as well
            found[name].append(Span(gone.t / S, end, str(gone.v), gone.i))
    return found


def _leads(events: Iterable[Event], end: float) -> list[Span]:
    found: list[Span] = []
    leader: Event | None = None
    for event in events:
        is_change = event.f == "leader" and (
            leader is None or (leader.node, leader.o) != (event.node, event.o)
        )
        is_end = event.f == "exit" and leader is not None and event.node == leader.node
        if not is_change and not is_end:
            continue
        if leader is not None:
            found.append(Span(leader.t / S, event.t / S, f"{leader.node} {leader.o}", leader.i))
        leader = event if is_change else None
    if leader is not None:
        found.append(Span(leader.t / S, end, f"{leader.node} {leader.o}", leader.i))
    return found


def stacked(spans: list[FaultSpan]) -> list[tuple[int, FaultSpan]]:
    """Return each span with the row in which it overlaps none before it."""
    ends: list[float] = []
    found: list[tuple[int, FaultSpan]] = []
    for span in sorted(spans, key=lambda span: span.begin):
        row = next((n for n, end in enumerate(ends) if end <= span.begin), len(ends))
        ends[row : row + 1] = [span.end]
        found.append((row, span))
    return found


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least *share* of the sorted *values* do not exceed."""
    assert values
    return values[min(len(values) - 1, max(0, -int(-share * len(values) // 1) - 1))]
