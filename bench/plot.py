"""The figures of a run as one picture."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

_COLOURS = {"ASYNC_FLUSH": "#2b7bba", "SYNC_FLUSH": "#d9713c"}


def can_plot() -> bool:
    """Whether matplotlib, of the group ``report``, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw what ``bench.report.json_of`` returned, as a PNG.

    A row for each size of bodies: rates at the left, latencies at the right; below, if there are
    any, a run of minutes and what failures cost.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    node_count = content["groups"][0]["node_count"] if content["groups"] else 3
    groups = [group for group in content["groups"] if group["node_count"] == node_count]
    sizes = sorted({group["body_size"] for group in groups})
    by_size = {size: [group for group in groups if group["body_size"] == size] for size in sizes}
    parts = content["parts"]
    heights = [1.2 + 0.24 * max(len(group["lines"]) for group in by_size[size]) for size in sizes]
    has_parts = bool(parts)
    if has_parts:
        heights.append(3.2)
    figure = plt.figure(figsize=(15, sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    for row, size in enumerate(sizes):
        _rates(figure.add_subplot(grid[row, 0]), by_size[size], size)
        _latencies(figure.add_subplot(grid[row, 1]), by_size[size])
    if has_parts:
        _steady(figure.add_subplot(grid[len(sizes), 0]), parts.get("steady"))
        _times(figure.add_subplot(grid[len(sizes), 1]), parts)
    machine = content["machine"]
    figure.suptitle(
        f"{node_count} nodes and their client on {machine['processors']} processors, "
        f"Python {machine['python']}; load average {machine['load_average'][0]:.1f}"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _rates(axes: Axes, groups: Sequence[Mapping[str, Any]], size: int) -> None:
    names = [line["load"] for line in groups[0]["lines"]]
    width = 0.8 / len(groups)
    for number, group in enumerate(groups):
        rates = [line["rate"] for line in group["lines"]]
        at = [place + number * width for place in range(len(names))]
        bars = axes.barh(
            at, rates, height=width, label=group["flush"], color=_COLOURS.get(group["flush"])
        )
        axes.bar_label(bars, [_short(rate) for rate in rates], padding=2, fontsize=7)
        least = [min(line["rates"]) for line in group["lines"]]
        most = [max(line["rates"]) for line in group["lines"]]
        axes.hlines(at, least, most, color="#333", linewidth=0.8)
    axes.set_yticks([place + 0.4 - width / 2 for place in range(len(names))], names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(10, 3 * max(line["rate"] for group in groups for line in group["lines"]))
    axes.margins(y=0.01)
    axes.set_title(f"bodies of {size:,} bytes: messages a second", fontsize=9, loc="left")
    axes.grid(axis="x", alpha=0.3)
    if axes.get_subplotspec().rowspan.start == 0:
        axes.legend(
            fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.04), ncols=2, frameon=False
        )


def _latencies(axes: Axes, groups: Sequence[Mapping[str, Any]]) -> None:
    names = [line["load"] for line in groups[0]["lines"]]
    for number, group in enumerate(groups):
        colour = _COLOURS.get(group["flush"])
        for place, line in enumerate(group["lines"]):
            if not line["p50"]:
                continue
            at = place + 0.2 + 0.35 * number
            axes.plot([line["p50"], line["p999"]], [at, at], color=colour, linewidth=1.2)
            axes.plot(line["p50"], at, "o", color=colour, markersize=5)
            axes.plot(line["p99"], at, "|", color=colour, markersize=8)
    axes.set_yticks([place + 0.4 for place in range(len(names))], names, fontsize=8)
    axes.set_ylim(len(names), -0.2)
    axes.set_xscale("log")
    axes.set_title("latency, ms: p50 (dot), p99 (tick), p99.9 (end of line)", fontsize=9)
    axes.grid(axis="x", alpha=0.3)


def _steady(axes: Axes, found: Mapping[str, Any] | None) -> None:
    axes.set_title("a run of minutes: messages a second", fontsize=9)
    if not found:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    slices = found["slices"]
    axes.plot([each["at"] for each in slices], [each["rate"] for each in slices], "o-", ms=3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds", fontsize=8)
    axes.grid(alpha=0.3)


def _times(axes: Axes, parts: Mapping[str, Any]) -> None:
    axes.set_title("ms: to the next ack; of the slowest request", fontsize=9)
    kills = parts.get("kills", {})
    series = {
        "kill -9": kills.get("kill", {}).get("times_ms", []),
        "SIGSTOP": kills.get("stop", {}).get("times_ms", []),
        "lead handed over": parts.get("transfers", {}).get("times_ms", []),
    }
    for place, (name, times) in enumerate(series.items()):
        axes.plot(times, [place] * len(times), "o", alpha=0.5, label=name)
    axes.set_yticks(range(len(series)), list(series), fontsize=8)
    axes.set_ylim(-0.6, len(series) - 0.4)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)


def _short(rate: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g}{unit}"
    return f"{rate:.0f}"
