"""The simulated network's links as faults see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jepsen_like.faults.group import Shape, Way
    from jepsen_like.sim.sim_network import SimNetwork


class SimLinks:
    """See `jepsen_like.faults.group.Links`.

    Of a shape only delay and loss mean something here: to TCP's users duplicates, disorder and
    damaged packets are delays, too.
    """

    def __init__(self, network: SimNetwork) -> None:
        self._network = network

    async def cut(self, source: str, target: str) -> None:
        """See `Links`."""
        self._network.cut(source, target)

    async def heal(self, source: str, target: str) -> None:
        """See `Links`."""
        self._network.heal(source, target)

    async def shape(self, source: str, target: str, shape: Shape) -> None:
        """See `Links`."""
        self._network.extra_delay[source, target] = shape.delay
        self._network.loss[source, target] = shape.loss

    async def unshape(self, source: str, target: str) -> None:
        """See `Links`."""
        self._network.extra_delay.pop((source, target), None)
        self._network.loss.pop((source, target), None)

    async def traces(self, ways: Iterable[Way]) -> str:
        """See `Links`."""
        network = self._network
        hit = sum(way in network.cuts or way in network.loss for way in ways)
        return f"{hit} ways hit" if hit else ""
