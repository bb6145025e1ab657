"""What is measured besides loads: failures, hand-overs, starts, and a run of minutes.

Each part has a group of its own and comes to some figures with a goal each.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import failover, restart, steady
from bench.plan import LOADS
from dledger.config import MIB, FlushDiskType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.measured import GroupReport

_KILL_P50_MS, _KILL_MAX_MS, _STOP_MAX_MS, _TRANSFER_MAX_MS = 100, 300, 1000, 50
_RSS_MIB_MAX = 80
_STEADY_RATIO_MIN = 0.95  # of the last third of a run to the first: less is a decay
_CATCH_UP_SHARE_MAX = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line: what, how much, and whether that is enough where a goal is set."""

    what: str
    text: str  # the figure with its unit
    goal: str = ""
    is_met: bool | None = None

    @property
    def verdict(self) -> str:
        """Goal and outcome in a few words."""
        if self.is_met is None:
            return ""
        return f"{self.goal}: {'met' if self.is_met else 'NOT MET'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What one part came to."""

    name: str
    figures: tuple[Figure, ...]
    raw: dict[str, Any]  # all of it, for machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each."""

    kills: int = 10
    stops: int = 5
    transfers: int = 10
    restart_messages: tuple[int, ...] = (1_000_000, 10_000_000)
    steady_seconds: float = 120.0


QUICK = Sizes(
    kills=2,
    stops=1,
    transfers=2,
    restart_messages=(100_000,),
    steady_seconds=3 * steady.SLICE_SECONDS,
)


def run_kills(folder: Path, sizes: Sizes) -> list[PartReport]:
    """Kill leaders, and freeze them."""
    sync = FlushDiskType.SYNC_FLUSH
    killed = failover.measure(folder / "kill", signal.SIGKILL, flush=sync, kills=sizes.kills)
    stopped = failover.measure(folder / "stop", signal.SIGSTOP, flush=sync, kills=sizes.stops)
    figures = (
        Figure(
            what=f"kill -9 of the leader to the next ack, {killed['kills']} times",
            text=f"p50 {killed['p50_ms']:.0f}, max {killed['max_ms']:.0f} ms",
            goal=f"p50 under {_KILL_P50_MS} ms, max under {_KILL_MAX_MS} ms",
            is_met=killed["p50_ms"] < _KILL_P50_MS and killed["max_ms"] < _KILL_MAX_MS,
        ),
        Figure(
            what=f"SIGSTOP of the leader to the next ack, {stopped['kills']} times",
            text=f"p50 {stopped['p50_ms']:.0f}, max {stopped['max_ms']:.0f} ms",
            goal=f"under {_STOP_MAX_MS} ms",
            is_met=stopped["max_ms"] < _STOP_MAX_MS,
        ),
        _sound("messages lost, doubled or refused on the way", killed, stopped),
    )
    return [PartReport(name="kills", figures=figures, raw={"kill": killed, "stop": stopped})]


def run_transfers(folder: Path, sizes: Sizes) -> list[PartReport]:
    """Hand the lead over under load."""
    found = failover.measure(
        folder / "transfer", None, flush=FlushDiskType.SYNC_FLUSH, kills=sizes.transfers
    )
    figures = (
        Figure(
            what=f"slowest request when the lead is handed over, {found['kills']} times",
            text=f"p50 {found['p50_ms']:.0f}, max {found['max_ms']:.0f} ms "
            f"({found['before_ms']:.0f} ms in the seconds before)",
            goal=f"none over {_TRANSFER_MAX_MS} ms",
            is_met=found["max_ms"] <= _TRANSFER_MAX_MS,
        ),
        _sound("messages lost, doubled or refused then", found),
    )
    return [PartReport(name="transfers", figures=figures, raw=found)]


def _sound(what: str, *found: dict[str, Any]) -> Figure:
    count = sum(each["failed_sends"] for each in found)
    return Figure(what=what, text=f"{count}", goal="none", is_met=not count)


def run_restarts(folder: Path, sizes: Sizes) -> list[PartReport]:
    """Start groups that hold many messages, and fill members again."""
    return [_restart(folder, count) for count in sizes.restart_messages]


def _restart(folder: Path, count: int) -> PartReport:
    home = folder / f"restart-{count}"
    found = restart.measure(
        home, flush=FlushDiskType.ASYNC_FLUSH, body_size=100, message_count=count
    )
    rates = found["rates"]
    # Beside all members in step: what a third process costs a machine it shares is another matter.
    in_step = (rates["with three members, before"] + rates["with three members, after"]) / 2
    share = 1 - rates["while it catches up"] / in_step
    figures = [
        Figure(what=f"{count:,} messages: {what}", text=f"{seconds:.2f} s")
        for what, seconds in found["seconds"].items()
    ]
    figures.append(
        Figure(
            what=f"{count:,} messages: throughput that a follower catching up costs the group",
            text=f"{share:.0%} ({in_step:,.0f}/s with all in step, before and after, "
            f"{rates['with two members']:,.0f} with one stopped, "
            f"{rates['while it catches up']:,.0f} meanwhile)",
            goal="less than a third",
            is_met=share < _CATCH_UP_SHARE_MAX,
        )
    )
    return PartReport(name=f"restart-{count}", figures=tuple(figures), raw=found)


def run_steady(folder: Path, sizes: Sizes) -> list[PartReport]:
    """Send for minutes."""
    load = next(load for load in LOADS if load.name == "raw-1000")
    found = steady.measure(
        folder / "steady",
        load,
        flush=FlushDiskType.ASYNC_FLUSH,
        body_size=100,
        seconds=sizes.steady_seconds,
    )
    figures = (
        Figure(
            what=f"{load.name} for {sizes.steady_seconds:.0f} s: last third beside the first",
            text=f"{found['rate_first']:,.0f}/s, then {found['rate_last']:,.0f}/s: "
            f"{found['rate_ratio']:.2f}x, processor time a message {found['cost_ratio']:.2f}x",
            goal=f"no decay, at least {_STEADY_RATIO_MIN}x",
            is_met=found["rate_ratio"] >= _STEADY_RATIO_MIN,
        ),
        _memory("RSS of the largest node in it", found["rss_mib"]),
    )
    return [PartReport(name="steady", figures=figures, raw=found)]


def memory_figure(reports: Sequence[GroupReport]) -> Figure | None:
    """Return the most memory that any node had after any load; None when there was none."""
    most = max((line.rss for report in reports for line in report.lines), default=0)
    return _memory("RSS of the largest node after any load", most / MIB) if most else None


def _memory(what: str, mib: float) -> Figure:
    return Figure(
        what=f"{what}, mapped files not counted",
        text=f"{mib:.0f} MiB",
        goal=f"under {_RSS_MIB_MAX} MB",
        is_met=mib * MIB < _RSS_MIB_MAX * 1e6,
    )


PARTS: dict[str, Callable[[Path, Sizes], list[PartReport]]] = {
    "kills": run_kills,
    "transfers": run_transfers,
    "steady": run_steady,
    # The last, as it leaves most behind it: where the group of ten million had been removed, the
    # disk halted the nodes that came next for seconds.
    "restarts": run_restarts,
}


def choose_parts(text: str | None) -> list[str]:
    """Return the parts named in *text*, divided by commas: ``all``, ``none``, or some.

    Raises:
        ValueError: one is unknown; names those there are.
    """
    if text is None or text == "all":
        return list(PARTS)
    if text == "none":
        return []
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    return names
