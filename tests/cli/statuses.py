"""What healthy nodes of a group say of themselves, and any of it otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.protocol.bodies import GroupStatus, MemberStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


def status_in(
    addresses: Mapping[str, str],
    node_id: str,
    *,
    leader: str | None = "n2",
    term: int = 3,
    end: int = 100,
    commit: int = 100,
    **changes: Any,
) -> GroupStatus:
    """Return the status of *node_id* in the group of those with *addresses*."""
    fields = {
        "group": "local",
        "node_id": node_id,
        "role": "LEADER" if node_id == leader else "FOLLOWER",
        "term": term,
        "leader_id": leader,
        "leader_address": addresses[leader] if leader else None,
        "is_ready": True,
        "begin_index": 1,
        "end_index": end,
        "durable_index": end,
        "commit_index": commit,
        "dispatched_index": commit,
        "begin_position": 0,
        "end_position": 48 * end,
        "flush_disk_type": "SYNC_FLUSH",
        "topic_count": 1,
        "connection_count": 2,
        "held_pull_count": 0,
        "rss_bytes": 50 << 20,
        "uptime_seconds": 1.5,
        "sync_seconds_last": 0.001,
        "version": "0.1.0",
        "members": tuple(
            MemberStatus(node_id=name, address=address, is_connected=True)
            for name, address in addresses.items()
        ),
    }
    return GroupStatus(**(fields | changes))
