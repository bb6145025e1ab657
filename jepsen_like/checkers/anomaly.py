"""One thing that is wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Its kind, as fault testing of queues names it, and what shows it."""

    kind: str
    text: str
    lines: tuple[int, ...] = ()  # numbers of the lines of the history that show it
    queue: int | None = None
    process: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"
