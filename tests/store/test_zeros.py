"""The zeros that are written ahead."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dledger import machine
from dledger.store import os_disk
from dledger.store.os_disk import OsDisk
from dledger.store.zeros import ZERO_PIECE, ZEROS, ZEROS_SIZE


def test_they_are_zeros_that_nobody_can_write_to(tmp_path):
    size = ZEROS_SIZE + 4096

    OsDisk().allocate(str(tmp_path / "file"), size, zero_size=size).close()

    assert (tmp_path / "file").read_bytes() == bytes(size)
    with pytest.raises(TypeError):
        ZEROS[0] = 1


def test_little_is_written_at_once_and_much_is_synced_at_once(tmp_path, monkeypatch):
    written, synced = [], []
    pwrite, sync_data = os.pwrite, os_disk.sync_data
    monkeypatch.setattr(
        "os.pwrite", lambda fd, data, at: written.append(len(data)) or pwrite(fd, data, at)
    )
    monkeypatch.setattr(os_disk, "sync_data", lambda fd: synced.append(fd) or sync_data(fd))

    size = 2 * ZERO_PIECE + ZEROS_SIZE // 2
    OsDisk().allocate(str(tmp_path / "file"), size, zero_size=size).close()

    assert written == [ZEROS_SIZE] * 16 + [ZEROS_SIZE // 2]
    assert len(synced) == 2, "the rest is synced with the file itself"


def test_they_take_no_memory_however_often_they_are_written(tmp_path):
    """As bytes they were mebibytes of each node from `use_huge_pages` on."""
    OsDisk().allocate(str(tmp_path / "file"), ZEROS_SIZE, zero_size=ZEROS_SIZE).close()
    machine.use_huge_pages()

    assert anonymous_memory_at(np.frombuffer(ZEROS, np.uint8).ctypes.data) == 0


def anonymous_memory_at(address):
    is_there = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            begin, end = (int(part, 16) for part in name.split("-"))
            is_there = begin <= address < end
        elif is_there and name == "Anonymous:":
            return int(rest[0])
    raise AssertionError(f"no mapping at {address:#x}")
