"""The picture: latency by outcome, throughput, a lane of faults for each node, who led."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jepsen_like.report.series import CLASSES, ELSEWHERE, Series, class_of, stacked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 13.0, 110  # inches, dots for each
LABEL_SHARE = 0.0085  # of the width, for each letter of a label that is to fit into a bar
TICKS_S = ((1e-4, "0.1 ms"), (1e-3, "1 ms"), (1e-2, "10 ms"), (1e-1, "100 ms"), (1, "1 s"),
           (10, "10 s"), (100, "100 s"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours on one ground."""

    ground: str
    ink: str
    faint: str
    grid: str
    down: str
    outcomes: dict[str, str]
    classes: dict[str, str]
    members: tuple[str, ...]


# Blue and orange stay apart for every kind of colour vision; shapes tell outcomes apart as well.
LIGHT = Theme(
    ground="#ffffff", ink="#1c2128", faint="#68707a", grid="#e6e9ed", down="#2f353d",
    outcomes={"ok": "#2a6fdb", "info": "#e07b00", "fail": "#b3126b"},
    classes={"process": "#d9534a", "power and disk": "#8a5cd1", "network": "#1f9d8b",
             "clock, lead, other": "#8b949e"},
    members=("#9ec5f8", "#f6c68a", "#a9dcc0", "#d9b8f0", "#f3b4c4", "#c9ced6", "#e3dd8f"),
)  # fmt: skip
DARK = Theme(
    ground="#14181d", ink="#e6e9ed", faint="#98a1ab", grid="#2a3038", down="#c3cad2",
    outcomes={"ok": "#6aa5ff", "info": "#ffa53d", "fail": "#ff6fb5"},
    classes={"process": "#f0776e", "power and disk": "#ab86e8", "network": "#3cc2ae",
             "clock, lead, other": "#9aa3ad"},
    members=("#2b5a96", "#8a5a16", "#2c6d4a", "#61418a", "#83374f", "#4a525c", "#6b661f"),
)  # fmt: skip
_MARKERS = {"ok": (".", 26, 0.55), "info": ("^", 24, 0.95), "fail": ("x", 22, 0.95)}
CROWD = 20_000  # dots; beyond it they shrink, or they would be one patch


