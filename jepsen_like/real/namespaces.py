"""Network namespaces: where a process's connections begin and end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.cli.processes import ending_with_us
from dledger.remoting.errors import ConnectFailedError
from dledger.remoting.network import ByteStream, Listener, format_address
from dledger.remoting.tcp_stream import TcpStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import IO

NAMESPACE_FOLDER = Path("/run/netns")  # where `ip netns` keeps them
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network namespace with one address, on one port of the lab's switch."""

    def __init__(self, name: str, full_name: str, address: str) -> None:
        """Describe it; `Lab` makes it.

        Args:
            name: in the lab: ``n1``, ``c1``.
            full_name: on the machine: ``jl4711-n1``.
            address: IPv4, ``10.77.x.y``.
        """
        self.name = name
        self.full_name = full_name
        self.address = address

    @property
    def path(self) -> Path:
        """The file that stands for it."""
        return NAMESPACE_FOLDER / self.full_name

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start *command* inside, in a session of its own; it is in the namespace from its birth.

        Call it from the main thread: what it started is killed when that ends.  Not by
        ``ip netns exec``: that copies the table of mounts, and a file system in such a copy is not
        gone when we unmount it.

        Raises:
            OSError: the system refuses.
        """
        with self.entered():
            return subprocess.Popen(
                ending_with_us(command),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                cwd=folder,
                env={**os.environ, **(environment or {})},
            )

    def pids(self) -> list[int]:
        """Return the processes inside, by what the kernel says of each."""
        wanted = self.path.stat()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # ended meanwhile
                inside = (entry / "ns" / "net").stat()
                if (inside.st_dev, inside.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(entry.name))
        return found

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets this thread makes meanwhile belong to the namespace, for as long as they live.

        Never await inside: other tasks of the thread would be in it too.
        """
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _set_namespace(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _set_namespace(here)
        finally:
            os.close(here)

    def write_setting(self, name: str, value: str) -> None:
        """Write ``/proc/sys/<name>`` as it is inside the namespace."""
        with self.entered():
            Path("/proc/sys", name).write_text(value, encoding="ascii")

    def network(self) -> NamespaceNetwork:
        """Return a network for `broker.client.connect` whose connections begin here."""
        return NamespaceNetwork(self)


class NamespaceNetwork:
    """A `dledger.remoting.network.Network` inside one namespace; of hosts it takes IPv4 only."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    async def connect(self, host: str, port: int) -> ByteStream:
        """See `Network.connect`."""
        with self._namespace.entered():
            connecting = trio.socket.socket()
        with connecting:
            try:
                await connecting.connect((host, port))
                return TcpStream(socket.socket(fileno=connecting.detach()))
            except OSError as error:
                raise ConnectFailedError(
                    f"cannot connect to {format_address(host, port)}: {error.strerror or error}"
                ) from error

    async def listen(self, host: str, port: int) -> Listener:
        """See `Network.listen`."""
        await trio.lowlevel.checkpoint()
        raise AssertionError(f"nothing of ours listens on {host}:{port} in a client's namespace")


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
