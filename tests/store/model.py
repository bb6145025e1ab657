"""A small store for tests, and what it must hold."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dledger.config import FlushDiskType, StoreConfig, WriteMode
from dledger.entry import HEADER_SIZE, EntryKind, LogPoint, decode_header, encode_header
from dledger.store.ledger_store import LedgerStore

if TYPE_CHECKING:
    import random

SEGMENT = 4096
CONFIG = StoreConfig(segment_size=SEGMENT, index_file_units=128)
ASYNC = StoreConfig(
    segment_size=SEGMENT, index_file_units=128, flush_disk_type=FlushDiskType.ASYNC_FLUSH
)
MAPPED = StoreConfig(segment_size=SEGMENT, index_file_units=128, write_mode=WriteMode.MMAP)
ASYNC_MAPPED = replace(ASYNC, write_mode=WriteMode.MMAP)
FOLDER = "/data"


def open_store(disk, config=CONFIG, folder=FOLDER):
    return LedgerStore.open(disk, config, folder)


def append(store, body=b"body", *, term=None, kind=EntryKind.NORMAL, channel=0, may_wait=False):
    return store.append(
        kind=kind,
        channel=channel,
        term=store.end_term if term is None else term,
        body=[body] if body else [],
        body_size=len(body),
        may_wait=may_wait,
    )


def fill(store, count, size=200, *, term=None):
    """Append *count* entries, each with other bytes."""
    for _ in range(count):
        append(store, b"%08d" % (store.end_index + 1) + b"." * (size - 8), term=term)


def dump(store):
    """Return what the log holds: index -> (term, position, chain CRC, kind, channel, body)."""
    return {
        entry.index: (
            entry.term,
            entry.position,
            entry.chain_crc,
            entry.kind,
            entry.channel,
            bytes(entry.body),
        )
        for entry in store.entries(store.begin_index, store.end_index)
    }


def check_agreement(store):
    """Every way to ask about the log gives the same answer."""
    if store.end_index == store.base.index:
        assert store.end == store.base
        return
    store.verify(store.begin_index, store.end_index)
    for index in range(store.begin_index, store.end_index + 1):
        entry, ref = store.view(index), store.locate(index)
        assert (ref.index, ref.term, ref.position, ref.size) == (
            entry.index,
            entry.term,
            entry.position,
            entry.size,
        )
        assert store.term_at(index) == entry.term
        assert store.find_index_at_position(entry.position) == index
        assert store.find_index_at_position(entry.end - 1) == index
    assert store.point_at(store.end_index) == store.end


@dataclass
class History:
    """What was ever in the log, and what was promised of it."""

    entries: dict[int, tuple] = field(default_factory=dict)  # as the log is now
    chains: set[tuple[int, int]] = field(default_factory=lambda: {(0, 0)})  # as it ever was
    promised: int = 0  # last index ever said to be durable and not cut since
    commit_index: int = 0

    def announce(self, store, body, *, term, channel):
        """An entry that will be in the log even if the process dies before append returns."""
        _, chain_crc = encode_header(
            kind=EntryKind.NORMAL,
            index=store.end_index + 1,
            term=term,
            position=store.position_for(len(body)),
            channel=channel,
            previous_chain_crc=store.last_chain_crc,
            body_crc=zlib.crc32(body),
            body_size=len(body),
        )
        self.chains.add((store.end_index + 1, chain_crc))

    def note(self, store):
        index = store.end_index
        raw, _ = store.raw_range(index, size_max=1)  # it need not be written for that
        entry = decode_header(raw)
        self.entries[index] = (
            entry.term,
            entry.position,
            entry.chain_crc,
            entry.kind,
            entry.channel,
            bytes(raw[HEADER_SIZE:]),
        )
        assert (index, entry.chain_crc) in self.chains

    def cut(self, index):
        for gone in [i for i in self.entries if i >= index]:
            del self.entries[gone]
        self.promised = min(self.promised, index - 1)

    def check(self, store):
        """The log is what it was at some moment, and holds all that was promised."""
        check_agreement(store)
        assert store.end_index >= self.promised
        assert (store.end_index, store.last_chain_crc) in self.chains
        held = dump(store)
        for index in range(store.begin_index, self.promised + 1):
            assert held[index] == self.entries[index], index

    def adopt(self, store):
        """Go on from what a restart found."""
        self.entries = dump(store)
        self.promised = store.durable_index


class Life:
    """One store driven by chance; dies now and then."""

    def __init__(self, disk, chance: random.Random, config=CONFIG) -> None:
        self.disk = disk
        self.chance = chance
        self.config = config
        self.history = History()
        self.store = open_store(disk, config)
        self.term = 1
        self.ticket = None
        self.views: list[tuple[memoryview, bytes]] = []

    def act(self) -> None:
        """Do one thing that a node does."""
        store, chance, history = self.store, self.chance, self.history
        what = chance.random()
        if what < 0.45:
            size = chance.choice((0, 1, 7, 60, 300, 900, SEGMENT - 56))
            body, channel = chance.randbytes(size), chance.randrange(2)
            history.announce(store, body, term=self.term, channel=channel)
            may_wait = chance.random() < 0.5
            append(store, body, term=self.term, channel=channel, may_wait=may_wait)
            history.note(store)
        elif what < 0.60:
            if self.ticket is None:
                self.ticket = store.begin_sync()
            if self.ticket is not None and chance.random() < 0.7:
                self.ticket.run()
                history.promised = max(history.promised, store.finish_sync(self.ticket))
                self.ticket = None
        elif what < 0.68:
            history.commit_index = chance.randint(history.commit_index, store.synced_index)
        elif what < 0.75:
            first = max(history.commit_index, store.base.index) + 1
            if first <= store.end_index and store.checkpoint_commit_index < first:
                index = chance.randint(first, store.end_index)
                history.cut(index)
                store.truncate_from(index)
                self.term += 1
        elif what < 0.83:
            ticket = store.begin_checkpoint(history.commit_index)
            if ticket is not None:
                ticket.run()
        elif what < 0.90:
            if store.needs_prepare or store.may_prepare:
                store.prepare_next()
            if store.owes_zeros:
                store.zero_more()
        elif what < 0.95:
            if history.commit_index > store.base.index:
                store.drop_before(store.point_at(history.commit_index).position)
        elif what < 0.98 and store.end_index > store.base.index:
            entry = store.view(chance.randint(store.begin_index, store.end_index))
            if entry.index <= history.commit_index:
                self.views.append((entry.body, bytes(entry.body)))
                del self.views[:-3]
        elif what < 0.985:
            self.reset()
        else:
            self.term += 1

    def reset(self) -> None:
        """Install a snapshot somewhere ahead; until it is done either log may be found."""
        store, chance = self.store, self.chance
        base = LogPoint(
            index=store.end_index + chance.randint(0, 300),
            term=self.term,
            position=store.end_position + chance.choice((0, 100, SEGMENT, 20 * SEGMENT + 17)),
            chain_crc=chance.getrandbits(32),
        )
        if base.position % SEGMENT > SEGMENT - 8:
            return  # no entry ends there
        self.history.chains.add((base.index, base.chain_crc))
        self.history.cut(0)
        store.reset_to(base)
        self.history.promised = self.history.commit_index = base.index

    def check_views(self) -> None:
        for view, content in self.views:
            assert bytes(view) == content

    def restart(self) -> None:
        self.views.clear()
        self.ticket = None
        self.store = open_store(self.disk, self.config)
        self.history.check(self.store)
        self.history.adopt(self.store)
        history, store = self.history, self.store
        history.commit_index = max(min(history.commit_index, store.end_index), store.base.index)
