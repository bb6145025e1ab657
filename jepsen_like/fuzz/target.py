"""What is fuzzed: a reader, valid values to begin from, and what it may raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class WrongAnswerError(Exception):
    """A reader neither refused its input nor understood it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader."""

    name: str
    what: str  # one line for people
    seeds: Callable[[], list[bytes]]  # valid values, made by our own encoders
    run: Callable[[bytes], None]  # raises only for a fault of the reader


def must_say(error: Exception, *, names: str = "") -> None:
    """Check that *error* is worth reading, and that it has *names* in it.

    Raises:
        WrongAnswerError: it is not.
    """
    text = str(error)
    if len(text) < 8 or len(text) > 100_000 or names not in text:
        raise WrongAnswerError(f"{type(error).__name__} says {text[:200]!r} ({names!r} wanted)")


def must_be(claim: bool, what: str) -> None:
    """Raise `WrongAnswerError` with *what* unless *claim* holds."""
    if not claim:
        raise WrongAnswerError(what)
