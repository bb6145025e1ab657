"""What one seed is made of: sizes, timings, load and which faults (swarm testing).

Source: Groce et al., "Swarm Testing" (ISSTA 2012): a run that leaves features out meets what a run
with all of them never reaches.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from broker.config import BrokerConfig
from dledger.config import KIB, FlushDiskType, HoldBack, RaftConfig, StoreConfig, WriteMode
from jepsen_like.faults.catalogue import offered
from jepsen_like.faults.disks import CrowdedDisk, WallClock
from jepsen_like.keeping import by_size_only
from jepsen_like.workloads.load import CLIENT_SILENT_MS, QUEUE_LOCK_MS, Load

QUIET_SECONDS = 3.0
FAULT_SECONDS = 40.0
HANDLES_SHARE = 0.35  # of seeds
MEMBERS_SHARE = 0.4  # of seeds that keep everything: what waits for long would be dropped
PICKS_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """One seed's draw."""

    seed: int
    node_count: int
    store: StoreConfig
    raft: RaftConfig
    clock_rates: tuple[float, ...]
    delay_mean: float  # seconds, of the network
    reset_seconds: float
    sync_mean: float  # seconds, of a disk
    load: Load
    faults: tuple[str, ...]
    gap_mean: float  # seconds between faults
    hold_max: float
    fault_seconds: float = FAULT_SECONDS
    quiet_seconds: float = QUIET_SECONDS
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    only: tuple[str, ...] = field(default=())
    wall_rate: float = 1.0  # seconds of all wall clocks in a virtual second
    topic_retention_ms: int = 0  # what the topic keeps of its own; 0: as the log has it

    @property
    def is_async(self) -> bool:
        """Whether an acknowledgement stands on page caches."""
        return self.store.flush_disk_type is FlushDiskType.ASYNC_FLUSH

    @property
    def has_retention(self) -> bool:
        """Whether old messages are dropped."""
        store = self.store
        return bool(
            store.log_size_max
            or store.file_reserved_hours
            or store.disk_force_percent < 100
            or self.topic_retention_ms
        )


