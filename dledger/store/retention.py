"""When the oldest segment of a log may go: decided from numbers, without looking at any file.

    size    the log has more than `log_size_max` bytes
    age     its newest record is older than `file_reserved_hours`, and it is an hour of
            `delete_when`, or more than `disk_clean_percent` of the disk are used
    disk    more than `disk_force_percent` are used, whatever the age

Source: RocketMQ ``DefaultMessageStore.CleanCommitLogService``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.config import parse_hours
from dledger.store.disk_usage import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.config import StoreConfig
    from dledger.store.disk_usage import DiskUsage

NEWEST_UNKNOWN = 1 << 62  # younger than anything: to be looked at again later

_MS_PER_HOUR = 3_600_000


class DropReason(enum.Enum):
    """Why a segment goes."""

    SIZE = "the log has more than log_size_max"
    AGE = "it is older than file_reserved_hours"
    DISK = "more than disk_force_percent of the disk are used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """All that is asked of the world: a log, its disk and the time."""

    config: StoreConfig
    log_size: int  # bytes from the base to the end
    usage: DiskUsage
    wall_ms: int
    hour: int  # of the local day

    def why(self, *, dropped: int, newest_ms: Callable[[], int | None]) -> DropReason | None:
        """Return why one more segment should go; None when it should stay.

        Args:
            dropped: bytes before it that go already.
            newest_ms: tells when its newest record was stored; None when it has none.
        """
        config = self.config
        if config.log_size_max and self.log_size - dropped > config.log_size_max:
            return DropReason.SIZE
        if self.usage.excess(config.disk_force_percent) > dropped:
            return DropReason.DISK
        is_time = self.hour in parse_hours(config.delete_when)
        is_crowded = self.usage.excess(config.disk_clean_percent) > dropped
        if config.file_reserved_hours and (is_time or is_crowded):
            newest = newest_ms()
            kept_from = self.wall_ms - config.file_reserved_hours * _MS_PER_HOUR
            if newest is None or newest < kept_from:
                return DropReason.AGE
        return None


def refusal_of(config: StoreConfig, usage: DiskUsage) -> str:
    """Return why no message may be written to a disk that full; empty when it may."""
    excess = usage.excess(config.disk_refuse_percent)
    if not excess:
        return ""
    return (
        f"{usage.percent:.1f} % of the disk are used, above disk_refuse_percent = "
        f"{config.disk_refuse_percent} no message is written: {format_bytes(excess)} have to go; "
        "free some disk space, keep less (file_reserved_hours, log_size_max), or hand the lead to "
        "a node with room (dledger leader transfer)"
    )
