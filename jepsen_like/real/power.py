"""Power that fails: of one node's disk, or of many in the same instant.

The file system is cut off its device (ext4's shutdown call), the processes are killed, and the
device is mounted again: what was synced is there, what was not is lost, in files and in folders, as
the kernel and the file system have it.  Nothing of it is imitated.

Every loss carries a witness: a file written just before and not synced.  When it is still there the
power has not failed, and the proof says so.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import trio

from jepsen_like.real import ext4, leftovers
from jepsen_like.real.contents import compare, read_contents
from jepsen_like.real.proof import Proof

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from jepsen_like.real.contents import Contents
    from jepsen_like.real.node_disk import NodeDisk

WITNESS = "witness"
_WITNESS_PAGES = 32


async def lose_power(
    disks: Sequence[NodeDisk], *, is_torn: bool = False, is_exact: bool = False
) -> list[Proof]:
    """Let the power of all *disks* fail at the same time; they are mounted again on return.

    Args:
        disks: the nodes' disks.
        is_torn: of the unsynced pages each is kept or lost by chance, and the journal is kept.
            The nodes are stopped meanwhile, so that it is known which.
        is_exact: the nodes are stopped while the contents are read, and every byte that then
            changes counts as lost.  Syncs on their way are over by then; without it they are cut
            off in the middle.

    Returns:
        For each disk a proof with ``bytes_lost``, ``files_lost``, ``files_changed`` and the
        witness's ``witness_pages_kept``.
    """
    cuts = [_Cut(disk, is_torn=is_torn, is_exact=is_exact or is_torn) for disk in disks]
    with trio.CancelScope(shield=True):  # a disk that is half taken away helps nobody
        async with trio.open_nursery() as nursery:
            for cut in cuts:
                nursery.start_soon(trio.to_thread.run_sync, cut.prepare)
        await trio.to_thread.run_sync(_cut_all, cuts)
        async with trio.open_nursery() as nursery:
            for cut in cuts:
                nursery.start_soon(cut.recover)
    return [cut.proof() for cut in cuts]


def _cut_all(cuts: Sequence[_Cut]) -> None:
    # Stopped first, so that no node says a word after its disk is gone.
    for cut in cuts:
        cut.signal(signal.SIGSTOP)
    for cut in cuts:
        ext4.shut_down(cut.disk.path, writes_journal=cut.is_torn)
    for cut in cuts:
        cut.signal(signal.SIGKILL)


class _Cut:
    """One disk's loss of power."""

    def __init__(self, disk: NodeDisk, *, is_torn: bool, is_exact: bool) -> None:
        self.disk = disk
        self.is_torn = is_torn
        self.is_exact = is_exact
        self._before: Contents = {}
        self._after: Contents = {}
        self._witness = disk.chance.randbytes(_WITNESS_PAGES * ext4.PAGE)
        self._witness_kept: set[int] = set()  # that should be
        self._pages_written = 0
        self._killed = 0

    def prepare(self) -> None:
        """Write the witness, read what is there, and for a torn loss write some of it."""
        ext4.thaw(self.disk.path)
        with contextlib.suppress(OSError):  # a full disk, or one read-only: then there is none
            self._write_witness(self.disk.path / WITNESS)
        if self.is_exact:
            self.signal(signal.SIGSTOP)
        self._before = read_contents(self.disk.path)
        if self._before.get(WITNESS) != self._witness:
            self._before.pop(WITNESS, None)
        if self.is_torn:
            for name in self._before:
                written = _write_some_pages(self.disk.path / name, self.disk.chance)
                self._pages_written += len(written)
                if name == WITNESS:
                    self._witness_kept = written

    def _write_witness(self, path: Path) -> None:
        # By the page: what is written in one call may become one large folio, which the kernel
        # writes back as a whole, whatever page of it is asked for.
        with path.open("wb", buffering=0) as file:
            for at in range(0, len(self._witness), ext4.PAGE):
                file.write(self._witness[at : at + ext4.PAGE])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the node."""
        pids = self.disk.namespace.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGKILL:
            self._killed = len(pids)

    async def recover(self) -> None:
        """Wait for the end of the processes, and mount the disk again."""
        await leftovers.kill_inside(self.disk.namespace)
        await self.disk.unmount()
        await self.disk.mount()
        self._after = await trio.to_thread.run_sync(read_contents, self.disk.path)
        if WITNESS in self._after:
            await trio.to_thread.run_sync(os.unlink, self.disk.path / WITNESS)

    def proof(self) -> Proof:
        """Say what was lost."""
        had_witness = self._before.pop(WITNESS, None) is not None
        kept = _equal_pages(self._witness, self._after.pop(WITNESS, b""))
        found = compare(self._before, self._after, is_exact=self.is_exact)
        is_as_planned = had_witness and kept == self._witness_kept
        kind = "torn power loss" if self.is_torn else "power loss"
        return Proof(
            what=f"{kind} of {self.disk.name}",
            took_effect=is_as_planned if had_witness else found.bytes_lost > 0,
            figures={
                "bytes_lost": found.bytes_lost,
                "files_lost": found.files_lost,
                "files_changed": found.files_changed,
                "witness_pages": _WITNESS_PAGES if had_witness else 0,
                "witness_pages_kept": len(kept),
                "processes_killed": self._killed,
            },
        )


def _write_some_pages(path: Path, chance: random.Random) -> set[int]:
    """Write about half of a file's pages to the disk; return which."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return set()
    try:
        count = -(-os.fstat(fd).st_size // ext4.PAGE)
        chosen = {page for page in range(count) if chance.random() < 0.5}
        for page in chosen:
            ext4.sync_pages(fd, page, 1)
        return chosen
    finally:
        os.close(fd)


def _equal_pages(wanted: bytes, found: bytes) -> set[int]:
    pages = [(page, page * ext4.PAGE) for page in range(len(wanted) // ext4.PAGE)]
    return {page for page, at in pages if wanted[at : at + ext4.PAGE] == found[at : at + ext4.PAGE]}
