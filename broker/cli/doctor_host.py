"""What `dledger doctor` says of one node's configuration and of the machine it is to run on.

Looked at before a start, or beside a node that runs; nothing is changed but one small file that is
written, synced and removed to see how long a sync takes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli.checks import Check, Level
from broker.cli.output import format_bytes
from broker.cli.processes import check_port_free
from broker.cli.values import format_duration
from broker.config_file import differing_keys
from broker.store import compiled
from dledger.clock import SystemClock
from dledger.config import MIB, FlushDiskType
from dledger.errors import ConfigError
from dledger.machine import open_files_limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.config import NodeConfig
    from dledger.clock import Clock

PYSYNCOBJ_VERSION = "0.3.17"  # what the engine is pinned to
MEMORY_WARN_BYTES = 256 * MIB  # a node takes some 30 MiB, and up to pending_size_max and more
SYNC_COUNT = 20
SYNC_SECONDS_WARN = 0.02
SYNC_SIZE = 4096
PACKAGES = (
    "dledger",
    "pysyncobj",
    "trio",
    "numpy",
    "msgpack",
    "msgspec",
    "isal",
    "click",
    "rich",
)
_SAME_ON_ALL = ("group:", "members:", "store.segment_size:")

# File systems on which a promise about disks means less than it says.
_IN_MEMORY = {"tmpfs", "ramfs"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph", "glusterfs"}
_LAYERED = {"overlay", "aufs"}


def check_program() -> list[Check]:
    """Return what there is to say of the program itself."""
    versions = package_versions()
    python = platform.python_version()
    found = [
        Check(
            name="python",
            level=Level.OK if sys.version_info >= (3, 11) else Level.FAIL,
            text=f"{python} on {platform.system()} {platform.release()} ({platform.machine()})",
            remedy="Python 3.11 or newer is needed",
        )
    ]
    engine = versions["pysyncobj"]
    found.append(
        Check(
            name="packages",
            level=Level.OK if engine == PYSYNCOBJ_VERSION else Level.FAIL,
            text=", ".join(f"{name} {version or 'missing'}" for name, version in versions.items()),
            remedy=f"pip install pysyncobj=={PYSYNCOBJ_VERSION}: nodes refuse any other",
        )
    )
    is_as_meant = compiled.loops is not None or compiled.python_is_asked_for()
    found.append(
        Check(
            name="compiled",
            level=Level.OK if is_as_meant else Level.WARN,
            text=f"the loops over every record run {compiled.told}",
            remedy="install a C compiler and the headers of Python, then dledger again",
        )
    )
    if sys.platform != "linux":
        found.append(
            Check(
                name="system",
                level=Level.WARN,
                text=f"{platform.system()} is for development; nodes are tested on Linux",
                remedy="run groups that matter on Linux",
            )
        )
    return found


def check_host(config: NodeConfig, *, runs: bool, clock: Clock | None = None) -> list[Check]:
    """Return what there is to say of the node of *config* on this machine.

    Args:
        config: the node's settings.
        runs: whether the node runs, so that its ports are taken by itself.
        clock: what syncs are timed by; the system's when None.
    """
    node = config.node_id
    found = [_config(config)]
    found += [] if runs else _ports(config)
    found += _hosts(config)
    folder = _existing(Path(config.data_folder))
    writable = _writable(node, Path(config.data_folder), folder)
    found.append(writable)
    found += _identity(config)
    found.append(_space(config, folder))
    found.append(_file_system(node, folder))
    if writable.level is Level.OK:
        found.append(_sync_time(config, folder, clock or SystemClock()))
    found.append(_open_files(config))
    found.append(_memory(node))
    return found


def check_same_group(configs: Sequence[NodeConfig]) -> list[Check]:
    """Return whether *configs*, of nodes of one group, agree on what all have to have alike."""
    first = configs[0]
    found = []
    for other in configs[1:]:
        differing = [text for text in differing_keys(first, other) if text.startswith(_SAME_ON_ALL)]
        if differing:
            text = f"otherwise than {first.node_id}: {'; '.join(differing)}"
            found.append(
                Check(
                    name="group config",
                    subject=other.node_id,
                    level=Level.FAIL,
                    text=text,
                    remedy="make them the same: members refuse each other otherwise",
                )
            )
    if not found and len(configs) > 1:
        text = "group, members and segment_size are the same in all node.toml"
        found.append(Check(name="group config", level=Level.OK, text=text))
    return found


def package_versions() -> dict[str, str | None]:
    """Return the versions of what the program is made of; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _config(config: NodeConfig) -> Check:
    warnings = config.warnings()
    return Check(
        name="config",
        subject=config.node_id,
        level=Level.WARN if warnings else Level.OK,
        text="; ".join(warnings) or "every setting is in range",
        remedy="correct node.toml; docs/configuration.md says what each key means",
    )


