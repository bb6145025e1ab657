"""How much is asked of a group, and what workloads need to ask it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from contextlib import AbstractAsyncContextManager

    from broker.client.connect import Client
    from broker.client.consumer_options import MemberTimes
    from dledger.remoting.network import Network
    from jepsen_like.workloads.stock import Node

# RocketMQ's two minutes and one, made short where groups have members: seconds are dear.
CLIENT_SILENT_MS = 8000  # then a member counts as gone
QUEUE_LOCK_MS = 6000  # for so long a queue's lock holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients do, and how much of it."""

    seed: int
    queue_count: int
    producer_count: int
    lane_count: int  # sends one producer has under way
    send_rate: float  # per second, of all lanes together
    body_size_max: int
    batch_count_max: int
    send_timeout: float  # seconds
    prefetch_bytes: int
    group_count: int
    client_crash_mean: float  # seconds
    side_topic_count: int = 0  # topics that come and go, with groups that are put elsewhere
    level_share: float = 0.0  # of the sends: so many ask for a level of durability by chance
    handles: bool = False  # whether W6 runs as well
    member_count: int = 0  # members of each group of W7, which does not run with none
    setting_count: int = 0  # clients that have a name server keep settings, each its own
    lock_ms: int = 60_000  # for how long a queue's lock holds
    picks: bool = False  # whether W8 runs as well, and values have tags


class Clients(Protocol):
    """Where workloads get their clients."""

    @property
    def load(self) -> Load:
        """What they are to do."""

    def client(self, name: str, chance: random.Random) -> AbstractAsyncContextManager[Client]:
        """Return a client on a machine of its own, of the project's own library."""


class WireClients(Clients, Protocol):
    """Where workloads find the members for clients of another make."""

    @property
    def nodes(self) -> list[Node]:
        """Where clients of another make find the members."""

    def network_of(self, name: str) -> Network:
        """Return the network of a machine of its own, which no fault cuts off."""


class StockClients(WireClients, Protocol):
    """Where workloads get clients of another make, and members of groups."""

    def member_client(
        self, name: str, chance: random.Random, *, client_id: str, times: MemberTimes
    ) -> AbstractAsyncContextManager[Client]:
        """As `client`, of that name among the members of groups, and with times of its own."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 by a client's clock."""
