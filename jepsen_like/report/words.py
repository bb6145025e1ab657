"""The verdict and the run in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jepsen_like.history import Event, History
    from jepsen_like.verdict import Verdict


def headline(history: History, verdict: Verdict) -> str:
    """Return in a sentence or two what the verdict means."""
    acked = verdict.counts.get("send ok", 0)
    if verdict.state == "invalid":
        total = sum(verdict.kinds.values())
        found = ", ".join(
            kind if times == 1 else f"{kind} ({times:,} times)"
            for kind, times in verdict.kinds.items()
        )
        return f"{_times(total, 'promise was', 'promises were')} broken: {found}."
    if verdict.state == "unknown":
        return (
            f"Nothing wrong was found, but that says little: see the reasons. {acked:,} sends "
            "were acknowledged."
        )
    kept = " that retention has not dropped" if history.setup.get("retention") else ""
    nodes = sorted({e.node for e in history.events if e.f == "dumped" and e.node})
    logs = f" and in the logs of {_and(nodes)}" if nodes else ""
    return (
        f"Nothing wrong was found. {acked:,} sends were acknowledged; each of them{kept} was at "
        f"the end in its place, once, for a fresh client{logs}."
    )


def title(history: History) -> str:
    """Return what was run, in a few words."""
    setup = history.setup
    words = [str(setup.get("layer") or "run")]
    if setup.get("seed") is not None:
        words.append(f"seed {setup['seed']}")
    if setup.get("members"):
        words.append(_times(len(setup["members"]), "node", "nodes"))
    if setup.get("script"):
        words.append(f"script {setup['script']}")
    return ", ".join(words)


def facts(setup: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the setup as rows of a table: what, and in which words."""
    rows: list[tuple[str, str]] = []
    for name, value in setup.items():
        if name in UNTOLD or value in (None, "", [], {}):
            continue
        if isinstance(value, dict):
            some = [" ".join(fact(key, item)) for key, item in value.items() if item]
            rows.append((name, "; ".join(some)))
        else:
            rows.append(fact(name, value))
    return rows


# Told elsewhere, or of use to the judge only.
UNTOLD = frozenset({"layer", "seed", "replay", "mutant", "proofs", "ok_sends_min"})
_UNITS = {"_ms": "ms", "_seconds": "s", "_s": "s"}


def fact(name: str, value: object) -> tuple[str, str]:
    """Return a setting and its value with the unit that its name ends with."""
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    if unit:
        name = name[: name.rindex("_")]
    text = _words(value)
    if "size" in name and isinstance(value, int) and value >= 1024 and value % 1024 == 0:
        text, unit = f"{value // 1024:,}", "KiB"
    elif "size" in name and isinstance(value, int) and value:
        unit = "bytes"
    return name.replace("_", " "), f"{text} {unit}".rstrip()


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def seconds_of(history: History) -> float:
    """Return how long a run was by its own clock."""
    events: list[Event] = history.events
    return (events[-1].t - events[0].t) / 1e9 if events else 0.0


def duration(seconds: float) -> str:
    """Return a latency so that a person can read it."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s"


def _times(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
