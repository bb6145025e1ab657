"""The key index of a healed member, held against its log.

unfound-key     a message that the member holds is not found there by its unique id
index-differs   the index is not what is derived from the log again: other files, other bytes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.message import properties as names
from broker.message.properties import find_property
from broker.store.index_file import ENTRY_SIZE
from broker.store.index_keys import key_hash
from broker.store.index_search import IndexSearch, SearchRange
from broker.store.key_index import KeyIndex
from broker.store.log_view import CHANNEL_RECORDS
from broker.store.record_finder import record_at
from broker.store.runs import UNIT_SIZE, RunReader
from broker.store.state_file import decode_state
from broker.testing.memory_disk import FakeDisk
from dledger.entry import EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.open_files import OpenFiles
    from dledger.store.disk import Disk
    from jepsen_like.history import History

SOUGHT = 50  # messages looked for on each member, spread over its log
_EVER = (1 << 62) - 1


def check_keys(name: str, files: OpenFiles, disk: Disk, history: History) -> None:
    """Note what is wrong with the key index of *name*; nothing may be under way there."""
    positions = list(_positions(files))
    for position in positions[:: max(1, len(positions) // SOUGHT)]:
        _seek(name, files, disk, history, position)
    index, begin = files.derived.key_index, files.store.base.position
    found, expected = _contents(index, disk), _derived_again(files)
    # A file that was not written yet when its records went stays until more of them go.
    for info in index.sealed:
        path = info.path.rpartition("/")[2]
        if info.header.end_position < begin and path not in expected:
            del found[path]
    if found == expected:
        return
    differing = sorted(path for path in found | expected if found.get(path) != expected.get(path))
    _tell(history, name, "index-differs", ", ".join(differing))


def _positions(files: OpenFiles) -> Iterator[int]:
    """Yield where the records of the log are that have been dispatched."""
    reader = RunReader()
    last = files.derived.dispatched_index
    for entry in files.store.entries(files.store.base.index + 1, last):
        if entry.channel == CHANNEL_RECORDS and entry.kind != EntryKind.NOOP:
            for run in reader.runs(entry.body, entry.body_position):
                for at in range(0, len(run.units), UNIT_SIZE):
                    yield int.from_bytes(run.units[at : at + 8], "big")


def _seek(name: str, files: OpenFiles, disk: Disk, history: History, position: int) -> None:
    record = record_at(files.store, files.derived.queues, position)
    if record is None:
        return  # its queue was trimmed
    unique = find_property(record.encoded_properties, names.UNIQUE_KEY.encode())
    if unique is None:
        return
    wanted = SearchRange(key_hash(record.topic, unique.decode()), 0, _EVER, _EVER)
    search = IndexSearch(disk, files.derived.key_index, wanted)
    found: list[int] = []
    while search.has_more:
        found += search.next_positions(10)
    if position not in found:
        place = f"queue {record.queue_id} offset {record.queue_offset}"
        _tell(history, name, "unfound-key", f"{unique.decode()} of {place}")


def _tell(history: History, name: str, kind: str, what: str) -> None:
    history.note(kind, node=name, err=what)


def _derived_again(files: OpenFiles) -> dict[str, bytes]:
    """Return the files of an index made of the log from its base on."""
    own, base = files.derived.key_index, files.store.base
    again = KeyIndex(FakeDisk(), "/again", own.shape, segment_size=own.segment_size)
    before = None
    if base.index > 0:
        before = decode_state(files.derived.read_state(base.index)).key_index
    again.restart(before)
    reader = RunReader()
    for entry in files.store.entries(base.index + 1, files.derived.dispatched_index):
        if entry.channel == CHANNEL_RECORDS and entry.kind != EntryKind.NOOP:
            again.dispatch_runs(reader.runs(entry.body, entry.body_position), entry.body)
    return _contents(again, FakeDisk())


def _contents(index: KeyIndex, disk: Disk) -> dict[str, bytes]:
    """Return the bytes of each file, what is not written yet included."""
    found = {path.rpartition("/")[2]: b"" for path in index.paths}
    for info in index.sealed:
        found[info.path.rpartition("/")[2]] = disk.read_file(info.path)
    for growing in index.growing:
        written = b""
        if growing.written_count:
            file = disk.open_file(growing.path)
            written = file.read_at(index.shape.entry_at(1), ENTRY_SIZE * growing.written_count)
            file.close()
        found[growing.path.rpartition("/")[2]] = growing.content(written)
    return found
