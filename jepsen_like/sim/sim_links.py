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
        self._held_before: dict[Way, int] = {}  # when a way was cut last

    async def cut(self, source: str, target: str) -> None:
        """See `Links`."""
        if (source, target) not in self._network.cuts:
            self._held_before[source, target] = self._network.held[source, target]
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
        found = []
        held = sum(
            network.held[way] - self._held_before[way] for way in ways if way in self._held_before
        )
        if held:
            found.append(f"{held} times something could not pass")
        shaped = sum(way in network.loss for way in ways)
        if shaped:
            found.append(f"{shaped} ways shaped")
        return ", ".join(found)
