"""Starts from a data folder with random damage: typed refusals, and nothing lost without a word."""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.open_files import open_files
from dledger.errors import CorruptStoreError
from dledger.store.os_disk import OsDisk
from jepsen_like.fuzz.files import apply_damage
from jepsen_like.fuzz.folder import (
    REFUSED,
    SEGMENT_SIZE,
    check_open,
    close,
    config_of,
    image,
    write_files,
)

PROFILE = settings(derandomize=True, max_examples=150, deadline=None, database=None)


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("with_retention", [False, True])
def test_the_sound_folder_opens_with_all_that_is_in_it(with_retention):
    sound = image(with_retention=with_retention)

    assert check_open(sound, sound.files, is_touched=lambda _: False) == "0 damaged, read"


@PROFILE
@given(
    with_retention=st.booleans(),
    changes=st.lists(
        st.tuples(
            st.integers(0, 30), st.integers(0, 6), st.integers(0, 255), st.integers(0, 255),
            st.integers(0, 255), st.integers(0, 255),
        ),
        min_size=1,
        max_size=3,
    ),
)  # fmt: skip
def test_any_damage_is_refused_mended_or_told_to_who_reads(with_retention, changes):
    sound = image(with_retention=with_retention)
    files = dict(sound.files)
    touched = apply_damage(files, b"".join(map(bytes, changes)))

    check_open(sound, files, is_touched=lambda name: name in touched)


@PROFILE
@given(
    with_retention=st.booleans(),
    index=st.integers(34, 40),
    share=st.floats(0, 1, exclude_max=True),
    noise=st.binary(min_size=1, max_size=40),
)
def test_noise_in_what_was_synced_is_never_taken_for_a_torn_tail(
    with_retention, index, share, noise
):
    """The scan begins behind entry 33, the watermark stands at 40: nothing of 34 to 40 may go."""
    sound = image(with_retention=with_retention)
    assert (sound.checkpoint_index, sound.synced_index) == (33, 40)
    entry = sound.entries[index]
    (position,) = struct.unpack_from(">q", entry, 24)
    at = int(share * len(entry))
    noise = noise[: len(entry) - at]
    name = f"commitlog/{position - position % SEGMENT_SIZE:020d}"
    content = bytearray(sound.files[name])
    offset = position % SEGMENT_SIZE + at
    content[offset : offset + len(noise)] = noise
    files = dict(sound.files) | {name: bytes(content)}

    said = check_open(sound, files, is_touched=lambda _: False)

    assert said == ("0 damaged, read" if files == sound.files else REFUSED)


@pytest.mark.parametrize("with_retention", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 100, 4095])
def test_every_file_cut_short_or_gone(with_retention, cut):
    sound = image(with_retention=with_retention)
    for name, content in sound.files.items():
        for left in (None, content[: min(cut, len(content))]):
            files = dict(sound.files)
            if left is None:
                del files[name]
            else:
                files[name] = left
            check_open(sound, files, is_touched=lambda touched, name=name: touched == name)


@pytest.mark.parametrize("position", [0, 100, -1, 8191])
@pytest.mark.parametrize("unit", [70, 92], ids=["where the search looks", "the last"])
def test_a_unit_damaged_to_look_dropped_does_not_take_its_queue_along(position, unit):
    """Retention has taken what lies before 8192; the messages behind it are all there."""
    sound = image(with_retention=True)
    name = "derived/consumequeue/t/0/00000000000000000000"
    units = bytearray(sound.files[name])
    assert len(units) == 93 * 20
    struct.pack_into(">q", units, unit * 20, position)
    files = dict(sound.files) | {name: bytes(units)}

    said = check_open(sound, files, is_touched=lambda touched: touched == name)

    # Built again; or an older state was taken, and who reads that unit is told what to do.
    assert said in ("0 damaged, read", "0 damaged, CorruptStoreError")


def test_units_shuffled_at_will_take_no_message_along():
    """However many are damaged: where a queue begins is told by the state at the log's base."""
    sound = image(with_retention=True)
    name = "derived/consumequeue/t/0/00000000000000000000"
    chance = random.Random(1)
    for _ in range(20):
        units = [sound.files[name][at : at + 20] for at in range(0, 93 * 20, 20)]
        for _ in range(chance.randint(1, 60)):
            stranger = chance.choice([chance.choice(units), chance.randbytes(20)])
            units[chance.randrange(93)] = stranger
        files = dict(sound.files) | {name: b"".join(units)}

        # It fails where the queue begins behind the first message kept.
        check_open(sound, files, is_touched=lambda touched: touched == name)


@pytest.mark.parametrize("where", ["total_size", "queue_offset", "topic"])
def test_an_entry_damaged_here_is_not_taken_for_one_that_nobody_can_read(tmp_path, where):
    """It lies before the checkpoint, where no start looks, and the queues are derived again."""
    sound = image(with_retention=False)
    entry = sound.entries[5]
    (position,) = struct.unpack_from(">q", entry, 24)
    # Behind the entry's header and the producer mark; the topic behind head and body.
    at = 48 + 40 + {"total_size": 0, "queue_offset": 20, "topic": 88 + len(b"body 9")}[where]
    write_files(tmp_path, sound.files)
    path = tmp_path / f"commitlog/{position - position % SEGMENT_SIZE:020d}"
    content = bytearray(path.read_bytes())
    content[position % SEGMENT_SIZE + at] ^= 0x55
    path.write_bytes(content)
    shutil.rmtree(tmp_path / "derived")
    opened = open_files(config_of(tmp_path), OsDisk())
    try:
        with pytest.raises(CorruptStoreError, match=rf"{path}: damage at position {position}"):
            opened.derived.dispatch_up_to(opened.store.end_index)
    finally:
        close(opened)


def test_a_command_with_one_bit_flipped_is_not_applied(tmp_path):
    """Entry 22 commits an offset: with another bit it is another offset, and nothing is amiss."""
    sound = image(with_retention=False)
    entry = sound.entries[22]
    assert b"offset.commit" in entry
    (position,) = struct.unpack_from(">q", entry, 24)
    write_files(tmp_path, sound.files)
    path = tmp_path / f"commitlog/{position - position % SEGMENT_SIZE:020d}"
    content = bytearray(path.read_bytes())
    assert content[position % SEGMENT_SIZE + len(entry) - 1] == 7
    content[position % SEGMENT_SIZE + len(entry) - 1] = 5
    path.write_bytes(content)
    shutil.rmtree(tmp_path / "derived")
    opened = open_files(config_of(tmp_path), OsDisk())
    try:
        with pytest.raises(CorruptStoreError, match=rf"{path}: .* entry 22: body CRC"):
            opened.derived.dispatch_up_to(opened.store.end_index)
        assert opened.offsets.get("g", "t", 0) is None
    finally:
        close(opened)


def test_a_start_that_is_refused_leaves_no_file_open():
    sound = image(with_retention=True)
    names = [name for name in sound.files if "spare" not in name]
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    refused = 0
    for name in names:
        files = {other: content for other, content in sound.files.items() if other != name}
        refused += check_open(sound, files, is_touched=lambda _: True) == REFUSED
        files[name] = sound.files[name][:-1] + b"?"
        refused += check_open(sound, files, is_touched=lambda _: True) == REFUSED
        files = dict(sound.files) | dict.fromkeys(
            [state for state in sound.files if "/state-" in state], b"none"
        )
        refused += check_open(sound, files, is_touched=lambda _: True) == REFUSED

    assert refused > len(names)
    assert len(os.listdir("/dev/fd")) <= before  # less: what others left open was collected
