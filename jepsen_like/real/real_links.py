"""The lab's wire as faults see it: by address, with cuts counted and shapes on top."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jepsen_like.faults.group import Shape
from jepsen_like.real import wire as lab_wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jepsen_like.faults.group import Way
    from jepsen_like.real.wire import LinkCounters, Wire


class RealLinks:
    """See `jepsen_like.faults.group.Links`."""

    def __init__(self, wire: Wire, names: Mapping[str, str]) -> None:
        """Begin with nothing cut.

        Args:
            wire: of the lab.
            names: address -> the wire's name for that end.
        """
        self._wire = wire
        self._names = dict(names)
        self._cuts: Counter[Way] = Counter()
        self._shapes: dict[Way, Shape] = {}
        self._before: dict[Way, LinkCounters] = {}  # when a way was first touched

    async def cut(self, source: str, target: str) -> None:
        """See `Links`."""
        await self._remember((source, target))
        self._cuts[source, target] += 1
        await self._apply((source, target))

    async def heal(self, source: str, target: str) -> None:
        """See `Links`."""
        way = (source, target)
        if self._cuts[way]:
            self._cuts[way] -= 1
        await self._apply(way)

    async def shape(self, source: str, target: str, shape: Shape) -> None:
        """See `Links`."""
        await self._remember((source, target))
        self._shapes[source, target] = shape
        await self._apply((source, target))

    async def unshape(self, source: str, target: str) -> None:
        """See `Links`."""
        self._shapes.pop((source, target), None)
        await self._apply((source, target))

    async def clear(self) -> None:
        """Let everything pass at once, whoever cut or shaped it."""
        self._cuts.clear()
        self._shapes.clear()
        self._before.clear()
        await self._wire.clear()

    async def forwarded_bytes(self, ways: Iterable[Way]) -> int:
        """Return how many bytes have come through on these ways so far."""
        now = await self._wire.counters()
        return sum(now[self._link(way)].forwarded_bytes for way in ways)

    async def traces(self, ways: Iterable[Way]) -> str:
        """See `Links`."""
        now = await self._wire.counters()
        dropped = delayed = duplicated = corrupted = reordered = 0
        for way in ways:
            if way in self._before:
                new = now[self._link(way)] - self._before[way]
                dropped += new.dropped
                delayed += new.delayed
                duplicated += new.duplicated
                corrupted += new.corrupted
                reordered += new.reordered
        figures = {
            "dropped": dropped,
            "delayed": delayed,
            "duplicated": duplicated,
            "corrupted": corrupted,
            "reordered": reordered,
        }
        told = ", ".join(f"{count} {name}" for name, count in figures.items() if count)
        return f"packets: {told}" if told else ""

    def _link(self, way: Way) -> tuple[str, str]:
        return self._names[way[0]], self._names[way[1]]

    async def _remember(self, way: Way) -> None:
        if not self._cuts[way] and way not in self._shapes:
            self._before[way] = (await self._wire.counters())[self._link(way)]

    async def _apply(self, way: Way) -> None:
        shape = self._shapes.get(way, Shape())
        await self._wire.shape(
            *self._link(way),
            lab_wire.Shape(
                cut=self._cuts[way] > 0,
                delay_ms=shape.delay * 1000,
                jitter_ms=shape.jitter * 1000,
                loss=shape.loss,
                duplicate=shape.duplicate,
                reorder=shape.reorder,
                corrupt=shape.corrupt,
                rate_bits=shape.rate_bits,
            ),
        )
