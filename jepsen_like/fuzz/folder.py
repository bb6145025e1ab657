"""A node's data folder: made once with everything in it, then damaged and opened again.

On the operating system's own disk code, over memory where there is a file system for it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from broker.config import MemberConfig, NodeConfig
from broker.errors import BrokerError
from broker.message.codec import decode_records
from broker.metadata.consumer_offsets import commit_offsets
from broker.metadata.state_machine import encode_commands
from broker.metadata.topics import TopicConfig, put_topic
from broker.open_files import OpenFiles, open_files
from broker.store.reader import PullStatus, Reader
from dledger.config import RaftConfig, StoreConfig
from dledger.entry import HEADER_SIZE, EntryKind
from dledger.errors import CorruptStoreError, LedgerError
from dledger.store.os_disk import OsDisk
from jepsen_like.fuzz.records import entry_body
from jepsen_like.fuzz.target import must_be, must_say

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.store.derived_jobs import Job
    from dledger.store.ledger_store import LedgerStore

SEGMENT_SIZE = 4096
_RECORDS_EACH = 3
_QUEUE = ("t", 0)
REFUSED = "refused"

Files = dict[str, bytes]  # path below the data folder -> content


def config_of(folder: Path) -> NodeConfig:
    """Return the settings of the node whose data is in *folder*."""
    return NodeConfig(
        group="g",
        node_id="n1",
        members=(MemberConfig(node_id="n1", host="127.0.0.1", peer_port=7001, broker_port=9001),),
        data_folder=str(folder),
        store=StoreConfig(segment_size=SEGMENT_SIZE, index_file_units=128),
        raft=RaftConfig(append_size_max=SEGMENT_SIZE),
    )


@dataclass(frozen=True, slots=True)
class Image:
    """A sound data folder, and what is in its log."""

    files: Files
    entries: dict[int, bytes]  # index -> header and body
    begin_index: int
    checkpoint_index: int
    synced_index: int  # the watermark's
    queue_begin: int  # of the one queue: its first message whose record is kept
    queue_end: int


def scratch() -> Path:
    """Return a new empty folder, in memory where that can be had."""
    memory = Path("/dev/shm")
    is_there = memory.is_dir() and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="dledger-fuzz-", dir=memory if is_there else None))


def write_files(folder: Path, files: Files) -> None:
    """Put *files* below *folder*."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_files(folder: Path) -> Files:
    """Return every file below *folder*."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@lru_cache
def image(*, with_retention: bool) -> Image:
    """Return a data folder with topics, offsets, messages; checkpointed, synced, and a bit more."""
    folder = scratch()
    try:
        return _build(folder, with_retention=with_retention)
    finally:
        shutil.rmtree(folder)


def _build(folder: Path, *, with_retention: bool) -> Image:
    files = open_files(config_of(folder), OsDisk())
    store = files.store
    _append(store, channel=1, body=lambda _: encode_commands([put_topic(TopicConfig(topic="t"))]))
    offset = checkpoint_index = synced_index = 0
    for number in range(40):
        if number == 20:
            body = encode_commands([commit_offsets("g", "t", {0: 7})])
            _append(store, channel=1, body=lambda _, body=body: body)  # type: ignore[misc]
        first = offset
        _append(
            store,
            channel=0,
            body=lambda at, first=first: entry_body(  # type: ignore[misc]
                _RECORDS_EACH, with_mark=True, position=at, first=first
            ),
        )
        offset += _RECORDS_EACH
        if number == 30:
            store.sync()
            _take_in(files, store.end_index)
            if with_retention:
                boundary = files.derived.boundary_indexes[1]
                ticket = store.begin_drop(store.point_at(boundary).position + SEGMENT_SIZE)
                must_be(ticket is not None, "there was nothing to drop")
                ticket.run()  # type: ignore[union-attr]
                jobs: list[Job] = []
                jobs.append(files.derived.begin_drop(jobs.append))
                for job in jobs:  # the first adds another
                    job.run()
                    job.finish()
            checkpoint = store.begin_checkpoint(store.end_index)
            assert checkpoint is not None
            checkpoint.run()
            checkpoint_index = store.end_index
        if number == 37:
            store.sync()
            synced_index = store.end_index
    found = Image(
        files=read_files(folder),
        entries={
            index: bytes(store.raw_range(index, size_max=1)[0])
            for index in range(store.begin_index, store.end_index + 1)
        },
        begin_index=store.begin_index,
        checkpoint_index=checkpoint_index,
        synced_index=synced_index,
        queue_begin=Reader(store, files.derived.queues).min_offset(*_QUEUE),
        queue_end=offset,
    )
    close(files)
    return found


def _append(store: LedgerStore, *, channel: int, body: Callable[[int], bytes]) -> None:
    size = len(body(0))
    while not store.has_room(size):
        store.prepare_next()
    content = body(store.position_for(size) + HEADER_SIZE)
    store.append(kind=EntryKind.NORMAL, channel=channel, term=1, body=[content], body_size=size)


def _take_in(files: OpenFiles, index: int) -> None:
    while files.derived.dispatch_up_to(index) < index:
        pass
    for job in files.derived.begin_jobs(with_state=True):
        job.run()
        job.finish()


def close(files: OpenFiles) -> None:
    """Close everything that `open_files` opened."""
    files.derived.close()
    files.store.close()
    files.folder.close()


def check_open(sound: Image, files: Files, *, is_touched: Callable[[str], bool]) -> str:
    """Open a folder with *files*, a damaged form of *sound*; return what came of it.

    Args:
        sound: the folder before the damage.
        files: the folder as it is now.
        is_touched: whether a file is other than it was.

    Raises:
        WrongAnswerError: something is lost without a word, or read other than it was written.
    """
    folder = scratch()
    try:
        write_files(folder, files)
        opened: OpenFiles | None = None
        try:
            opened = open_files(config_of(folder), OsDisk())
        except LedgerError as error:
            must_say(error, names=str(folder))
        if opened is None:
            return REFUSED
        try:
            return _check_content(sound, opened, is_touched=is_touched)
        finally:
            close(opened)
    finally:
        shutil.rmtree(folder)


def _check_content(sound: Image, opened: OpenFiles, *, is_touched: Callable[[str], bool]) -> str:
    store = opened.store
    if not is_touched("checkpoint"):
        known = sound.checkpoint_index if is_touched("watermark") else sound.synced_index
        must_be(store.begin_index == sound.begin_index, "the log begins elsewhere")
        must_be(
            store.end_index >= known,
            f"the log ends with entry {store.end_index}, and {known} were synced",
        )
    damaged = 0
    for index in range(max(store.begin_index, sound.begin_index), store.end_index + 1):
        try:
            store.verify(index, index)
            raw = bytes(store.raw_range(index, size_max=1)[0])
        except CorruptStoreError as error:
            must_say(error, names="entry")
            damaged += 1
            continue
        must_be(raw == sound.entries[index], f"entry {index} is other than it was")
    try:
        _take_in(opened, store.end_index)
    except LedgerError as error:
        must_say(error)
        return f"{damaged} damaged, {type(error).__name__}"
    return f"{damaged} damaged, {_check_queue(sound, opened)}"


def _check_queue(sound: Image, opened: OpenFiles) -> str:
    reader = Reader(opened.store, opened.derived.queues)
    offset = reader.min_offset(*_QUEUE)
    must_be(
        offset <= sound.queue_begin or opened.store.begin_index > sound.begin_index,
        f"the queue begins at {offset}, and what is kept at {sound.queue_begin}",
    )
    while True:
        try:
            found = reader.get_messages(*_QUEUE, offset, count_max=10, size_max=4096)
            messages = decode_records(b"".join(found.views))
        except (LedgerError, BrokerError) as error:
            must_say(error)
            return type(error).__name__
        if found.status is not PullStatus.FOUND:
            must_be(offset <= sound.queue_end, "the queue is longer than it was")
            return "read"
        must_be(len(messages) > 0, "found, and nothing is there")
        for message in messages:
            # A client checks this, and asks another node when it does not hold.
            if message.queue_offset != offset:
                return "out of order"
            offset += 1
