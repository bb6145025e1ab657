"""What the clients were seen to do, gathered for the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CALM = "left alone"
KILLED = "leader killed (-9)"
KILLED_SINGLE = 'leader killed (-9), route = "single"'
IMPOSSIBLE = "not possible"

_rows: dict[tuple[str, str, str], str] = {}


def put(circumstance: str, scenario: str, client: str, facts: Mapping[str, str] | str) -> None:
    """Note what *client* did in *scenario*."""
    text = facts if isinstance(facts, str) else ", ".join(f"{k} {v}" for k, v in facts.items())
    _rows[circumstance, scenario, client] = text or "as it should"


def lines() -> list[str]:
    """Return the table: a block for each circumstance, a line for each scenario and client."""
    found: list[str] = []
    for circumstance in dict.fromkeys(key[0] for key in _rows):
        found += ["", f"{circumstance}:"]
        rows = [(*key[1:], text) for key, text in _rows.items() if key[0] == circumstance]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        found += [
            f"  {scenario:{widths[0]}}  {client:{widths[1]}}  {text}"
            for scenario, client, text in rows
        ]
    return found
