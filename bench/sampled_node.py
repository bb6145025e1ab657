"""A node that looks at its own stack while it works; started by `bench.profile`, as ``dledger`` is.

``python -m bench.sampled_node FOLDER node start -c node.toml``: SIGUSR1 begins, SIGUSR2 ends and
writes ``FOLDER/<pid>.stacks``: one stack a line, outermost first, and how often it was seen. The
samples are taken each few milliseconds of processor time, not of the clock, so an idle node has
none; they are those of the event loop's thread.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli.main import main

if TYPE_CHECKING:
    from types import FrameType

_SAMPLE_SECONDS = 0.004  # of processor time


class Sampler:
    """Counts stacks."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}.stacks"
        self._seen: Counter[tuple[object, ...]] = Counter()

    def install(self) -> None:
        """Listen to the two signals."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, self._begin)
        signal.signal(signal.SIGUSR2, self._end)

    def _begin(self, _: int, __: FrameType | None) -> None:
        self._seen.clear()
        signal.setitimer(signal.ITIMER_PROF, _SAMPLE_SECONDS, _SAMPLE_SECONDS)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        self._seen[tuple(stack)] += 1

    def _end(self, _: int, __: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        counted: Counter[str] = Counter()
        for stack, count in self._seen.items():
            counted[";".join(_name(code) for code in reversed(stack))] += count
        fresh = self._path.with_suffix(".new")
        fresh.write_text("".join(f"{s} {n}\n" for s, n in counted.items()), encoding="utf-8")
        fresh.replace(self._path)


def _name(code: object) -> str:
    """Return ``module.py:function`` as it is read in a graph."""
    path = Path(getattr(code, "co_filename", "?"))
    name = str(getattr(code, "co_qualname", "?")).replace("<locals>.", "").replace(";", ",")
    return f"{path.parent.name}/{path.name}:{name}".replace(" ", "_")


if __name__ == "__main__":
    Sampler(Path(sys.argv.pop(1))).install()
    main()
