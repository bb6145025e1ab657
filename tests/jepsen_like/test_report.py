"""What the page and the picture show is what is in the history."""

from __future__ import annotations

import builtins
import re
import struct
from html.parser import HTMLParser

import pytest

from jepsen_like.checkers import KINDS
from jepsen_like.faults.catalogue import CATALOGUE
from jepsen_like.history import NEMESIS, Event, History, read_history
from jepsen_like.report import ReportError, write_report, write_run
from jepsen_like.report.around import SHOWN_MAX, lines_around, short_value
from jepsen_like.report.page import page
from jepsen_like.report.series import CLASSES, class_of, percentile, series_of, stacked
from jepsen_like.report.timeline import DARK, LIGHT, draw_timeline
from jepsen_like.report.words import duration, fact, headline
from jepsen_like.sim.runs import Options, replay_command, run_seeds
from jepsen_like.verdict import judge, read_verdict
from tests.jepsen_like.handmade import Lines, S, busy, one_edit, whole


def page_of(history: History) -> str:
    return page(history, judge(history), series_of(history.events), light=b"light", dark=b"dark")


class Checker(HTMLParser):
    """Every tag that is opened is closed, in order; nothing is fetched."""

    VOID = ("meta", "img", "source")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        for name, value in attrs:
            assert name not in ("onclick", "onload")
            if name in ("src", "srcset", "href"):
                assert value.startswith(("data:image/png;base64,", "#")), value[:40]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)


def text_of(html: str) -> str:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return re.sub(r"\s+", " ", " ".join(checker.texts))


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_every_anomaly_shows_it_and_its_lines(kind: str) -> None:
    history = one_edit(kind).history()
    verdict = judge(history)

    html = page_of(history)
    text = text_of(html)

    assert "Invalid" in text
    assert KINDS[kind] in text
    own = len(set(verdict.anomalies[0].lines))
    assert html.count('class="own') >= own


def test_a_valid_page_says_what_was_found_and_where() -> None:
    history = whole().history()
    text = text_of(page_of(history))

    assert "Valid" in text
    assert "3 sends were acknowledged" in text
    assert "in the logs of n1 and n2" in text
    assert "Anomalies" not in text


def test_a_valid_page_claims_no_log_that_was_not_looked_into() -> None:
    lines = whole()
    lines.events = [event for event in lines.events if event.f not in ("dump", "dumped")]
    history = lines.history()

    assert "the logs of" not in headline(history, judge(history))


def test_an_unknown_page_says_why() -> None:
    lines = whole()
    lines.events.remove(lines.find("drained", "info"))

    text = text_of(page_of(lines.history()))

    assert "Unknown" in text
    assert "nothing was drained at the end" in text


def test_the_page_of_an_empty_history_is_one() -> None:
    history = History(lambda: 0.0)

    assert "The history is empty" in text_of(page_of(history))
    assert draw_timeline(series_of([])).startswith(b"\x89PNG")


def test_what_was_run_and_how_to_run_it_again_stand_on_the_page() -> None:
    lines = whole()
    lines.events[0].v |= {
        "layer": "simulation", "seed": 7, "mutant": "early-ack",
        "replay": "python -m jepsen_like sim --seed 7",
        "load": {"send_timeout_s": 8.0, "body_size_max": 2048, "groups": 0},
    }  # fmt: skip

    text = text_of(page_of(lines.history()))

    assert "python -m jepsen_like sim --seed 7" in text
    assert "deliberate bug in this run: early-ack" in text
    assert "send timeout 8 s; body size max 2 KiB" in text
    assert "groups 0" not in text


def test_nothing_of_a_history_becomes_markup() -> None:
    lines = one_edit("phantom")
    evil = "<script>alert(1)</script>"
    for event in lines.events:
        if event.f in ("drain", "dump"):
            event.v = [[offset, evil] for offset, _ in event.v]
    lines.events[0].v["layer"] = lines.events[0].v["replay"] = evil
    lines.find("send", "info").err = evil
    lines.note("fault", v=f"kill {evil}")
    lines.note("effect", v=[f"kill {evil}", evil])

    html = page_of(lines.history())

    assert evil not in html
    assert evil in text_of(html)


