"""Where mutants are hunted: which faults, how thick, on which sizes and timings.

A ground narrows what `draw` gives a seed.  Several mutants share one, so that one run of the
product itself says for all of them that what is caught there is the mutant and not the ground.

Faults come thick and fast on moderate load, and for a short time: the rare coincidence is what is
looked for, and a seed that has not met it is better followed by another seed than gone on with.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from broker.config import BrokerConfig
from dledger.config import KIB, FlushDiskType, HoldBack
from jepsen_like.sim.mix import draw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jepsen_like.sim.mix import Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the mixes of one hunt have in common."""

    name: str
    faults: tuple[str, ...]
    node_count: int = 3
    fault_seconds: float = 10.0
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the mix
    load: Mapping[str, Any] = field(default_factory=dict)  # of what clients do
    store: Mapping[str, Any] = field(default_factory=dict)  # of its store
    raft: Mapping[str, Any] = field(default_factory=dict)  # of its Raft

    def mix(self, seed: int) -> Mix:
        """Return the mix of *seed* on this ground."""
        drawn = draw(seed, fault_seconds=self.fault_seconds, only=self.faults)
        chance = random.Random(f"ground {self.name} {seed}")
        load = drawn.load
        calm: dict[str, Any] = {
            "send_rate": 25.0,
            "send_timeout": min(load.send_timeout, 2.0),
            "client_crash_mean": min(load.client_crash_mean, 15.0),
            "group_count": 1,
            "side_topic_count": 0,
            "setting_count": 0,
            "level_share": 0.0,
            "handles": False,
            "member_count": 0,
            "picks": False,
        }
        thick: dict[str, Any] = {
            "node_count": self.node_count,
            "clock_rates": tuple(chance.uniform(0.95, 1.05) for _ in range(self.node_count)),
            "faults": self.faults,
            "quiet_seconds": 1.0,
            "gap_mean": 0.6,
            "hold_max": min(drawn.hold_max, 3.0),
            "wall_rate": 1.0,
            "topic_retention_ms": 0,
            "load": replace(load, **{**calm, **self.load}),
            "store": replace(drawn.store, **{**_CALM_STORE, **self.store}),
            # All members are sent everything at once: more of them have what a mutant does wrong.
            "raft": replace(drawn.raft, **{"hold_back": HoldBack.NEVER, **self.raft}),
        }
        return replace(drawn, **{**thick, **self.changes})


_CALM_STORE: Mapping[str, Any] = {
    "log_size_max": 0,
    "file_reserved_hours": 0,
    "disk_clean_percent": 100,
    "disk_force_percent": 100,
    "disk_refuse_percent": 100,
    "flush_disk_type": FlushDiskType.SYNC_FLUSH,
}
_QUICK: Mapping[str, Any] = {
    "heartbeat_interval_ms": 40,
    "election_timeout_min_ms": 160,
    "election_timeout_max_ms": 240,
}
RETENTION: Mapping[str, Any] = {
    "segment_size": 16 * KIB,
    "log_size_max": 32 * KIB,
    "checkpoint_interval_ms": 200,
    "checkpoint_size": 16 * KIB,
}

