"""Damage is told from a torn tail, and loudly; what is derived is built again."""

import random
import zlib

import pytest

from dledger.entry import encode_filler, encode_header
from dledger.errors import CorruptStoreError
from tests.fakes.disk import FakeDisk
from tests.store.model import FOLDER, SEGMENT, append, check_agreement, dump, fill, open_store

LOG = f"{FOLDER}/commitlog"
INDEX = f"{FOLDER}/index"


def flip(disk, store, index, byte=-1):
    """Flip one bit of entry *index*; *byte* counts from its start, or back from its end."""
    ref = store.locate(index)
    position = ref.position + (byte if byte >= 0 else ref.size + byte)
    path = f"{LOG}/{position - position % SEGMENT:020d}"
    offset = position % SEGMENT
    disk.overwrite(path, offset, bytes([disk.files()[path][offset] ^ 4]))


@pytest.mark.parametrize("byte", [0, 5, 15, 23, 31, 35, 39, 43, 47, 48, -1])
def test_a_broken_entry_below_the_watermark_is_damage(disk, store, byte):
    fill(store, 20, 100, term=1)
    store.sync()
    fill(store, 5, 100, term=1)
    flip(disk, store, 20, byte)
    with pytest.raises(
        CorruptStoreError,
        match=rf"{LOG}/0+: entry 20, behind position 2812, is damaged .* move the data folder",
    ):
        open_store(disk)


@pytest.mark.parametrize("byte", [0, 5, 15, 23, 31, 35, 39, 43, 47, 48, -1])
def test_a_broken_entry_above_the_watermark_is_a_torn_tail(disk, store, byte):
    fill(store, 20, 100, term=1)
    store.sync()
    fill(store, 5, 100, term=1)
    held = dump(store)
    flip(disk, store, 21, byte)
    again = open_store(disk)
    assert dump(again) == {index: held[index] for index in range(1, 21)}


def test_a_torn_tail_is_cut_from_the_file(disk, store):
    fill(store, 3, 100, term=1)
    flip(disk, store, 2)
    again = open_store(disk)
    assert not any(disk.files()[f"{LOG}/{0:020d}"][again.end_position :][:48])


def test_a_log_shorter_than_the_watermark_is_damage(disk, store):
    fill(store, 30, 400, term=1)
    store.sync()
    disk.unlink(f"{LOG}/{2 * SEGMENT:020d}")
    with pytest.raises(CorruptStoreError, match="entry 19, behind position 8128, is damaged"):
        open_store(disk)


def test_the_first_segment_missing_is_damage(disk, store):
    fill(store, 30, 400, term=1)
    store.sync()
    disk.unlink(f"{LOG}/{0:020d}")
    with pytest.raises(CorruptStoreError, match=r"0{20} is missing, with entry 1"):
        open_store(disk)


def test_a_segment_missing_below_the_checkpoint_is_damage(disk, store):
    fill(store, 100, 400, term=1)
    store.begin_checkpoint(95).run()
    disk.unlink(f"{LOG}/{2 * SEGMENT:020d}")
    with pytest.raises(CorruptStoreError, match=f"{2 * SEGMENT:020d} is missing"):
        open_store(disk)


@pytest.mark.parametrize("size", [0, 1, 100, SEGMENT - 1])
def test_a_segment_of_the_wrong_size_is_damage(disk, store, size):
    fill(store, 30, 400, term=1)
    disk.truncate(f"{LOG}/{SEGMENT:020d}", size)
    with pytest.raises(CorruptStoreError, match=f"{SEGMENT:020d}: {size} bytes"):
        open_store(disk)


def test_after_a_power_loss_the_watermark_counts_for_nothing(disk, store):
    """Its page may be older than the cut that lowered it: no false alarm, even if it survived."""
    fill(store, 10, 100, term=1)
    store.sync()
    image = disk.files()[f"{FOLDER}/watermark"]
    store.truncate_from(4)
    disk.power_loss(random.Random(0))
    disk.overwrite(f"{FOLDER}/watermark", 0, image)
    flip(disk, store, 3)
    assert open_store(disk).end_index == 2


