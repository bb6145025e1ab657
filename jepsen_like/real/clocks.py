"""One node's wall clock, shifted and sped up while its process runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.real.proof import LabError, Proof

if TYPE_CHECKING:
    from jepsen_like.real.shim import Shim


class NodeClock:
    """What the node's processes are told when they ask for the time of day.

    By our own shim and not by libfaketime: it counts the answers it changed, in the very process.
    """

    def __init__(self, name: str, shim: Shim) -> None:
        self.name = name
        self._shim = shim

    async def shift(self, offset_ms: float) -> Proof:
        """Let the wall clock jump to *offset_ms* from the true time; 0 puts it right."""
        raise LabError(f"clock of {self.name}, {offset_ms}: not built yet")

    async def rate(self, rate: float) -> Proof:
        """Let the wall clock run *rate* times as fast from now on, without a jump."""
        raise LabError(f"clock of {self.name}, {rate}: not built yet")

    async def monotonic_rate(self, rate: float) -> Proof:
        """Let the monotonic clock run *rate* times as fast from now on; it never goes back."""
        raise LabError(f"clock of {self.name}, {rate}: not built yet")

    async def proof(self) -> Proof:
        """Return what the node's processes have been told since the last change."""
        raise LabError(f"clock of {self.name}: not built yet")

    async def clear(self) -> Proof:
        """Tell the true time again."""
        raise LabError(f"clock of {self.name}: not built yet")
