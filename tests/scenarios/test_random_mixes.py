"""Random runs of a whole group of bare cores: faults drawn from a seed, promises checked.

Each seed picks its group size, latencies, batch sizes and faults; `SimCluster` checks at every
step that a term has one leader, that a leader has what was committed before it, and that an index
has one committed entry; at the end every acknowledged entry is on every member, byte for byte.

More, and longer: ``DLEDGER_SEEDS=200:1200 DLEDGER_SECONDS=30 pytest tests/scenarios -k mix``.
"""

from __future__ import annotations

import os
import random

import pytest

from dledger.config import FlushDiskType, RaftConfig, StoreConfig
from tests.fakes.cluster import SimCluster
from tests.fakes.mutants import CAUGHT, mutated

FIRST, LAST = (int(n) for n in os.environ.get("DLEDGER_SEEDS", "0:25").split(":"))
SECONDS = float(os.environ.get("DLEDGER_SECONDS", "6"))

FAULTS = (
    "crash", "power", "partition", "reconnect", "slow sync", "pause", "checkpoint", "one-way",
    "all power", "wipe", "drop", "full", "transfer",
)  # fmt: skip

# A seed either mixes all of them or goes on about one thing, which finds what a bit of each misses.
THEMES = (
    FAULTS,
    ("all power", "slow sync", "power", "checkpoint"),
    ("wipe", "crash", "pause", "one-way"),
    ("partition", "reconnect", "crash", "pause", "transfer"),
    ("drop", "wipe", "full", "crash", "checkpoint"),
)


