"""The wire of a simulated group: connections, what they carry, and how they break.

What one connection carries arrives in order or, when the connection breaks, not at all; a pair of
members has a connection of another generation after each break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dledger.config import FlushDiskType
from dledger.errors import CorruptEntryError
from dledger.peers.messages import from_command, to_command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame
from tests.fakes.cluster_checks import ClusterChecks

if TYPE_CHECKING:
    from tests.fakes.sim_parts import SimNode


class ClusterWire(ClusterChecks):
    """The part of `SimCluster` between its members; `at`, `guarded` and `pump` are the rest's."""

    def __init__(self, latency: tuple[float, float]) -> None:
        self.latency = latency  # seconds one way, from and to
        self._generation: dict[frozenset[str], int] = {}  # of each pair's connection
        self._linked: set[frozenset[str]] = set()
        self.cut: set[tuple[str, str]] = set()  # directed
        self._arrival: dict[tuple[str, str], float] = {}
        self.sent: dict[str, int] = {}
        self.sent_entry_bytes = 0
        self.drop_message: Any = None  # (source, target, message) -> bool
        self.message_count = 0
        self.message_count_max = 1_000_000  # a storm of messages is a finding, not a long run
        self.extra_delay: dict[tuple[str, str], float] = {}  # seconds more, one way
        self.on_deliver: Any = None
        self.hears_late: dict[str, float] = {}  # by node: seconds until it sees a link broken

    def link(self, one: str, other: str) -> None:
        """Connect two members, unless they are or the wire between them is cut."""
        pair = frozenset((one, other))
        a, b = self.nodes[one], self.nodes[other]
        if pair in self._linked or not (a.alive and b.alive):
            return
        if (one, other) in self.cut or (other, one) in self.cut:
            return
        self._linked.add(pair)
        self._generation[pair] = self._generation.get(pair, 0) + 1
        hellos = [(n.core.engine.joining, n.store.end_index) for n in (a, b)]  # type: ignore[union-attr]
        for node, peer_id, hello in ((a, other, hellos[1]), (b, one, hellos[0])):
            self._hear(
                node,
                lambda node=node, peer_id=peer_id, hello=hello: node.core.peer_connected(
                    peer_id,
                    joining=hello[0],
                    last_index=hello[1],
                    promises_synced=self.store_config.flush_disk_type is FlushDiskType.SYNC_FLUSH,
                ),
            )

    def unlink(self, one: str, other: str) -> None:
        """Break the connection between two members; both hear of it."""
        pair = frozenset((one, other))
        if pair not in self._linked:
            return
        self._linked.discard(pair)
        self._generation[pair] += 1
        for node_id, peer_id in ((one, other), (other, one)):
            node = self.nodes[node_id]
            if node.alive:
                self.at_once_or_late(
                    node, lambda node=node, peer_id=peer_id: node.core.peer_lost(peer_id)
                )

    def at_once_or_late(self, node: SimNode, event: Any) -> None:
        delay = self.hears_late.get(node.node_id, 0.0)
        if delay:
            self.at(delay, lambda: self._hear(node, event))
        else:
            self._hear(node, event)

    def _hear(self, node: SimNode, event: Any) -> None:
        life = node.life

        def do() -> None:
            if node.life == life and node.alive:
                self.guarded(node, event)

        if node.paused:
            node.inbox.append(do)
        else:
            do()
            self.pump(node)

    def partition(self, *groups: tuple[str, ...]) -> None:
        """Let only members of one group hear one another; connections between groups break."""
        for one in self.ids:
            for other in self.ids:
                together = any(one in group and other in group for group in groups)
                if one != other and not together:
                    self.cut.add((one, other))
        for one, other in list(self.cut):
            self.unlink(one, other)

    def heal(self) -> None:
        self.cut.clear()
        for one in self.ids:
            for other in self.ids:
                if one < other:
                    self.link(one, other)

    def reconnect(self, one: str, other: str) -> None:
        self.unlink(one, other)
        self.link(one, other)

    def replace(self, one: str, other: str) -> None:
        """Have *one* connect anew to *other*, which has not noticed that the old link is gone."""
        pair = frozenset((one, other))
        self._linked.remove(pair)
        node = self.nodes[one]
        self._hear(node, lambda: node.core.peer_lost(other))  # type: ignore[union-attr]
        self.link(one, other)

    def _send(self, source: SimNode, target_id: str, message: dict[str, Any]) -> None:
        pair = frozenset((source.node_id, target_id))
        if pair not in self._linked:
            return
        kind = message["type"]
        self.sent[kind] = self.sent.get(kind, 0) + 1
        self.message_count += 1
        assert self.message_count <= self.message_count_max, f"a storm of messages: {self.sent}"
        if kind == "append_entries":
            self.sent_entry_bytes += len(message["entries"])
        if self.drop_message is not None and self.drop_message(source.node_id, target_id, message):
            return
        frame = b"".join(bytes(part) for part in encode_frame(to_command(message)))
        generation = self._generation[pair]
        way = (source.node_id, target_id)
        low, high = self.latency
        arrival = self.clock.seconds + low + self.chance.random() * (high - low)
        arrival += self.extra_delay.get(way, 0.0)
        arrival = max(arrival, self._arrival.get(way, 0.0))  # FIFO
        self._arrival[way] = arrival
        target = self.nodes[target_id]
        life = target.life

        def arrive() -> None:
            if way in self.cut:
                return
            if self._generation[pair] != generation or target.life != life or not target.alive:
                return
            self.deliver(target, source.node_id, frame)

        self.at(arrival - self.clock.seconds, arrive)

    def deliver(self, target: SimNode, source_id: str, frame: bytes) -> None:
        """Hand one frame to a node, as if it had just arrived."""
        connection = Connection()
        connection.receive_data(frame)
        (command,) = connection.commands()
        message = from_command(command)
        if self.on_deliver is not None:
            self.on_deliver(source_id, target.node_id, message)

        def receive() -> None:
            assert target.core is not None
            try:
                target.core.receive(source_id, message)
            except CorruptEntryError:
                self.unlink(source_id, target.node_id)  # as `PeerLink` does

        self._hear(target, receive)