def test_faults_stand_with_their_proofs() -> None:
    lines = whole()
    lines.note("fault", v="kill n1")
    lines.note("fault", v="wire 5 ways")
    lines.note("effect", v=["kill n1", "pid 71 is gone"])
    lines.note("effect", v=["wire 5 ways", None], err="no packet passed")
    lines.note("heal", v="kill n1")

    series = series_of(lines.history().events)
    kill, wire = series.faults

    assert (kill.kind, kill.members, kill.proofs) == ("kill", ("n1",), ["pid 71 is gone"])
    assert kill.end == lines.events[-1].t / S
    assert (wire.members, wire.proofs, wire.doubts) == ((), [], ["no packet passed"])
    text = text_of(page_of(lines.history()))
    assert "pid 71 is gone" in text
    assert "none: no packet passed" in text


def test_the_lanes_are_those_of_the_members_that_are_named() -> None:
    lines = Lines()
    for fault in ("transfer n1 to n2", "one-way to n3", "halves n1,n2|n3", "kill n1,n3", "wire 4"):
        lines.note("fault", v=fault)

    found = [fault.members for fault in series_of(lines.events).faults]

    assert found == [("n1",), ("n3",), ("n1", "n2", "n3"), ("n1", "n3"), ()]


def test_who_led_and_who_was_down() -> None:
    lines = Lines()
    lines.note("start", node="n1", t=0)
    lines.note("start", node="n2", t=0)
    lines.note("leader", node="n1", o=1, t=1 * S)
    lines.note("leader", node="n1", o=1, t=2 * S)  # told twice
    lines.note("exit", node="n1", v="killed", t=5 * S)
    lines.note("leader", node="n2", o=2, t=6 * S)
    lines.note("start", node="n1", t=7 * S)
    lines.note("exit", node="n2", v="ended", t=9 * S)

    series = series_of(lines.events)

    assert [(s.text, s.begin, s.end) for s in series.leads] == [("n1 1", 1, 5), ("n2 2", 6, 9)]
    assert [(s.begin, s.end) for s in series.downs["n1"]] == [(5, 7)]
    assert series.downs["n2"] == []  # it ended with the run


def test_operations_are_points_at_the_time_of_their_answer() -> None:
    lines = Lines()
    lines.add(1, "invoke", "send", v="c-1", t=1 * S)
    lines.add(2, "invoke", "end", k=0, t=2 * S)
    lines.add(1, "info", "send", v="c-1", t=4 * S)

    series = series_of(lines.events)

    (point,) = series.points
    assert (point.f, point.outcome, point.at, point.latency) == ("send", "info", 4, 3)
    assert series.unanswered == 1


def test_faults_that_overlap_stand_in_rows_of_their_own() -> None:
    lines = Lines()
    for begin, end in ((0, 5), (1, 2), (3, 9), (6, 7)):
        lines.note("fault", v=f"pause n1 {begin}", t=begin * S)
        lines.note("heal", v=f"pause n1 {begin}", t=end * S)
    lines.events.sort(key=lambda event: event.t)

    rows = [row for row, _ in stacked(series_of(lines.events).faults)]

    assert rows == [0, 1, 1, 0]


def test_every_fault_of_the_catalogue_has_a_colour_that_was_chosen() -> None:
    named = {name for names in CLASSES.values() for name in names}
    others = {"transfer", "coup", "wall-clock", "clock-rate"}

    assert set(CATALOGUE) - named <= others
    assert {class_of(name) for name in others} == {"clock, lead, other"}
    for theme in (LIGHT, DARK):
        assert set(theme.classes) == set(CLASSES)


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100), (0.001, 1)]
)
def test_percentiles(share, value) -> None:
    assert percentile([float(n) for n in range(1, 101)], share) == value


def test_a_percentile_of_one_is_that_one() -> None:
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000123, "12 µs"), (0.0123, "12.3 ms"), (0.456, "456 ms"), (7.891, "7.89 s")],
)
def test_durations_read_well(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("segment_size", 65536, ("segment size", "64 KiB")),
        ("body_size_max", 300, ("body size max", "300 bytes")),
        ("heartbeat_ms", 75, ("heartbeat", "75 ms")),
        ("quiet_seconds", 3.0, ("quiet", "3 s")),
        ("retention", False, ("retention", "no")),
        ("members", ["n1", "n2"], ("members", "n1, n2")),
    ],
)
def test_settings_read_well(name, value, words) -> None:
    assert fact(name, value) == words


