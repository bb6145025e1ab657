"""What a node has of the world, which a test or the simulator replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from dledger.clock import Clock
    from dledger.remoting.network import Network
    from dledger.store.disk import Disk
    from dledger.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a node has of the world: every source of time, chance and I/O."""

    clock: Clock
    disk: Disk
    network: Network
    chance: random.Random
    make_worker: Callable[[str], Worker]
    make_sync_worker: Callable[[str], Worker] | None = None  # of the log; None: as any other
