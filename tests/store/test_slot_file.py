"""Two slots that take turns."""

import pytest

from dledger.errors import CorruptStoreError
from dledger.store.slot_file import PAYLOAD_SIZE_MAX, SLOT_OFFSETS, SLOT_SIZE, SlotFile
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
