"""What every fault offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import random

    from jepsen_like.sim.cluster import SimCluster


class Fault:
    """One fault; an object of it is one occurrence, injected once and healed once."""

    name: ClassVar[str]
    nodes_min: ClassVar[int] = 1
    allows_async: ClassVar[bool] = True  # whether ASYNC_FLUSH promises to survive it
    weight: ClassVar[float] = 1.0

    def __init__(self, cluster: SimCluster, chance: random.Random) -> None:
        self.cluster = cluster
        self.chance = chance

    @classmethod
    def fits(cls, *, node_count: int, is_async: bool) -> bool:
        """Whether a group of that kind has to survive it."""
        return node_count >= cls.nodes_min and (cls.allows_async or not is_async)

    def inject(self) -> str:
        """Make it happen; return what was hit, or "" when it cannot happen now."""
        raise AssertionError(f"{type(self).__name__} has no inject()")

    def heal(self) -> None:
        """End it; what needs no end does nothing."""