def draw(seed: int, *, fault_seconds: float = FAULT_SECONDS, only: tuple[str, ...] = ()) -> Mix:
    """Return the mix of *seed*.

    Args:
        seed: decides everything.
        fault_seconds: virtual seconds with faults.
        only: names of faults; every one that fits is used, and no other.
    """
    chance = random.Random(f"mix {seed}")
    node_count = chance.choices((1, 3, 5), (1, 7, 2))[0]
    is_async = chance.random() < 0.15
    has_retention = chance.random() < 0.35
    # With retention small segments and large bodies: dropping and installing must really happen.
    segment_size = chance.choice((16, 32) if has_retention else (16, 32, 64, 64, 256)) * KIB
    sizes = (1000, 2000, 6000) if has_retention else (64, 300, 2000, 6000)
    body_size_max = min(chance.choice(sizes), segment_size // 4)
    heartbeat = chance.choice((40, 75, 75, 120))
    timeout_min = heartbeat * chance.choice((4, 5, 7))
    append_size_max = chance.choice((4, 8, 32, 128)) * KIB
    store = StoreConfig(
        segment_size=segment_size,
        index_file_units=max(append_size_max // 48 + 1, chance.choice((128, 512, 2048))),
        flush_disk_type=FlushDiskType.ASYNC_FLUSH if is_async else FlushDiskType.SYNC_FLUSH,
        flush_interval_ms=chance.choice((20, 100, 500)),
        write_mode=chance.choice(list(WriteMode)),
        checkpoint_interval_ms=chance.choice((200, 500) if has_retention else (200, 2000, 5000)),
        checkpoint_size=chance.choice((16, 64, 1024)) * KIB,
        log_size_max=segment_size * chance.randint(2, 4) if has_retention else 0,
    )
    raft = RaftConfig(
        heartbeat_interval_ms=heartbeat,
        election_timeout_min_ms=timeout_min,
        election_timeout_max_ms=int(timeout_min * chance.choice((1.5, 2, 3))),
        election_stagger_ms=chance.choice((0, 20, 60)),
        transfer_timeout_ms=chance.choice((300, 2000)),
        reconnect_delay_max_ms=chance.choice((100, 500)),
        append_size_max=append_size_max,
        append_window=chance.choice((1, 2, 4, 16)),
    )
    fitting = [
        name
        for name, fault in offered("sim").items()
        if fault.fits(node_count=node_count, is_async=is_async)
        and (name in only if only else fault.is_drawn and name != CrowdedDisk.name)
    ]
    # Drawn apart: what was drawn for a seed before stays as it was.
    apart = random.Random(f"levels {seed}")
    level_share = apart.choice((0.0, 0.0, 0.3))
    inflight_size_max = apart.choice((4, 16, 16 * KIB)) * KIB
    membership = random.Random(f"members {seed}")
    has_members = membership.random() < MEMBERS_SHARE and not has_retention
    raft = replace(raft, hold_back=random.Random(f"hold {seed}").choice(list(HoldBack)))
    wanted = fitting if only else [name for name in fitting if chance.random() < 0.45]
    if has_members and not only:
        # By a clock that was set back for good what waits comes when nobody looks any more.
        wanted = [name for name in wanted if name != WallClock.name]
    mix = Mix(
        seed=seed,
        node_count=node_count,
        store=by_size_only(store),
        raft=raft,
        clock_rates=tuple(chance.uniform(0.95, 1.05) for _ in range(node_count)),
        delay_mean=chance.choice((0.0003, 0.001, 0.004, 0.010)),
        reset_seconds=chance.choice((0.5, 1.0, 1.0, 3.0)),
        sync_mean=chance.choice((0.0005, 0.002, 0.008)),
        load=Load(
            seed=seed,
            queue_count=chance.randint(1, 5),
            producer_count=chance.randint(1, 3),
            lane_count=chance.choice((1, 2, 5)),
            send_rate=chance.choice((8.0, 16.0, 25.0, 50.0)),
            body_size_max=body_size_max,
            batch_count_max=chance.choice((1, 3, 1000)),
            send_timeout=chance.choice((0.5, 2.0, 8.0)),
            prefetch_bytes=chance.choice((64 * KIB, 1024 * KIB)),
            group_count=chance.randint(1, 2),
            client_crash_mean=chance.choice((5.0, 15.0, 60.0)),
            side_topic_count=random.Random(f"side topics {seed}").choice((0, 0, 1, 2)),
            level_share=level_share,
            # By a chance of its own, so that the seeds of before are what they were.
            handles=random.Random(f"handles {seed}").random() < HANDLES_SHARE,
            member_count=membership.randint(1, 3) if has_members else 0,
            lock_ms=QUEUE_LOCK_MS,
            picks=random.Random(f"picks {seed}").random() < PICKS_SHARE,
            setting_count=random.Random(f"settings {seed}").choice((0, 0, 0, 2)),
        ),
        faults=tuple(wanted) or ((chance.choice(fitting),) if fitting else ()),
        gap_mean=chance.choice((0.7, 2.0, 5.0)),
        hold_max=chance.choice((1.0, 4.0, 10.0)),
        fault_seconds=fault_seconds,
        quiet_seconds=min(QUIET_SECONDS, fault_seconds / 5),  # a short run is short altogether
        broker=BrokerConfig(
            ack_timeout_ms=300,
            connection_inflight_size_max=inflight_size_max,
            client_silent_max_ms=CLIENT_SILENT_MS,
            queue_lock_max_ms=QUEUE_LOCK_MS,
        ),
        only=only,
    )
    return _with_retention(mix, random.Random(f"retention {seed}")) if has_retention else mix


def _with_retention(mix: Mix, chance: random.Random) -> Mix:
    """Have messages go for other reasons than the size of the log, too, or instead."""
    changes: dict[str, Any] = {}
    store: dict[str, Any] = {}
    if chance.random() < 0.4:
        changes["wall_rate"] = chance.choice((600.0, 1200.0))  # an hour is 6 or 3 seconds
        store["file_reserved_hours"] = 1
        store["delete_when"] = chance.choice(
            (";".join(map(str, range(24))), ";".join(map(str, range(0, 24, 2))))
        )
    if chance.random() < 0.5:
        rate = changes.get("wall_rate", 1.0)
        changes["topic_retention_ms"] = int(1000 * rate * chance.uniform(2, 8))
    if chance.random() < 0.4:
        store |= {"disk_clean_percent": 75, "disk_force_percent": 85, "disk_refuse_percent": 90}
        if not mix.only:
            changes["faults"] = (*mix.faults, CrowdedDisk.name)
    if (changes or store) and chance.random() < 0.5:
        store["log_size_max"] = 0
    return replace(mix, store=replace(mix.store, **store), **changes)
