"""Random runs of a whole group of bare cores: faults drawn from a seed, promises checked.

Each seed picks its group size, latencies, batch sizes and faults; `SimCluster` checks at every
step that a term has one leader and an index one committed entry, and at the end that every
acknowledged entry is on every member, byte for byte.
"""

from __future__ import annotations

import random

import pytest

from dledger.config import FlushDiskType, RaftConfig, StoreConfig
from tests.fakes.cluster import SimCluster


def run_mix(
    seed: int,
    *,
    power: bool = True,
    seconds: float = 8.0,
    cluster_class: type[SimCluster] = SimCluster,
    **options: object,
) -> SimCluster:
    """Run one seed and return the converged cluster."""
    dice = random.Random(seed)
    slow = dice.random() < 0.3
    options.setdefault("latency", (0.005, 0.030) if slow else (0.0003, 0.003))
    options.setdefault(
        "store",
        StoreConfig(
            segment_size=dice.choice([4096, 16384, 65536]),
            index_file_units=512,
            flush_disk_type=FlushDiskType.SYNC_FLUSH,
        ),
    )
    options.setdefault(
        "raft",
        RaftConfig(
            append_size_max=dice.choice([4096, 16384]), append_window=dice.choice([1, 2, 4])
        ),
    )
    cluster = cluster_class(dice.choice([3, 3, 5]), seed=seed, **options)  # type: ignore[arg-type]
    cluster.start()
    rate = dice.choice([0.002, 0.01])
    fault_rate = dice.choice([0.3, 1.0, 2.0])
    payload = dice.choice([20, 200, 900])
    end = cluster.clock.seconds + seconds
    minority = len(cluster.ids) // 2
    count = 0

    def load() -> None:
        nonlocal count
        if cluster.clock.seconds >= end:
            return
        for _ in range(dice.choice([1, 1, 3])):
            count += 1
            cluster.propose(b"%08d" % count + bytes(dice.randrange(payload)))
        cluster.at(dice.expovariate(1 / rate), load)

    def fault() -> None:
        if cluster.clock.seconds >= end:
            return
        cluster.at(dice.expovariate(1 / fault_rate), fault)
        node_id = dice.choice(cluster.ids)
        node = cluster.nodes[node_id]
        kind = dice.choice(
            ["crash", "power", "partition", "reconnect", "slow sync", "pause", "checkpoint",
             "one-way", "all power"]
        )  # fmt: skip
        hold = dice.uniform(0.05, 3.0)
        if kind == "crash" and node.alive:
            cluster.crash(node_id)
            cluster.at(hold, lambda: node.alive or cluster.start(node_id))
        elif kind == "power" and node.alive and power:
            cluster.crash(node_id, power=True)
            cluster.at(hold, lambda: node.alive or cluster.start(node_id))
        elif kind == "all power" and power and dice.random() < 0.3:
            for each in cluster.ids:
                if cluster.nodes[each].alive:
                    cluster.crash(each, power=True)
                    delay = dice.uniform(0, 1)
                    cluster.at(
                        delay, lambda each=each: cluster.nodes[each].alive or cluster.start(each)
                    )
        elif kind == "partition":
            ids = cluster.ids[:]
            dice.shuffle(ids)
            size = dice.randint(1, minority)
            cluster.partition(tuple(ids[:size]), tuple(ids[size:]))
            cluster.at(hold, cluster.heal)
        elif kind == "one-way":
            cluster.cut.add((node_id, dice.choice(cluster.ids)))
            cluster.at(hold, cluster.heal)
        elif kind == "reconnect":
            cluster.reconnect(node_id, dice.choice([i for i in cluster.ids if i != node_id]))
        elif kind == "slow sync":
            node.sync_seconds = dice.choice([0.0005, 0.02, 0.2, 1.5])
        elif kind == "pause" and node.alive and not node.paused:
            cluster.pause(node_id)
            cluster.at(hold, lambda: node.paused and node.alive and cluster.resume(node_id))
        elif kind == "checkpoint" and node.alive:
            cluster.checkpoint(node_id)

    cluster.at(1.0, load)
    cluster.at(1.5, fault)
    cluster.run(seconds + 1)
    for node in cluster.nodes.values():
        node.sync_seconds = 0.001
    cluster.converge()
    return cluster


@pytest.mark.parametrize("seed", range(25))
def test_a_random_mix_of_faults_loses_nothing(seed):
    cluster = run_mix(seed)
    assert sum(p.outcome == "acked" for p in cluster.proposals) > 20
