"""One seed from beginning to end: quiet, faults, healing, drain, dump, verdict.

python -m jepsen_like sim --seed 7
"""

from __future__ import annotations

import gc
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError
from broker.errors import BrokerError
from jepsen_like.faults.nemesis import Nemesis
from jepsen_like.history import History
from jepsen_like.setup_line import told_of_group, told_of_load
from jepsen_like.sim.cluster import SimCluster
from jepsen_like.sim.keys import check_keys
from jepsen_like.sim.mix import Mix, draw
from jepsen_like.sim.scheduling import PROCESS, deterministic
from jepsen_like.sim.sim_clock import EPOCH_MS
from jepsen_like.sim.sim_network import SimNetwork
from jepsen_like.sim.sim_time import SimTime
from jepsen_like.sim.trace import Trace
from jepsen_like.verdict import judge
from jepsen_like.workloads.administration import SETTINGS, Administration
from jepsen_like.workloads.appends import TOPIC, Appends
from jepsen_like.workloads.final import begins_of, drain, dump, dump_copies
from jepsen_like.workloads.handling import Handling, Ordered
from jepsen_like.workloads.member import WORK_TOPIC
from jepsen_like.workloads.membership import QUEUES, Membership
from jepsen_like.workloads.picking import Picking
from jepsen_like.workloads.questions import Questions
from jepsen_like.workloads.readers import Readers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jepsen_like.checkers import Anomaly
    from jepsen_like.verdict import Verdict

# What must happen in a long enough suite, or its faults are not what they claim to be.
SOMETIMES = ("leaders", "truncations", "lost pages", "retried", "installs")

RECOVERY_SECONDS = 12.0
DRAIN_SECONDS = 60.0
WATCH_SECONDS = 0.5  # between two looks at a history of which something may be enough
END_SECONDS = 12.0  # for clients to come to an end
OK_SENDS_MIN = 20  # some mixes are slow and short of luck; a suite of them makes up for it


@dataclass(slots=True)
class Outcome:
    """What one seed came to."""

    mix: Mix
    digest: str
    verdict: Verdict
    history: History
    wall_seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    trace_lines: list[str] | None = None
    logs: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    @property
    def anomalies(self) -> tuple[Anomaly, ...]:
        """What was found."""
        return self.verdict.anomalies

    @property
    def is_valid(self) -> bool:
        """Whether nothing was found."""
        return not self.anomalies


class _LogCounter(logging.Handler):
    """Counts what the nodes report, and keeps the lines when told to."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.installs = 0
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line."""
        if record.msg.startswith("took over the state at entry"):
            self.installs += 1
        if self._keep:
            process = PROCESS.get()
            who = process.name if process is not None else "client"
            try:
                at = trio.current_time()
            except RuntimeError:
                at = -1.0
            self.lines.append(
                f"{at:9.4f} {who:6} {record.levelname} {record.name}: {record.getMessage()}"
            )


def run_seed(
    mix: Mix,
    *,
    keep_trace: bool = False,
    keep_logs: bool = False,
    about: Mapping[str, object] | None = None,
    is_enough: Callable[[History], bool] | None = None,
) -> Outcome:
    """Run one seed and check what it did.

    Args:
        mix: what the seed is made of.
        keep_trace: keep the lines of the trace.
        keep_logs: keep what the nodes log.
        about: noted in its history.
        is_enough: asked twice a virtual second; when it says so, the run ends as it is.
    """
    begun = time.perf_counter()
    counter = _LogCounter(keep=keep_logs)
    loggers = [logging.getLogger(name) for name in ("dledger", "broker")]
    for logger in loggers:
        logger.addHandler(counter)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    world = _World(mix, keep_trace=keep_trace, about=about or {}, is_enough=is_enough)
    gc.disable()  # a tenth of the time, for garbage of one run
    try:
        with deterministic(mix.seed):
            trio.run(world.run, clock=SimTime())
    finally:
        gc.enable()
        gc.collect()
        for logger in loggers:
            logger.removeHandler(counter)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
    history = world.history
    counts = world.counts | {"installs": counter.installs}
    history.finish({name: counts.get(name, 0) for name in SOMETIMES})
    return Outcome(
        mix=mix,
        digest=world.trace.digest,
        verdict=judge(history),
        history=history,
        wall_seconds=time.perf_counter() - begun,
        counts=counts,
        trace_lines=world.trace.lines,
        logs=counter.lines,
        tracebacks=world.tracebacks,
    )


