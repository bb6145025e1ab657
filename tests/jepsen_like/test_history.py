"""Lines in, the same lines out; several files become one history; Jepsen's tools can read it."""

from __future__ import annotations

import re

import pytest

from jepsen_like.edn import edn, to_edn
from jepsen_like.history import NEMESIS, Event, History, operations, read_history
from tests.jepsen_like.handmade import Lines, S, whole


def test_a_history_is_the_same_after_a_file(tmp_path) -> None:
    history = whole().history()

    history.write(tmp_path / "history.jsonl")

    assert read_history(tmp_path / "history.jsonl").events == history.events


def test_a_broken_line_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "history.jsonl").write_text('{"what": 7}\n')

    with pytest.raises(ValueError, match="no line of a history"):
        read_history(tmp_path / "history.jsonl")


def test_what_ends_must_have_begun() -> None:
    lines = Lines()
    lines.add(1, "ok", "send", v="c-1")

    with pytest.raises(ValueError, match="line 0: process 1 had begun no send"):
        operations(lines.events, "send")


def test_files_are_merged_by_time_and_numbered_anew(tmp_path) -> None:
    clients, nemesis = Lines(), Lines()
    for second in (0, 2, 4):
        clients.add(1, "invoke", "send", v=f"c-{second}", t=second * S)
        nemesis.note("fault", v="kill n1", t=(second + 1) * S)
    clients.history().write(tmp_path / "history.jsonl")
    nemesis.history().write(tmp_path / "nemesis.jsonl")

    merged = read_history(tmp_path)

    assert [event.t // S for event in merged.events] == [0, 1, 2, 3, 4, 5]
    assert [event.i for event in merged.events] == [0, 1, 2, 3, 4, 5]
    assert {event.p for event in merged.events if event.f == "fault"} == {NEMESIS}


def test_merging_never_makes_one_process_of_two() -> None:
    histories = []
    for _ in range(3):
        lines = Lines()
        for p in (1, 2):
            lines.add(p, "invoke", "end", k=0)
        histories.append(lines.history())

    merged = History.merge(histories)

    assert sorted(event.p for event in merged.events) == [1, 2, 3, 4, 5, 6]


def test_a_folder_without_a_history_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("holds no history.jsonl")):
        read_history(tmp_path)


# -- EDN ----------------------------------------------------------------------------------------

_TOKEN = re.compile(r'[\s,]*([{}\[\]]|"(?:\\.|[^"\\])*"|[^\s,{}\[\]"]+)', re.DOTALL)
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "b": "\b", "f": "\f"}


class Keyword(str):
    """`:name`, without its colon."""

    __slots__ = ()


def read_edn(text: str):
    """A small reader, strict where Clojure's is (clojure.edn: strings, numbers, keywords)."""
    tokens = iter(_TOKEN.findall(text))
    value = _read(next(tokens), tokens)
    assert next(tokens, None) is None
    return value


def _read(token, tokens):
    if token == "{":
        found = list(iter(lambda: _until(tokens, "}"), _END))
        assert len(found) % 2 == 0
        return dict(zip(found[::2], found[1::2], strict=True))
    if token == "[":
        return list(iter(lambda: _until(tokens, "]"), _END))
    if token[0] == '"':
        return _string(token[1:-1])
    if token[0] == ":":
        assert re.fullmatch(r":[A-Za-z][\w.+*!?<>=-]*", token), token
        return Keyword(token[1:])
    if token in ("nil", "true", "false"):
        return {"nil": None, "true": True, "false": False}[token]
    if re.fullmatch(r"-?(0|[1-9][0-9]*)", token):
        return int(token)
    return float({"##NaN": "nan", "##Inf": "inf", "##-Inf": "-inf"}.get(token, token))


_END = object()


def _until(tokens, end):
    token = next(tokens)
    return _END if token == end else _read(token, tokens)


def _string(inner):
    """Clojure refuses any escape but these."""
    units, at = [], 0
    while at < len(inner):
        if inner[at] != "\\":
            units.append(inner[at])
            at += 1
        elif inner[at + 1] == "u":
            units.append(chr(int(inner[at + 2 : at + 6], 16)))
            at += 6
        else:
            units.append(_ESCAPES[inner[at + 1]])
            at += 2
    return "".join(units).encode("utf-16", "surrogatepass").decode("utf-16")


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -7, 1 << 80, 0.5, -1e300, 1e-9, float("inf"), "", "plain",
        'a "quoted" \\ and \t \n \r \b \f / \x00 \x7f', "Grüße 時 \U0001f600", ":no keyword",
        [], [1, [2, None]], {}, {"a-b": 1, "not a keyword": {"x": [None]}, "": 2},
    ],
)  # fmt: skip
def test_a_value_comes_back_out_of_edn(value) -> None:
    assert read_edn(edn(value)) == value


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes is no value"):
        edn(b"x")


def test_jepsen_reads_the_same_operations() -> None:
    history = whole().history()
    history.events[5].err = 'it said "no"'

    maps = [read_edn(line) for line in to_edn(history.events)]

    assert [m["index"] for m in maps] == list(range(len(maps)))
    asked = [m for m in maps if not (m["type"] == "invoke" and _is_added(m, history))]
    for m, event in zip(asked, history.events, strict=True):
        assert (m["line"], m["time"]) == (event.i, event.t)
        assert (m["type"], m["f"]) == (Keyword(event.type), Keyword(event.f))
        assert m["process"] == ("nemesis" if event.p == NEMESIS else event.p)
        assert isinstance(m["process"], Keyword) == (event.p == NEMESIS)
        assert m["value"] == [event.k, event.v, event.o]
        assert (m.get("group"), m.get("node")) == (event.g, event.node)
        assert m.get("error") == event.err


def _is_added(m, history) -> bool:
    return history.events[m["line"]].type != "invoke"


def test_jepsen_finds_an_invocation_before_every_completion() -> None:
    """Otherwise its pair index refuses the whole history."""
    running = {}
    for line in to_edn(whole().history().events):
        m = read_edn(line)
        if m["process"] == "nemesis":
            continue
        if m["type"] == "invoke":
            assert m["process"] not in running
            running[m["process"]] = m["f"]
        else:
            assert running.pop(m["process"]) == m["f"]


def test_edn_is_written_while_lines_come_in() -> None:
    def endless():
        number = 0
        while True:
            yield Event(number, number, 1, "ok", "poll", k=0, v=[[number, "x"]])
            number += 1

    lines = to_edn(endless())

    assert [read_edn(next(lines))["index"] for _ in range(10)] == list(range(10))


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Event(1, 0, 1, "ok", "end", k=0, o=1), "process 1 is at send"),
        (Event(1, 0, 2, "ok", "no keyword"), "'no keyword' is no keyword"),
    ],
)
def test_what_jepsen_could_not_read_is_refused(event, why) -> None:
    with pytest.raises(ValueError, match=why):
        list(to_edn([Event(0, 0, 1, "invoke", "send", k=0, v="c-1"), event]))
