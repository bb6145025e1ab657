"""Clients of the project's own library, by themselves and as members of groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from broker.client.connect import Client
    from broker.client.consumer_options import MemberTimes


class OwnClients(ABC):
    """What `jepsen_like.workloads.load.StockClients` has of them, by one way of connecting."""

    def client(self, name: str, chance: random.Random) -> Client:
        """See `Clients`."""
        return self._client(name, chance, None, None)

    def member_client(
        self, name: str, chance: random.Random, *, client_id: str, times: MemberTimes
    ) -> Client:
        """See `StockClients`."""
        return self._client(name, chance, client_id, times)

    @abstractmethod
    def _client(
        self,
        name: str,
        chance: random.Random,
        client_id: str | None,
        member_times: MemberTimes | None,
    ) -> Client:
        """Return a client on a machine of its own."""
