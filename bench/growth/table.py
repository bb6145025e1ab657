"""One axis as a table: for people, as markdown and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.growth.fit import Column, Slope, number, slopes_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthTable:
    """Costs along one axis."""

    axis: str  # what grows
    note: str  # how it was measured
    columns: tuple[Column, ...]
    rows: tuple[tuple[float, Mapping[str, float]], ...]

    @property
    def slopes(self) -> list[Slope]:
        """See `bench.growth.fit`."""
        return slopes_of(self.columns, self.rows)

    @property
    def findings(self) -> list[str]:
        """A line for each cost that grows by more than it may."""
        return [
            f"{self.axis}: {slope.column.name} {slope.verdict.lower()}; slope "
            f"{slope.overall:.2f} over all and {slope.last:.2f} at the end, "
            f"{slope.column.allowed:g} is right"
            for slope in self.slopes
            if slope.verdict
        ]

    def cells(self) -> list[list[str]]:
        """Return head, rows and slopes as text."""
        columns = [column for column in self.columns if any(column.name in r for _, r in self.rows)]
        lines = [[self.axis, *(column.name for column in columns)]]
        for x, costs in self.rows:
            lines.append(
                [
                    f"{x:,.0f}",
                    *(
                        number(costs[column.name], column.digits) if column.name in costs else ""
                        for column in columns
                    ),
                ]
            )
        by_name = {slope.column.name: slope for slope in self.slopes}
        lines.append(["slope, at the end", *(_slope(by_name.get(c.name)) for c in columns)])
        return lines

    def markdown(self) -> str:
        """Return a section with the table."""
        head, *rows = self.cells()
        text = [self.note, "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        text += [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join(text) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "axis": self.axis,
            "note": self.note,
            "rows": [{"at": x, **costs} for x, costs in self.rows],
            "slopes": {
                slope.column.name: {
                    "overall": round(slope.overall, 3),
                    "last": round(slope.last, 3),
                    "allowed": slope.column.allowed,
                    "verdict": slope.verdict,
                }
                for slope in self.slopes
            },
        }


def _slope(slope: Slope | None) -> str:
    if slope is None:
        return ""
    text = f"{slope.overall:+.2f}, {slope.last:+.2f}"
    return f"{text} **{slope.verdict}**" if slope.verdict else text