def test_an_unreadable_watermark_is_only_a_hint_lost(disk, store, caplog):
    fill(store, 10, 100, term=1)
    store.sync()
    disk.overwrite(f"{FOLDER}/watermark", 20, b"\xff\xff")
    disk.overwrite(f"{FOLDER}/watermark", 4116, b"\xff\xff")
    assert open_store(disk).end_index == 10
    assert "watermark" in caplog.text
    disk.unlink(f"{FOLDER}/watermark")
    assert open_store(disk).end_index == 10


def test_the_watermark_falls_with_a_cut(disk, store):
    fill(store, 10, 100, term=1)
    store.sync()
    store.truncate_from(4)
    fill(store, 3, 100, term=2)
    flip(disk, store, 5)
    assert open_store(disk).end_index == 4


@pytest.mark.parametrize("offset", [0, 5, 12, 30, 70, 100, 300, 4096, 4110, 4200, 4600])
def test_two_flipped_bytes_in_the_checkpoint_are_damage(disk, store, offset):
    fill(store, 10, 100, term=1)
    store.begin_checkpoint(10).run()
    path = f"{FOLDER}/checkpoint"
    content = disk.files()[path][offset : offset + 2]
    disk.overwrite(path, offset, bytes(byte ^ 0xFF for byte in content))
    with pytest.raises(
        CorruptStoreError, match=rf"{path}: .*stop the node; .* filled again from its peers"
    ):
        open_store(disk)


def test_a_checkpoint_of_the_wrong_length_is_damage(disk, store):
    disk.truncate(f"{FOLDER}/checkpoint", 4096)
    with pytest.raises(CorruptStoreError, match="checkpoint: 4096 bytes instead of 8192"):
        open_store(disk)


def test_a_missing_checkpoint_costs_a_scan_of_all_the_log(disk, store):
    fill(store, 100, 400, term=1)
    store.begin_checkpoint(90).run()
    disk.unlink(f"{FOLDER}/checkpoint")
    again = open_store(disk)
    assert (again.end, again.scanned_count) == (store.end, 100)


def test_a_missing_checkpoint_after_retention_is_damage(disk, store):
    fill(store, 100, 400, term=1)
    store.sync()
    store.drop_before(store.point_at(50).position)
    disk.unlink(f"{FOLDER}/checkpoint")
    with pytest.raises(CorruptStoreError, match="nobody knows what came before position 20480"):
        open_store(disk)


def test_an_entry_in_the_next_segment_that_fits_this_one_is_no_entry(disk, store):
    """Every replica puts an entry at the one place its size gives; another place is no log."""
    append(store, b"first", term=1)
    end = store.end
    header, _ = encode_header(
        kind=1,
        index=2,
        term=1,
        position=SEGMENT,
        channel=0,
        previous_chain_crc=end.chain_crc,
        body_crc=zlib.crc32(b"second"),
        body_size=6,
    )
    disk.overwrite(f"{LOG}/{0:020d}", end.position, encode_filler(SEGMENT - end.position))
    disk.write_file_atomic(f"{LOG}/{SEGMENT:020d}", (header + b"second").ljust(SEGMENT, b"\0"))
    assert open_store(disk).end == end


# -- the index is derived ------------------------------------------------------------------------


def files_below(disk, folder):
    return {path: content for path, content in disk.files().items() if path.startswith(folder)}


def index_files(disk):
    return {p: c for p, c in files_below(disk, INDEX).items() if "spare" not in p}


@pytest.mark.parametrize("drop", [False, True], ids=["from the start", "behind retention"])
def test_a_deleted_index_is_built_again_to_the_same_bytes(disk, store, drop):
    fill(store, 500, 100, term=1)
    store.begin_checkpoint(400).run()
    if drop:
        store.drop_before(store.point_at(200).position)
    before = index_files(disk)
    begin = store.begin_index * 32
    for path in files_below(disk, INDEX):
        disk.unlink(path)
    again = open_store(disk)
    assert again.scanned_count == 500 - again.base.index
    assert dump(again) == dump(store)
    check_agreement(again)

    def joined(files):
        first = int(min(files).rsplit("/", 1)[1])
        return b"".join(files[path] for path in sorted(files))[begin - first :]

    assert joined(index_files(disk)) == joined(before)


