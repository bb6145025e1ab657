"""What a fault says of itself, and what goes wrong in the laboratory."""

from __future__ import annotations

from dataclasses import dataclass, field


class LabError(Exception):
    """The laboratory could not do what it was told; no verdict can rest on such a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whether a fault really happened, and the figures that say so."""

    what: str  # "power loss of n1"
    took_effect: bool
    figures: dict[str, int | float | str] = field(default_factory=dict)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{self.what}: {'' if self.took_effect else 'NO EFFECT: '}{told or 'done'}"
