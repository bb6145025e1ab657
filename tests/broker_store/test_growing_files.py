"""Files that grow: durable after one sync, their names as well, and not before."""

from __future__ import annotations

import random

import pytest

from broker.store.growing_files import GrowingFiles, Piece
from dledger.errors import StorageFailedError
from dledger.store import tree_sync
from dledger.store.os_disk import OsDisk
from tests.broker_store.growing_disk import GrowingDisk


class CountingDisk(GrowingDisk):
    """Tells what was synced."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[str] = []

    def sync_folder(self, path: str) -> None:
        self.synced.append(path + "/")
        super().sync_folder(path)

    def sync_inode(self, path, inode):
        self.synced.append(path)
        return super().sync_inode(path, inode)


@pytest.fixture
def disk():
    disk = CountingDisk()
    disk.has_trees = False
    disk.make_folder("/d")
    return disk


def pieces(topics: int, queues: int, data: bytes) -> list[Piece]:
    return [
        Piece(f"/d/queues/t{topic}/{queue}/0", 0, data)
        for topic in range(topics)
        for queue in range(queues)
    ]


def test_a_new_file_costs_two_syncs_and_its_folders_one_for_all(disk):
    """Four each, while they were written, were 32,000 for a thousand topics of eight queues."""
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(3, 8, b"x" * 20), size=480)
    assert disk.synced == []

    files.sync()

    assert sum(not path.endswith("/") for path in disk.synced) == 24
    assert sum(path.endswith("/") for path in disk.synced) == 24 + 3 + 1
    assert disk.synced[-1] == "/d/queues/"

    disk.synced.clear()
    files.write(pieces(3, 8, b"y" * 20), size=480)
    files.sync()
    assert all(not path.endswith("/") for path in disk.synced)
    assert len(disk.synced) == 24


def test_what_was_synced_survives_a_loss_of_power_with_its_name(disk):
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(2, 2, b"x" * 20), size=80)
    files.sync()
    disk.power_loss(random.Random(1))
    for piece in pieces(2, 2, b""):
        assert disk.read_file(piece.path) == b"x" * 20


def test_many_files_are_synced_by_one_call_where_the_system_has_it(disk):
    """8,000 syncs, one after another, took four to ten seconds of each five."""
    disk.has_trees = True
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(9, 8, b"x" * 20), size=1440)

    files.sync()

    assert disk.synced == []
    disk.power_loss(random.Random(1))
    for piece in pieces(9, 8, b""):
        assert disk.read_file(piece.path) == b"x" * 20

    files.write(pieces(2, 2, b"y" * 20), size=80)
    files.sync()
    assert len(disk.synced) == 4


def test_a_sync_of_many_that_fails_is_told(disk):
    disk.has_trees = True
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(9, 8, b"x" * 20), size=1440)
    disk.failing["t5/3/0"] = "sync"

    with pytest.raises(StorageFailedError, match="t5/3/0"):
        files.sync()


def test_what_was_written_before_the_tree_was_let_go_is_synced_file_by_file(disk):
    """A tree opened later may not hear that an earlier write failed."""
    disk.has_trees = True
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(9, 8, b"x" * 20), size=1440)
    files.close()
    files.write(pieces(9, 8, b"y" * 20), size=1440)

    files.sync()

    assert sum(not path.endswith("/") for path in disk.synced) == 72


def test_a_job_behind_the_close_leaves_no_tree_open(disk, monkeypatch):
    """A node closes its files without waiting for the jobs that still run."""
    disk.has_trees = True
    opened, open_tree = [], disk.open_tree
    closing = None

    def counting(path):
        tree = open_tree(path)
        opened.append(tree)
        close = tree.close
        monkeypatch.setattr(tree, "close", lambda: (opened.remove(tree), close()), raising=False)
        if closing is not None:
            closing.close()
        return tree

    disk.open_tree = counting
    files = GrowingFiles(disk, "/d/queues")
    files.close()
    files.write(pieces(9, 8, b"x" * 20), size=1440)
    files.sync()
    assert opened == []

    closing = GrowingFiles(disk, "/d/queues")
    closing.write(pieces(9, 8, b"y" * 20), size=1440)  # closed while it opens the tree
    assert opened == []


def test_a_real_tree_is_synced(tmp_path):
    """Where this system has it; what a power loss would leave, only the system knows."""
    files = GrowingFiles(OsDisk(), str(tmp_path / "queues"))
    files.write([Piece(str(tmp_path / f"queues/t/{n}/0"), 0, b"x") for n in range(100)], size=100)
    files.sync()
    assert all((tmp_path / f"queues/t/{n}/0").read_bytes() == b"x" for n in range(100))


def test_where_a_sync_of_all_would_not_tell_of_failures_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(tree_sync, "_KERNEL_MIN", (9999, 0))
    assert OsDisk().open_tree(str(tmp_path)) is None


def test_a_name_that_was_not_synced_may_be_lost_and_is_made_again(disk):
    GrowingFiles(disk, "/d/queues").write(pieces(1, 1, b"x" * 20), size=20)
    disk.power_loss(random.Random(1))
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(1, 1, b"y" * 20), size=20)
    files.sync()
    disk.power_loss(random.Random(1))
    assert disk.read_file("/d/queues/t0/0/0") == b"y" * 20