def test_an_index_built_again_is_durable_before_anything_rests_on_it(disk, store):
    """Its checkpoint is the old one: a power loss must not leave holes below it."""
    fill(store, 500, 100, term=1)
    store.begin_checkpoint(500).run()
    image = disk.files()
    for seed in range(20):
        disk = FakeDisk()
        for folder in (LOG, INDEX):
            disk.make_folder(folder)
        for path, content in image.items():
            if not path.startswith(INDEX):
                disk.write_file_atomic(path, content)
        open_store(disk)
        disk.power_loss(random.Random(seed))
        check_agreement(open_store(disk))


@pytest.mark.parametrize("what", ["last unit", "size", "middle file"])
def test_an_index_that_does_not_reach_the_checkpoint_is_built_again(disk, store, what):
    fill(store, 500, 100, term=1)
    store.begin_checkpoint(500).run()
    if what == "last unit":
        disk.overwrite(f"{INDEX}/{3 * 4096:020d}", 500 * 32 - 3 * 4096, bytes(32))
    elif what == "size":
        disk.truncate(f"{INDEX}/{4096:020d}", 100)
    else:
        disk.unlink(f"{INDEX}/{4096:020d}")
    again = open_store(disk)
    assert again.scanned_count == 500
    check_agreement(again)


def test_a_damaged_unit_in_the_middle_names_the_remedy(disk, store):
    fill(store, 100, 100, term=1)
    store.begin_checkpoint(100).run()
    held = dump(store)
    disk.overwrite(f"{INDEX}/{0:020d}", 40 * 32, b"\xff" * 32)
    again = open_store(disk)
    with pytest.raises(CorruptStoreError, match=f"unit of entry 40 is damaged; .*delete.*{INDEX}"):
        again.view(40)
    for path in files_below(disk, INDEX):
        disk.unlink(path)
    assert dump(open_store(disk)) == held


@pytest.mark.parametrize(
    ("place", "value"),
    [(4, 1 << 40), (4, -8), (12, 1 << 30), (12, -1), (12, 47), (12, SEGMENT)],
    ids=["far behind", "below zero", "too long", "negative", "no header", "two segments"],
)
def test_an_index_is_believed_only_as_far_as_the_log_reaches(disk, store, place, value):
    """Its units have no checksum; one whose position or size was hit stopped an assertion."""
    fill(store, 100, 100, term=1)
    store.begin_checkpoint(100).run()
    size = 8 if place == 4 else 4
    disk.overwrite(f"{INDEX}/{0:020d}", 40 * 32 + place, value.to_bytes(size, "big", signed=True))
    again = open_store(disk)

    for read in (again.view, lambda index: again.raw_range(index, size_max=1), again.point_at):
        with pytest.raises(CorruptStoreError, match=rf"{INDEX}/0+: entry 40 .*delete the folder"):
            read(40)
    with pytest.raises(CorruptStoreError, match="entry 40"):
        again.verify(1, 100)


# -- damage below the checkpoint is found by reading ----------------------------------------------


@pytest.mark.parametrize("byte", [10, 45, 60])
def test_verify_finds_any_damage(disk, store, byte):
    fill(store, 100, 100, term=1)
    store.begin_checkpoint(100).run()
    flip(disk, store, 40, byte)
    again = open_store(disk)
    again.verify(1, 39)
    with pytest.raises(CorruptStoreError, match=r"/0+4096: damage at position 5872: entry 40"):
        again.verify(1, 100)


def test_a_damaged_header_is_noticed_by_whoever_reads_it(disk, store):
    fill(store, 100, 100, term=1)
    store.begin_checkpoint(100).run()
    flip(disk, store, 40, 15)
    with pytest.raises(CorruptStoreError, match="entry 40 at position 5872 is damaged"):
        open_store(disk).view(40)


def test_a_log_that_disagrees_with_the_checkpoint_is_damage(disk, store):
    """A commit log put back from another time, with the index gone: the chain does not match."""
    fill(store, 20, 100, term=1)
    store.begin_checkpoint(20).run()
    other = FakeDisk()
    stranger = open_store(other)
    for _ in range(20):
        append(stranger, b"?" * 100, term=1)
    disk.overwrite(f"{LOG}/{0:020d}", 0, other.files()[f"{LOG}/{0:020d}"])
    for path in files_below(disk, INDEX):
        disk.unlink(path)
    with pytest.raises(CorruptStoreError, match="where the checkpoint has"):
        open_store(disk)
