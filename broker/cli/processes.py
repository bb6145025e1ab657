"""Processes of this machine: who runs, who listens, and signals that never reach a stranger.

A process id comes back once its process has ended, so a pid file alone may name a stranger.  Ours
also holds when the process started, as the kernel tells it; only a process that has both is ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dledger.config import format_address
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HAS_PROC = Path("/proc/self/stat").exists()
_LISTENING = "0A"  # state column of /proc/net/tcp
# Has Linux kill this process when its parent is gone (prctl(2), PR_SET_PDEATHSIG, SIGKILL), and
# becomes the command.  Not by preexec_fn, which a process with threads should not use.
_END_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("whoever started this is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """One process, told apart from a later one with the same id."""

    pid: int
    started: str  # the kernel's words for when; compared, never read

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """Return the mark of the process *pid*; None when none runs (a zombie runs no more)."""
        started = _start_of(pid)
        return None if started is None else cls(pid=pid, started=started)

    @property
    def is_running(self) -> bool:
        """Whether this very process still runs."""
        return ProcessMark.of(self.pid) == self

    def send_signal(self, number: signal.Signals) -> bool:
        """Send *number* to this very process; whether it was there to get it."""
        if hasattr(os, "pidfd_open"):
            # The handle pins the process, so that it cannot be another after the check.
            try:
                handle = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return False
            try:
                if not self.is_running:
                    return False
                signal.pidfd_send_signal(handle, number)
            except ProcessLookupError:
                return False
            finally:
                os.close(handle)
            return True
        if not self.is_running:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def read_pid_file(path: Path) -> ProcessMark | None:
    """Return the process that *path* names if it still runs."""
    try:
        pid, _, started = path.read_text(encoding="utf-8").strip().partition(" ")
        mark = ProcessMark(pid=int(pid), started=started)
    except (FileNotFoundError, ValueError):
        return None
    return mark if mark.is_running else None


def write_pid_file(path: Path, mark: ProcessMark) -> None:
    """Make *path* name *mark*; a reader finds the old content or the new, never half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{mark.pid} {mark.started}\n", encoding="utf-8")
    fresh.replace(path)


def ending_with_us(command: Sequence[str]) -> list[str]:
    """Return what to start in place of *command*, so that it never outlives this process.

    However this process ends, by a SIGKILL too, the other is killed with it.  Linux only: where
    another system runs, what was started then stays.

    To be started by this process itself, from its main thread, because to the kernel a parent is
    gone when the thread is that started the child.  It costs a hundredth of a second.
    """
    assert threading.current_thread() is threading.main_thread()
    return [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid()), *command]


def start_process(
    command: Sequence[str], *, log_path: Path, outlives_us: bool = True
) -> subprocess.Popen[bytes]:
    """Start *command* in a session of its own, its output appended to *log_path*.

    In a session of its own a Ctrl-C at the terminal does not reach it: whoever started it decides
    how it ends; unless it *outlives_us*, at the latest by its own end, see `ending_with_us`.
    """
    if not outlives_us:
        command = ending_with_us(command)
    with log_path.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def check_port_free(host: str, port: int, *, use: str, remedy: str) -> None:
    """Raise `ConfigError` naming port, *use*, owner and *remedy* when *port* is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = format_address(host or "*", port)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As a server does it: a port whose last connections linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except socket.gaierror as error:
            raise ConfigError(f"{address} ({use}): no such host: {error.strerror}") from None
        except OSError as error:
            if owner := find_listener(port):
                raise ConfigError(f"{address} ({use}) is taken by {owner}; {remedy}") from None
            raise ConfigError(
                f"{address} ({use}) cannot be listened on: {error.strerror}; {remedy}"
            ) from None


def is_port_free(port: int) -> bool:
    """Whether *port* of the loopback address may be listened on."""
    try:
        check_port_free("127.0.0.1", port, use="", remedy="")
    except ConfigError:
        return False
    return True


def find_listener(port: int) -> str | None:
    """Return ``name (pid n)`` of the process that listens on TCP *port*, if we may know it."""
    inodes = set(_listening_inodes(port))
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            for link in (process / "fd").iterdir():
                if _read_link(link) in inodes:
                    return f"{_name_of(process)} (pid {process.name})"
    return "another process"


def _read_link(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"


def _name_of(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        text = " ".join(word.decode(errors="replace") for word in words if word)
        return text if len(text) <= 60 else text[:57] + "..."
    except OSError:
        return "a process"


def _start_of(pid: int) -> str | None:
    if _HAS_PROC:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # Behind the name in parentheses: state is field 3 of proc(5), the start time field 22.
        fields = stat.rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return None if fields[0] in "ZX" else f"{fields[19]}@{boot}"
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = found.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()
