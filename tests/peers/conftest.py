"""Members of a group that only greet each other and note what they hear."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from dledger.config import LedgerConfig, Member, RaftConfig
from dledger.peers.links import PeerLinks
from tests.fakes.network import MemoryNetwork
from tests.fakes.nodes import Wires

if TYPE_CHECKING:
    from dledger.peers.link import PeerLink

MEMBERS = tuple(
    Member(node_id=f"n{n}", host=f"host-{n}.my-group", port=7000 + n) for n in (1, 2, 3)
)


def config(node_id: str, **changes: Any) -> LedgerConfig:
    whole = LedgerConfig(group="g", node_id=node_id, members=MEMBERS, data_folder="/data")
    return dataclasses.replace(whole, **changes)


class Greeter:
    """The hooks of one member, and its links."""

    def __init__(self, wires: Wires, settings: LedgerConfig) -> None:
        self.config = settings
        self.joining = False
        self.last_index = 7
        self.connected: list[tuple[str, bool, int]] = []
        self.lost: list[str] = []
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.batches: list[int] = []
        self.links: dict[str, PeerLink] = {}
        self.peers = PeerLinks(
            config=settings,
            network=wires.of(settings.node_id),
            chance=random.Random(settings.node_id),
            hooks=self,
        )

    def hello_state(self) -> tuple[bool, int]:
        return self.joining, self.last_index

    def on_peer_connected(self, link: PeerLink, *, joining: bool, last_index: int) -> None:
        self.connected.append((link.peer_id, joining, last_index))
        self.links[link.peer_id] = link

    def on_peer_lost(self, link: PeerLink) -> None:
        self.lost.append(link.peer_id)
        if self.links.get(link.peer_id) is link:
            del self.links[link.peer_id]

    def on_messages(self, peer_id: str, messages: list[dict[str, Any]]) -> None:
        self.batches.append(len(messages))
        self.heard += [(peer_id, message) for message in messages]


class Meeting:
    """Greeters over one network in memory."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.wires = Wires(MemoryNetwork(latency_seconds=0.001))
        self._nursery = nursery

    async def start(self, settings: LedgerConfig) -> Greeter:
        greeter = Greeter(self.wires, settings)
        await self._nursery.start(greeter.peers.run)
        return greeter

    async def start_all(self, *node_ids: str, raft: RaftConfig | None = None) -> list[Greeter]:
        greeters = [
            await self.start(config(node_id, raft=raft or RaftConfig())) for node_id in node_ids
        ]
        await trio.sleep(1.0)
        return greeters


@pytest.fixture
async def meeting(autojump_clock):
    """Every test names autojump_clock as well: pytest-trio looks for it only there."""
    async with trio.open_nursery() as nursery:
        yield Meeting(nursery)
        nursery.cancel_scope.cancel()
