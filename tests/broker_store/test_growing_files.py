"""Files that grow: durable after one sync, their names as well, and not before."""

from __future__ import annotations

import random

import pytest

from broker.store.growing_files import GrowingFiles, Piece
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
    files.write(pieces(3, 8, b"x" * 20))
    assert disk.synced == []

    files.sync()

    assert sum(not path.endswith("/") for path in disk.synced) == 24
    assert sum(path.endswith("/") for path in disk.synced) == 24 + 3 + 1
    assert disk.synced[-1] == "/d/queues/"

    disk.synced.clear()
    files.write(pieces(3, 8, b"y" * 20))
    files.sync()
    assert all(not path.endswith("/") for path in disk.synced)
    assert len(disk.synced) == 24


def test_what_was_synced_survives_a_loss_of_power_with_its_name(disk):
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(2, 2, b"x" * 20))
    files.sync()
    disk.power_loss(random.Random(1))
    for piece in pieces(2, 2, b""):
        assert disk.read_file(piece.path) == b"x" * 20


def test_a_name_that_was_not_synced_may_be_lost_and_is_made_again(disk):
    GrowingFiles(disk, "/d/queues").write(pieces(1, 1, b"x" * 20))
    disk.power_loss(random.Random(1))
    files = GrowingFiles(disk, "/d/queues")
    files.write(pieces(1, 1, b"y" * 20))
    files.sync()
    disk.power_loss(random.Random(1))
    assert disk.read_file("/d/queues/t0/0/0") == b"y" * 20
