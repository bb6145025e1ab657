"""The system's own commands, run from trio without blocking it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import trio

from jepsen_like.real.proof import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence


async def run(*command: str, stdin: str = "") -> str:
    """Run *command* and return what it printed.

    In a session of its own, so that a Ctrl-C at the terminal ends us in order and not it halfway.

    Raises:
        LabError: it failed; with its own words.
    """
    try:
        done = await trio.run_process(
            command,
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            start_new_session=True,
        )
    except OSError as error:
        raise LabError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise LabError(_failed(command, done.returncode, done.stderr))
    return done.stdout.decode(errors="replace")


def run_now(*command: str) -> str:
    """Run *command* at once, blocking; as `run` otherwise."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, start_new_session=True)
    except OSError as error:
        raise LabError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise LabError(_failed(command, done.returncode, done.stderr))
    return done.stdout.decode(errors="replace")


def _failed(command: Sequence[str], code: int, stderr: bytes) -> str:
    said = stderr.decode(errors="replace").strip() or "it said nothing"
    return f"`{' '.join(command)}` ended with {code}: {said}"
