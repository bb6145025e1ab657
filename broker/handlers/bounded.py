"""Tables that keep what was put there last."""

from __future__ import annotations

from typing import Any


def drop_oldest(table: dict[Any, Any], count_max: int) -> None:
    """Keep the last *count_max* rows of *table*, in the order in which they were put there."""
    while len(table) > count_max:
        del table[next(iter(table))]
