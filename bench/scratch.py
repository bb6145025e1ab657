"""The folder that a benchmark works in: gone with it, however it ends; kept where it failed.

What a load writes is a gigabyte and more, mostly below ``/tmp``. A process that is killed removes
nothing, so another one, in a session of its own, waits for its end and does it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.output import first_leaf

if TYPE_CHECKING:
    from collections.abc import Iterator

# Its input ends when this process does. Nodes are killed at the same time (`ending_with_us`), and
# the last of them may make a file yet while the folder is being removed.
_REMOVE_BEHIND_US = """
import os, shutil, sys, time
if not sys.stdin.buffer.read():
    for _ in range(100):
        shutil.rmtree(sys.argv[1], ignore_errors=True)
        if not os.path.exists(sys.argv[1]):
            break
        time.sleep(0.05)
"""


@contextlib.contextmanager
def scratch_folder(prefix: str, *, where: Path | None = None) -> Iterator[Path]:
    """Yield a new folder, and remove it at the end; where an error ended it, it is kept and named.

    Args:
        prefix: of its name.
        where: the folder to make it in; the system's for what is temporary if None.

    Raises:
        click.UsageError: it cannot be made; says what to do.
        KeyboardInterrupt: by itself, out of whatever groups it came in: all is removed.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
    except OSError as error:
        raise click.UsageError(
            f"no folder for data can be made: {error}; name one that exists and can be written to "
            "with --data, or in the environment as TMPDIR"
        ) from None
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _REMOVE_BEHIND_US, str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C leaves it alone
    )
    is_kept = False
    try:
        yield folder
    except BaseException as error:
        cause = first_leaf(error)
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        is_kept = folder.exists() and any(folder.iterdir())
        if is_kept:
            print(f"data and logs of the nodes are kept in {folder}", file=sys.stderr, flush=True)
        raise
    finally:
        guard.communicate(b"keep" if is_kept else b"")


def check_writable(*paths: Path | None) -> None:
    """Make sure that a file can be written at each of *paths* before minutes are spent on it.

    Raises:
        click.UsageError: names the path and the reason.
    """
    for path in paths:
        if path is None:
            continue
        reason = "it is a folder" if path.is_dir() else ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
        if not reason and not os.access(path if path.exists() else path.parent, os.W_OK):
            reason = "that is not allowed here"
        if reason:
            raise click.UsageError(f"{path} cannot be written: {reason}")
