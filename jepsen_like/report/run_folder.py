"""A run's folder: history, verdict, report and picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.report.page import page
from jepsen_like.report.series import series_of
from jepsen_like.report.timeline import DARK, draw_timeline

if TYPE_CHECKING:
    from pathlib import Path

    from jepsen_like.history import History
    from jepsen_like.verdict import Verdict

HISTORY, VERDICT, REPORT, PICTURE = "history.jsonl", "verdict.json", "report.html", "timeline.png"


class ReportError(Exception):
    """The report cannot be made; its text says what to do."""


def write_run(folder: Path, history: History, verdict: Verdict) -> None:
    """Write everything of a run into *folder*.

    Raises:
        ReportError: all but the report and its picture was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    history.write(folder / HISTORY)
    verdict.write(folder / VERDICT)
    write_report(folder, history, verdict)


def write_report(folder: Path, history: History, verdict: Verdict) -> Path:
    """Write page and picture into *folder*; return the page's path.

    Raises:
        ReportError: they cannot be drawn.
    """
    series = series_of(history.events)
    try:
        light, dark = draw_timeline(series), draw_timeline(series, DARK)
    except ImportError as error:
        raise ReportError(
            f"no report: the picture needs matplotlib ({error}); "
            "python -m pip install --group report"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PICTURE).write_bytes(light)
    path = folder / REPORT
    path.write_text(page(history, verdict, series, light=light, dark=dark), encoding="utf-8")
    return path
