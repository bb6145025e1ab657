"""Two slots that take turns."""

import struct

import pytest

from dledger.errors import CorruptStoreError
from dledger.store.checkpoint import CheckpointFile, WatermarkFile
from dledger.store.slot_file import PAYLOAD_SIZE_MAX, SLOT_OFFSETS, SLOT_SIZE, SlotFile
from dledger.store.vote_file import VoteFile
from tests.fakes.disk import FakeDisk

PATH = "/slots"


def open_slots(disk, *, magic=b"TEST", version=1):
    return SlotFile.open(disk, PATH, magic=magic, version=version)


@pytest.fixture
def disk():
    disk = FakeDisk()
    SlotFile.create(disk, PATH, magic=b"TEST", version=1, payload=b"first")
    return disk


def test_the_newest_record_counts(disk):
    slots = open_slots(disk)
    assert slots.payload == b"first"
    for n in range(5):
        slots.write(b"%d" % n, sync=n % 2 == 0)
        assert slots.payload == b"%d" % n
        assert open_slots(disk).payload == b"%d" % n


def test_a_write_leaves_the_record_before_it_untouched(disk):
    """Should a sector be torn after all, the record before it is still whole."""
    slots = open_slots(disk)
    for n in range(5):
        before = disk.files()[PATH]
        slots.write(b"%d" % n, sync=True)
        after = disk.files()[PATH]
        same = [o for o in SLOT_OFFSETS if before[o : o + SLOT_SIZE] == after[o : o + SLOT_SIZE]]
        assert len(same) == 1
        newest = b"first" if n == 0 else b"%d" % (n - 1)
        assert newest in after[same[0] : same[0] + SLOT_SIZE]


@pytest.mark.parametrize("size", [0, 1, PAYLOAD_SIZE_MAX])
def test_a_record_may_fill_its_sector(disk, size):
    open_slots(disk).write(b"x" * size, sync=True)
    assert open_slots(disk).payload == b"x" * size


def test_another_kind_of_file_is_refused(disk):
    with pytest.raises(CorruptStoreError, match=f"{PATH}: the slot at byte 0 is damaged"):
        open_slots(disk, magic=b"ELSE")


def test_another_version_says_which(disk):
    with pytest.raises(CorruptStoreError, match="format version 1, this program knows 2"):
        open_slots(disk, version=2)


# -- sound slots with what nobody writes ----------------------------------------------------------


def put(disk, path, *, magic, payload):
    """Put a file there whose two slots are sound and hold *payload*."""
    disk.make_folder(path.rpartition("/")[0])
    SlotFile.create(disk, path, magic=magic, version=1, payload=payload)


@pytest.mark.parametrize("payload", [b"", b"\0" * 8, b"\0" * 100])
def test_a_checkpoint_or_vote_of_another_size_names_the_file(disk, payload):
    """Once a bare struct.error: a later version may write more under the same number."""
    put(disk, "/data/checkpoint", magic=b"DLCK", payload=payload)
    put(disk, "/data/vote", magic=b"DLVT", payload=payload)

    with pytest.raises(CorruptStoreError, match=rf"/data/checkpoint: .* {len(payload)} bytes"):
        CheckpointFile.open(disk, "/data/checkpoint")
    with pytest.raises(CorruptStoreError, match=rf"/data/vote: .* {len(payload)} bytes"):
        VoteFile.open(disk, "/data", joining=False)


def test_a_watermark_of_another_size_is_only_a_hint_lost(disk, caplog):
    put(disk, "/data/watermark", magic=b"DLWM", payload=b"\0" * 8)

    assert WatermarkFile.open(disk, "/data/watermark").index == 0
    assert "has 8 bytes where" in caplog.text


@pytest.mark.parametrize(
    ("term", "voted_for", "said"),
    [(-1, b"n1", "term -1 is below zero"), (1, b"\xff\xfe", "voted_for is no name")],
)
def test_a_vote_that_cannot_be_names_the_file(disk, term, voted_for, said):
    payload = struct.pack(">q?64s", term, False, voted_for)
    put(disk, "/data/vote", magic=b"DLVT", payload=payload)

    with pytest.raises(CorruptStoreError, match=f"/data/vote: {said}"):
        VoteFile.open(disk, "/data", joining=False)


def test_a_checkpoint_that_ends_before_it_begins_names_the_file(disk):
    payload = struct.pack(">QQQQIQQQI", 1, 9, 1, 4096, 0, 5, 1, 100, 0)
    put(disk, "/data/checkpoint", magic=b"DLCK", payload=payload)

    with pytest.raises(CorruptStoreError, match="/data/checkpoint: the log begins behind"):
        CheckpointFile.open(disk, "/data/checkpoint")