def draw_timeline(series: Series, theme: Theme = LIGHT) -> bytes:
    """Return the picture as PNG.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lanes = [*series.members]
    if any(not fault.members for fault in series.faults):
        lanes.append(ELSEWHERE)
    lane_inches = 0.6 * max(len(lanes), 1)
    heights = [3.0, 1.5, 0.42, lane_inches]
    height = sum(heights) + 1.5
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=theme.ground)
    FigureCanvasAgg(figure)
    latency, rate, lead, lane = figure.subplots(
        4, 1, sharex=True, height_ratios=heights, squeeze=True
    )
    figure.subplots_adjust(
        left=0.075, right=0.99, top=1 - 0.42 / height, bottom=0.72 / height, hspace=0.09
    )
    for axes in (latency, rate, lead, lane):
        _lay_out(axes, theme)
    _draw_latency(latency, series, theme)
    _draw_rate(rate, series, theme)
    _draw_leads(lead, series, theme)
    _draw_lanes(lane, series, lanes, theme)
    _draw_marks((latency, rate, lead, lane), series, theme)
    room = (series.end - series.begin) * 0.005
    lane.set_xlim(series.begin - room, series.end + room)
    lane.set_xlabel("seconds", color=theme.faint, fontsize=9)
    _legend(figure, lane, series, theme, bottom=0.1 / height)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", facecolor=theme.ground)
        return file.getvalue()


def _lay_out(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.ground)
    axes.tick_params(colors=theme.faint, labelsize=8.5, length=0)
    axes.grid(visible=True, color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _label(axes: Axes, text: str, theme: Theme) -> None:
    axes.set_ylabel(text, color=theme.faint, fontsize=9)


def _draw_latency(axes: Axes, series: Series, theme: Theme) -> None:
    axes.set_yscale("log")
    _label(axes, "latency", theme)
    for outcome, (marker, size, alpha) in _MARKERS.items():
        points = [point for point in series.points if point.outcome == outcome]
        if len(points) > CROWD:
            size, alpha = size // 5, alpha / 2
        axes.scatter(
            [point.at for point in points],
            [max(point.latency, 1e-4) for point in points],
            s=size, marker=marker, alpha=alpha, color=theme.outcomes[outcome],
            linewidths=0 if marker != "x" else 1.0, label=f"{outcome} {len(points):,}",
            rasterized=True,
        )  # fmt: skip
    latencies = [max(point.latency, 1e-4) for point in series.points] or [1e-3, 1.0]
    axes.set_ylim(min(latencies) / 1.5, max(latencies) * 1.8)
    axes.set_yticks([at for at, _ in TICKS_S], [text for _, text in TICKS_S])
    axes.set_ylim(min(latencies) / 1.5, max(latencies) * 1.8)
    axes.minorticks_off()
    _row_legend(axes, theme)


def _row_legend(axes: Axes, theme: Theme) -> None:
    from matplotlib.collections import PathCollection

    found = axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, frameon=False, fontsize=9,
        handletextpad=0.2, columnspacing=1.4, borderaxespad=0.1, labelcolor=theme.ink,
    )  # fmt: skip
    for handle in found.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
            if isinstance(handle, PathCollection):
                handle.set_sizes([28.0])


def _draw_rate(axes: Axes, series: Series, theme: Theme) -> None:
    """Draw sends by the second of their answer; the bins are wider in long runs."""
    _label(axes, "sends/s", theme)
    width = max(1.0, round((series.end - series.begin) / 300))
    sends = [point for point in series.points if point.f == "send"]
    first, last = int(series.begin // width), int(series.end // width)
    edges = [bin_ * width for bin_ in range(first, last + 2)]
    for outcome in ("ok", "info", "fail"):
        bins = Counter(int(p.at // width) for p in sends if p.outcome == outcome)
        heights = [bins[bin_] / width for bin_ in range(first, last + 1)]
        colour = theme.outcomes[outcome]
        if outcome == "ok":
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.28)
        else:  # a line along the bottom would say that there are some
            heights = [height or float("nan") for height in heights]
        axes.stairs(heights, edges, color=colour, linewidth=1.4, baseline=None)
    axes.set_ylim(bottom=0)


def _draw_leads(axes: Axes, series: Series, theme: Theme) -> None:
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], ["leader"])
    axes.grid(visible=False)
    whole = series.end - series.begin
    for span in series.leads:
        name, _, term = span.text.partition(" ")
        at = series.members.index(name) if name in series.members else 0
        colour = theme.members[at % len(theme.members)]
        axes.broken_barh([(span.begin, span.end - span.begin)], (0.1, 0.8), color=colour)
        for text in (f"{name} term {term}", f"{name} {term}", name):
            if (span.end - span.begin) / whole > LABEL_SHARE * (len(text) + 1):
                axes.text(
                    (span.begin + span.end) / 2, 0.48, text, ha="center", va="center",
                    fontsize=8, color=theme.ink,
                )  # fmt: skip
                break


def _draw_lanes(axes: Axes, series: Series, lanes: list[str], theme: Theme) -> None:
    """Draw a lane for each node, the first on top; overlapping faults share its height."""
    axes.set_ylim(max(len(lanes), 1), 0)
    axes.set_yticks([at + 0.5 for at in range(len(lanes))], lanes)
    axes.grid(visible=False, axis="y")
    for tick in axes.get_yticklabels():
        tick.set_color(theme.ink)
    whole = series.end - series.begin
    for at, name in enumerate(lanes):
        axes.axhline(at, color=theme.grid, linewidth=0.8)
        for span in series.downs.get(name, ()):
            axes.broken_barh(
                [(span.begin, span.end - span.begin)], (at + 0.84, 0.1), color=theme.down
            )
        mine = [
            fault
            for fault in series.faults
            if (name in fault.members if fault.members else name == ELSEWHERE)
        ]
        rows = stacked(mine)
        count = max((row for row, _ in rows), default=0) + 1
        tall = 0.74 / count
        for row, fault in rows:
            colour = theme.classes[class_of(fault.kind)]
            axes.broken_barh(
                [(fault.begin, max(fault.end - fault.begin, whole * 0.0015))],
                (at + 0.07 + row * tall, tall * (0.9 if count > 1 else 1.0)),
                color=colour, alpha=0.85, linewidth=0,
            )  # fmt: skip
            if tall >= 0.22 and (fault.end - fault.begin) / whole > LABEL_SHARE * 0.9 * (
                len(fault.kind) + 1
            ):
                axes.text(
                    fault.begin + whole * 0.002, at + 0.07 + (row + 0.47) * tall, fault.kind,
                    va="center", fontsize=7, color=theme.ground,
                )  # fmt: skip


def _draw_marks(panels: tuple[Axes, ...], series: Series, theme: Theme) -> None:
    """Draw a line for each mark, its name on the left; one that has no room for it goes without."""
    whole = series.end - series.begin
    told = float("-inf")
    for at, name in series.marks:
        for axes in panels:
            axes.axvline(at, color=theme.faint, linewidth=0.9, linestyle=(0, (3, 3)))
        if at - told < whole * 0.07 or name == "recovered":
            continue
        told = at
        panels[0].text(
            at - whole * 0.003, 0.985, name, ha="right", va="top", fontsize=8,
            transform=panels[0].get_xaxis_transform(), color=theme.faint,
        )  # fmt: skip


def _legend(figure: Figure, lane: Axes, series: Series, theme: Theme, *, bottom: float) -> None:
    from matplotlib.patches import Patch

    kinds = {class_of(fault.kind) for fault in series.faults}
    handles: list[Any] = [
        Patch(color=theme.classes[name], label=name) for name in CLASSES if name in kinds
    ]
    if any(series.downs.values()):
        handles.append(Patch(color=theme.down, label="no process"))
    if handles:
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.07, bottom), ncols=6,
            frameon=False, fontsize=8.5, labelcolor=theme.ink, handlelength=1.1,
            borderaxespad=0, columnspacing=1.4,
        )  # fmt: skip
