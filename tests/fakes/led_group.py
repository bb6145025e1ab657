"""A simulated group that has its leader already, for scenarios that begin there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fakes.cluster import SimCluster

if TYPE_CHECKING:
    from tests.fakes.sim_parts import SimNode


def group(node_count: int = 3, *, message_count_max: int = 30_000, **options: Any) -> SimCluster:
    """Return a started group that has been led for half a second."""
    cluster = SimCluster(node_count, **options)
    cluster.message_count_max = message_count_max
    cluster.start()
    cluster.await_leader()
    cluster.run(0.5)
    return cluster


def others(cluster: SimCluster, leader: SimNode) -> list[str]:
    """Return the names of all members but *leader*."""
    return [node_id for node_id in cluster.ids if node_id != leader.node_id]


def terms(cluster: SimCluster) -> set[int]:
    """Return the terms that those who are alive are in."""
    return {node.core.engine.term for node in cluster.nodes.values() if node.alive}  # type: ignore[union-attr]
