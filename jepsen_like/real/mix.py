"""What one run with real processes is made of, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.config import KIB, MIB, RaftConfig, StoreConfig, SyncBy, WriteMode
from jepsen_like.keeping import by_size_only
from jepsen_like.workloads.load import QUEUE_LOCK_MS, Load

if TYPE_CHECKING:
    from jepsen_like.faults.fault import Target

QUIET_SECONDS = 5.0
GAP_MEAN = 5.0  # seconds between faults
HOLD_MIN, HOLD_MAX = 0.5, 10.0  # seconds that one lasts
_DISK_SIZE_MIN = 64 * MIB
MEMBERS_MAX = 2  # of a group; each is as much work for this machine as it is for the nodes
# Delayed messages come by a leader's clock: while that is wrong, nobody can say when.
BY_CLOCK = frozenset({"wall-clock", "clock-rate"})
# What meddles with calls to the C library does not see what the kernel is asked through a ring.
BY_SHIM = frozenset({"failed-sync", "kill-at-step", "power-at-step", "slow-disk"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RealMix:
    """One run's draw."""

    seed: int
    node_count: int
    store: StoreConfig
    raft: RaftConfig
    load: Load
    faults: tuple[str, ...]
    seconds: float  # with faults
    target: Target = ""
    gap_mean: float = GAP_MEAN
    hold_max: float = HOLD_MAX
    disk_size: int = _DISK_SIZE_MIN
    topic_retention_ms: int = 0  # what the topic keeps of its own; 0: as the log has it

    @property
    def has_retention(self) -> bool:
        """Whether old segments are dropped."""
        return self.store.log_size_max > 0


def draw(
    seed: int,
    *,
    faults: tuple[str, ...],
    seconds: float,
    rate: float,
    node_count: int = 3,
    target: Target = "",
    retention: bool | None = None,
    members: int | None = None,
) -> RealMix:
    """Return the mix of *seed*.

    Args:
        seed: decides all that is not told.
        faults: names out of the catalogue.
        seconds: with faults.
        rate: sends per second, of all producers together.
        node_count: members of the group.
        target: whom faults hit.
        retention: whether old segments are dropped; drawn when None.
        members: of each group that shares a topic's queues, 0 for no such groups; drawn when None,
            and 0 where clocks are set wrong, or what they have not read yet may be dropped.
    """
    chance = random.Random(f"real mix {seed}")
    drops = chance.random() < 0.35
    segment_size = chance.choice((128, 256) if drops else (256, 1024, 4096)) * KIB
    body_size_max = chance.choice((300, 2000, 6000))
    segment_count = chance.randint(2, 4)
    if retention:  # it is what the run is about: dropping has to come soon
        segment_size, body_size_max, segment_count = 128 * KIB, 2000, 2
    elif retention is None:
        retention = drops
    if retention or BY_CLOCK & set(faults):
        members = 0
    elif members is None:
        # By a chance of its own: all else of a seed stays as it is.
        members = random.Random(f"real members {seed}").randint(1, MEMBERS_MAX)
    store = StoreConfig(
        segment_size=segment_size,
        index_file_units=32_768,
        write_mode=chance.choice(list(WriteMode)),
        sync_by=SyncBy.AUTO if faults and not BY_SHIM & set(faults) else SyncBy.THREAD,
        checkpoint_interval_ms=chance.choice((500, 2000, 5000)),
        checkpoint_size=chance.choice((64, 1024)) * KIB,
        log_size_max=segment_size * segment_count if retention else 0,
    )
    raft = RaftConfig(append_size_max=chance.choice((32, 64)) * KIB)
    load = Load(
        seed=seed,
        queue_count=8,
        producer_count=4,
        lane_count=chance.choice((2, 5)),
        send_rate=rate,
        body_size_max=body_size_max,
        batch_count_max=chance.choice((1, 3, 1000)),
        send_timeout=chance.choice((2.0, 8.0)),
        prefetch_bytes=chance.choice((64 * KIB, 1024 * KIB)),
        group_count=2,
        client_crash_mean=30.0,
        side_topic_count=1,
        member_count=members,
        lock_ms=QUEUE_LOCK_MS,
    )
    # Every fault should come a few times.
    gap_mean = min(GAP_MEAN, seconds / 8, seconds / (3 * max(1, len(faults))))
    # Twice what may be written in all, as failing over sends again what was not heard of.
    written = int(rate * (seconds + 60) * (body_size_max / 2 + 200))
    return RealMix(
        seed=seed,
        node_count=node_count,
        store=by_size_only(store),
        raft=raft,
        load=load,
        faults=faults,
        seconds=seconds,
        target=target,
        gap_mean=gap_mean,
        hold_max=min(HOLD_MAX, seconds / 5, max(2.0, 3 * gap_mean)),
        disk_size=max(_DISK_SIZE_MIN, 2 * written // MIB * MIB),
        topic_retention_ms=chance.choice((0, 3_000, 8_000)) if retention else 0,
    )