def run(seed: int, *, fault_seconds: float = 40.0, only: tuple[str, ...] = ()) -> Outcome:
    """Draw the mix of *seed* and run it."""
    return run_seed(draw(seed, fault_seconds=fault_seconds, only=only))


def setup_of(mix: Mix) -> dict[str, object]:
    """Return what the first line of a history says of the run."""
    return {
        "layer": "simulation",
        "seed": mix.seed,
        "members": [f"n{number + 1}" for number in range(mix.node_count)],
        "retention": mix.has_retention,
        "ok_sends_min": OK_SENDS_MIN,
        "proofs": False,  # a suite asks for them: in one short run a fault may miss its moment
        "faults": list(mix.faults),
        "group": {
            **told_of_group(mix.store, mix.raft),
            "topic_retention_ms": mix.topic_retention_ms,
            "wall_rate": mix.wall_rate,
            "network_delay_ms": mix.delay_mean * 1000,
            "disk_sync_ms": mix.sync_mean * 1000,
        },
        "load": told_of_load(mix.load),
        "attack": {
            "quiet_seconds": mix.quiet_seconds,
            "fault_seconds": mix.fault_seconds,
            "gap_mean_s": mix.gap_mean,
            "hold_max_s": mix.hold_max,
        },
    }  # fmt: skip


