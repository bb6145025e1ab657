"""Members of a group that live one after another, as W6 and W8 have them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.client.connect import Client
    from jepsen_like.history import History
    from jepsen_like.workloads.load import Clients


class Lives(ABC):
    """One member of a group after another; some close in peace, the others crash."""

    name: str  # of the workload

    def __init__(self, clients: Clients, history: History) -> None:
        self.clients = clients
        self.history = history
        self.is_over = False

    async def run(self) -> None:
        """Keep one going until `is_over`."""
        load = self.clients.load
        chance = random.Random(f"{load.seed} {self.name}")
        while not self.is_over:
            life = 0.5 + chance.expovariate(1 / load.client_crash_mean)
            try:
                with trio.move_on_after(life):
                    async with self.clients.client(self.name, chance) as client:
                        await self._live(client, chance)
            except (ClientError, BrokerError) as error:
                self.history.note("reader", err=f"{type(error).__name__}: {error}")
            await trio.sleep(0.1)

    @abstractmethod
    async def _live(self, client: Client, chance: random.Random) -> None:
        """Be one member."""
