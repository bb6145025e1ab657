"""Slopes: by what power of something a cost grows. No I/O here.

A cost that is ``c * x ** k`` lies on a line of slope *k* when both are drawn in logarithms: 0 does
not grow, 1 grows as *x* does, above 1 is superlinear. Most costs are a constant and something that
grows, which looks flat as long as the constant is the larger part; the slope between the last two
points tells where it goes, and so it is that one which is held against what is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOISE = 0.2  # of a slope: points vary by a fifth from one run to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One cost."""

    name: str  # with its unit
    # The slope that is right for it: 0 for the cost of one message, whatever else is there; 1 for
    # what has to be done for each of them. None: nothing is claimed.
    allowed: float | None = 0.0
    # Below it a difference is noise: a cost counts as if it had at least this.
    floor: float = 0.0
    digits: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """By what power one cost grows."""

    column: Column
    overall: float  # least squares over all points
    last: float  # between the last two

    @property
    def verdict(self) -> str:
        """What is wrong with it, in a few words; nothing where all is as it should be."""
        allowed = self.column.allowed
        if allowed is None:
            return ""
        is_overall, is_last = self.overall > allowed + NOISE, self.last > allowed + NOISE
        if is_overall and is_last:
            return "SUPERLINEAR" if allowed else "GROWS"
        return "rises at the end" if is_last else "grew, levels off" if is_overall else ""


def slope_of(column: Column, points: Mapping[float, float]) -> Slope | None:
    """Return the slope of *points*, cost by count; None where there are not two of them."""
    pairs = [(x, max(y, column.floor)) for x, y in sorted(points.items()) if x > 0]
    pairs = [(x, y) for x, y in pairs if y > 0]
    if len(pairs) < 2:
        return None
    xs, ys = np.log([x for x, _ in pairs]), np.log([y for _, y in pairs])
    overall = float(np.polyfit(xs, ys, 1)[0])
    last = float((ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))
    return Slope(column=column, overall=overall, last=last)


def slopes_of(
    columns: Sequence[Column], rows: Sequence[tuple[float, Mapping[str, float]]]
) -> list[Slope]:
    """Return the slope of each column that has one; *rows* are (count, costs by column name)."""
    found = (
        slope_of(column, {x: costs[column.name] for x, costs in rows if column.name in costs})
        for column in columns
    )
    return [slope for slope in found if slope is not None]


def number(value: float, digits: int) -> str:
    """Return *value* with so many digits behind the point, fewer where it is large."""
    if value and abs(value) < 10**-digits:
        digits = min(3, -math.floor(math.log10(abs(value))))
    return f"{value:,.{0 if abs(value) >= 1000 else digits}f}"
