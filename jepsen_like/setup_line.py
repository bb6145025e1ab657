"""What the first line of every history tells of the group and its load, alike in both layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dledger.config import RaftConfig, StoreConfig
    from jepsen_like.workloads.load import Load


def told_of_group(store: StoreConfig, raft: RaftConfig) -> dict[str, object]:
    """Return the settings of a group that a reader of its history wants to know."""
    return {
        "flush": store.flush_disk_type.value,
        "writes": store.write_mode.value,
        "syncs": store.sync_by.value,
        "segment_size": store.segment_size,
        "log_size_max": store.log_size_max,
        "file_reserved_hours": store.file_reserved_hours,
        "disk_force_percent": store.disk_force_percent,
        "holds_back": raft.hold_back.value,
        "heartbeat_ms": raft.heartbeat_interval_ms,
        "election_timeout_min_ms": raft.election_timeout_min_ms,
        "election_timeout_max_ms": raft.election_timeout_max_ms,
    }


def told_of_load(load: Load) -> dict[str, object]:
    """Return what clients were told to do."""
    return {
        "sends_per_second": load.send_rate,
        "queues": load.queue_count,
        "producers": load.producer_count,
        "lanes": load.lane_count,
        "body_size_max": load.body_size_max,
        "batch_count_max": load.batch_count_max,
        "send_timeout_s": load.send_timeout,
        "groups": load.group_count,
        "client_life_s": load.client_crash_mean,
        "side_topics": load.side_topic_count,
        "level_share": load.level_share,
        "handles": load.handles,
        "members": load.member_count,
        "picks": load.picks,
        "settings": load.setting_count,
    }
