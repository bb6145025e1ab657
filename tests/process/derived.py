"""The consume-queue files of a stopped node, and how they come back when deleted."""

from __future__ import annotations

import shutil
import struct
from typing import TYPE_CHECKING

from broker.cli.log_check import StoredLog
from broker.config_file import load_config
from broker.open_files import open_files
from dledger.store.os_disk import OsDisk

if TYPE_CHECKING:
    from dledger.entry import LogPoint
    from tests.process.kit import NodeProcess

_UNIT = struct.Struct(">qiq")


def derived_units(node: NodeProcess) -> dict[tuple[str, str, int], bytes]:
    """Return each unit by topic, queue and offset, those of dropped records left out."""
    base = _base(node).position
    found: dict[tuple[str, str, int], bytes] = {}
    folder = node.data / "derived" / "consumequeue"
    for path in folder.glob("*/*/*"):
        data = path.read_bytes()
        assert len(data) % _UNIT.size == 0, f"{path} ends inside a unit"
        first = int(path.name) // _UNIT.size
        for number in range(len(data) // _UNIT.size):
            unit = data[number * _UNIT.size : (number + 1) * _UNIT.size]
            position, size, _ = _UNIT.unpack(unit)
            if size and position >= base:
                found[path.parts[-3], path.parts[-2], first + number] = unit
    return found


def rebuild_derived(node: NodeProcess) -> None:
    """Delete a stopped node's consume queues and derive them again, as its start does."""
    for path in (node.data / "derived").iterdir():
        # The state at the log's base came from elsewhere when the log does not begin at its
        # beginning: it is what a rebuilding begins with, not something derived.
        if path.is_dir():
            shutil.rmtree(path)
        elif not _is_boundary(node, path.name):
            path.unlink()
    files = open_files(load_config(node.folder / "node.toml"), OsDisk())
    try:
        # All of the log: what the last checkpoint knows to be committed may be less, and whatever a
        # test has seen committed is in there.
        end_index = files.store.end_index
        while files.derived.dispatched_index < end_index:
            files.derived.dispatch_up_to(end_index)
            for job in files.derived.begin_jobs(with_state=True):
                job.run()
                job.finish()
    finally:
        files.derived.close()
        files.store.close()
        files.folder.close()


def _is_boundary(node: NodeProcess, name: str) -> bool:
    # A kill in mid-write leaves a file with another name behind, which no start looks at.
    return name == f"state-{_base(node).index:020d}"


def _base(node: NodeProcess) -> LogPoint:
    return StoredLog.open(node.data).base
