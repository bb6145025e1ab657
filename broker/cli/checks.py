"""What ``dledger doctor`` finds: checks, each with a verdict and what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.cli import exits
from broker.cli.output import Table

if TYPE_CHECKING:
    from collections.abc import Sequence


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # it works, and should be looked at
    FAIL = "fail"  # it does not work, or will not


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str  # what is looked at, the same words at every run
    subject: str = ""  # whose: a node, a file; "" for the group
    level: Level
    text: str  # what was found
    remedy: str = ""  # what to do; "" when all is well


_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def worst(checks: Sequence[Check]) -> Level:
    """Return the worst level of *checks*."""
    order = list(Level)
    return max((check.level for check in checks), key=order.index, default=Level.OK)


def exit_code(checks: Sequence[Check]) -> int:
    """Return the exit code for *checks*: 0 all well, 3 warnings only, 1 something fails."""
    codes = {Level.OK: exits.OK, Level.WARN: exits.UNHEALTHY, Level.FAIL: exits.FAILURE}
    return codes[worst(checks)]


def describe(checks: Sequence[Check]) -> dict[str, Any]:
    """Return *checks* fit for JSON."""
    return {
        "verdict": worst(checks).value,
        "checks": [
            {
                "name": check.name,
                "subject": check.subject,
                "level": check.level.value,
                "text": check.text,
                "remedy": "" if check.level is Level.OK else check.remedy,
            }
            for check in checks
        ],
    }


def checks_table(checks: Sequence[Check]) -> Table:
    """Return a row for each of *checks*; the remedy stands below what was found."""
    table = Table("", "what", "whose", "found")
    for check in checks:
        mark = (check.level.name.ljust(4), _STYLES[check.level])
        table.add_row(mark, check.name, check.subject, check.text)
        if check.remedy and check.level is not Level.OK:
            table.add_row("", "", "", (f"-> {check.remedy}", "italic"))
    return table


def summary(checks: Sequence[Check]) -> str:
    """Return the one sentence at the end."""
    counts = {level: sum(check.level is level for check in checks) for level in Level}
    parts = [f"{counts[Level.OK]} ok"]
    if counts[Level.WARN]:
        parts.append(f"{counts[Level.WARN]} to look at")
    if counts[Level.FAIL]:
        parts.append(f"{counts[Level.FAIL]} failed")
    return ", ".join(parts)
