"""The page: one file of HTML with everything in it, light or dark as the reader's screen is."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from jepsen_like.checkers import KINDS
from jepsen_like.history import NEMESIS
from jepsen_like.report import words
from jepsen_like.report.around import lines_around, short_value
from jepsen_like.report.series import ELSEWHERE, percentile
from jepsen_like.report.style import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jepsen_like.checkers import Anomaly
    from jepsen_like.history import Event, History
    from jepsen_like.report.series import FaultSpan, Series
    from jepsen_like.verdict import Verdict

OPEN_OF_A_KIND = 1  # anomalies shown with their lines unfolded
SHOWN_OF_A_KIND = 10
NOTES = ("leader", "start", "exit", "power", "wipe", "healed", "recovered", "drained", "reader",
         "never-began", "drain-failed", "unreadable")  # fmt: skip
SOMETIMES = {
    "leaders": "a member took the lead",
    "truncations": "a follower cut its log",
    "lost pages": "unsynced pages lost with the power",
    "bytes lost": "unsynced bytes lost with the power",
    "lives": "processes that nodes were",
    "seconds": "seconds that all of it took",
    "retried": "requests that a client sent again",
    "installs": "a state taken over from the leader",
}


def page(history: History, verdict: Verdict, series: Series, *, light: bytes, dark: bytes) -> str:
    """Return the whole page."""
    events = history.events
    parts = [
        _head(history, verdict),
        _run(history),
        _picture(series, light, dark),
        _anomalies(events, verdict, series),
        _counts(verdict, series),
        _faults(series),
        _notes(events),
    ]
    title = f"{verdict.state}: {words.title(history)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(history: History, verdict: Verdict) -> str:
    mutant = history.setup.get("mutant")
    bug = (
        f'<p class="bug">The product had a deliberate bug in this run: <b>{escape(mutant)}</b>. '
        "An invalid verdict is what is wanted here.</p>"
        if mutant
        else ""
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return (
        f'<header class="{verdict.state}"><p class="what">{escape(words.title(history))}</p>'
        f"<h1>{verdict.state.capitalize()}</h1><p>{escape(words.headline(history, verdict))}</p>"
        + (f"<p>What cannot be said:</p><ul>{reasons}</ul>" if reasons else "")
        + bug
        + "</header>"
    )


def _run(history: History) -> str:
    setup = history.setup
    rows = [*words.facts(setup)]
    if history.events:
        rows.append(("duration", f"{words.seconds_of(history):.1f} s by its own clock"))
        rows.append(("history", f"{len(history.events):,} lines"))
    replay = setup.get("replay")
    return (
        "<section><h2>What was run</h2>"
        + (f"<pre><code>{escape(str(replay))}</code></pre>" if replay else "")
        + _facts(rows)
        + "</section>"
    )


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows
    )
    return f'<table class="facts">{cells}</table>' if cells else "<p>The history is empty.</p>"


def _picture(series: Series, light: bytes, dark: bytes) -> str:
    if not series.points and not series.faults and not series.leads:
        return ""
    urls = ["data:image/png;base64," + base64.b64encode(image).decode() for image in (dark, light)]
    more = (
        f"<p>{series.unanswered:,} operations got no answer at all and have no dot.</p>"
        if series.unanswered
        else ""
    )
    return (
        "<section><h2>Timeline</h2><picture>"
        f'<source srcset="{urls[0]}" media="(prefers-color-scheme: dark)">'
        f'<img src="{urls[1]}" alt="Latency of each operation by outcome, sends in each second, '
        'who led in which term, and the faults on each node, over the seconds of the run">'
        f"</picture>{more}</section>"
    )


def _anomalies(events: Sequence[Event], verdict: Verdict, series: Series) -> str:
    if not verdict.kinds:
        return ""
    rows = "".join(
        f'<tr><td><a href="#{escape(kind)}">{escape(kind)}</a></td>'
        f'<td class="number">{times:,}</td><td>{escape(KINDS.get(kind, ""))}</td></tr>'
        for kind, times in verdict.kinds.items()
    )
    table = (
        "<table><thead><tr><th>kind</th><th class='number'>times</th><th>what it is</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>"
    )
    return (
        f"<section><h2>Anomalies</h2>{table}"
        + "".join(_kind(kind, events, verdict, series) for kind in verdict.kinds)
        + "</section>"
    )


def _kind(kind: str, events: Sequence[Event], verdict: Verdict, series: Series) -> str:
    found = [anomaly for anomaly in verdict.anomalies if anomaly.kind == kind]
    shown = "".join(
        _anomaly(anomaly, events, series, is_open=number < OPEN_OF_A_KIND)
        for number, anomaly in enumerate(found[:SHOWN_OF_A_KIND])
    )
    more = verdict.kinds[kind] - min(len(found), SHOWN_OF_A_KIND)
    rest = f'<p class="faint">and {more:,} more of this kind</p>' if more else ""
    return f'<h3 id="{escape(kind)}">{escape(kind)}</h3>{shown}{rest}'


def _anomaly(anomaly: Anomaly, events: Sequence[Event], series: Series, *, is_open: bool) -> str:
    lines = lines_around(events, anomaly)
    own = set(anomaly.lines)
    times = [events[line].t / 1e9 for line in anomaly.lines if 0 <= line < len(events)]
    under_way = [
        fault.text for fault in series.faults if any(fault.begin <= at <= fault.end for at in times)
    ]
    beside = (
        f'<p class="faint">Faults at that time: {escape(", ".join(dict.fromkeys(under_way)))}.</p>'
        if under_way
        else ""
    )
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(anomaly.text)}</summary>{beside}"
        + (_lines(events, lines, own) if lines else "")
        + "</details>"
    )


def _lines(events: Sequence[Event], lines: Iterable[int | None], own: set[int]) -> str:
    rows = "".join(
        '<tr class="gap"><td colspan="10">...</td></tr>'
        if line is None
        else _event(events[line], is_own=line in own)
        for line in lines
    )
    return (
        '<div class="wide"><table class="lines"><thead><tr><th class="number">line</th>'
        '<th class="number">seconds</th><th>process</th><th>what</th><th>outcome</th>'
        '<th>queue</th><th>value</th><th class="number">offset</th><th>node, group</th>'
        f"<th>error</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _event(event: Event, *, is_own: bool) -> str:
    is_world = event.p == NEMESIS
    classes = " ".join(name for name, holds in (("own", is_own), ("world", is_world)) if holds)
    cells = [
        f'<td class="number">{event.i}</td>',
        f'<td class="number">{event.t / 1e9:.4f}</td>',
        f"<td>{'' if is_world else event.p}</td>",
        f"<td>{escape(event.f)}</td>",
        f'<td class="{event.type}">{"" if is_world else event.type}</td>',
        f"<td>{'' if event.k is None else event.k}</td>",
        f'<td class="text">{escape(short_value(event))}</td>',
        f'<td class="number">{"" if event.o is None or is_world else event.o}</td>',
        f"<td>{escape(' '.join(part for part in (event.node, event.g) if part))}</td>",
        f'<td class="text">{escape((event.err or "")[:300])}</td>',
    ]
    return f'<tr class="{classes}">{"".join(cells)}</tr>'


def _counts(verdict: Verdict, series: Series) -> str:
    names = list(dict.fromkeys(point.f for point in series.points))
    rows = []
    for name in names:
        mine = [point for point in series.points if point.f == name]
        ok = sorted(point.latency for point in mine if point.outcome == "ok")
        cells = [f"{sum(p.outcome == o for p in mine):,}" for o in ("ok", "info", "fail")]
        cells += (
            [words.duration(percentile(ok, share)) for share in (0.5, 0.9, 0.99, 1.0)]
            if ok
            else [""] * 4
        )
        rows.append([name, *cells])
    for key, times in verdict.counts.items():
        name, _, outcome = key.partition(" ")
        if outcome == "ok" and name not in names and times:
            rows.append([name, f"{times:,}", *[""] * 6])
    if not rows:
        return ""
    head = ["operation", "ok", "unknown", "failed", "median", "90 %", "99 %", "longest"]
    return (
        "<section><h2>Operations</h2>"
        + _table(head, rows)
        + '<p class="faint">Latencies are of those that are ok.</p>'
        + _sometimes(verdict)
        + "</section>"
    )


def _sometimes(verdict: Verdict) -> str:
    rows = [[SOMETIMES.get(name, name), f"{times:,}"] for name, times in verdict.sometimes.items()]
    head = ["what a long suite must meet now and again", "here"]
    return f"<h2>Now and again</h2>{_table(head, rows)}" if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and all others are numbers."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if at else ''}>{escape(text)}</{tag}>"
            for at, text in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _faults(series: Series) -> str:
    if not series.faults:
        return ""
    kinds = dict.fromkeys(fault.kind for fault in series.faults)
    rows = []
    for kind in kinds:
        mine = [fault for fault in series.faults if fault.kind == kind]
        shown = sum(bool(fault.proofs) for fault in mine)
        rows.append([kind, f"{len(mine):,}", f"{shown:,}"])
    each = "".join(map(_fault, series.faults))
    count = len(series.faults)
    return (
        "<section><h2>Faults</h2>"
        + _table(["fault", "times", "with proof"], rows)
        + f"<details{' open' if count <= 12 else ''}><summary>each of them ({count:,})</summary>"
        '<div class="wide tall"><table class="lines"><thead><tr><th class="number">from s</th>'
        '<th class="number">to s</th><th>fault</th><th>where</th><th>proof</th></tr></thead>'
        f"<tbody>{each}</tbody></table></div></details></section>"
    )


def _fault(fault: FaultSpan) -> str:
    proof = "; ".join(fault.proofs) or "; ".join(f"none: {doubt}" for doubt in fault.doubts)
    return (
        f'<tr><td class="number">{fault.begin:.3f}</td><td class="number">{fault.end:.3f}</td>'
        f"<td>{escape(fault.text)}</td><td>{escape(', '.join(fault.members) or ELSEWHERE)}</td>"
        f'<td class="text">{escape(proof[:300]) or "none"}</td></tr>'
    )


def _notes(events: Sequence[Event]) -> str:
    found = [event.i for event in events if event.p == NEMESIS and event.f in NOTES]
    if not found:
        return ""
    return (
        "<section><h2>What the nodes did</h2>"
        f"<details><summary>{len(found):,} notes</summary>"
        f'<div class="tall">{_lines(events, found, set())}</div></details></section>'
    )
