"""Stacks drawn as a flame graph: wide is what was seen often, what it calls lies on top of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WIDTH = 1600  # pixels
_ROW = 17
_TOP = 34
_CHARACTER = 6.6  # width of one, about
_SHARE_MIN = 0.0008  # of all samples; narrower ones would be slivers that nobody can read


@dataclass(slots=True)
class _Frame:
    count: int = 0
    calls: dict[str, _Frame] = field(default_factory=dict)


def read_stacks(text: str) -> dict[tuple[str, ...], int]:
    """Return how often each stack was seen; a line is its frames with ``;`` between, and a count.

    Raises:
        ValueError: a line has no count.
    """
    found: dict[tuple[str, ...], int] = {}
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = tuple(stack.split(";"))
        found[frames] = found.get(frames, 0) + int(count)
    return found


def draw_flames(stacks: Mapping[tuple[str, ...], int], *, title: str) -> str:
    """Return an SVG that browsers show by themselves; pointing at a frame says what it is."""
    root = _Frame()
    for stack, count in stacks.items():
        root.count += count
        at = root
        for name in stack:
            at = at.calls.setdefault(name, _Frame())
            at.count += count
    shown = list(_boxes(root, total=max(root.count, 1)))
    height = _TOP + _ROW * (max((row for row, *_ in shown), default=0) + 1) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="monospace" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fffdf7"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}; {root.count:,} samples</text>',
    ]
    for row, left, width, name, count in shown:
        share = 100 * count / max(root.count, 1)
        y = height - 8 - _ROW * (row + 1)
        room = int((width - 4) / _CHARACTER)
        text = name if len(name) <= room else name[: room - 2] + ".." if room > 4 else ""
        lines.append(
            f"<g><title>{escape(name)}: {count:,} samples, {share:.1f} %</title>"
            f'<rect x="{left:.1f}" y="{y}" width="{max(width - 0.5, 0.5):.1f}" '
            f'height="{_ROW - 1}" rx="1" fill="{_colour(name)}"/>'
            f'<text x="{left + 2:.1f}" y="{y + 12}">{escape(text)}</text></g>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _boxes(root: _Frame, *, total: int) -> Iterator[tuple[int, float, float, str, int]]:
    """Yield row, left edge, width, name and samples of each frame that is wide enough."""
    scale = (_WIDTH - 16) / total
    waiting = [(root, 0, 8.0)]
    while waiting:
        frame, row, left = waiting.pop()
        for name, call in sorted(frame.calls.items()):
            width = call.count * scale
            if call.count >= _SHARE_MIN * total:
                yield row, left, width, name, call.count
                waiting.append((call, row + 1, left))
            left += width


def _colour(name: str) -> str:
    """Return a colour by what a frame belongs to: the broker, the log, or what lies below."""
    shade = zlib.crc32(name.encode()) % 40
    if name.startswith(("handlers/", "store/", "message/", "metadata/", "delivery/", "broker/")):
        return f"rgb({215 + shade},{120 + shade},{60 + shade})"
    if name.startswith(("raft/", "peers/", "dledger/", "remoting/")):
        return f"rgb({90 + shade},{150 + shade},{200 + shade})"
    return f"rgb({180 + shade},{180 + shade},{170 + shade})"