def _ports(config: NodeConfig) -> Iterator[Check]:
    for use, host, port in (
        ("broker port", config.listen_host, config.listen_broker_port),
        ("peer port", config.listen_host, config.listen_peer_port),
        ("metrics port", config.metrics.host or config.listen_host, config.metrics.port),
        ("nameserver port", config.listen_host, config.nameserver.port),
    ):
        if not port:  # switched off
            continue
        remedy = "stop it, or give the node another port"
        try:
            check_port_free(host, port, use=use, remedy=remedy)
        except ConfigError as error:
            text = str(error).removesuffix(f"; {remedy}")
            yield Check(
                name=use, subject=config.node_id, level=Level.FAIL, text=text, remedy=remedy
            )
        else:
            yield Check(name=use, subject=config.node_id, level=Level.OK, text=f"{port} is free")


def _hosts(config: NodeConfig) -> Iterator[Check]:
    unknown = []
    for host in sorted({member.host for member in config.members}):
        try:
            socket.getaddrinfo(host, None)
        except socket.gaierror as error:
            unknown.append(f"{host}: {error.strerror}")
    if unknown:
        yield Check(
            name="hosts",
            subject=config.node_id,
            level=Level.FAIL,
            text="; ".join(unknown),
            remedy="the names of all members have to be known on every machine (DNS, /etc/hosts)",
        )


def _writable(node: str, wanted: Path, existing: Path) -> Check:
    if not existing.is_dir():
        text = f"{existing} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        text = f"{existing} may not be written to by user {os.getuid()}"
    else:
        text = ""
    note = "" if wanted == existing else f" (will be made in {existing})"
    return Check(
        name="data folder",
        subject=node,
        level=Level.FAIL if text else Level.OK,
        text=text or f"{wanted}{note}",
        remedy="give the folder to the user that runs the node",
    )


