"""How many processors this process may use, by the system's leave and by a quota of its cgroups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")


def usable_processors(*, own_groups: Path = _OWN_GROUPS, groups: Path = _GROUPS) -> float:
    """Return how many processors this process may use: a whole number, or less by a quota.

    Args:
        own_groups: names the cgroups of this process, as Linux does in ``/proc``.
        groups: where the system shows cgroups as folders.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # no Linux
        allowed = os.cpu_count() or 1
    return min([float(allowed), *_quotas(own_groups, groups)])


def _quotas(own_groups: Path, groups: Path) -> Iterator[float]:
    """Yield the quota of each group this process is in; none where it cannot be read.

    Source: Linux' ``cgroup-v2.rst`` (``cpu.max``) and ``sched-bwc.rst`` (version 1).
    """
    try:
        lines = own_groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            # Of both versions at once the second has a folder of its own.
            for root in (groups, groups / "unified"):
                yield from _quotas_along(root, path, _quota_of_version_2)
        elif "cpu" in controllers.split(","):
            for root in {groups / "cpu", groups / controllers}:
                yield from _quotas_along(root, path, _quota_of_version_1)


def _quotas_along(
    root: Path, path: str, quota_of: Callable[[Path], float | None]
) -> Iterator[float]:
    """Yield the quotas of the group *path* and of all above it, as far as they are shown.

    A container sees itself as the root, whatever *path* says.
    """
    names = [name for name in path.split("/") if name not in ("", "..")]
    for count in range(len(names) + 1):
        quota = quota_of(root.joinpath(*names[:count]))
        if quota is not None:
            yield quota


def _quota_of_version_2(folder: Path) -> float | None:
    words = _read_words(folder / "cpu.max")  # "max 100000", "150000 100000"
    return _ratio(*words) if len(words) == 2 else None


def _quota_of_version_1(folder: Path) -> float | None:
    quota = _read_words(folder / "cpu.cfs_quota_us")  # -1: none
    period = _read_words(folder / "cpu.cfs_period_us")
    return _ratio(quota[0], period[0]) if quota and period else None


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal()) or int(period) == 0:
        return None
    return int(quota) / int(period)