# -- the lines around ---------------------------------------------------------------------------


def test_around_an_anomaly_stand_lines_of_its_queue_and_process_only() -> None:
    lines = busy()
    lines.events = [e for e in lines.events if not (e.f == "poll" and (e.k, e.t) > (1, 12 * S))]
    history = one_edit("stale-poll").history()
    (anomaly,) = judge(history).anomalies

    shown = [line for line in lines_around(history.events, anomaly) if line is not None]

    assert set(anomaly.lines) <= set(shown)
    assert shown == sorted(shown)
    for line in shown:
        event = history.events[line]
        assert event.p == NEMESIS or event.k == anomaly.queue or event.p == anomaly.process


def test_gaps_are_marked_and_much_is_cut_short() -> None:
    history = one_edit("duplicate").history()
    (anomaly,) = judge(history).anomalies
    lines = lines_around(history.events, anomaly)
    assert None in lines

    long = History(lambda: 0.0, [Event(n, n, n, "ok", "poll", k=0, v=[]) for n in range(999)])
    many = type(anomaly)("duplicate", "x", tuple(range(0, 999, 9)), 0)
    assert len([n for n in lines_around(long.events, many) if n is not None]) <= 2 * SHOWN_MAX


def test_a_long_value_is_cut_short() -> None:
    pairs = [[n, f"c-{n}"] for n in range(1000)]

    told = short_value(Event(0, 0, 1, "ok", "drain", k=0, v=pairs))

    assert told == "0 c-0, 1 c-1, 2 c-2, 3 c-3, ..., 999 c-999 (1,000)"
    assert len(short_value(Event(0, 0, -1, "info", "fault", v="x" * 999))) < 210


# -- files --------------------------------------------------------------------------------------


def pixels(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_a_run_s_folder_holds_all_of_it(tmp_path) -> None:
    lines = busy()
    lines.note("fault", v="kill n1", t=26 * S)
    lines.note("heal", v="kill n1", t=27 * S)
    history = lines.history()
    verdict = judge(history)

    write_run(tmp_path / "run", history, verdict)

    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.jsonl", "report.html", "timeline.png", "verdict.json",
    ]  # fmt: skip
    assert read_history(folder).events == history.events
    assert read_verdict(folder / "verdict.json") == verdict
    width, height = pixels((folder / "timeline.png").read_bytes())
    assert width > 1200
    assert height > 600
    html = (folder / "report.html").read_text("utf-8")
    assert html.count("data:image/png;base64,") == 2
    text_of(html)


def test_the_two_pictures_are_on_their_own_grounds() -> None:
    series = series_of(whole().events)

    assert draw_timeline(series, LIGHT) != draw_timeline(series, DARK)


def test_the_picture_grows_with_the_group() -> None:
    def height(members: int) -> int:
        lines = Lines()
        for number in range(members):
            lines.note("start", node=f"n{number + 1}")
        return pixels(draw_timeline(series_of(lines.events)))[1]

    assert height(5) > height(3) > height(1)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch) -> None:
    original = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    history = whole().history()

    with pytest.raises(ReportError, match="pip install --group report"):
        write_run(tmp_path, history, judge(history))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.jsonl", "verdict.json"]


def test_a_report_can_be_written_elsewhere(tmp_path) -> None:
    history = whole().history()

    path = write_report(tmp_path / "here", history, judge(history))

    assert path == tmp_path / "here" / "report.html"


@pytest.mark.slow
def test_a_simulated_seed_leaves_a_folder_that_is_judged_the_same_again(tmp_path) -> None:
    told: list[str] = []
    options = Options(fault_seconds=4.0, out=tmp_path, is_detailed=True)

    run_seeds([5], options, tell=told.append)

    folder = tmp_path / "seed-5"
    assert any(str(folder) in line for line in told)
    verdict = read_verdict(folder / "verdict.json")
    assert judge(read_history(folder)) == verdict
    text = text_of((folder / "report.html").read_text("utf-8"))
    assert replay_command(5, options) in text
    assert verdict.state.capitalize() in text
