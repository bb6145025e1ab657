"""What Linux alone has is missing: the disk keeps its promises all the same, or says no.

Only simulated, by taking the calls away; nothing here has run on macOS or Windows.
"""

import errno
import os
import subprocess
import sys

import pytest

from dledger import machine
from dledger.errors import ConfigError, StorageFailedError
from dledger.store import os_calls
from dledger.store.os_disk import OsDisk

KIB = 1024


@pytest.fixture
def full_syncs(monkeypatch):
    """A system like macOS: no posix_fallocate, no fdatasync, and F_FULLFSYNC; who was synced."""
    synced = []

    class Fcntl:
        LOCK_EX, LOCK_NB = os_calls.fcntl.LOCK_EX, os_calls.fcntl.LOCK_NB
        flock = staticmethod(os_calls.fcntl.flock)
        failure = None

        @classmethod
        def fcntl(cls, fd, command):
            assert command == 51
            if cls.failure is not None:
                raise OSError(cls.failure, os.strerror(cls.failure))
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.delattr(os, "pwritev")
    monkeypatch.setattr(os_calls, "_HAS_PWRITEV", False)
    monkeypatch.setattr(os_calls, "_HAS_FDATASYNC", False)
    monkeypatch.setattr(os_calls, "FDATASYNC_SEES_MAP", False)
    monkeypatch.setattr(os_calls, "_FULL_SYNC", 51)
    monkeypatch.setattr(os_calls, "fcntl", Fcntl)
    synced_with = Fcntl
    synced_with.synced = synced
    return synced_with


@pytest.mark.parametrize("through_map", [False, True])
def test_bytes_reach_the_drive_without_what_linux_has(tmp_path, full_syncs, through_map):
    disk = OsDisk()
    path = str(tmp_path / "segment")
    region = disk.allocate(path, 64 * KIB, zero_size=0)
    assert os.stat(path).st_blocks * 512 >= 64 * KIB, "its room is reserved, by writing it"
    full_syncs.synced.clear()

    region.write(100, [b"one", b"two", bytes(1000)], through_map=through_map)
    region.sync()

    assert full_syncs.synced == [path]
    region.close()
    assert (tmp_path / "segment").read_bytes()[100:106] == b"onetwo"
    disk.write_file_atomic(str(tmp_path / "small"), b"x")
    assert str(tmp_path / "small.tmp") in full_syncs.synced
    assert str(tmp_path) in full_syncs.synced


def test_a_file_system_without_the_full_sync_gets_the_plain_one(tmp_path, full_syncs, monkeypatch):
    plain = []
    monkeypatch.setattr(os, "fsync", plain.append)
    full_syncs.failure = errno.ENOTSUP

    OsDisk().write_file_atomic(str(tmp_path / "small"), b"x")

    assert len(plain) == 2  # the file and its folder


def test_a_full_sync_that_fails_is_never_tried_another_way(tmp_path, full_syncs, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("not after a failure"))
    full_syncs.failure = errno.EIO

    with pytest.raises(StorageFailedError, match="Input/output error"):
        OsDisk().write_file_atomic(str(tmp_path / "small"), b"x")


def test_without_file_locks_no_folder_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(os_calls, "fcntl", None)

    with pytest.raises(StorageFailedError, match="no file locks"):
        OsDisk().lock_folder(str(tmp_path))


def test_what_only_proc_tells_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_PROC_STATUS", tmp_path / "none")
    monkeypatch.setattr(machine, "_BOOT_ID", tmp_path / "none")
    assert machine.resident_size() > 1_000_000
    assert machine.boot_id() == ""

    monkeypatch.setattr(machine, "_resource", None)
    assert machine.resident_size() == 0
    assert machine.open_files_limits() == (None, None)
    assert machine.raise_open_files_limit(10_000) is None


def test_a_limit_that_cannot_be_raised_stays(monkeypatch):
    class Resource:
        RLIMIT_NOFILE, RLIM_INFINITY = 7, -1
        asked = None

        @classmethod
        def getrlimit(cls, _):
            return 256, -1

        @classmethod
        def setrlimit(cls, _, limits):
            cls.asked = limits
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(machine, "_resource", Resource)

    assert machine.open_files_limits() == (256, None)
    assert machine.raise_open_files_limit(14_096) == 256
    assert Resource.asked == (14_096, -1)


def test_windows_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(machine, "_IS_POSIX", False)

    with pytest.raises(ConfigError, match=r"a node does not run on .*: it needs POSIX"):
        machine.check_supported()


WITHOUT_POSIX = """
import sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
import dledger.machine
dledger.machine._IS_POSIX = False
from broker.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "words", [["up"], ["node", "start", "-c", "node.toml"]], ids=lambda words: words[0]
)
def test_a_system_without_posix_modules_hears_one_line(tmp_path, words):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "a node does not run on" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["--help"], ["up", "--help"], ["log", "--help"], ["doctor", "-h"]]
)
def test_help_needs_no_posix_modules(tmp_path, words):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_memory_in_huge_pages_holds_what_it_held():
    kept = [bytes([number]) * (1 << 20) for number in range(16)]

    moved = machine.use_huge_pages()

    assert moved % (2 << 20) == 0
    assert all(data == bytes([number]) * (1 << 20) for number, data in enumerate(kept))


def test_without_a_list_of_mappings_no_memory_is_moved(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_PROC_MAPS", tmp_path / "maps")
    assert machine.use_huge_pages() == 0


def test_a_kernel_that_knows_no_huge_pages_is_left_alone(monkeypatch):
    monkeypatch.setattr(machine, "_MADV_COLLAPSE", 12_345)
    assert machine.use_huge_pages() == 0
