"""The bar that ``dledger produce`` shows on a terminal: how much, how fast, what failed."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Protocol

from broker.cli.output import console

if TYPE_CHECKING:
    from collections.abc import Iterator


class Progress(Protocol):
    """Where a run says how it goes."""

    def advance(self, size: int, *, acknowledged: int, failed: int) -> None:
        """Take note of *size* more bytes of input done, and of the counts so far."""
        ...

    def say(self, text: str) -> None:
        """Print a line on stderr, above the bar."""
        ...


class _NoBar:
    def advance(self, size: int, *, acknowledged: int, failed: int) -> None:
        pass

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def open_progress(size: int | None, *, is_wanted: bool = True) -> Iterator[Progress]:
    """Give a bar for *size* bytes of input (None: nobody knows); none where is no terminal."""
    if not is_wanted or not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich import progress as bars
    from rich.text import Text

    class Speed(bars.ProgressColumn):
        """Messages a second."""

        def render(self, task: bars.Task) -> Text:
            seconds = task.elapsed or 0
            rate = task.fields["acknowledged"] / seconds if seconds else 0
            return Text(f"{rate:,.0f}/s", style="cyan")

    class Counts(bars.ProgressColumn):
        """What has been acknowledged, and what has failed."""

        def render(self, task: bars.Task) -> Text:
            text = Text(f"{task.fields['acknowledged']:,} acknowledged", style="green")
            if failed := task.fields["failed"]:
                text.append(f"  {failed:,} failed", style="bold red")
            return text

    columns: list[bars.ProgressColumn] = [bars.TextColumn("sending"), bars.BarColumn()]
    columns += [bars.DownloadColumn(), Counts(), Speed()]
    if size is not None:
        columns.append(bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=console(is_error=True), transient=True) as shown:
        task = shown.add_task("", total=size, acknowledged=0, failed=0)

        class _Bar:
            def advance(self, size: int, *, acknowledged: int, failed: int) -> None:
                shown.update(task, advance=size, acknowledged=acknowledged, failed=failed)

            def say(self, text: str) -> None:
                shown.console.print(Text(text, style="red"))

        yield _Bar()
