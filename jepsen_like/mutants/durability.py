"""Bugs of what is on the disk when it is said to be, and of what a restart makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.client import records
from broker.message import codec
from dledger.entry import EntryRef, LogPoint, check_entry, decode_header, point_behind
from dledger.errors import CorruptEntryError, StorageFailedError
from dledger.raft import guarded
from dledger.raft.engine import RaftEngine
from dledger.raft.following import Following
from dledger.raft.transport import EngineTransport
from dledger.store import ledger_reader, ledger_writer, recovery
from dledger.store.ledger_store import LedgerStore
from dledger.store.mapped_file import MappedFile
from dledger.store.mapped_file_queue import MappedFileQueue
from dledger.store.tickets import CheckpointTicket, DropTicket, SyncTicket
from dledger.store.vote_file import VoteTicket, _pack
from jepsen_like.mutants.grounds import (
    ELECTIONS,
    FAILED_SYNCS,
    KILLS,
    POWER,
    ROT,
    SLOW_CUTS,
    SLOW_POWER,
    STEPS,
    TORN,
)
from jepsen_like.mutants.mutant import Patch, mutant
from jepsen_like.sim.sim_disk import SimMount

if TYPE_CHECKING:
    from collections.abc import Sequence


# -- the log ---------------------------------------------------------------------------------------


@mutant(on=POWER)
def journal_never_synced() -> Sequence[Patch]:
    """A sync of the log does nothing, as in PySyncObj's own journal."""

    def run(self: Any) -> None:
        self.is_done = True

    return [(SyncTicket, "run", run)]


@mutant(on=SLOW_POWER)
def zeros_go_on_in_a_segment_that_is_filled() -> Sequence[Patch]:
    """Who writes zeros ahead does not hear that the segment was taken meanwhile."""

    def take_spare(self: Any) -> Any:
        return self._spares.popleft() if self._spares else None

    return [(MappedFileQueue, "_take_spare", take_spare)]


@mutant(on=SLOW_POWER)
def follower_promises_early() -> Sequence[Patch]:
    """A follower answers for what it has written and not synced yet."""
    stock = Following.on_append

    def on_append(self: Any, message: Any) -> None:
        stock(self, message)
        if self._answer_due:
            self.answer()

    def answer(self: Any) -> None:
        self._answer_due = False
        self._send_answer(next_index=self._verified_index + 1, success=True, reset=False)

    return [(Following, "on_append", on_append), (Following, "answer", answer)]


@mutant(on=SLOW_POWER)
def leader_counts_what_it_has_not_synced() -> Sequence[Patch]:
    """A leader counts itself without asking its disk."""
    stock = RaftEngine.apply

    def match_index(self: Any, peer: Any) -> int:
        progress = self._engine.leading.progress[peer.id]
        index = 0 if progress.joining else int(progress.match_index)
        return index if index >= self._engine.first_index_of_own_term else 0

    def apply(self: Any) -> None:
        stock(self)
        if self.is_leader:
            self.applied_index = max(self.applied_index, self.commit_index)

    return [(guarded.MatchView, "__getitem__", match_index), (RaftEngine, "apply", apply)]


@mutant(on=FAILED_SYNCS)
def failed_sync_counts_as_done() -> Sequence[Patch]:
    """A sync that fails is tried again, and the second time it succeeds: the pages are clean."""

    def sync(self: Any) -> None:
        if self._region is not None:
            try:
                self._region.sync()
            except StorageFailedError:
                self._region.sync()

    return [(MappedFile, "sync", sync)]


@mutant(on=FAILED_SYNCS)
def tail_not_rewritten() -> Sequence[Patch]:
    """A restart believes what the dead process failed to sync."""

    def rewrite(self: object, start: int, end: int) -> None:
        pass

    return [(MappedFileQueue, "rewrite", rewrite)]


@mutant(on=SLOW_CUTS)
def cut_does_not_void_syncs() -> Sequence[Patch]:
    """A sync that began before a cut speaks for what took the place (ra, issue 516)."""
    stock = LedgerStore.truncate_from

    def truncate_from(self: Any, index: int) -> None:
        kept = [(ticket, ticket.index) for ticket in self._tickets]
        stock(self, index)
        for ticket, ticket_index in kept:
            ticket.index = ticket_index

    return [(LedgerStore, "truncate_from", truncate_from)]


@mutant(on=POWER)
def folder_never_synced() -> Sequence[Patch]:
    """Files are synced, their names are not."""

    def sync_folder(self: object, path: str) -> None:
        pass

    return [(SimMount, "sync_folder", sync_folder)]