# Machines and processes that die.
POWER = Ground(name="power", faults=("power", "power-at-step", "kill", "isolate", "restart"))
KILLS = Ground(name="kills", faults=("kill", "kill-at-step", "crash-loop", "restart", "isolate"))
# The same on disks so slow that most of what is told is not on them yet.
SLOW_POWER = Ground(
    name="slow-power",
    faults=("power", "isolate", "slow-disk", "stalled-disk"),
    changes={"sync_mean": 0.03, "hold_max": 2.0},
)
# Entries of several pages, most of them on no disk yet: after a power loss some are there.
TORN = replace(
    SLOW_POWER,
    name="torn",
    faults=("power", "stalled-disk"),
    load={"body_size_max": 4000, "batch_count_max": 1},
)
# Bodies so large that most pages of the log are full when they fail to be synced.
FAILED_SYNCS = Ground(
    name="failed-syncs",
    faults=("failed-sync", "power"),
    fault_seconds=14.0,
    changes={"hold_max": 0.6, "gap_mean": 0.5},
    load={"body_size_max": 4000},
)
# Networks that part.
CUTS = Ground(name="cuts", faults=("isolate", "halves", "kill", "transfer", "one-way", "pause"))
# Leaders that do not know that they lead no more, and clients that know no better.
STALE = Ground(
    name="stale",
    faults=("coup",),
    changes={"hold_max": 4.0, "gap_mean": 1.5, "delay_mean": 0.001},
    load={"send_rate": 40.0, "queue_count": 1, "producer_count": 3, "client_crash_mean": 1.0},
    raft=_QUICK,
)
# Topics that come and go, and groups that are put elsewhere.
SIDE_TOPICS = Ground(
    name="side-topics",
    faults=("isolate", "transfer", "kill", "restart"),
    load={"send_rate": 8.0, "queue_count": 1, "producer_count": 1, "side_topic_count": 2},
)
# Settings that a name server keeps for others.
SETTINGS = Ground(
    name="settings",
    faults=("isolate", "transfer", "kill", "restart"),
    load={"send_rate": 8.0, "queue_count": 1, "producer_count": 1, "setting_count": 4},
)
CLIENTS = Ground(
    name="clients",
    faults=("client-cut", "isolate", "transfer", "kill", "wire"),
    load={"send_timeout": 8.0},
)
# Messages dealt with one by one; members of their group come and go.
HANDLING = Ground(
    name="handling",
    faults=("transfer", "client-cut"),
    node_count=1,
    load={"handles": True, "send_timeout": 8.0, "queue_count": 2, "client_crash_mean": 4.0},
)
# Groups of members that come and go, under leaders that do.
MEMBERS = Ground(
    name="members",
    faults=("kill", "isolate", "transfer"),
    fault_seconds=8.0,
    changes={"delay_mean": 0.001, "gap_mean": 1.0},
    load={
        "member_count": 2,
        "client_crash_mean": 3.0,
        "send_rate": 8.0,
        "queue_count": 1,
        "producer_count": 1,
    },
    raft=_QUICK,
)
# The same where every entry takes its time, so that many a leader is lost between two of them.
SLOW_MEMBERS = replace(
    MEMBERS,
    name="slow-members",
    changes={"delay_mean": 0.010, "sync_mean": 0.03, "gap_mean": 0.6},
)
# Readers of one tag, who come and go and commit often.
PICKING = Ground(
    name="picking",
    faults=("transfer", "client-cut"),
    load={
        "picks": True,
        "send_timeout": 8.0,
        "send_rate": 80.0,
        "queue_count": 1,
        "client_crash_mean": 1.0,
    },
)
# Logs that part while they are being synced.
SLOW_CUTS = Ground(
    name="slow-cuts",
    faults=("isolate", "slow-disk"),
    changes={"sync_mean": 0.02, "hold_max": 1.5, "gap_mean": 0.4},
    load={"send_rate": 40.0, "lane_count": 5, "batch_count_max": 3},
)
# Leads that change hands faster than connections break or clients lose patience.
QUICK_CUTS = Ground(
    name="quick-cuts",
    faults=("isolate", "one-way"),
    changes={"gap_mean": 0.6, "hold_max": 0.8, "reset_seconds": 3.0, "delay_mean": 0.004},
    load={"send_rate": 40.0, "lane_count": 5, "send_timeout": 8.0},
    raft=_QUICK,
)
# The same with tails so large that they cross the network in several messages.
OLD_TERMS = Ground(
    name="old-terms",
    faults=("isolate", "kill"),
    changes={"gap_mean": 0.5, "hold_max": 0.8, "delay_mean": 0.010},
    load={
        "send_rate": 80.0,
        "lane_count": 5,
        "producer_count": 3,
        "body_size_max": 4000,
        "batch_count_max": 1,
    },
    raft={**_QUICK, "append_size_max": 4 * KIB, "append_window": 1},
)
# Whole groups that start again with states written just now.
RESTARTS = Ground(
    name="restarts",
    faults=("kill", "client-cut"),
    changes={"gap_mean": 0.5, "hold_max": 1.0},
    load={"send_timeout": 8.0, "queue_count": 2},
    store={"checkpoint_interval_ms": 200},
)
# Members stopped well, one at a time, under clients that wait for nobody.
ROLLING = Ground(
    name="rolling",
    faults=("rolling",),
    fault_seconds=8.0,
    changes={"gap_mean": 0.3},
    load={"send_timeout": 0.5, "client_crash_mean": 60.0},
)
# Queues whose units fill several pages.
UNITS = Ground(
    name="units",
    faults=("power",),
    fault_seconds=14.0,
    changes={"gap_mean": 1.5, "hold_max": 0.5},
    load={"send_rate": 80.0, "queue_count": 1, "body_size_max": 64, "lane_count": 5},
    store={"checkpoint_interval_ms": 200},
)
# Elections one after another.
ELECTIONS = Ground(
    name="elections",
    faults=("power", "power-at-step", "kill-at-step", "isolate", "transfer", "slow-disk"),
    changes={"gap_mean": 0.3, "hold_max": 1.0, "sync_mean": 0.008},
)
# Candidates that stand at the same time, with voters that belong to neither.
CONTESTED = Ground(
    name="contested",
    faults=("kill", "isolate", "transfer"),
    node_count=5,
    changes={"gap_mean": 0.5, "hold_max": 0.6, "delay_mean": 0.010},
    raft={"election_stagger_ms": 0},
)
# Disks that lose what they had.
LOST_DISKS = Ground(
    name="lost-disks",
    faults=("lost-disk", "isolate", "kill", "coup"),
    changes={"gap_mean": 0.4, "hold_max": 1.5, "delay_mean": 0.010},
    # So that it takes its time to fill a new disk again.
    load={"body_size_max": 3000, "send_rate": 40.0},
    raft={"append_size_max": 4 * KIB, "append_window": 1},
)
# Sends that ask for every level, on disks so slow that it makes a difference.
LEVELS = Ground(
    name="levels",
    faults=("isolate", "slow-disk", "kill"),
    fault_seconds=5.0,
    changes={"sync_mean": 0.02, "hold_max": 1.0},
    load={"level_share": 0.8},
)
# The same where a commit stands on page caches.
MEMORY_LEVELS = replace(
    LEVELS, name="memory-levels", store={"flush_disk_type": FlushDiskType.ASYNC_FLUSH}
)
# Connections that may have no more than a few requests under way, and a group that answers late.
FLOW = Ground(
    name="flow",
    faults=("slow-disk", "isolate"),
    fault_seconds=5.0,
    changes={
        "sync_mean": 0.03,
        "broker": BrokerConfig(connection_inflight_size_max=4 * KIB),
    },
    load={"body_size_max": 4000, "send_rate": 60.0, "lane_count": 5, "batch_count_max": 1},
)
ROT = Ground(name="rot", faults=("bit-rot", "kill", "restart"), fault_seconds=15.0)
# Members that fall behind what the others keep.
BEHIND = Ground(
    name="behind",
    faults=("lost-disk", "isolate", "kill", "kill-at-step", "transfer"),
    load={"body_size_max": 3000, "batch_count_max": 3, "send_rate": 40.0},
    store=RETENTION,
)
# The same, dying amid it; whoever still has a log of old has something to lose.
STEPS = replace(
    BEHIND,
    name="steps",
    faults=("isolate", "kill-at-place"),
    changes={"gap_mean": 0.4, "hold_max": 1.5},
)
SLOWLY_BEHIND = replace(
    BEHIND,
    name="slowly-behind",
    faults=("lost-disk", "isolate", "kill", "slow-disk"),
    changes={"sync_mean": 0.01},
)
# States so large that they cross the network in several pieces.
PIECES = replace(
    BEHIND,
    name="pieces",
    faults=("lost-disk", "isolate", "kill"),
    changes={"gap_mean": 0.4, "hold_max": 0.8, "delay_mean": 0.010},
    load={
        "body_size_max": 1500,
        "send_rate": 60.0,
        "queue_count": 5,
        "producer_count": 3,
        "client_crash_mean": 0.5,
    },
    raft={"append_size_max": 4 * KIB, "append_window": 1},
)
# Messages that grow old within seconds, and disks that others fill.
KEEPING = Ground(
    name="keeping",
    faults=("crowded-disk", "isolate", "kill", "transfer"),
    changes={"wall_rate": 1200.0, "topic_retention_ms": 4000 * 1200},
    load={"body_size_max": 2000, "send_rate": 40.0, "queue_count": 2},
    store={
        "segment_size": 16 * KIB,
        "checkpoint_interval_ms": 200,
        "file_reserved_hours": 1,
        "delete_when": ";".join(map(str, range(0, 24, 2))),
        "disk_clean_percent": 75,
        "disk_force_percent": 85,
        "disk_refuse_percent": 90,
    },
)
