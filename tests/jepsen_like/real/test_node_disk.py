"""A node's disk loses, tears, refuses and stalls what real files are told, and proves it."""

import errno
import os

import pytest

from jepsen_like.real import power
from jepsen_like.real.contents import compare
from jepsen_like.real.damage import FileKind
from jepsen_like.real.ext4 import PAGE
from jepsen_like.real.proof import LabError
from tests.process.kit import eventually


@pytest.fixture
def disk(lab):
    disk = lab.nodes["n1"].disk
    disk.data.mkdir()
    return disk


def put(path, data, *, synced):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if synced:
            os.fsync(file.fileno())


async def becomes(holds):
    async def ask():
        return holds()

    await eventually("what the test waits for", ask)


def sync_folder(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


# -- power --------------------------------------------------------------------------------------


async def test_power_loss_keeps_what_was_synced_and_loses_the_rest(lab, disk):
    process = lab.nodes["n1"].process(["sleep", "1000"])
    process.start()
    put(disk.data / "kept", b"k" * 10_000, synced=True)
    put(disk.data / "lost", b"l" * 10_000, synced=False)
    with (disk.data / "kept").open("r+b") as file:
        file.write(b"x" * 5_000)

    proof = await disk.power_loss()

    assert proof.took_effect, proof
    assert (disk.data / "kept").read_bytes() == b"k" * 10_000
    lost = disk.data / "lost"
    assert not lost.exists() or lost.read_bytes() == b""
    assert proof.figures["bytes_lost"] == 10_000, "only what is zero or gone counts"
    assert await process.wait() == -9
    assert proof.figures["processes_killed"] == 1


async def test_an_exact_power_loss_counts_every_changed_byte(disk):
    put(disk.data / "kept", b"k" * 10_000, synced=True)
    with (disk.data / "kept").open("r+b") as file:
        file.write(b"x" * 5_000)

    proof = await disk.power_loss(is_exact=True)

    assert proof.took_effect, proof
    assert proof.figures["bytes_lost"] == 5_000
    assert proof.figures["files_changed"] == 1


async def test_a_rename_that_was_not_synced_is_lost(disk):
    put(disk.data / "a", b"1", synced=True)
    sync_folder(disk.data)
    (disk.data / "a").rename(disk.data / "b")

    assert (await disk.power_loss()).took_effect

    assert [path.name for path in disk.data.iterdir()] == ["a"]


async def test_a_process_that_writes_is_cut_off_in_the_middle(lab, disk):
    script = f"""
import os
fd = os.open("{disk.data}/log", os.O_CREAT | os.O_RDWR)
os.posix_fallocate(fd, 0, 4_000_000)
os.fsync(fd)
os.fsync(os.open("{disk.data}", os.O_RDONLY))
for n in range(4_000_000):
    os.pwrite(fd, b"x", n)
    if n % 100 == 99:
        os.fdatasync(fd)
        print(n, flush=True)
"""
    process = lab.nodes["n1"].process(["python3", "-c", script])
    process.start()
    await becomes(lambda: process.log.count("\n") >= 100)

    proof = await disk.power_loss()

    assert proof.took_effect, proof
    assert await process.wait() == -9
    promised = int(process.log.split("\n")[-2])  # the last line may be half
    held = (disk.data / "log").read_bytes()
    assert held[: promised + 1] == b"x" * (promised + 1)


async def test_a_power_loss_that_loses_nothing_is_not_believed(disk, monkeypatch):
    monkeypatch.setattr(power.ext4, "shut_down", lambda path, **_: os.sync())

    assert not (await disk.power_loss()).took_effect


async def test_a_torn_power_loss_keeps_exactly_the_chosen_pages(disk):
    pages = 64
    with (disk.data / "torn").open("wb", buffering=0) as file:
        for _ in range(pages):
            file.write(os.urandom(PAGE))
    before = (disk.data / "torn").read_bytes()

    proof = await disk.power_loss_torn()

    assert proof.took_effect, proof
    after = (disk.data / "torn").read_bytes().ljust(len(before), b"\0")
    places = range(0, len(before), PAGE)
    kept = [before[at : at + PAGE] == after[at : at + PAGE] for at in places]
    gone = [not any(after[at : at + PAGE]) for at in places]
    assert all(was_kept != is_gone for was_kept, is_gone in zip(kept, gone, strict=True))
    assert 10 < sum(kept) < 54
    assert 0 < proof.figures["witness_pages_kept"] < proof.figures["witness_pages"]


async def test_several_disks_lose_power_at_the_same_time(lab):
    disks = [node.disk for node in lab.nodes.values()]

    proofs = await power.lose_power(disks)

    assert [proof.took_effect for proof in proofs] == [True, True]
    assert "n1" in proofs[0].what
    assert "n2" in proofs[1].what


async def test_a_disk_that_somebody_reads_cannot_be_taken_away_and_says_who(disk, monkeypatch):
    monkeypatch.setattr("jepsen_like.real.node_disk._BUSY_SECONDS", 0.05)
    put(disk.data / "open", b"1", synced=True)
    with (disk.data / "open").open("rb"), pytest.raises(LabError, match=str(os.getpid())):
        await disk.unmount()


def test_what_is_newer_does_not_count_as_lost_unless_exact():
    before, after = {"a": b"12\0", "b": b"1"}, {"a": b"\x0034", "c": b"new"}

    loose = compare(before, after, is_exact=False)
    exact = compare(before, after, is_exact=True)

    assert (loose.bytes_lost, loose.files_lost, loose.files_changed) == (2, 1, 1)
    assert exact.bytes_lost == 4


# -- room, stalls, read-only --------------------------------------------------------------------


async def test_a_full_disk_refuses_new_bytes_until_it_is_freed(disk):
    filled = await disk.fill()

    assert filled.took_effect, filled
    with pytest.raises(OSError, match="No space") as caught:
        put(disk.data / "more", bytes(1 << 20), synced=True)
    assert caught.value.errno == errno.ENOSPC
    assert (await disk.free()).took_effect
    put(disk.data / "more", bytes(1 << 20), synced=True)


async def test_a_disk_may_be_filled_but_for_some_room(disk):
    assert (await disk.fill(leave=1 << 20)).took_effect

    put(disk.data / "fits", bytes(1 << 19), synced=True)
    assert (1 << 18) < disk.free_bytes < (1 << 20)


async def test_a_full_disk_loses_power_too(disk):
    await disk.fill()
    await disk.power_loss()

    assert disk.path.is_mount()


async def test_a_frozen_disk_lets_writers_wait(lab, disk):
    put(disk.data / "file", b"1", synced=True)
    process = lab.nodes["n1"].process(
        ["sh", "-c", f"echo begun; echo 2 > {disk.data}/file; echo written; exec sleep 1000"]
    )
    frozen = await disk.freeze()
    assert frozen.took_effect
    process.start()
    # Not before it is at it: a program that is being loaded waits for a disk as well.
    await becomes(lambda: "begun" in process.log and "D" in process.states())

    assert "written" not in process.log
    thawed = await disk.thaw()
    assert thawed.took_effect
    assert thawed.figures["threads_waiting"] == 1
    await becomes(lambda: "written" in process.log)
    assert not (await disk.thaw()).took_effect, "nothing to thaw"


async def test_a_lab_ends_although_a_writer_waits_for_a_frozen_disk(lab, disk):
    process = lab.nodes["n1"].process(["sh", "-c", f"echo begun; echo 2 > {disk.data}/file"])
    await disk.freeze()
    process.start()
    # Not before it is at it: a program that is being loaded waits for a disk as well.
    await becomes(lambda: "begun" in process.log and "D" in process.states())


async def test_a_frozen_disk_can_lose_power(disk):
    await disk.freeze()

    assert (await disk.power_loss()).took_effect


async def test_an_aborted_file_system_refuses_writes_until_it_is_mounted_afresh(disk):
    put(disk.data / "file", b"1", synced=True)
    sync_folder(disk.data)

    aborted = await disk.abort()

    assert aborted.took_effect, aborted
    with pytest.raises(OSError, match=r"Read-only|Input/output"):
        put(disk.data / "file", b"2", synced=True)
    fresh = await disk.remount()
    assert fresh.took_effect, fresh
    put(disk.data / "file", b"3", synced=True)


async def test_what_is_not_mounted_is_never_frozen(lab, disk):
    await disk.unmount()

    with pytest.raises(LabError, match="not mounted"):
        await disk.freeze()
    await disk.mount()


# -- damage -------------------------------------------------------------------------------------

NAMES = {
    FileKind.COMMITLOG: "commitlog/00000000000000000000",
    FileKind.INDEX: "index/00000000000000000000",
    FileKind.CONSUME_QUEUE: "derived/consumequeue/orders/3/00000000000000000000",
    FileKind.STATE: "derived/state-12",
    FileKind.VOTE: "vote",
    FileKind.CHECKPOINT: "checkpoint",
    FileKind.WATERMARK: "watermark",
    FileKind.IDENTITY: "identity.json",
}
CONTENT = bytes(range(1, 251)) * 40 + bytes(50_000)


@pytest.fixture
def files(disk):
    for name in NAMES.values():
        put(disk.data / name, CONTENT, synced=True)
        put(disk.data / f"{name}.tmp", b"half", synced=True)
    put(disk.data / "commitlog/spare-7", b"spare", synced=True)
    return disk


async def test_damage_finds_the_files_of_each_kind_and_no_other(files):
    for kind, name in NAMES.items():
        assert files.damage.files(kind) == [files.data / name]


async def test_flipped_bits_are_told_and_are_those_in_the_file(files):
    for kind, name in NAMES.items():
        proof = await files.damage.flip_bits(kind, count=3)

        found = (files.data / name).read_bytes()
        differing = [at for at, (a, b) in enumerate(zip(CONTENT, found, strict=True)) if a != b]
        assert proof.took_effect
        assert proof.figures["file"] == name
        assert proof.figures["bytes"] == " ".join(map(str, differing))
        assert 1 <= len(differing) <= 3
        assert max(differing) < 10_000, "behind the data nobody looks"
        bits = sum((a ^ b).bit_count() for a, b in zip(CONTENT, found, strict=True))
        assert bits == 3


async def test_a_cut_file_ends_before_its_data(files):
    proof = await files.damage.truncate(FileKind.COMMITLOG)

    size = (files.data / NAMES[FileKind.COMMITLOG]).stat().st_size
    assert proof.took_effect
    assert size == proof.figures["size_after"] < 10_000


async def test_an_old_chunk_comes_back_where_something_has_changed(files):
    path = files.data / NAMES[FileKind.COMMITLOG]
    assert (await files.damage.remember(FileKind.COMMITLOG)).took_effect
    assert not (await files.damage.restore_old_chunk(FileKind.COMMITLOG)).took_effect
    changed = bytearray(CONTENT)
    changed[20_000:20_010] = b"0123456789"
    put(path, bytes(changed), synced=True)

    proof = await files.damage.restore_old_chunk(FileKind.COMMITLOG)

    assert proof.took_effect
    assert proof.figures["bytes_changed"] == 10
    assert path.read_bytes() == CONTENT


async def test_a_removed_file_is_gone(files):
    proof = await files.damage.remove(FileKind.VOTE)

    assert proof.took_effect
    assert not (files.data / "vote").exists()
    assert not (await files.damage.remove(FileKind.VOTE)).took_effect


async def test_files_of_a_node_that_runs_are_not_damaged(lab, files):
    process = lab.nodes["n1"].process(["sleep", "1000"])
    process.start()

    with pytest.raises(LabError, match="runs"):
        await files.damage.flip_bits(FileKind.COMMITLOG)
