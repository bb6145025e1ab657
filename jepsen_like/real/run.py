"""One run with real processes, from beginning to end: quiet, faults, healing, drain, dump, verdict.

python -m jepsen_like real --fault kill,pause --seconds 45 --rate 50 --seed 7
"""

from __future__ import annotations

import random
import shutil
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError
from broker.errors import BrokerError
from dledger.clock import SystemClock
from dledger.errors import LedgerError
from dledger.store.ledger_store import LedgerStore
from dledger.store.os_disk import OsDisk
from jepsen_like.faults.nemesis import Nemesis
from jepsen_like.history import NEMESIS, History, read_history
from jepsen_like.real import client_main
from jepsen_like.real.lab import Lab, hear_interrupts
from jepsen_like.real.mix import HOLD_MIN, QUIET_SECONDS
from jepsen_like.real.proof import LabError
from jepsen_like.real.real_group import MEMBERS, OPERATOR, RealGroup
from jepsen_like.real.scripts import SCRIPTS, SELF_TESTS, NotReachedError, Stage
from jepsen_like.report.run_folder import VERDICT
from jepsen_like.setup_line import told_of_group, told_of_load
from jepsen_like.verdict import judge
from jepsen_like.workloads.appends import TOPIC
from jepsen_like.workloads.final import drain, dump, dump_copies
from jepsen_like.workloads.member import WORK_TOPIC
from jepsen_like.workloads.membership import QUEUES, SETTLE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from jepsen_like.real.mix import RealMix
    from jepsen_like.real.processes import LabProcess
    from jepsen_like.verdict import Verdict

BEGIN_SECONDS = 40.0  # for a new group to get ready
RECOVERY_SECONDS = 15.0
DRAIN_SECONDS = 60.0
LOAD_AFTER_SECONDS = 2.0  # some load on the healed group
# What each client process does: sends and questions do not wait for readers that fall behind.
_CLIENTS = {"c1": "appends,questions,administration", "c2": "readers", MEMBERS: "membership"}