class Mix:
    """One seed's group, load and faults."""

    def __init__(
        self,
        seed: int,
        *,
        seconds: float = SECONDS,
        flush: FlushDiskType = FlushDiskType.SYNC_FLUSH,
        faults: frozenset[str] = frozenset(FAULTS),
        cluster_class: type[SimCluster] = SimCluster,
    ) -> None:
        self.dice = dice = random.Random(seed)
        slow = dice.random() < 0.3
        self.cluster = cluster_class(
            dice.choice([3, 3, 5]),
            seed=seed,
            latency=(0.005, 0.030) if slow else (0.0003, 0.003),
            store=StoreConfig(
                segment_size=dice.choice([4096, 16384, 65536]),
                index_file_units=512,
                flush_disk_type=flush,
            ),
            raft=RaftConfig(
                append_size_max=dice.choice([4096, 16384]), append_window=dice.choice([1, 2, 4])
            ),
        )
        self.faults = [fault for fault in dice.choice(THEMES) if fault in faults]
        self.seconds = seconds
        self.end = seconds
        self.rate = dice.choice([0.005, 0.020])
        self.fault_seconds = dice.choice([0.15, 0.4, 0.8])
        for node in self.cluster.nodes.values():
            node.sync_seconds = dice.choice([0.0005, 0.001, 0.020, 0.100])
        self.payload = dice.choice([20, 200, 900])
        self.count = 0

    def run(self) -> SimCluster:
        """Run it and return the converged cluster."""
        cluster = self.cluster
        cluster.start()
        cluster.at(1.0, self.load)
        cluster.at(1.2, self.fault)
        self.end = cluster.clock.seconds + self.seconds
        cluster.run(self.seconds + 1)
        for node in cluster.nodes.values():
            node.sync_seconds = 0.001
            node.disk.capacity = 1 << 40
        cluster.converge()
        return cluster

    def load(self) -> None:
        dice, cluster = self.dice, self.cluster
        if cluster.clock.seconds >= self.end:
            return
        for _ in range(dice.choice([1, 1, 3])):
            self.count += 1
            cluster.propose(b"%08d" % self.count + bytes(dice.randrange(self.payload)))
        cluster.at(dice.expovariate(1 / self.rate), self.load)

    def fault(self) -> None:
        dice, cluster = self.dice, self.cluster
        if cluster.clock.seconds >= self.end:
            return
        cluster.at(dice.expovariate(1 / self.fault_seconds), self.fault)
        kind = dice.choice(self.faults)
        node_id = dice.choice(cluster.ids)
        if cluster.leader is not None and dice.random() < 0.3:
            node_id = cluster.leader.node_id
        getattr(self, "do_" + kind.replace(" ", "_").replace("-", "_"))(
            node_id, dice.uniform(0.05, 2.0)
        )

    # -- faults ---------------------------------------------------------------------------------

    def revive(self, node_id: str) -> None:
        node = self.cluster.nodes[node_id]
        if not node.alive:
            node.disk.capacity = 1 << 40
            self.cluster.start(node_id)

    def do_crash(self, node_id: str, hold: float, *, power: bool = False) -> None:
        if self.cluster.nodes[node_id].alive:
            self.cluster.crash(node_id, power=power)
            self.cluster.at(hold, lambda: self.revive(node_id))

    def do_power(self, node_id: str, hold: float) -> None:
        self.do_crash(node_id, hold, power=True)

    def do_all_power(self, late: str, _hold: float) -> None:
        """Cut the power of all; one comes back late, so what it alone has is missed at first."""
        for each in self.cluster.ids:
            self.do_power(each, 1.2 if each == late else self.dice.choice([0.0, 0.05]))

    def do_partition(self, _node_id: str, hold: float) -> None:
        ids = self.cluster.ids[:]
        self.dice.shuffle(ids)
        size = self.dice.randint(1, len(ids) // 2)
        self.cluster.partition(tuple(ids[:size]), tuple(ids[size:]))
        self.cluster.at(hold, self.cluster.heal)

    def do_one_way(self, node_id: str, hold: float) -> None:
        self.cluster.cut.add((node_id, self.dice.choice(self.cluster.ids)))
        self.cluster.at(hold, self.cluster.heal)

    def do_reconnect(self, node_id: str, _hold: float) -> None:
        others = [other for other in self.cluster.ids if other != node_id]
        self.cluster.reconnect(node_id, self.dice.choice(others))

    def do_slow_sync(self, node_id: str, _hold: float) -> None:
        self.cluster.nodes[node_id].sync_seconds = self.dice.choice([0.0005, 0.02, 0.2, 1.5])

    def do_pause(self, node_id: str, hold: float) -> None:
        node = self.cluster.nodes[node_id]
        if node.alive and not node.paused:
            self.cluster.pause(node_id)
            self.cluster.at(hold, lambda: node.paused and node.alive and self.resume(node_id))

    def resume(self, node_id: str) -> None:
        self.cluster.resume(node_id)

    def do_checkpoint(self, node_id: str, _hold: float) -> None:
        if self.cluster.nodes[node_id].alive:
            self.cluster.checkpoint(node_id)

    def do_drop(self, node_id: str, _hold: float) -> None:
        """Let retention take what is committed on a node, so that others need its state."""
        node = self.cluster.nodes[node_id]
        if node.alive and node.core.committed_index > node.store.base.index:
            self.cluster.drop(node_id, node.core.committed_index)

    def do_full(self, node_id: str, hold: float) -> None:
        """Fill the disk, leave room for a file or two, and make room again later."""
        node = self.cluster.nodes[node_id]
        disk = node.disk
        if node.alive:
            used = disk.capacity - disk.free_bytes("/")
            disk.capacity = used + self.dice.choice([0, 20_000])

            def make_room() -> None:
                disk.capacity = 1 << 40

            self.cluster.at(hold, make_room)

    def do_transfer(self, _node_id: str, _hold: float) -> None:
        leader = self.cluster.leader
        if leader is not None and not leader.paused:
            leader.core.transfer(None, lambda _error: None)

    def do_wipe(self, node_id: str, hold: float) -> None:
        """Lose a disk, if every other member has told its own that it may vote.

        More than one lost at a time is more than the group promises to survive.
        """
        cluster = self.cluster
        rest = [node for node in cluster.nodes.values() if node.node_id != node_id]
        if all(n.alive and not n.core.engine.joining and n.votes.is_synced for n in rest):
            if cluster.nodes[node_id].alive:
                cluster.crash(node_id)
            cluster.wipe(node_id)
            cluster.at(hold, lambda: self.revive(node_id))


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_a_random_mix_of_faults_loses_nothing(seed):
    cluster = Mix(seed).run()
    assert any(p.outcome == "acked" for p in cluster.proposals)


@pytest.mark.parametrize("seed", range(1000 + FIRST, 1000 + FIRST + (LAST - FIRST) // 5))
def test_a_random_mix_with_async_flush_loses_nothing_while_the_machines_run(seed):
    """Processes die, pages in the cache live on: what ASYNC_FLUSH acknowledges stays."""
    faults = frozenset(FAULTS) - {"power", "all power", "wipe"}
    cluster = Mix(seed, flush=FlushDiskType.ASYNC_FLUSH, faults=faults).run()
    assert any(p.outcome == "acked" for p in cluster.proposals)


@pytest.mark.parametrize(
    ("mutant", "seed"),
    [
        ("commits_what_is_not_verified", 3),
        ("no_joining", 35),
        ("votes_are_not_held", 172),
        ("promises_what_is_not_synced", 55),
    ],
)
def test_the_mixes_have_teeth(mutant, seed):
    """Seeds that find a mend missing; a change of the mixes may call for others."""
    with mutated(mutant), pytest.raises(CAUGHT):
        Mix(seed, seconds=6.0).run()
