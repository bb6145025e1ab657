"""What a run comes to: valid, invalid, or nothing can be said."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jepsen_like.checkers import CHECKERS, Anomaly
from jepsen_like.checkers.form import faults_of_form
from jepsen_like.checkers.health import fault_kind
from jepsen_like.history import NEMESIS

if TYPE_CHECKING:
    from pathlib import Path

    from jepsen_like.history import Event, History

State = Literal["valid", "invalid", "unknown"]
EXIT_CODES: dict[State, int] = {"valid": 0, "invalid": 1, "unknown": 2}

OK_SENDS_MIN = 1000  # of a run that says nothing else in its setup
OF_A_KIND_MAX = 100  # anomalies that are kept; all are counted
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of one history."""

    state: State
    reasons: tuple[str, ...] = ()  # why nothing can be said
    anomalies: tuple[Anomaly, ...] = ()  # at most `OF_A_KIND_MAX` of each kind
    kinds: dict[str, int] = field(default_factory=dict)  # how many of each there are
    counts: dict[str, int] = field(default_factory=dict)  # operations, faults
    sometimes: dict[str, int] = field(default_factory=dict)  # what should happen now and again

    @property
    def exit_code(self) -> int:
        """What a command that found this ends with."""
        return EXIT_CODES[self.state]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        fields = {
            "version": VERSION,
            "state": self.state,
            "reasons": self.reasons,
            "kinds": self.kinds,
            "counts": self.counts,
            "sometimes": self.sometimes,
            "anomalies": [
                {
                    "kind": anomaly.kind,
                    "text": anomaly.text,
                    "lines": anomaly.lines,
                    "queue": anomaly.queue,
                    "process": anomaly.process,
                }
                for anomaly in self.anomalies
            ],
        }
        path.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def read_verdict(path: Path) -> Verdict:
    """Return what `Verdict.write` wrote.

    Raises:
        ValueError: the file holds no verdict.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["version"] != VERSION or fields["state"] not in EXIT_CODES:
            raise ValueError(f"version {fields['version']}, state {fields['state']!r}")
        return Verdict(
            state=fields["state"],
            reasons=tuple(fields["reasons"]),
            anomalies=tuple(
                Anomaly(
                    found["kind"], found["text"], tuple(found["lines"]), found["queue"],
                    found["process"],
                )
                for found in fields["anomalies"]
            ),
            kinds=dict(fields["kinds"]),
            counts=dict(fields["counts"]),
            sometimes=dict(fields["sometimes"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no verdict: {error}") from error


def judge(
    history: History, *, has_retention: bool | None = None, ok_sends_min: int | None = None
) -> Verdict:
    """Return the verdict on *history*.

    Args:
        history: all of it, drain and dumps included.
        has_retention: whether old segments are dropped; as its setup says when `None`.
        ok_sends_min: with fewer acknowledged sends nothing can be said; as its setup says when
            `None`, and `OK_SENDS_MIN` when that says nothing.
    """
    setup = history.setup
    if has_retention is None:
        has_retention = bool(setup.get("retention", False))
    if ok_sends_min is None:
        ok_sends_min = int(setup.get("ok_sends_min", OK_SENDS_MIN))
    events = history.events
    kept: list[Anomaly] = []
    kinds: Counter[str] = Counter()
    reasons: list[str] = []
    for name, checker in CHECKERS.items():
        try:
            for anomaly in checker(events, has_retention):
                kinds[anomaly.kind] += 1
                if kinds[anomaly.kind] <= OF_A_KIND_MAX:
                    kept.append(anomaly)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not pass for "valid"
            reasons.append(f"checker {name} failed: {type(error).__name__}: {error}")
    reasons += faults_of_form(events)
    counts = count(events)
    if counts["send ok"] < ok_sends_min:
        reasons.append(f"{counts['send ok']} sends were acknowledged, fewer than {ok_sends_min}")
    reasons += _undrained(events)
    reasons += [_unreached(event) for event in events if event.f == "not-reached"]
    if setup.get("proofs", any(event.f == "effect" for event in events)):
        injected = {fault_kind(event) for event in events if event.f == "fault"}
        wanted = setup.get("faults", ())
        reasons += [f"fault {kind} never came" for kind in wanted if kind not in injected]
        reasons += _unproved(events)
    state: State = "invalid" if kinds else "unknown" if reasons else "valid"
    return Verdict(
        state=state,
        reasons=tuple(reasons),
        anomalies=tuple(kept),
        kinds=dict(kinds),
        counts=dict(counts),
        sometimes=_sometimes(events),
    )


def count(events: list[Event]) -> Counter[str]:
    """Return how many operations of each outcome and faults of each kind there were."""
    found: Counter[str] = Counter({"send ok": 0, "send fail": 0, "send info": 0})
    for event in events:
        if event.p != NEMESIS:
            if event.type != "invoke":
                found[f"{event.f} {event.type}"] += 1
        elif event.f == "fault":
            found[f"fault {fault_kind(event)}"] += 1
        elif event.f == "effect" and event.err is None:
            found[f"effect {fault_kind(event)}"] += 1
    return found


def _unreached(event: Event) -> str:
    """Return what was to happen and did not, or what of the run itself broke."""
    return f"{event.v}: {event.err}" if event.v else str(event.err)


def _undrained(events: list[Event]) -> list[str]:
    """Return a reason when not everything was read at the end: what is lost may not show."""
    if not any(event.f == "drained" for event in events):
        return ["nothing was drained at the end, so what is lost may not show"]
    acked = {event.k for event in events if (event.f, event.type) == ("send", "ok")}
    drained = {event.k for event in events if (event.f, event.type) == ("drain", "ok")}
    missing = sorted(queue for queue in acked - drained if queue is not None)
    if not missing:
        return []
    return [f"not drained at the end: queue {', '.join(map(str, missing))}"]


def _unproved(events: list[Event]) -> list[str]:
    """Return a reason for each kind of fault that never proved itself."""
    injected = Counter(fault_kind(event) for event in events if event.f == "fault")
    proved = {fault_kind(e) for e in events if e.f == "effect" and e.err is None}
    why = {fault_kind(e): e.err for e in events if e.f == "effect" and e.err is not None}
    return [
        f"fault {kind}, {times} times, without proof of an effect"
        + (f": {why[kind]}" if why.get(kind) else "")
        for kind, times in injected.items()
        if kind not in proved
    ]


def _sometimes(events: list[Event]) -> dict[str, int]:
    """Return how often that happened which any long enough suite must meet."""
    found: dict[str, int] = {
        "leaders": len({(e.node, e.o) for e in events if e.f == "leader"}),
        "lost pages": sum(e.o or 0 for e in events if e.f == "power"),
    }
    for event in events:
        if event.f == "counts" and isinstance(event.v, dict):
            found.update(event.v)
    return found


def tell(verdict: Verdict, *, each_max: int = 3) -> list[str]:
    """Return the verdict in a few lines for a terminal."""
    lines = []
    for kind, times in verdict.kinds.items():
        lines.append(f"{kind} x{times}")
        some: list[Any] = [found for found in verdict.anomalies if found.kind == kind][:each_max]
        lines += [f"    {found.text[:400]}" for found in some]
    lines += [f"cannot be said: {reason}" for reason in verdict.reasons]
    lines.append(verdict.state)
    return lines
