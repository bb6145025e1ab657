"""Processes that a test starts: they end, and their pipes are closed, however the test ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def child(*command: object, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run Python with the words of *command*; kill it at the end if it still runs.

    A pipe that a failed test leaves open is closed by the garbage collector, and the warning of it
    fails the test that happens to run then.
    """
    with subprocess.Popen([sys.executable, *map(str, command)], **options) as process:
        try:
            yield process
        finally:
            process.kill()