class _World:
    """Everything of one run."""

    def __init__(
        self,
        mix: Mix,
        *,
        keep_trace: bool,
        about: Mapping[str, object],
        is_enough: Callable[[History], bool] | None,
    ) -> None:
        self.mix = mix
        self._is_enough = is_enough
        self.trace = Trace(keep_lines=keep_trace)
        self.history = History(lambda: trio.current_time())
        self.history.on_event = lambda event: self.trace.add(
            f"{event.p} {event.type} {event.f} {event.k} {event.v} {event.o} {event.err}"
        )
        self._about = about
        self.counts: dict[str, int] = {}
        self.tracebacks: list[str] = []

    async def run(self) -> None:
        mix = self.mix
        network = SimNetwork(
            random.Random(f"{mix.seed} network"),
            self.trace,
            delay_mean=mix.delay_mean,
            reset_seconds=mix.reset_seconds,
        )
        self.history.note("setup", v={**setup_of(mix), **self._about})
        cluster = SimCluster(mix, network=network, history=self.history, trace=self.trace)
        async with trio.open_nursery() as nursery:
            for member in cluster.members:
                nursery.start_soon(member.run)
            if self._is_enough is not None:
                nursery.start_soon(self._watch, self._is_enough, nursery.cancel_scope)
            await self._live(cluster)
            self._count(cluster)
            nursery.cancel_scope.cancel()

    async def _watch(self, is_enough: Callable[[History], bool], scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(WATCH_SECONDS)
            if is_enough(self.history):
                break
        scope.cancel()

    async def _live(self, cluster: SimCluster) -> None:
        mix, history = self.mix, self.history
        missing = await cluster.await_recovery(RECOVERY_SECONDS)
        if missing:
            history.note("never-began", err=missing)
            return
        try:
            async with cluster.client("operator", random.Random(mix.seed)) as client:
                await client.admin.create_topic(
                    TOPIC, mix.load.queue_count, retention_ms=mix.topic_retention_ms or None
                )
                if mix.load.member_count:
                    await client.admin.create_topic(WORK_TOPIC, QUEUES)
        except (ClientError, BrokerError) as error:
            history.note("never-began", err=f"{type(error).__name__}: {error}")
            return
        membership = Membership(cluster, history)
        async with trio.open_nursery() as members:
            if mix.load.member_count:
                members.start_soon(membership.run)
            await self._load_and_attack(cluster)
            if mix.load.member_count:
                cluster.agree_on_the_time()
                await membership.settle()
            members.cancel_scope.cancel()
        missing = await cluster.await_recovery(RECOVERY_SECONDS)
        if missing:
            history.note("recovered", err=missing)
        try:
            with trio.fail_after(DRAIN_SECONDS):
                await drain(cluster, history, random.Random(mix.seed))
            history.note("drained")
        except (ClientError, BrokerError, trio.TooSlowError) as error:
            history.note("drain-failed", err=f"{type(error).__name__}: {error}")
        for member in cluster.members:
            if member.is_up:
                assert member.files is not None
                dump(member.name, member.files.store, history)
                if mix.load.member_count:
                    dump_copies(member.name, member.files.store, history, EPOCH_MS)
                topics = {config.topic: config.retention_ms for config in member.files.topics}
                history.note("listed", node=member.name, v=topics)
                if mix.load.setting_count:
                    kept = member.files.names.namespace(SETTINGS)
                    history.note("kept", node=member.name, v=kept)
                assert member.mount is not None
                check_keys(member.name, member.files, member.mount, history)
                history.note("begins", node=member.name, v=begins_of(member.files.derived.queues))
                history.note("dumped", node=member.name)

    async def _load_and_attack(self, cluster: SimCluster) -> None:
        """Have clients at work all the time, and faults come, until all is healed."""
        mix, history = self.mix, self.history
        appends = Appends(cluster, history)
        ordered = Ordered(cluster, history)
        async with trio.open_nursery() as nursery:
            for workload in (Readers(cluster, history), Questions(cluster, history)):
                nursery.start_soon(workload.run)
            nursery.start_soon(Administration(cluster, history).run)
            async with trio.open_nursery() as producers:
                producers.start_soon(appends.run)
                if mix.load.picks:
                    nursery.start_soon(Picking(cluster, history).run)
                if mix.load.handles:
                    nursery.start_soon(Handling(cluster, history).run)
                    producers.start_soon(ordered.run)
                await trio.sleep(mix.quiet_seconds)
                await self._attack(cluster)
                history.note("healed")
                seconds = RECOVERY_SECONDS + cluster.copying_seconds()
                missing = await cluster.await_recovery(seconds, under_load=True)
                history.note("recovered", err=missing or None)
                await trio.sleep(1.0)  # some load on the healed group
                appends.finish()
                ordered.is_over = True
                producers.cancel_scope.deadline = trio.current_time() + END_SECONDS
            nursery.cancel_scope.cancel()  # a crash of all that still read
        self.counts["retried"] = appends.retried

    async def _attack(self, cluster: SimCluster) -> None:
        """Inject faults one after another, each for its time, and heal them all at the end."""
        mix = self.mix
        nemesis = Nemesis(
            cluster,
            self.history,
            random.Random(f"{mix.seed} nemesis"),
            faults=mix.faults,
            gap_mean=mix.gap_mean,
            hold_max=mix.hold_max,
        )
        await nemesis.attack(mix.fault_seconds)
        await cluster.heal()
        self.counts |= {f"fault {name}": count for name, count in nemesis.injected.items()}
        self.counts |= {f"proven {name}": count for name, count in nemesis.proven.items()}

    def _count(self, cluster: SimCluster) -> None:
        for member in cluster.members:
            self.tracebacks += member.tracebacks
        events = self.history.events
        self.counts |= {
            "sends": sum(e.f == "send" and e.type == "ok" for e in events),
            "polls": sum(e.f == "poll" for e in events),
            "leaders": sum(e.f == "leader" for e in events),
            "truncations": sum(member.truncations for member in cluster.members)
            + sum(
                member.files.store.stats.truncation_count
                for member in cluster.members
                if member.files is not None and member.is_running
            ),
            "lost pages": sum(member.disk.lost_pages for member in cluster.members),
        }


__all__ = ["Outcome", "run", "run_seed"]
