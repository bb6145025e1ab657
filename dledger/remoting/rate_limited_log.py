"""Lines that anyone outside can cause, so that nobody can fill the disk with them."""

from __future__ import annotations

import logging
from typing import Final

import trio

LINES_MAX: Final = 10  # of one kind in one interval; more are counted
INTERVAL_SECONDS: Final = 10.0
LINE_SIZE_MAX: Final = 2000  # characters


class RateLimitedLog:
    """Lines of one kind."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._interval_end = float("-inf")
        self._line_count = 0

    def warning(self, text: str, *args: object) -> None:
        """Log a line, unless many of its kind were logged just now."""
        self.log(logging.WARNING, text, *args)

    def log(self, level: int, text: str, *args: object) -> None:
        """As `warning`, with another level."""
        now = trio.current_time()
        if now >= self._interval_end:
            if self._line_count > LINES_MAX:
                self._logger.log(
                    level, "%d more lines like those were left out", self._line_count - LINES_MAX
                )
            self._interval_end = now + INTERVAL_SECONDS
            self._line_count = 0
        self._line_count += 1
        if self._line_count <= LINES_MAX and self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", shorten(text % args, LINE_SIZE_MAX))


def shorten(text: str, size_max: int) -> str:
    """Return *text*, cut and marked as cut where it is longer than *size_max* characters."""
    return text if len(text) <= size_max else f"{text[: size_max - 4]} ..."