def _identity(config: NodeConfig) -> Iterator[Check]:
    """Tell when the folder is another node's, or laid out otherwise than the settings say."""
    path = Path(config.data_folder) / "identity.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        found = {"content": str(error)}
    wanted = {
        "group": config.group,
        "node_id": config.node_id,
        "segment_size": config.store.segment_size,
        "index_file_units": config.store.index_file_units,
    }
    wrong = [
        f"{name} is {found.get(name)!r} there and {value!r} in the configuration"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    yield Check(
        name="identity",
        subject=config.node_id,
        level=Level.FAIL if wrong else Level.OK,
        text="; ".join(wrong) or f"data of {config.node_id} of group {config.group}",
        remedy="correct the configuration, or give the node an empty data folder",
    )


def _space(config: NodeConfig, folder: Path) -> Check:
    usage = shutil.disk_usage(folder)
    percent = 100 * usage.used / (usage.used + usage.free) if usage.total else 100.0
    segment_size = config.store.segment_size
    remedy = "free some room, keep less (log_size_max), or take a larger disk"
    level = Level.OK
    text = f"{percent:.0f} % used, {format_bytes(usage.free)} left"
    if usage.free < segment_size:
        level = Level.FAIL
        text += f", less than one segment of {format_bytes(segment_size)}"
    elif percent >= config.store.disk_refuse_percent:
        level = Level.FAIL
        text += f"; at {config.store.disk_refuse_percent} % writes are refused"
    elif percent >= config.store.disk_clean_percent or usage.free < 3 * segment_size:
        level = Level.WARN
    if config.store.log_size_max > usage.free + usage.used:
        level = max(level, Level.WARN, key=list(Level).index)
        text += f"; log_size_max is {format_bytes(config.store.log_size_max)}"
    return Check(name="data disk", subject=config.node_id, level=level, text=text, remedy=remedy)


def _file_system(node: str, folder: Path) -> Check:
    kind = file_system_of(folder)
    remedy = ""
    if kind in _IN_MEMORY:
        remedy = "it is memory: a restart of the machine loses every message; take a disk"
    elif kind in _REMOTE:
        remedy = "locks and syncs over a network may not hold what they promise; take a local disk"
    elif kind in _LAYERED:
        remedy = "a container's own layer: slow, and gone with the container; mount a volume"
    return Check(
        name="file system",
        subject=node,
        level=Level.WARN if remedy else Level.OK,
        text=kind or "unknown: this system does not tell",
        remedy=remedy,
    )


def _sync_time(config: NodeConfig, folder: Path, clock: Clock) -> Check:
    try:
        seconds = measure_syncs(folder, clock)
    except OSError as error:
        return Check(
            name="sync",
            subject=config.node_id,
            level=Level.FAIL,
            text=f"{folder}: {error.strerror}",
            remedy="look at the disk",
        )
    median, longest = statistics.median(seconds), max(seconds)
    is_slow = median > SYNC_SECONDS_WARN
    is_waited_for = config.store.flush_disk_type is FlushDiskType.SYNC_FLUSH
    return Check(
        name="sync",
        subject=config.node_id,
        level=Level.WARN if is_slow and is_waited_for else Level.OK,
        text=f"{format_duration(median)} (the longest of {len(seconds)}: "
        f"{format_duration(longest)})",
        remedy="every acknowledgement waits for one; take a faster disk, or one with a battery",
    )


def measure_syncs(folder: Path, clock: Clock) -> list[float]:
    """Return how many seconds each of some small writes with a sync took in *folder*."""
    handle, path = tempfile.mkstemp(prefix=".dledger-doctor-", dir=folder)
    try:
        seconds = []
        for number in range(SYNC_COUNT):
            began = clock.now()
            os.pwrite(handle, b"\1" * SYNC_SIZE, number * SYNC_SIZE)
            os.fsync(handle)
            seconds.append(clock.now() - began)
        return seconds
    finally:
        os.close(handle)
        os.unlink(path)


def _open_files(config: NodeConfig) -> Check:
    from broker.running import FILES_OPEN_MAX  # numpy and the engine: only when it is needed

    _, hard = open_files_limits()
    wanted = config.broker.connections_max + FILES_OPEN_MAX
    has_enough = hard is None or hard >= wanted
    shown = "unlimited" if hard is None else f"{hard:,}"
    return Check(
        name="open files",
        subject=config.node_id,
        level=Level.OK if has_enough else Level.WARN,
        text=f"{shown} allowed, {wanted:,} wanted for connections_max = "
        f"{config.broker.connections_max:,}",
        remedy="the node takes fewer connections; raise the hard limit (LimitNOFILE= of a service, "
        "/etc/security/limits.conf)",
    )


def _memory(node: str) -> Check:
    available = available_memory()
    if available is None:
        return Check(
            name="memory", subject=node, level=Level.OK, text="unknown: this system does not tell"
        )
    return Check(
        name="memory",
        subject=node,
        level=Level.WARN if available < MEMORY_WARN_BYTES else Level.OK,
        text=f"{format_bytes(available)} available",
        remedy="a node under load takes some hundred MiB, and the page cache serves its readers",
    )


def available_memory() -> int | None:
    """Return the bytes that may still be taken, a container's limit included; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    available = int(sizes["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):  # no limit, or no such files
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        available = min(available, max(0, limit - used))
    return available


def file_system_of(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds *folder*, as in ``mount``; "" if unknown.

    Args:
        folder: absolute or not, present.
        mounts: the content of ``/proc/self/mounts``; read when None.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
    path = folder.resolve()
    found, depth = "", -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # Blanks in names are written as octal numbers; the last mount on a place hides others.
        place = Path(fields[1].encode().decode("unicode_escape"))
        if path.is_relative_to(place) and len(place.parts) >= depth:
            found, depth = fields[2], len(place.parts)
    return found


def _existing(folder: Path) -> Path:
    """Return *folder*, or the nearest folder above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
