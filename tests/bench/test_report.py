"""What a run came to, as text, as a picture, and as a flame graph."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import xml.dom.minidom

import numpy as np
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.cold import drop_cached, read_from_disk
from bench.flame import draw_flames, read_stacks
from bench.measured import GroupReport, Line, LoadError, Measured, Round
from bench.parts import PARTS, Figure, PartReport, choose_parts, memory_figure
from bench.plan import Plan
from bench.plot import plot
from bench.report import json_of, markdown_of, write_json
from bench.steady import decay
from tests.fakes.children import child


def report(flush: str = "SYNC_FLUSH") -> GroupReport:
    measured = Measured.of(
        message_count=100,
        seconds=2.0,
        latencies=np.array([0.001, 0.002, 0.003]),
        written_count=120,
        beside_rate=5000.0,
    )
    spent = Round(measured=measured, node_cpu_us=(5.0, 2.0, 2.5), client_cpu_us=1.0, rss=40 << 20)
    lines = tuple(Line.of(name, 100, flush, [spent]) for name in ("raw-1", "consume-busy"))
    return GroupReport(
        node_count=3,
        flush=flush,
        body_size=100,
        lines=lines,
        rss_before=(1, 1, 1),
        rss_after=(2, 2, 2),
        message_count=240,
        entry_count=7,
        log_size=2_000_000,
    )


def test_markdown_has_the_command_the_machine_and_a_table_for_each_group():
    text = markdown_of(
        [report()],
        [Figure(what="kill -9", text="80 ms", goal="under 100 ms", is_met=True)],
        Plan(is_warm=False),
        "python -m bench",
    )
    assert text.startswith("`python -m bench`, medians of 3 rounds. ")
    assert "processors" in text
    assert "3 nodes, SYNC_FLUSH, bodies of 100 bytes:" in text
    assert "| raw-1 | 50 | 2.00 | 2.98 | 3.00 | 5.00 / 2.00 / 2.50 | 1.00 | 40 |" in text
    assert "5,000/s sent meanwhile" in text
    assert "240 messages acknowledged and there; logs of 7 entries, 2 MB, identical" in text
    assert "| kill -9 | 80 ms | under 100 ms: met |" in text


@pytest.mark.parametrize("does", [True, False])
def test_markdown_says_where_memory_was_made_ready(monkeypatch, does):
    monkeypatch.setattr("bench.report.gives_memory_back", lambda: does)
    text = markdown_of([report()], [], Plan(), "python -m bench")
    assert text.startswith(f"`python -m bench`, medians of 3 rounds{', memory at hand' * does}. ")


def test_the_picture_shows_what_was_measured_and_what_was_not(tmp_path):
    content = json_of([report(), report("ASYNC_FLUSH")], [], [], Plan())
    content["parts"] = {"transfers": {"times_ms": [30.0, 40.0]}}
    write_json(tmp_path / "figures.json", content)
    plot(json.loads((tmp_path / "figures.json").read_text()), tmp_path / "figures.png")
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_stops_late_keeps_what_it_has_measured(tmp_path, monkeypatch):
    def measured(_folder, _sizes):
        figure = Figure(what="kill -9", text="80 ms")
        return [PartReport(name="kills", figures=(figure,), raw={"times_ms": [80.0]})]

    def lost(_folder, _sizes):
        raise LoadError("a message is missing")

    monkeypatch.setitem(PARTS, "kills", measured)
    monkeypatch.setitem(PARTS, "transfers", lost)
    out = tmp_path / "out"

    asked = ["--only", "none", "--parts", "kills,transfers", "--out", str(out)]
    result = CliRunner().invoke(main, asked)

    assert result.exit_code == 1
    assert "stopped: a message is missing" in result.stderr
    content = json.loads((out / "figures.json").read_text())
    assert content["stopped"] == "a message is missing"
    assert content["parts"] == {"kills": {"times_ms": [80.0]}}
    text = (out / "figures.md").read_text()
    assert "**Stopped before the end: a message is missing**" in text
    assert "| kill -9 | 80 ms |" in text


def test_memory_is_the_most_of_all_loads_beside_its_goal():
    figure = memory_figure([report()])
    assert figure is not None
    assert (figure.text, figure.verdict) == ("40 MiB", "under 80 MB: met")
    assert memory_figure([]) is None


def test_parts_are_chosen_by_name():
    assert choose_parts(None) == choose_parts("all") == list(PARTS)
    assert choose_parts("none") == []
    assert choose_parts("steady,kills") == ["steady", "kills"]
    with pytest.raises(ValueError, match="'nothing'; there are kills"):
        choose_parts("nothing")


def test_decay_sets_the_last_third_beside_the_first():
    steady = decay([100.0] * 12, [5.0] * 12, seconds=120)
    assert steady["rate_ratio"] == steady["cost_ratio"] == 1.0
    assert steady["percent_a_minute"] == pytest.approx(0.0, abs=1e-9)
    tired = decay([100.0 - 2 * n for n in range(13)], [5.0 + n for n in range(13)], seconds=120)
    assert tired["rate_ratio"] < 0.85
    assert tired["cost_ratio"] > 2
    assert tired["percent_a_minute"] == pytest.approx(-100 * 12 / 88)


def test_a_flame_is_as_wide_as_its_samples():
    text = "main;work;<lambda> 30\nmain;work 10\nmain;rest 60\nmain;rest 1\n"
    graph = draw_flames(read_stacks(text), title="a & b")
    xml.dom.minidom.parseString(graph)
    assert "a &amp; b; 101 samples" in graph
    assert "<title>work: 40 samples, 39.6 %</title>" in graph
    assert "<title>&lt;lambda&gt;: 30 samples, 29.7 %</title>" in graph
    assert "<title>rest: 61 samples" in graph


def test_a_node_writes_what_it_was_seen_to_do(tmp_path):
    """SIGUSR1 begins, SIGUSR2 ends; the process works until it has written."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from bench.sampled_node import Sampler\n"
        "def busy_work():\n"
        "    sum(range(1000))\n"
        "folder = Path(sys.argv[1])\n"
        "Sampler(folder).install()\n"
        "print('ready', flush=True)\n"
        "begun = os.times().user\n"
        "while not list(folder.glob('*.stacks')):\n"
        "    busy_work()\n"
        "    if (folder / 'end').exists() and os.times().user > begun + 0.3:\n"
        "        (folder / 'end').unlink()\n"
        "        os.kill(os.getpid(), 12)\n"
    )
    with child("-c", script, tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert signal.SIGUSR2 == 12
        process.send_signal(signal.SIGUSR1)
        (tmp_path / "end").touch()
        process.communicate()
    stacks = read_stacks((tmp_path / f"{process.pid}.stacks").read_text())
    assert any(stack[-1].endswith(":busy_work") for stack in stacks)


def test_files_are_synced_and_dropped_from_the_cache(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 5000)
    (tmp_path / "below" / "two").write_bytes(b"y" * 300)
    assert drop_cached(tmp_path) == 5300
    assert (tmp_path / "one").read_bytes() == b"x" * 5000
    assert read_from_disk(os.getpid()) >= 0