@mutant(on=POWER)
def new_segments_are_not_named_durably() -> Sequence[Patch]:
    """The log's folder is not synced with the first sync of a segment that was renamed."""

    def take_folder_dirty(self: Any) -> bool:
        self._is_folder_dirty = False
        return False

    return [(MappedFileQueue, "take_folder_dirty", take_folder_dirty)]


# -- votes -----------------------------------------------------------------------------------------


@mutant(on=ELECTIONS)
def vote_never_synced() -> Sequence[Patch]:
    """Term and vote are written, but never synced."""

    def run(self: Any) -> None:
        self._file._slots.write(_pack(self._state), sync=False)
        self.is_done = True

    return [(VoteTicket, "run", run)]


@mutant(on=ELECTIONS)
def vote_leaves_early() -> Sequence[Patch]:
    """A vote leaves before it is on the disk."""

    def send(self: Any, node: Any, message: object) -> bool:
        self.outbox.append((node.id, message))
        return True

    return [(EngineTransport, "send", send)]


# -- checkpoints and recovery ----------------------------------------------------------------------


@mutant(on=SLOW_POWER)
def checkpoint_before_sync() -> Sequence[Patch]:
    """A checkpoint is written without syncing what it speaks of."""

    def run(self: Any) -> None:
        self._checkpoints.write(self._checkpoint)

    return [(CheckpointTicket, "run", run)]


@mutant(on=KILLS)
def recovery_drops_the_last_entry() -> Sequence[Patch]:
    """A restart takes the last whole entry for a torn one."""
    stock = recovery._Scan.run

    def run(self: Any, checkpoint: LogPoint) -> None:
        stock(self, checkpoint)
        last = self.point.index
        if last > checkpoint.index + 1:
            ref = self._index.read(last - 1)
            header = decode_header(self._log.view(ref.position, ref.size))
            self.point = LogPoint(ref.index, ref.term, ref.end, header.chain_crc)

    return [(recovery._Scan, "run", run)]


def _unchecked(*args: Any, **options: Any) -> Any:
    """Return the header of an entry, whatever its CRCs say; all else is checked."""
    try:
        return check_entry(*args, **options)
    except CorruptEntryError as error:
        if "CRC" in str(error):
            return decode_header(args[0], args[1])
        raise


@mutant(on=TORN)
def recovery_keeps_a_torn_tail() -> Sequence[Patch]:
    """A restart looks at headers only."""
    return [(recovery, "check_entry", _unchecked)]


@mutant(on=ROT)
def damage_taken_for_a_torn_tail() -> Sequence[Patch]:
    """A restart that finds an entry damaged which was synced once cuts it off and goes on."""

    def stop(self: Any, reason: str) -> None:
        pass

    return [(recovery._Scan, "_stop", stop)]


class _Equal(int):
    """A checksum that no other differs from."""

    def __and__(self, other: object) -> _Equal:
        return self

    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@mutant(on=ROT)
def no_crc_of_entries() -> Sequence[Patch]:
    """No CRC of an entry is compared with anything."""
    return [
        (recovery, "check_entry", _unchecked),
        (ledger_reader, "check_entry", _unchecked),
        (ledger_writer, "check_entries", _unchecked_entries),
    ]


@mutant(on=ROT)
def no_crc() -> Sequence[Patch]:
    """No CRC of an entry or a record is compared with anything."""
    return [
        *no_crc_of_entries(),
        (records, "crc32", lambda _: _Equal()),
        (codec.decode_record, "__kwdefaults__", {"check_crc": False, "record": 0}),
    ]


def _unchecked_entries(raw: memoryview, *, after: LogPoint, segment_size: int) -> Any:
    offset, refs = 0, []
    while offset < len(raw):
        header = decode_header(raw, offset)
        refs.append(EntryRef(header.index, header.term, header.position, header.size, header.kind))
        after = point_behind(header)
        offset += header.size
    return refs, after


# -- retention and installation --------------------------------------------------------------------


@mutant(on=STEPS)
def drops_files_before_the_new_base() -> Sequence[Patch]:
    """Retention removes segments first, and then writes down where the log begins."""

    def run(self: Any) -> None:
        for queue, files in self._retired:
            queue.retire(files)
        self._checkpoints.write(self._checkpoint)

    return [(DropTicket, "run", run)]


@mutant(on=STEPS)
def resets_the_log_before_the_new_base() -> Sequence[Patch]:
    """An installation empties the log first, and then writes down where it begins."""
    stock = LedgerStore.reset_to

    def reset_to(self: Any, base: LogPoint) -> None:
        self._log.reset(base.position)
        stock(self, base)

    return [(LedgerStore, "reset_to", reset_to)]
