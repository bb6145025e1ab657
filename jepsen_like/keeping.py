"""What a group under test keeps, where nothing is to be dropped but by its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# A full disk, or a wall clock days ahead, must not drop what the checkers look for.
NOTHING_FOR_AGE_OR_DISK: Mapping[str, int] = {
    "file_reserved_hours": 0,
    "disk_clean_percent": 100,
    "disk_force_percent": 100,
    "disk_refuse_percent": 100,
}
