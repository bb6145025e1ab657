"""A node's machine and the processes that run on it, one after another."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import trio

from broker.config_file import dump_config
from dledger.errors import StorageFailedError
from jepsen_like.real.endings import end_of, speaks_of
from jepsen_like.real.node_log import NodeLog

if TYPE_CHECKING:
    import random

    from broker.config import NodeConfig
    from jepsen_like.faults.group import TraceKind
    from jepsen_like.history import History
    from jepsen_like.real.lab import LabNode
    from jepsen_like.real.proof import Proof

BROKER_PORT, PEER_PORT = 9876, 10876
_LOOK_SECONDS = 0.03  # between two looks at the process and its log
_STOP_SECONDS = 20.0


class NodeLife:
    """Starts the node's process again whenever it has ended, and tells of every begin and end."""

    def __init__(
        self, node: LabNode, config: NodeConfig, *, history: History, chance: random.Random
    ) -> None:
        self.node = node
        self.config = config
        self.history = history
        self.chance = chance
        self.life = 0  # counts processes
        self.role, self.term = "", 0
        self.cut_count = self.install_count = 0
        self.step_deaths = 0
        self.may_run = True
        self.is_excused = False  # its next end was made to happen
        self._kills_told = 0  # of the shim's, those whose ends were noted
        self.expected: set[type[BaseException]] = set()
        # Held while the machine is off and somebody works on its disk: no process begins.
        self.bench = trio.Lock()
        path = node.folder / "node.toml"
        path.write_text(dump_config(config), encoding="utf-8")
        self.process = node.process(
            [sys.executable, "-m", "broker.cli.main", "node", "start", "-c", str(path)]
        )
        self._log = NodeLog(self.process.log_path)
        self._traces: dict[TraceKind, list[str]] = {}
        self._wake = trio.Event()
        self._is_ready = False
        self._was_ready = False  # in this life
        self._stops_well = False
        self._is_retired = False
        self._last_word = self._traceback = ""

    @property
    def name(self) -> str:
        """See `Member`."""
        return self.config.node_id

    @property
    def address(self) -> str:
        """See `Member`."""
        return self.node.address

    @property
    def broker(self) -> str:
        """Where clients find it."""
        return f"{self.address}:{BROKER_PORT}"

    @property
    def is_running(self) -> bool:
        """See `Member`."""
        return self.process.is_running

    @property
    def is_up(self) -> bool:
        """See `Member`."""
        return self._is_ready and self.process.is_running and not self.process.is_stopped

    @property
    def is_leader(self) -> bool:
        """Whether it runs and last said that it leads."""
        return self.is_up and self.role == "leader"

    def expect(self, error: type[BaseException]) -> None:
        """See `Member`."""
        self.expected.add(error)

    async def traces(self, of: TraceKind) -> list[str]:
        """See `Member`."""
        return list(self._traces.get(of, ()))

    def trace(self, of: TraceKind, proof: Proof) -> None:
        """Note that a fault took effect, if it did."""
        if proof.took_effect:
            self.leave_trace(of, str(proof))

    def leave_trace(self, of: TraceKind, what: str) -> None:
        """Note that a fault took effect."""
        self._traces.setdefault(of, []).append(what)

    # -- what is done to its process ------------------------------------------------------------

    async def kill(self) -> None:
        """See `Member`."""
        self.is_excused = True
        if self.is_running:
            self.trace("kill", await self.process.kill())

    async def pause(self) -> None:
        """See `Member`."""
        self.trace("pause", await self.process.stop())

    async def resume(self) -> None:
        """See `Member`."""
        if self.is_running:
            await self.process.resume()

    async def stop_gracefully(self) -> None:
        """See `Member`."""
        if not self.is_running:
            return
        self._stops_well = True
        proof = await self.process.terminate(seconds=_STOP_SECONDS)
        self.trace("stop", proof)

    def hold_down(self) -> None:
        """See `Member`."""
        self.may_run = False

    async def retire(self) -> None:
        """Stop it gracefully and for good; `run` returns when all has been told."""
        self._is_retired = True
        await self.stop_gracefully()
        self.start()  # if it was held down: nothing to wait for

    def start(self) -> None:
        """See `Member`."""
        self.may_run = True
        self._wake.set()

    # -- its life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run one process after another until cancelled, or until the last after `retire`."""
        while not self._is_retired:
            while not self.may_run:
                self._wake = trio.Event()
                await self._wake.wait()
            async with self.bench:
                if self.may_run and not self._is_retired:
                    self._begin_life()
            if self.process.is_running:
                await self._attend()
            await trio.sleep(self.chance.uniform(0.02, 0.4))

    async def clean_up(self, how: str, last_word: str, *, died_at_step: bool) -> None:
        """Do what the end of a life calls for, before the next one begins."""

    def _begin_life(self) -> None:
        self.life += 1
        self.is_excused = self._stops_well = False
        self._last_word = self._traceback = ""
        self.role, self._is_ready, self._was_ready = "", False, False
        self.process.start()

    async def _attend(self) -> None:
        while self.process.is_running:
            self._read_log()
            await trio.sleep(_LOOK_SECONDS)
        self._read_log()
        self._is_ready = False
        code = self.process.returncode
        assert code is not None
        await self._tell_end(code)

    def _read_log(self) -> None:
        told = self._log.read_on()
        if told.is_ready:
            self._is_ready = self._was_ready = True
            self.history.note("start", node=self.name)
        for role, term in told.roles:  # told again when a leader begins to serve
            if role == "leader" and (self.role, self.term) != (role, term):
                self.history.note("leader", node=self.name, o=term)
            self.role, self.term = role, term
        self.cut_count += told.cut_count
        self.install_count += told.install_count
        self._last_word = told.last_word or self._last_word
        self._traceback = self._traceback or told.traceback

    async def _tell_end(self, code: int) -> None:
        word = self._last_word
        # The shim knows, also when the fault was over by the time the end was heard of.
        kills = self.node.shim.kill_count
        died_at_step = code == -signal.SIGKILL and kills > self._kills_told and not self.is_excused
        self._kills_told = kills
        if died_at_step:
            self.step_deaths += 1
            self.leave_trace("step", f"life {self.life} died at a step")
        end = end_of(
            code,
            last_word=word,
            traceback=self._traceback,
            is_excused=self.is_excused or died_at_step,
            stops_well=self._stops_well,
            was_ready=self._was_ready,
            expected=self.expected,
        )
        how = end.how
        self.history.note("exit", node=self.name, v=how, err=end.why or None)
        if how == "expected" and speaks_of(word, StorageFailedError):
            self.leave_trace("failed-sync", word)
        await self.clean_up(how, word, died_at_step=died_at_step)
