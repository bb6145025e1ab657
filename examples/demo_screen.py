"""What the demonstration shows: bars that move on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dledger.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo_verdict import Verdict


class Screen:
    """Lines with the seconds since the start, and three bars below them."""

    def __init__(self) -> None:
        is_terminal = sys.stdout.isatty()
        self._console = Console(
            width=None if is_terminal else 160, highlight=False, soft_wrap=not is_terminal
        )
        self._clock = SystemClock()
        self._began = self._clock.now()
        self._progress: Progress | None = None
        self._shown: tuple[int, int, int] | None = None
        self.seconds_between = 0.1 if is_terminal else 1.0  # two calls of `update`

    def say(self, text: str) -> None:
        """Print one line of the story."""
        self._console.print(f"{self._clock.now() - self._began:6.2f} s  {text}", markup=False)

    @contextlib.contextmanager
    def bars(self, total: int) -> Iterator[None]:
        """Show the bars while the context lasts; each is full at *total* rows."""
        if not self._console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description:>12}"), BarColumn(40), MofNCompleteColumn())
        with Progress(*columns, console=self._console) as self._progress:
            for name in ("sent", "acknowledged", "read"):
                self._progress.add_task(name, total=total)
            yield
        self._progress = None

    def update(self, *, sent: int, acknowledged: int, read: int) -> None:
        """Show how far the rows are."""
        now = (sent, acknowledged, read)
        if self._progress is not None:
            for task, count in zip(self._progress.task_ids, now, strict=True):
                self._progress.update(task, completed=count)
        elif not self._console.is_terminal and now != self._shown:
            self.say(f"sent {sent:,}  acknowledged {acknowledged:,}  read {read:,}")
        self._shown = now

    def show_verdict(self, verdict: Verdict) -> None:
        """Print the verdict and what it stands on."""
        self._console.print()
        for name, value in (
            ("sent", f"{verdict.sent:,}"),
            ("acknowledged", f"{verdict.acknowledged:,}"),
            ("lost", str(verdict.lost)),
            ("duplicated", str(verdict.duplicated)),
            ("out of order per key", str(verdict.out_of_order)),
            ("in another place than acknowledged", str(verdict.misplaced)),
            ("sent by nobody", str(verdict.foreign)),
            ("logs byte-identical on all nodes", "yes" if verdict.logs_identical else "NO"),
        ):
            self._console.print(f"  {name:36}{value:>6}", markup=False)
        for detail in verdict.details:
            self._console.print(f"  {detail}", markup=False)
        colour, word = ("green", "clean") if verdict.is_clean else ("red", "NOT CLEAN")
        self._console.print(f"\n  verdict: [bold {colour}]{word}[/]")