@dataclass(slots=True)
class RealRun:
    """One run; `go` does all of it."""

    mix: RealMix
    folder: Path  # results go there
    command: str  # runs it again
    ok_sends_min: int
    script: str = ""
    history: History = field(default_factory=lambda: History(client_main.now))
    counts: dict[str, int] = field(default_factory=dict)
    _begin_ms: int = 0  # since 1970, when the history begins

    def go(self) -> Verdict:
        """Run it and write down everything; return the verdict."""
        self.folder.mkdir(parents=True)
        (self.folder / "logs").mkdir()
        begun = time.perf_counter()
        self._begin_ms = SystemClock().wall_ms()
        self.history.note("setup", v=self._setup())
        hear_interrupts()
        try:
            trio.run(self._run)
        except* (LabError, OSError) as group:
            words = "".join(traceback.format_exception(group))
            (self.folder / "logs" / "laboratory.txt").write_text(words, encoding="utf-8")
            for error in _leaves(group):
                self.history.note("not-reached", v="the laboratory", err=str(error))
        self.counts["seconds"] = round(time.perf_counter() - begun)
        return self._judge()

    @property
    def _clients(self) -> dict[str, str]:
        """What each client process does."""
        has_members = self.mix.load.member_count > 0
        return {name: does for name, does in _CLIENTS.items() if name != MEMBERS or has_members}

    def _setup(self) -> dict[str, object]:
        mix = self.mix
        return {
            "layer": "real",
            "seed": mix.seed,
            "replay": self.command,
            "members": [f"n{number + 1}" for number in range(mix.node_count)],
            "retention": mix.has_retention,
            "ok_sends_min": self.ok_sends_min,
            "proofs": True,
            "faults": list(mix.faults),
            "script": self.script or None,
            "target": mix.target or None,
            "group": told_of_group(mix.store, mix.raft),
            "load": told_of_load(mix.load),
            "attack": {
                "quiet_seconds": QUIET_SECONDS,
                "fault_seconds": mix.seconds,
                "gap_mean_s": mix.gap_mean,
                "hold_max_s": mix.hold_max,
            },
        }  # fmt: skip

    def _judge(self) -> Verdict:
        parts = [self.history]
        for name in self._clients:
            path = self.folder / f"{name}.jsonl"
            if path.exists():
                parts.append(read_history(path))
                path.unlink()
        self.counts["retried"] = sum(
            event.o or 0 for part in parts for event in part.events if event.f == "retried"
        )
        self.history.note("counts", v=self.counts)
        whole = History.merge(parts)
        begin = whole.events[0].t  # the machine's uptime tells a reader nothing
        for event in whole.events:
            event.t -= begin
        for name, is_nemesis in (("history", False), ("nemesis", True)):
            events = (event for event in whole.events if (event.p == NEMESIS) == is_nemesis)
            History(client_main.now, events).write(self.folder / f"{name}.jsonl")
        verdict = judge(read_history(self.folder))
        verdict.write(self.folder / VERDICT)
        return verdict

    # -- the run --------------------------------------------------------------------------------

    async def _run(self) -> None:
        mix = self.mix
        lab = Lab(
            nodes=[f"n{number + 1}" for number in range(mix.node_count)],
            clients=[*self._clients, OPERATOR],
            seed=mix.seed,
            disk_size=mix.disk_size,
        )
        async with lab:
            try:
                await self._live(lab)
            finally:
                for log in lab.folder.rglob("*.log"):
                    name = f"{log.parent.name}.log" if log.name == "node.log" else log.name
                    shutil.copy(log, self.folder / "logs" / name)

    async def _live(self, lab: Lab) -> None:
        group = RealGroup(lab, self.mix, self.history)
        async with trio.open_nursery() as nursery:
            for member in group.members:
                nursery.start_soon(member.run)
            await self._phases(lab, group)
            for member in group.members:
                nursery.start_soon(member.retire)
        # Every member's task has seen the end of its process and said what is to be said of it.
        self._dump_all(group)
        self._count(group)

    async def _phases(self, lab: Lab, group: RealGroup) -> None:
        history = self.history
        missing = await group.await_recovery(BEGIN_SECONDS)
        if missing:
            history.note("never-began", err=missing)
            return
        async with group.client("operator", random.Random(self.mix.seed)) as client:
            await client.admin.create_topic(
                TOPIC,
                self.mix.load.queue_count,
                retention_ms=self.mix.topic_retention_ms or None,
            )
            if self.mix.load.member_count:
                await client.admin.create_topic(WORK_TOPIC, QUEUES)
        clients = self._start_clients(lab, group)
        await trio.sleep(QUIET_SECONDS)
        await self._attack(group)
        await group.heal()
        history.note("healed")
        missing = await group.await_recovery(RECOVERY_SECONDS)
        history.note("recovered", err=missing or None)
        if not missing:
            await self._keep_the_rest(group)
        await trio.sleep(LOAD_AFTER_SECONDS)
        await self._stop_clients(clients)
        missing = await group.await_recovery(RECOVERY_SECONDS)
        if missing:
            history.note("recovered", err=missing)
        try:
            with trio.fail_after(DRAIN_SECONDS):
                await drain(group, history, random.Random(self.mix.seed))
            history.note("drained")
        except (ClientError, BrokerError, trio.TooSlowError) as error:
            history.note("drain-failed", err=f"{type(error).__name__}: {error}")

    async def _keep_the_rest(self, group: RealGroup) -> None:
        """Have no message go for its age from now on, so that none does while they are read."""
        mix = self.mix
        if mix.topic_retention_ms:
            async with group.client("operator", random.Random(mix.seed)) as client:
                await client.admin.create_topic(TOPIC, mix.load.queue_count, retention_ms=0)

    async def _attack(self, group: RealGroup) -> None:
        mix = self.mix
        chance = random.Random(f"{mix.seed} nemesis")
        if self.script:
            async with trio.open_nursery() as nursery:
                group.nursery = nursery
                stage = Stage(group, self.history, chance)
                try:
                    await (SCRIPTS | SELF_TESTS)[self.script].play(stage)
                except NotReachedError as error:
                    self.history.note("not-reached", v=self.script, err=str(error))
                nursery.cancel_scope.cancel()
            for what in stage.unproven:
                self.history.note("not-reached", v=self.script, err=what)
            return
        nemesis = Nemesis(
            group,
            self.history,
            chance,
            faults=mix.faults,
            gap_mean=mix.gap_mean,
            hold_min=min(HOLD_MIN, mix.hold_max),
            hold_max=mix.hold_max,
            target=mix.target,
            by_turns=True,
        )
        await nemesis.attack(mix.seconds)

    # -- clients --------------------------------------------------------------------------------

    def _start_clients(self, lab: Lab, group: RealGroup) -> list[LabProcess]:
        processes = []
        for name, workloads in self._clients.items():
            command = client_main.command(
                name=name,
                do=workloads,
                load=self.mix.load,
                brokers=[member.broker for member in group.members],
                history=self.folder / f"{name}.jsonl",
            )
            process = lab.process(name, command, namespace=lab.clients[name])
            process.start()
            processes.append(process)
        return processes

    async def _stop_clients(self, processes: list[LabProcess]) -> None:
        async def stop(process: LabProcess) -> None:
            seconds = self.mix.load.send_timeout + client_main.END_SECONDS
            seconds = 10.0 + (SETTLE_SECONDS if process.name == MEMBERS else seconds)
            if process.is_running:
                await process.terminate(seconds=seconds)
            if process.returncode != 0:
                why = f"exit {process.returncode}: {process.log[-4000:]}"
                self.history.note("exit", node=process.name, v="crashed", err=why)

        async with trio.open_nursery() as nursery:
            for process in processes:
                nursery.start_soon(stop, process)

    # -- the end --------------------------------------------------------------------------------

    def _dump_all(self, group: RealGroup) -> None:
        for member in group.members:
            try:
                store = LedgerStore.open(OsDisk(), self.mix.store, str(member.data))
            except LedgerError as error:
                why = f"{type(error).__name__}: {error}"
                self.history.note("unreadable", node=member.name, err=why)
                continue
            dump(member.name, store, self.history)
            if self.mix.load.member_count:
                dump_copies(member.name, store, self.history, self._begin_ms)
            store.close()
            self.history.note("dumped", node=member.name)

    def _count(self, group: RealGroup) -> None:
        self.counts |= {
            "truncations": sum(member.cut_count for member in group.members),
            "installs": sum(member.install_count for member in group.members),
            "bytes lost": sum(member.bytes_lost for member in group.members),
            "lives": sum(member.life for member in group.members),
        }


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
