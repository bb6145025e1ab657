"""What a group under test keeps, where nothing is to be dropped but by its size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dledger.config import StoreConfig


def by_size_only(store: StoreConfig) -> StoreConfig:
    """Return *store* with nothing dropped or refused for its age or the disk.

    A full disk, or a wall clock days ahead, must not drop what the checkers look for.
    """
    return replace(
        store,
        file_reserved_hours=0,
        disk_clean_percent=100,
        disk_force_percent=100,
        disk_refuse_percent=100,
    )
