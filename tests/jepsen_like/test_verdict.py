"""Valid, invalid, unknown: and a reason for each that is not the first."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jepsen_like.checkers
from jepsen_like.checkers import Anomaly
from jepsen_like.verdict import OF_A_KIND_MAX, Verdict, judge, read_verdict, tell
from tests.jepsen_like.handmade import one_edit, whole


def test_a_good_history_is_valid() -> None:
    verdict = judge(whole().history())

    assert (verdict.state, verdict.reasons, verdict.anomalies) == ("valid", (), ())
    assert verdict.counts["send ok"] == 3
    assert verdict.counts["send fail"] == 1
    assert verdict.counts["send info"] == 2
    assert verdict.sometimes["leaders"] == 2


def test_an_anomaly_makes_it_invalid_whatever_else_is_unknown() -> None:
    lines = one_edit("phantom")
    lines.events.remove(lines.find("drained", "info"))

    verdict = judge(lines.history())

    assert verdict.state == "invalid"
    assert verdict.kinds == {"phantom": 1}
    assert verdict.reasons


def test_too_few_acknowledged_sends_say_nothing() -> None:
    history = whole().history()

    assert judge(history, ok_sends_min=3).state == "valid"
    verdict = judge(history, ok_sends_min=4)
    assert verdict.state == "unknown"
    assert verdict.reasons == ("3 sends were acknowledged, fewer than 4",)


def test_without_a_setup_a_thousand_are_needed() -> None:
    lines = whole()
    lines.events.pop(0)

    assert judge(lines.history()).reasons == ("3 sends were acknowledged, fewer than 1000",)


def test_without_a_drain_nothing_can_be_said() -> None:
    lines = whole()
    lines.events.remove(lines.find("drained", "info"))

    verdict = judge(lines.history())

    assert verdict.state == "unknown"
    assert "nothing was drained" in verdict.reasons[0]


def test_every_queue_must_be_drained() -> None:
    lines = whole()
    lines.send(9, "x-0", 0, queue=7)
    for node in ("n1", "n2"):
        lines.add(7, "ok", "dump", k=7, v=[[0, "x-0"]], o=0, node=node)

    assert judge(lines.history()).reasons[-1] == "not drained at the end: queue 7"


def test_a_checker_that_raises_says_nothing(monkeypatch) -> None:
    def broken(_events, _kept):
        yield Anomaly("phantom", "found before it broke")
        raise KeyError(7)

    monkeypatch.setitem(jepsen_like.checkers.CHECKERS, "polls", broken)
    found = judge(whole().history())
    assert (found.state, found.kinds) == ("invalid", {"phantom": 1})
    assert found.reasons == ("checker polls failed: KeyError: 7",)

    monkeypatch.setitem(jepsen_like.checkers.CHECKERS, "polls", lambda _events, _kept: 1 // 0)
    assert judge(whole().history()).state == "unknown"


def with_faults(*effects: tuple[str, str | None]):
    lines = whole()
    for fault in ("kill n1", "kill n2", "wire 5 ways"):
        lines.note("fault", v=fault)
        lines.note("heal", v=fault)
    for fault, err in effects:
        lines.note("effect", v=fault, err=err)
    return judge(lines.history())


def test_a_kind_of_fault_that_never_proved_itself_says_nothing() -> None:
    verdict = with_faults(("kill n1", None), ("wire 5 ways", "no packet was delayed"))

    assert verdict.state == "unknown"
    assert verdict.reasons == (
        "fault wire, 1 times, without proof of an effect: no packet was delayed",
    )


def test_one_proof_is_enough_for_a_kind() -> None:
    verdict = with_faults(
        ("kill n1", "it was down"), ("kill n2", None), ("wire 5 ways", "12 packets late")
    )
    assert verdict.state == "unknown"
    assert with_faults(("kill n2", None), ("wire 5 ways", None)).state == "valid"


def test_the_proof_may_stand_beside_the_fault() -> None:
    lines = whole()
    lines.note("fault", v="kill n1")
    lines.note("effect", v=["kill n1", "pid 71 is gone"])

    verdict = judge(lines.history())

    assert verdict.state == "valid"
    assert verdict.counts["effect kill"] == 1


def test_faults_must_prove_themselves_where_the_setup_says_so() -> None:
    lines = whole()
    lines.events[0].v["proofs"] = True
    lines.events[0].v["faults"] = ["kill", "pause"]
    lines.note("fault", v="kill n1")

    assert judge(lines.history()).reasons == (
        "fault pause never came",
        "fault kill, 1 times, without proof of an effect",
    )


def test_what_was_to_happen_and_did_not_says_nothing() -> None:
    lines = whole()
    lines.note("not-reached", v="S2", err="n1 never led")

    verdict = judge(lines.history())

    assert (verdict.state, verdict.reasons) == ("unknown", ("S2: n1 never led",))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda lines: setattr(lines.events[9], "t", 1), "time goes backwards"),
        (lambda lines: lines.send(3, "c-7", None, type="info"), "goes on after an unknown"),
        (lambda lines: lines.send(9, "c-1", None, type="info"), "a value is sent twice"),
        (
            lambda lines: [lines.add(9, "invoke", "end", k=0), lines.send(9, "c", 9, type="fail")],
            "begins one thing before another has ended",
        ),
        (lambda lines: lines.add(9, "info", "end", k=0), "ends what it had not begun"),
    ],
)
def test_a_history_that_is_none_says_nothing(spoil, reason) -> None:
    lines = whole()
    spoil(lines)

    verdict = judge(lines.history())

    assert any(reason in told for told in verdict.reasons), verdict.reasons
    assert verdict.state == "unknown"


def test_a_verdict_is_the_same_after_a_file(tmp_path) -> None:
    lines = one_edit("duplicate")
    history = lines.history()
    history.finish({"retried": 7})
    verdict = judge(history, ok_sends_min=1000)
    assert verdict.sometimes["retried"] == 7

    verdict.write(tmp_path / "verdict.json")

    assert read_verdict(tmp_path / "verdict.json") == verdict


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99, "state": "valid"}'])
def test_a_file_without_a_verdict_is_refused(tmp_path, text) -> None:
    (tmp_path / "verdict.json").write_text(text)

    with pytest.raises(ValueError, match="holds no verdict"):
        read_verdict(tmp_path / "verdict.json")


def test_all_anomalies_are_counted_and_some_are_kept() -> None:
    lines = whole()
    for number in range(3 * OF_A_KIND_MAX):
        lines.find("drain").v.append([4 + number, f"x-{number}"])

    verdict = judge(lines.history())

    assert verdict.kinds == {"phantom": 3 * OF_A_KIND_MAX}
    assert len(verdict.anomalies) == OF_A_KIND_MAX


def test_a_terminal_is_told_in_a_few_lines() -> None:
    verdict = Verdict(
        state="invalid",
        reasons=("too few",),
        anomalies=tuple(Anomaly("phantom", f"x-{n}") for n in range(9)),
        kinds={"phantom": 9},
    )

    assert tell(verdict) == [
        "phantom x9", "    x-0", "    x-1", "    x-2", "cannot be said: too few", "invalid",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code"), [(None, 0), ("phantom", 1), ("too few", 2), ("no file", 2)]
)
def test_the_command_ends_with_the_verdict(tmp_path, kind, code) -> None:
    lines = one_edit(kind) if kind == "phantom" else whole()
    if kind != "no file":
        lines.history().write(tmp_path / "history.jsonl")
    command = [sys.executable, "-m", "jepsen_like", "check", str(tmp_path)]
    if kind == "too few":
        command += ["--sends", "99"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
