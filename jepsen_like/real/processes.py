"""One process of the laboratory: started, killed, stopped, and looked at in /proc."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.cli.processes import ProcessMark
from jepsen_like.real.proof import LabError, Proof

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jepsen_like.real.namespaces import Namespace

_POLL_SECONDS = 0.005
_SIGNAL_SECONDS = 10.0  # only a machine in trouble takes longer to deliver a signal


class LabProcess:
    """A command in a namespace, with a log file; it may be started again after it ended.

    Whatever becomes of the laboratory's own process, this one is killed with it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        namespace: Namespace,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Describe it; nothing runs yet.

        Args:
            name: for people.
            command: program and arguments.
            namespace: where its connections are.
            log_path: its output is appended there, over all its lives.
            environment: set in addition to our own; may be changed between lives.
            folder: its working folder; ours when None.
        """
        self.name = name
        self.command = list(command)
        self.namespace = namespace
        self.log_path = log_path
        self.environment = dict(environment or {})
        self.folder = folder
        self.exits: list[int] = []  # exit status of every life that ended; -9: SIGKILL
        self._process: subprocess.Popen[bytes] | None = None

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it.

        Call it from the main thread: the process is killed when the thread that started it ends.

        Raises:
            LabError: it cannot be started.
        """
        assert not self.is_running, f"{self.name} runs already"
        try:
            with self.log_path.open("ab") as log:
                self._process = self.namespace.start(
                    self.command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    folder=self.folder,
                    environment=self.environment,
                )
        except OSError as error:
            raise LabError(f"{self.name} cannot be started: {error}") from error

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended; a stopped one runs."""
        return self._process is not None and self._poll() is None

    @property
    def pid(self) -> int:
        """Its process id; of its last life when it has ended."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status of the last life; -9 for SIGKILL; None while it runs or before it began."""
        return None if self._process is None else self._poll()

    async def wait(self) -> int:
        """Wait until it has ended and return its exit status; no limit of its own."""
        assert self._process is not None, f"{self.name} was never started"
        if self._poll() is None:
            handle = os.pidfd_open(self._process.pid)  # a zombie at the latest has one
            try:
                await trio.lowlevel.wait_readable(handle)
            finally:
                os.close(handle)
        code = self._poll()
        assert code is not None
        return code

    def _poll(self) -> int | None:
        process = self._process
        assert process is not None
        was_known = process.returncode is not None
        code = process.poll()
        if code is not None and not was_known:
            self.exits.append(code)
        return code

    # -- signals --------------------------------------------------------------------------------

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing when it has ended."""
        if self.is_running:
            assert self._process is not None
            self._process.send_signal(number)

    async def kill(self) -> Proof:
        """SIGKILL, and the end of it."""
        was_running = self.is_running
        self.send_signal(signal.SIGKILL)
        code = await self.wait() if self._process is not None else 0
        return Proof(
            what=f"kill -9 of {self.name}",
            took_effect=was_running and code == -signal.SIGKILL,
            figures={"exit": code},
        )

    async def terminate(self, *, seconds: float = 20.0) -> Proof:
        """SIGTERM, and its end; SIGKILL and no effect when it does not end within *seconds*."""
        was_running = self.is_running
        self.send_signal(signal.SIGTERM)
        code: int | None = None
        with trio.move_on_after(seconds):
            code = await self.wait()
        if code is None:
            await self.kill()
        return Proof(
            what=f"SIGTERM of {self.name}",
            took_effect=was_running and code is not None,
            figures={"exit": "none in time" if code is None else code},
        )

    async def stop(self) -> Proof:
        """SIGSTOP; the proof is the state T of all its threads in /proc."""
        self.send_signal(signal.SIGSTOP)
        state = await self._settled(lambda found: found == {"T"})
        return Proof(
            what=f"SIGSTOP of {self.name}",
            took_effect=state == {"T"},
            figures={"state": "".join(sorted(state)) or "gone"},
        )

    async def resume(self) -> Proof:
        """SIGCONT; the proof is that no thread has state T any more."""
        self.send_signal(signal.SIGCONT)
        state = await self._settled(lambda found: "T" not in found)
        return Proof(
            what=f"SIGCONT of {self.name}",
            took_effect=bool(state) and "T" not in state,
            figures={"state": "".join(sorted(state)) or "gone"},
        )

    @property
    def is_stopped(self) -> bool:
        """Whether SIGSTOP holds it now, by /proc."""
        return "T" in self.states()

    def states(self) -> set[str]:
        """Return the state letters of its threads, by proc(5); empty when it is gone."""
        if not self.is_running:
            return set()
        found = set()
        for path in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            try:
                stat = path.read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.add(stat.rpartition(")")[2].split()[0])
        return found

    async def _settled(self, holds: Callable[[set[str]], bool]) -> set[str]:
        # The kernel stops a thread when it next leaves a system call that cannot be interrupted.
        deadline = trio.current_time() + _SIGNAL_SECONDS
        while True:
            state = self.states()
            if not state or holds(state) or trio.current_time() > deadline:
                return state
            await trio.sleep(_POLL_SECONDS)

    # -- looks ----------------------------------------------------------------------------------

    @property
    def mark(self) -> ProcessMark | None:
        """The process told apart from a later one with its id; None when it has ended."""
        return ProcessMark.of(self.pid) if self.is_running else None

    @property
    def log(self) -> str:
        """All it said so far."""
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = [line for line in self.log.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"
