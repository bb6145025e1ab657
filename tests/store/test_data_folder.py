"""A data folder is recognised, held, and refused when it is another's."""

import dataclasses
import json
import random

import pytest

from dledger.errors import (
    CorruptStoreError,
    FolderInUseError,
    FolderMismatchError,
    LedgerFullError,
)
from dledger.store.data_folder import DataFolder
from tests.fakes.disk import FakeDisk, SimulatedCrash
from tests.store.model import CONFIG, append, open_store

PATH = "/data"
IDENTITY = "/data/identity.json"


def open_folder(disk, *, group="g", node_id="n0", config=CONFIG, joining=True):
    return DataFolder.open(disk, PATH, group=group, node_id=node_id, config=config, joining=joining)


def test_a_new_folder_is_filled_and_the_next_start_knows_it(disk):
    folder = open_folder(disk)
    assert folder.is_new
    assert folder.vote.joining
    assert json.loads(disk.files()[IDENTITY]) == {
        "format_version": 1,
        "group": "g",
        "node_id": "n0",
        "segment_size": 4096,
        "index_file_units": 128,
    }
    folder.close()
    folder = open_folder(disk, joining=False)
    assert not folder.is_new
    assert folder.vote.joining


def test_two_processes_never_share_a_folder(disk):
    folder = open_folder(disk)
    with pytest.raises(FolderInUseError, match=PATH):
        open_folder(disk)
    folder.close()
    open_folder(disk)


def test_a_refused_folder_is_let_go(disk):
    open_folder(disk).close()
    with pytest.raises(FolderMismatchError):
        open_folder(disk, node_id="n9")
    open_folder(disk)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("group", {"group": "h"}),
        ("node_id", {"node_id": "n1"}),
        ("segment_size", {"config": dataclasses.replace(CONFIG, segment_size=8192)}),
        ("index_file_units", {"config": dataclasses.replace(CONFIG, index_file_units=256)}),
    ],
)
def test_a_folder_of_another_is_refused_by_the_field_that_differs(disk, field, change):
    open_folder(disk).close()
    before = disk.files()
    with pytest.raises(FolderMismatchError, match=f"{IDENTITY}: {field} is .* in the data folder"):
        open_folder(disk, **change)
    assert disk.files() == before


def test_a_newer_format_is_refused(disk):
    open_folder(disk).close()
    found = json.loads(disk.files()[IDENTITY])
    disk.write_file_atomic(IDENTITY, json.dumps(found | {"format_version": 2}).encode())
    with pytest.raises(FolderMismatchError, match="format_version is 2, this program knows up to"):
        open_folder(disk)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format_version": "1"}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "a list", "a string", "no UTF-8", "brackets without end"],
)
def test_an_unreadable_identity_is_damage(disk, content):
    open_folder(disk).close()
    disk.write_file_atomic(IDENTITY, content)
    with pytest.raises(CorruptStoreError, match=IDENTITY):
        open_folder(disk)


def test_a_lost_vote_is_loud(disk):
    open_folder(disk).close()
    disk.unlink(f"{PATH}/vote")
    with pytest.raises(CorruptStoreError, match=r"vote is missing: .* vote twice"):
        open_folder(disk)


def test_a_lost_log_is_loud(disk):
    open_folder(disk).close()
    disk.unlink(f"{PATH}/checkpoint")
    with pytest.raises(CorruptStoreError, match="checkpoint and commitlog are missing"):
        open_folder(disk)


def test_a_folder_full_of_other_things_is_left_alone(disk):
    disk.make_folder(PATH)
    disk.write_file_atomic(f"{PATH}/holiday.jpg", b"sea")
    with pytest.raises(FolderMismatchError, match=r"'holiday\.jpg' but no identity"):
        open_folder(disk)
    assert list(disk.files()) == [f"{PATH}/holiday.jpg"]


def test_no_room_for_the_first_files_says_so():
    with pytest.raises(LedgerFullError, match="/data/vote"):
        open_folder(FakeDisk(capacity=100))


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
def test_the_first_start_may_die_anywhere(power):
    for step in range(60):
        for seed in range(5):
            disk = FakeDisk()
            disk.crash_at_step = step
            try:
                open_folder(disk)
                open_store(disk)
            except SimulatedCrash:
                pass
            if power:
                disk.power_loss(random.Random(seed))
            else:
                disk.process_crash()
            folder = open_folder(disk)
            assert folder.vote.joining
            store = open_store(disk)
            append(store, b"x", term=1)
            store.sync()
            assert open_store(disk).end_index == 1
