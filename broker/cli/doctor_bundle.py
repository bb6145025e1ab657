"""``dledger doctor --bundle``: what somebody who helps wants to see, in one file.

    doctor.json      every check
    status.json      what every node said of itself
    machine.json     versions, system, memory, limits
    NODE/node.toml   the configuration of each local node
    NODE/node.log    the last mebibyte of its log
    NODE/files.txt   its files with sizes and times

No file of the commit log is taken in, and so no message.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import platform
import sys
import tarfile
from typing import TYPE_CHECKING, Any

from broker.cli.doctor_host import available_memory, package_versions
from dledger.clock import SystemClock
from dledger.config import MIB
from dledger.errors import ConfigError
from dledger.machine import open_files_limits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOG_TAIL_SIZE = MIB  # bytes
FILES_MAX = 10_000  # lines of files.txt


def write_bundle(
    path: Path,
    *,
    doctor: dict[str, Any],
    status: dict[str, Any] | None,
    nodes: Sequence[tuple[str, Path, Path]],
) -> int:
    """Write the bundle to *path* and return its size in bytes.

    Args:
        path: where to; an old file there is replaced.
        doctor: the checks, fit for JSON.
        status: what the nodes said, fit for JSON; None when no group was asked.
        nodes: name, ``node.toml`` and data folder of each node whose files are here.

    Raises:
        ConfigError: it cannot be written.
    """
    now = SystemClock().wall_ms() // 1000
    try:
        with tarfile.open(path, "w:gz") as bundle:
            _add(bundle, "doctor.json", _json(doctor), now)
            if status is not None:
                _add(bundle, "status.json", _json(status), now)
            _add(bundle, "machine.json", _json(describe_machine()), now)
            for name, config_path, data_folder in nodes:
                _add(bundle, f"{name}/node.toml", _read(config_path), now)
                log = config_path.parent / "node.log"
                if log.exists():
                    _add(bundle, f"{name}/node.log", _read(log, tail=LOG_TAIL_SIZE), now)
                _add(bundle, f"{name}/files.txt", list_files(data_folder).encode(), now)
        return path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def describe_machine() -> dict[str, Any]:
    """Return versions, system, memory and limits, fit for JSON."""
    soft, hard = open_files_limits()
    return {
        "packages": package_versions(),
        "python": sys.version,
        "system": platform.platform(),
        "cpu_count": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "memory_available_bytes": available_memory(),
        "open_files_soft": soft,
        "open_files_hard": hard,
    }


def list_files(folder: Path) -> str:
    """Return a line for each file below *folder*: size, time, name."""
    if not folder.is_dir():
        return f"{folder}: no such folder\n"
    lines: list[str] = []
    for path in sorted(folder.rglob("*")):
        if len(lines) >= FILES_MAX:
            lines.append("and more")
            break
        try:
            found = path.stat()
        except FileNotFoundError:  # removed meanwhile
            continue
        if path.is_file():
            moment = datetime.datetime.fromtimestamp(found.st_mtime, tz=datetime.UTC)
            lines.append(
                f"{found.st_size:>12}  {moment:%Y-%m-%dT%H:%M:%SZ}  {path.relative_to(folder)}"
            )
    return "\n".join(lines) + "\n"


def _read(path: Path, *, tail: int | None = None) -> bytes:
    with path.open("rb") as file:
        if tail is not None:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - tail))
        return file.read()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def _add(bundle: tarfile.TarFile, name: str, content: bytes, moment: int) -> None:
    entry = tarfile.TarInfo(f"dledger-bundle/{name}")
    entry.size = len(content)
    entry.mtime = moment
    entry.mode = 0o600
    bundle.addfile(entry, io.BytesIO(content))
