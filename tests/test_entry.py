"""The 48-byte header, the chain, and where an entry lands."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger.entry import (
    BLANK_MAGIC,
    HEADER_SIZE,
    LOG_START,
    EntryKind,
    LogPoint,
    check_entries,
    check_entry,
    decode_header,
    encode_filler,
    encode_header,
    is_filler,
    place_entry,
    point_behind,
)
from dledger.errors import CorruptEntryError

SEGMENT = 4096


def entry_bytes(after: LogPoint, body: bytes, *, term: int = 1, kind: int = EntryKind.NORMAL):
    position = place_entry(after.position, entry_size=HEADER_SIZE + len(body), segment_size=SEGMENT)
    header, chain_crc = encode_header(
        kind=kind,
        index=after.index + 1,
        term=term,
        position=position,
        channel=0,
        previous_chain_crc=after.chain_crc,
        body_crc=zlib.crc32(body),
        body_size=len(body),
    )
    return header + body, LogPoint(
        after.index + 1, term, position + HEADER_SIZE + len(body), chain_crc
    )


def log_of(*bodies: bytes, after: LogPoint = LOG_START) -> bytes:
    raw = b""
    for body in bodies:
        entry, after = entry_bytes(after, body)
        raw += entry
    return raw


def test_the_header_is_laid_out_as_dledger_does():
    header, chain_crc = encode_header(
        kind=EntryKind.NORMAL,
        index=7,
        term=3,
        position=1000,
        channel=1,
        previous_chain_crc=99,
        body_crc=0xDEADBEEF,
        body_size=5,
    )
    head = struct.pack(">iiqqqi", 1, 53, 7, 3, 1000, 1)
    tail = struct.pack(">Ii", 0xDEADBEEF, 5)
    assert chain_crc == zlib.crc32(head + tail, 99)
    assert header == head + struct.pack(">I", chain_crc) + tail
    assert len(header) == HEADER_SIZE


@given(
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 60),
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 1 << 30),
)
def test_a_header_reads_back_as_it_was_written(index, term, position, channel, crc, size):
    raw, chain_crc = encode_header(
        kind=EntryKind.NOOP,
        index=index,
        term=term,
        position=position,
        channel=channel,
        previous_chain_crc=crc,
        body_crc=crc,
        body_size=size,
    )
    header = decode_header(b"xx" + raw, 2)
    assert (header.kind, header.size, header.index, header.term) == (2, size + 48, index, term)
    assert (header.position, header.channel) == (position, channel)
    assert (header.chain_crc, header.body_crc, header.body_size) == (chain_crc, crc, size)


@pytest.mark.parametrize("flipped_bit", range(8 * (HEADER_SIZE + 3)))
def test_one_bit_flipped_anywhere_is_noticed(flipped_bit):
    raw = bytearray(log_of(b"abc"))
    raw[flipped_bit // 8] ^= 1 << flipped_bit % 8
    with pytest.raises(CorruptEntryError, match="entry 1: "):
        check_entry(raw, 0, after=LOG_START, position=0, size_max=SEGMENT - 8)


def test_an_entry_of_another_history_does_not_fit_though_its_header_is_right():
    """The second entry's index, term and position match; only the entry before it differs."""
    first, after_first = entry_bytes(LOG_START, b"mine")
    _, after_other = entry_bytes(LOG_START, b"your")
    second, _ = entry_bytes(after_other, b"next")
    with pytest.raises(CorruptEntryError, match="entry 2: chain CRC"):
        check_entries(memoryview(first + second), after=LOG_START, segment_size=SEGMENT)
    assert after_first.position == after_other.position


def test_a_falling_term_is_refused():
    entry, _ = entry_bytes(LogPoint(4, 9, 0, 0), b"x", term=8)
    with pytest.raises(CorruptEntryError, match="entry 5: term is 8, expected at least 9"):
        check_entry(entry, 0, after=LogPoint(4, 9, 0, 0), position=0, size_max=SEGMENT)


def test_raw_entries_are_checked_across_a_segment_boundary():
    raw = log_of(b"a" * 3000, b"b" * 3000, b"c")
    refs, end = check_entries(memoryview(raw), after=LOG_START, segment_size=SEGMENT)
    assert [ref.position for ref in refs] == [0, SEGMENT, SEGMENT + 3048]
    assert end == point_behind(decode_header(raw, len(raw) - refs[-1].size))
    assert (end.index, end.position) == (3, refs[-1].end)


@pytest.mark.parametrize("cut", [1, 30, 48, 50])
def test_raw_entries_cut_short_are_refused(cut):
    raw = log_of(b"first", b"second")
    with pytest.raises(CorruptEntryError):
        check_entries(memoryview(raw)[:-cut], after=LOG_START, segment_size=SEGMENT)


def test_a_size_beyond_the_segment_is_refused_without_reading_on():
    raw = bytearray(log_of(b"abc"))
    raw[4:8] = struct.pack(">i", 2_000_000_000)
    with pytest.raises(CorruptEntryError, match="size"):
        check_entries(memoryview(raw), after=LOG_START, segment_size=SEGMENT)


@pytest.mark.parametrize(
    ("position", "size"), [(4076, 30), *((4086, size) for size in range(1, 48))]
)
def test_a_size_below_a_header_is_refused_at_a_segments_end(position, size):
    """As anywhere else: the link ends with it, and not the node that hears of it."""
    raw, after = bytearray(log_of(b"abc")), LogPoint(0, 0, position, 0)
    raw[4:8] = struct.pack(">i", size)
    with pytest.raises(CorruptEntryError, match=f"entry 1: size is {size}, expected 48"):
        check_entries(memoryview(raw), after=after, segment_size=SEGMENT)


@pytest.mark.parametrize(
    ("end", "entry_size", "position"),
    [
        (0, 48, 0),
        (0, SEGMENT - 8, 0),
        (100, SEGMENT - 108, 100),  # exactly eight bytes stay for the filler
        (100, SEGMENT - 107, SEGMENT),
        (SEGMENT - 8, 48, SEGMENT),
        (SEGMENT, 48, SEGMENT),  # a base at a boundary
        (SEGMENT + 1, SEGMENT - 8, 2 * SEGMENT),
    ],
)
def test_an_entry_rolls_when_it_and_the_filler_do_not_fit(end, entry_size, position):
    assert place_entry(end, entry_size=entry_size, segment_size=SEGMENT) == position


def test_a_filler_covers_exactly_the_rest():
    raw = encode_filler(100)
    assert struct.unpack(">ii", raw) == (BLANK_MAGIC, 100)
    assert is_filler(raw, 0, room=100)
    assert not is_filler(raw, 0, room=99)
    assert not is_filler(raw[:7], 0, room=100)
