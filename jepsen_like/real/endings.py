"""How the life of a node's process ended, and whether it was to."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dledger.errors import LedgerError, LedgerFullError, StorageFailedError

if TYPE_CHECKING:
    from collections.abc import Collection

_TRACEBACK_MAX = 4000

# A node's last word is one line; which error it was is told by what it says.
_WORDS: dict[type[BaseException], re.Pattern[str]] = {
    LedgerError: re.compile(""),
    LedgerFullError: re.compile("no room for|No space left on device"),
    StorageFailedError: re.compile("check the disk|an earlier sync failed"),
}


@dataclass(frozen=True, slots=True)
class End:
    """One end, as a history tells it; ``stopped`` and ``crashed`` are anomalies."""

    how: Literal["killed", "ended", "expected", "stopped", "crashed"]
    why: str = ""


def speaks_of(last_word: str, error: type[BaseException]) -> bool:
    """Whether a node's last word is that of *error*."""
    pattern = _WORDS.get(error)
    return pattern is not None and bool(pattern.search(last_word))


def end_of(
    code: int,
    *,
    last_word: str,
    traceback: str,
    is_excused: bool,
    stops_well: bool,
    was_ready: bool,
    expected: Collection[type[BaseException]],
) -> End:
    """Return how a life ended.

    Args:
        code: exit status; below zero the signal that ended it.
        last_word: the line that the node ended with, "" when it said none.
        traceback: one that it wrote, "" when it wrote none; always a mistake of ours.
        is_excused: whether somebody meant to kill it.
        stops_well: whether it was told to stop by SIGTERM.
        was_ready: whether it served; before that it does not listen for SIGTERM.
        expected: last words that a fault explains.
    """
    if traceback:
        return End("crashed", traceback[:_TRACEBACK_MAX])
    if code == -signal.SIGKILL and (is_excused or stops_well):
        return End("killed")
    if code == -signal.SIGTERM and stops_well and not was_ready:
        return End("ended")
    if code < 0:
        return End("crashed", f"signal {signal.Signals(-code).name}")
    if code == 0:
        return End("ended") if stops_well else End("crashed", "it ended, and nobody had told it to")
    if not last_word:
        return End("crashed", f"exit code {code} without a last word")
    if any(speaks_of(last_word, error) for error in expected):
        return End("expected", last_word)
    return End("stopped", last_word)
