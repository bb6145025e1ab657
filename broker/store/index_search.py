"""Searching the key index, from the newest entry to the oldest.

What no file holds yet is searched at once, in memory.  The files are read in a thread, a few
hundred bytes at a time, along the chain of a slot; where a chain is long, as when one key belongs
to very many messages, the file is read through instead, which takes about 40 ms at most.

What is found is where a record with that hash lies: whoever asked has to look whether it has the
key, as others may share the hash.

Source: RocketMQ ``IndexService.queryOffset``, ``IndexFile.selectPhyOffset``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from broker.store.index_file import (
    ENTRY,
    ENTRY_SIZE,
    HEADER_SIZE,
    SLOT_SIZE,
    EntryArray,
    IndexHeader,
    IndexShape,
)
from dledger.errors import CorruptStoreError, StorageFailedError

if TYPE_CHECKING:
    from broker.store.columns import IntArray
    from broker.store.key_index import KeyIndex
    from dledger.store.disk import Disk, DiskFile

FILES_PER_GO = 64  # opened before the thread is free for others
LINKS_MAX = 2048  # of one chain; from there on the file is read through
_BLOCK_ENTRIES = 204  # read together along a chain: 4 KiB
_SCAN_ENTRIES = 52_000  # read together through a file: 1 MiB
_ENTRY = struct.Struct(">iqii")
_NONE: IntArray = np.empty(0, np.int64)


class SearchRange(NamedTuple):
    """Which entries are wanted."""

    wanted_hash: int
    begin_ms: int  # earliest store time
    end_ms: int  # latest store time
    before_position: int  # only records before that place of the log


class _FileToSearch(NamedTuple):
    path: str
    header: IndexHeader
    first_number: int  # to begin the chain with; -1: what the file's own slot says


class IndexSearch:
    """One search, made on the event loop; see `next_positions`."""

    def __init__(self, disk: Disk, index: KeyIndex, wanted: SearchRange) -> None:
        """Look through what is in memory, and note which files are left."""
        self._disk = disk
        self._shape = index.shape
        self._wanted = wanted
        in_memory: list[IntArray] = [_NONE]
        files = [_FileToSearch(info.path, info.header, -1) for info in index.sealed]
        for growing in index.growing:
            entries, number = growing.matches_in_memory(wanted.wanted_hash)
            header = growing.header
            in_memory.append(self._matching(header, entries))
            if number:
                files.append(_FileToSearch(growing.path, header, number))
        self._found = np.concatenate(in_memory)  # oldest first, newer than all that files hold
        self._files = [file for file in files if self._may_hold(file.header)]
        self._go_on_before(self._found)

    @property
    def has_more(self) -> bool:
        """Whether `next_positions` may find something."""
        return bool(len(self._found) or self._files)

    def next_positions(self, count_max: int) -> list[int]:
        """Return places of the next older records, newest first; blocking, beside the event loop.

        Less than *count_max*, even none, does not mean that there are no more: see `has_more`.

        Raises:
            CorruptStoreError: a file is damaged.
            StorageFailedError: the disk fails.
        """
        files_left = FILES_PER_GO
        while len(self._found) < count_max and self._files and files_left:
            files_left -= 1
            older = self._search(self._files.pop(), count_max - len(self._found))
            self._found = np.concatenate((older, self._found))
            self._go_on_before(older)
        found: list[int] = self._found[-count_max:].tolist()
        self._found = self._found[:-count_max]
        found.reverse()
        return found

    def _go_on_before(self, found: IntArray) -> None:
        """Take note that what comes next lies before *found*: a record may have a key twice."""
        if len(found):
            self._wanted = self._wanted._replace(before_position=int(found[0]))

    def _may_hold(self, header: IndexHeader) -> bool:
        wanted = self._wanted
        return (
            header.end_timestamp >= wanted.begin_ms
            and header.begin_timestamp <= wanted.end_ms
            and header.begin_position < wanted.before_position
        )

    def _matching(self, header: IndexHeader, entries: EntryArray) -> IntArray:
        """Return the places of those of *entries* that are wanted, each once, in their order."""
        wanted = self._wanted
        # An entry tells no more than its second.
        times = header.begin_timestamp + entries["seconds"].astype(np.int64) * 1000
        positions = entries["position"].astype(np.int64)
        found = positions[
            (entries["hash"] == wanted.wanted_hash)
            & (times <= wanted.end_ms)
            & (times > wanted.begin_ms - 1000)
            & (positions < wanted.before_position)
        ]
        return _each_once(found)

    def _search(self, file: _FileToSearch, count: int) -> IntArray:
        """Return places in one file, oldest first; none when retention took it meanwhile.

        Where *count* are found before the end of the chain, the file stays among those to search.
        """
        try:
            opened = self._disk.open_file(file.path)
        except StorageFailedError:
            if self._disk.exists(file.path):
                raise
            return _NONE
        try:
            return self._search_opened(opened, file, count)
        finally:
            opened.close()

    def _search_opened(self, opened: DiskFile, file: _FileToSearch, count: int) -> IntArray:
        number = file.first_number
        if number < 0:
            slot = self._wanted.wanted_hash % self._shape.slot_count
            data = opened.read_at(HEADER_SIZE + SLOT_SIZE * slot, SLOT_SIZE)
            number = int.from_bytes(data, "big")
        reader = _EntryReader(opened, self._shape, file)
        found: list[int] = []  # newest first
        links = 0
        while number and len(found) < count and links < LINKS_MAX:
            hashed, position, seconds, previous = reader.entry(number)
            if not 0 <= previous < number:
                raise reader.damaged(f"entry {number} is said to come behind entry {previous}")
            if (
                hashed == self._wanted.wanted_hash
                and (not found or position != found[-1])
                and self._is_within(file.header, position, seconds)
            ):
                found.append(position)
            number = previous
            links += 1
        ascending = np.array(found[::-1], np.int64)
        if not number:
            return ascending
        if len(found) >= count:
            self._files.append(file._replace(first_number=number))
            return ascending
        older = [
            self._matching(
                file.header, reader.entries(first, min(_SCAN_ENTRIES, number + 1 - first))
            )
            for first in range(1, number + 1, _SCAN_ENTRIES)
        ]
        return _each_once(np.concatenate((*older, ascending)))

    def _is_within(self, header: IndexHeader, position: int, seconds: int) -> bool:
        """As `_matching`, of one entry with the right hash."""
        wanted = self._wanted
        time = header.begin_timestamp + seconds * 1000
        return wanted.begin_ms - 1000 < time <= wanted.end_ms and position < wanted.before_position


def _each_once(positions: IntArray) -> IntArray:
    """Return *positions*, which ascend, without those that repeat the one before."""
    once: IntArray = positions[np.flatnonzero(np.diff(positions, prepend=-1))]
    return once


class _EntryReader:
    """Reads entries of one file, those of the last block again without asking the disk."""

    def __init__(self, opened: DiskFile, shape: IndexShape, file: _FileToSearch) -> None:
        self._opened = opened
        self._shape = shape
        self._file = file
        self._block = b""
        self._block_first = 0  # number of its first entry

    def entry(self, number: int) -> tuple[int, int, int, int]:
        """Return hash, position, seconds and previous of entry *number*."""
        at = ENTRY_SIZE * (number - self._block_first)
        if not 0 <= at < len(self._block):
            # Chains lead back: what comes next lies before this one, if it lies near at all.
            self._block_first = max(1, number - _BLOCK_ENTRIES + 1)
            self._block = self._read(self._block_first, number + 1 - self._block_first)
            at = ENTRY_SIZE * (number - self._block_first)
        found: tuple[int, int, int, int] = _ENTRY.unpack_from(self._block, at)
        return found

    def entries(self, first: int, count: int) -> EntryArray:
        """Return *count* entries from number *first* on."""
        return np.frombuffer(self._read(first, count), ENTRY)

    def _read(self, first: int, count: int) -> bytes:
        if first + count > self._file.header.next_number:
            raise self.damaged(f"entry {first + count - 1} is beyond its end")
        data = self._opened.read_at(self._shape.entry_at(first), ENTRY_SIZE * count)
        if len(data) != ENTRY_SIZE * count:
            raise self.damaged(f"it ends before entry {first + count - 1}")
        return data

    def damaged(self, what: str) -> CorruptStoreError:
        """Return the error for a file that does not hang together."""
        return CorruptStoreError(
            f"{self._file.path}: {what}; stop the node, delete its folder derived/keyindex and "
            "start: it is built again from the log"
        )
