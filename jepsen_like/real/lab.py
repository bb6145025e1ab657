"""The laboratory: a network and a disk for each node, made at the start and gone at the end.

`Lab` makes, all named ``jl<pid>``:

- a network namespace for each node and each client, joined by nothing but the lab's own switch;
- a small ext4 file system in a file for each node;
- the shim compiled for this machine;

and takes everything down by what it made, whatever ended it: the end of the block, an error halfway
through the set-up, Ctrl-C, SIGTERM or SIGHUP.  After a SIGKILL of its own the nodes die with it,
and the next lab sweeps the rest away.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
from typing import TYPE_CHECKING

import trio

from broker.cli.processes import ProcessMark
from jepsen_like.real import ext4, leftovers, shim
from jepsen_like.real.clocks import NodeClock
from jepsen_like.real.commands import run
from jepsen_like.real.limits import Limits
from jepsen_like.real.namespaces import Namespace
from jepsen_like.real.node_disk import NodeDisk
from jepsen_like.real.processes import LabProcess
from jepsen_like.real.proof import LabError
from jepsen_like.real.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from types import FrameType, TracebackType

MIB = 1 << 20
DISK_SIZE = 64 * MIB
_TERMINATED = (signal.SIGTERM, signal.SIGHUP)
_OFFLOADS = ("tx", "rx", "tso", "gso", "gro", "sg")

_lab_numbers = itertools.count(1)


class LabNode:
    """What one node is given: a network, a disk, a clock, limits, and files outside its disk."""

    def __init__(self, lab: Lab, namespace: Namespace, disk: NodeDisk, folder: Path) -> None:
        """Begin with an empty disk, mounted, and an empty folder."""
        self.name = namespace.name
        self.namespace = namespace
        self.disk = disk  # its file system; the data folder belongs on it
        self.folder = folder  # outside its disk: node.toml, logs, control files
        self.shim = shim.Shim(
            self.name,
            folder / "shim.control",
            lab.folder / shim.LIBRARY,
            device=disk.path.stat().st_dev,
        )
        self.clock = NodeClock(self.name, self.shim, namespace)
        self.limits = Limits(self.name, f"{lab.prefix}-{self.name}")
        self._lab = lab

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return self.namespace.address

    def process(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> LabProcess:
        """Return the node's process, not started, with the shim in it.

        Its log is ``node.log`` in `folder`.
        """
        return self._lab.process(
            self.name,
            command,
            namespace=self.namespace,
            log_path=self.folder / "node.log",
            environment={**self.shim.environment, **(environment or {})},
        )


def hear_interrupts() -> None:
    """Make Ctrl-C heard where it is ignored, as in a shell's background job; ahead of `trio.run`.

    A lab ends by it, also when SIGTERM asks for that: it would go on for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Lab:
    """Use as ``async with Lab(nodes=["n1", "n2", "n3"], clients=["c1"], seed=7) as lab``."""

    def __init__(
        self,
        *,
        nodes: Sequence[str],
        clients: Sequence[str] = ("c1",),
        seed: int = 0,
        base: Path | None = None,
        disk_size: int = DISK_SIZE,
    ) -> None:
        """Nothing is made yet.

        Args:
            nodes: their short names.
            clients: namespaces for those who talk to the nodes.
            seed: of the switch's dice.
            base: folder for the lab's folder with its disk images; memory (``/dev/shm``) when
                None, so that nodes do not wait for each other's syncs on the one real disk.
            disk_size: bytes of one node's file system.
        """
        names = [*nodes, *clients]
        assert len(set(names)) == len(names), "every name once"
        number = next(_lab_numbers)
        self.prefix = f"jl{os.getpid()}" + (f"x{number}" if number > 1 else "")
        self.folder = (base or leftovers.default_base()) / self.prefix
        self.nodes: dict[str, LabNode] = {}
        self.clients: dict[str, Namespace] = {}
        self.processes: list[LabProcess] = []
        self._node_names = list(nodes)
        self._client_names = list(clients)
        self._seed = seed
        self._disk_size = disk_size
        self._wire: Wire | None = None
        self._undo: list[Callable[[], Awaitable[object]]] = []
        self._old_handlers: dict[signal.Signals, object] = {}
        self._signal: signal.Signals | None = None

    # -- what it offers -------------------------------------------------------------------------

    @property
    def wire(self) -> Wire:
        """What can be done to the network."""
        assert self._wire is not None, "only inside `async with`"
        return self._wire

    def process(
        self,
        name: str,
        command: Sequence[str],
        *,
        namespace: Namespace,
        log_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> LabProcess:
        """Return a process, not started, that ends with the lab at the latest.

        Args:
            name: for people; its log is ``<name>.log`` in the lab's folder if not told otherwise.
            command: program and arguments.
            namespace: where its connections are.
            log_path: where its output goes.
            environment: in addition to ours.
        """
        process = LabProcess(
            name,
            command,
            namespace=namespace,
            log_path=log_path or self.folder / f"{name}.log",
            environment=environment,
        )
        self.processes.append(process)
        return process

    # -- life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Lab:
        self._catch_signals()
        try:
            await leftovers.sweep(self.folder.parent)
            await self._set_up()
        except BaseException as error:
            await self._take_down()
            self._raise_if_terminated(error)
            if _is_interrupt(error):  # by a command's nursery wrapped in a group
                raise KeyboardInterrupt from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._take_down()
        self._raise_if_terminated(error)

    async def _set_up(self) -> None:
        self.folder.mkdir()
        self._undo.append(self._remove_folder)
        mark = ProcessMark.of(os.getpid())
        assert mark is not None
        leftovers.write_owner(self.folder, mark)
        await shim.compile_library(self.folder)
        for kind, names in ((1, self._node_names), (2, self._client_names)):
            for number, name in enumerate(names, start=1):
                namespace = await self._add_namespace(name, f"10.77.{kind}.{number}")
                if kind == 2:
                    self.clients[name] = namespace
                    continue
                disk = await self._add_disk(name, namespace)
                folder = self.folder / name
                folder.mkdir()
                self.nodes[name] = node = LabNode(self, namespace, disk, folder)
                self._undo.append(node.limits.remove)
        await self._join()

    async def _add_namespace(self, name: str, address: str) -> Namespace:
        namespace = Namespace(name, f"{self.prefix}-{name}", address)
        self._undo.append(lambda: leftovers.remove_namespace(namespace.full_name))
        await run("ip", "netns", "add", namespace.full_name)
        # Every packet is then one that somebody sent: no router solicitations in between.
        namespace.write_setting("net/ipv6/conf/all/disable_ipv6", "1")
        namespace.write_setting("net/ipv6/conf/default/disable_ipv6", "1")
        return namespace

    async def _add_disk(self, name: str, namespace: Namespace) -> NodeDisk:
        disk = NodeDisk(
            name,
            image=self.folder / f"{name}.img",
            path=self.folder / f"{name}.disk",
            namespace=namespace,
            size=self._disk_size,
            seed=self._seed,
        )
        self._undo.append(disk.remove)
        await disk.make()
        return disk

    async def _join(self) -> None:
        """Lead a cable from every namespace to the switch, and start that."""
        ends = [node.namespace for node in self.nodes.values()] + list(self.clients.values())
        switch = await self._add_namespace("switch", "")
        for number, end in enumerate(ends):
            await run(
                "ip", "link", "add", f"p{number}", "netns", switch.full_name, "type", "veth",
                "peer", "name", "eth0", "address", _mac(end), "netns", end.full_name,
            )  # fmt: skip
        await run(
            "ip", "-n", switch.full_name, "-batch", "-",
            stdin="".join(f"link set p{number} up\n" for number in range(len(ends))),
        )  # fmt: skip
        for end in ends:
            # Who is where never changes: without ARP a corrupted answer cannot poison a table.
            neighbours = "".join(
                f"neigh add {other.address} lladdr {_mac(other)} dev eth0 nud permanent\n"
                for other in ends
                if other is not end
            )
            await run(
                "ip", "-n", end.full_name, "-batch", "-",
                stdin=f"link set lo up\naddr add {end.address}/16 dev eth0\n"
                f"link set eth0 up\n{neighbours}",
            )  # fmt: skip
            # With offloads a checksum is not yet in the frame that the switch gets, a corrupted
            # one would not be noticed, and a lost packet could be 64 KiB of them.
            settings = [word for name in _OFFLOADS for word in (name, "off")]
            await run(
                "nsenter", f"--net={end.path}", "--", "ethtool", "-K", "eth0", *settings
            )  # fmt: skip
        self._wire = Wire(
            ports={end.name: (f"p{number}", _mac(end)) for number, end in enumerate(ends)},
            namespace=switch,
            log_path=self.folder / "switch.log",
            seed=self._seed,
        )
        self._undo.append(self._wire.close)
        await self._wire.open()

    async def _take_down(self) -> None:
        """Undo everything, the last first; all of it is tried whatever fails."""
        failures: list[Exception] = []
        with trio.CancelScope(shield=True):
            for node in self.nodes.values():
                with contextlib.suppress(OSError, LabError):
                    ext4.thaw(node.disk.path)  # what waits for its disk cannot be killed
            for process in self.processes:
                try:
                    await process.kill()
                except (OSError, LabError) as error:
                    failures.append(error)
            while self._undo:
                try:
                    await self._undo.pop()()
                except (OSError, LabError) as error:
                    failures.append(error)
        self._release_signals()
        if failures:
            raise ExceptionGroup(f"not all of {self.prefix} could be taken down", failures)

    async def _remove_folder(self) -> None:
        await trio.to_thread.run_sync(shutil.rmtree, self.folder)

    # -- signals --------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        for number in _TERMINATED:
            self._old_handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Trio knows where a KeyboardInterrupt may strike without leaving anything half done.
        self._signal = signal.Signals(number)
        signal.raise_signal(signal.SIGINT)

    def _release_signals(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._old_handlers.clear()

    def _raise_if_terminated(self, error: BaseException | None) -> None:
        if self._signal is not None and _is_interrupt(error):
            raise SystemExit(128 + self._signal) from None


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether a Ctrl-C, or what we made one of, is all that *error* holds."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_interrupt, error.exceptions))
    return isinstance(error, KeyboardInterrupt)


def _mac(end: Namespace) -> str:
    return "02:00:" + ":".join(f"{int(part):02x}" for part in end.address.split("."))
