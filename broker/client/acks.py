"""How well a message has to be kept before its send returns."""

from __future__ import annotations

from typing import Final, Literal

# Who has a copy: the leader, a majority of the group, every member of it.
Acks = Literal["leader", "majority", "all"]
# Whether on their disks or in their memory.
Flush = Literal["sync", "async"]

ACKS: Final = ("leader", "majority", "all")
FLUSHES: Final = ("sync", "async")


def check_acks(acks: str | None, flush: str | None) -> None:
    """Raise `ValueError` unless *acks* and *flush* are levels there are, or None."""
    if acks is not None and acks not in ACKS:
        raise ValueError(f"acks = {acks!r}: use {', '.join(ACKS)}")
    if flush is not None and flush not in FLUSHES:
        raise ValueError(f"flush = {flush!r}: use {', '.join(FLUSHES)}")
