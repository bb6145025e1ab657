"""Processes of a peer: started in a folder of their own, ended by their own process ids."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measured import LoadError
from broker.cli.processes import ending_with_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_END_SECONDS = 10.0
_LOOK_SECONDS = 0.1


class MissingProgramError(Exception):
    """A peer is not installed here; the text says what to install."""


def find_program(name: str, package: str, *, beside: Sequence[str] = ()) -> str:
    """Return the path of a program.

    Args:
        name: of its file.
        package: Debian's, that brings it.
        beside: folders to look in first.

    Raises:
        MissingProgramError: it is not there.
    """
    for folder in beside:
        path = Path(folder) / name
        if path.exists():
            return str(path)
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingProgramError(f"{name} is not installed; `apt-get install {package}` brings it")
    return found


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in taken]


class Servers:
    """The processes of one peer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start one; what it prints goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    ending_with_us(command),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=self.folder,
                    env=environment,
                    start_new_session=True,
                )
            )

    def wait_until(self, is_ready: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Return once *is_ready* says so.

        Raises:
            LoadError: a process has ended, or it takes longer than that.
        """
        until = time.perf_counter() + seconds
        while not is_ready():
            if any(process.poll() is not None for process in self._processes):
                raise LoadError(f"{what}: a server has ended; {self._last_words()}")
            if time.perf_counter() > until:
                raise LoadError(f"{what} not after {seconds:g} s; {self._last_words()}")
            time.sleep(_LOOK_SECONDS)

    def _last_words(self) -> str:
        """Return what each server printed last: their files go with them."""
        told = {
            path.stem: path.read_text("utf-8", errors="replace").strip()
            for path in sorted(self.folder.glob("*.log"))
        }
        words = (f"{name}: {text.splitlines()[-1]}" for name, text in told.items() if text)
        return "last words: " + ("; ".join(words) or "none")

    def cpu_seconds(self) -> float:
        """Return the processor time that all of them have spent."""
        return sum(cpu_seconds(process.pid) for process in self._processes)

    def rss(self) -> int:
        """Return the resident memory of the largest, mapped files not counted, in bytes."""
        return max((anonymous_rss(process.pid) for process in self._processes), default=0)

    def stop(self) -> None:
        """End all of them and remove their files."""
        for process in reversed(self._processes):
            _signal_session(process.pid, signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                _signal_session(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def cpu_seconds(session: int) -> float:
    """Return the processor time of all processes of a session, those that ended included."""
    ticks = 0
    for fields in _members(session):
        ticks += sum(int(fields[at]) for at in (11, 12, 13, 14))
    return ticks / os.sysconf("SC_CLK_TCK")


def anonymous_rss(session: int) -> int:
    """Return the resident memory of a session's processes without mapped files, in bytes."""
    size = 0
    for fields in _members(session):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{fields[-1]}/status").read_text("utf-8").splitlines():
                if line.startswith("RssAnon:"):
                    size += int(line.split()[1]) * 1024
    return size


def _members(session: int) -> Iterator[list[str]]:
    """Yield what the kernel says of each process of a session, its id at the end."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name in brackets may hold anything; what follows begins with field 3, the state.
            fields = path.read_text("utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session:
                yield [*fields, path.parent.name]


def _signal_session(session: int, number: signal.Signals) -> None:
    for fields in list(_members(session)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(fields[-1]), number)
