"""Whether the loops over every record are compiled: chosen when this is imported.

``_columns.pyx`` is built with the package where there is a C compiler.  Without one, or with
``DLEDGER_PURE_PYTHON=1`` in the environment, the Python beside each of its calls does the same,
only slower: what is taken, refused, written and answered does not differ by a byte.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.message.batch import ProducerMark
    from broker.message.codec import Buffer
    from broker.store.commit_log import Receipt
    from broker.store.runs import Lane, RecordRun
    from broker.store.send_columns import SendRun, Target

PURE_PYTHON = "DLEDGER_PURE_PYTHON"
_MODULE = "broker.store._columns"
LAYOUT = 6  # counted on with every change of what the loops take, refuse or return; in both files


class Loops(Protocol):
    """What `_columns` has.  Buffers and arrays are contiguous, arrays of int64."""

    def is_sound_chunk(
        self,
        body: Buffer,
        sizes: Buffer,
        magic: int,
        topic_field: bytes,
        queue_id: int,
        body_size_max: int,
        properties_size_max: int,
    ) -> bool:
        """Whether `broker.store.chunk.check_chunk` finds nothing wrong."""
        ...

    def stamp_runs(
        self,
        body: bytearray,
        runs: Iterable[tuple[int, int, int]],
        body_position: int,
        timestamp_ms: int,
        store_host: bytes,
    ) -> None:
        """Stamp records that lie back to back, as `broker.store.stamp` does.

        Each of *runs* is where its first record begins in *body*, its first queue offset, and how
        many records it has.
        """
        ...

    def read_runs(
        self,
        body: Buffer,
        body_position: int,
        run_type: type[RecordRun],
        mark_type: type[ProducerMark],
        lanes: dict[bytes, Lane],
        make_lane: Callable[[bytes], Lane | None],
        tags_code: Callable[[bytes], int],
    ) -> list[RecordRun] | None:
        """Return what `broker.store.runs.RunReader.runs` does; None where anything is wrong.

        *lanes* are those seen before, by what they are packed to; *tags_code* is asked for the code
        of properties whose tag is more than ASCII.
        """
        ...

    def read_entries(
        self,
        raw: Buffer,
        position: int,
        index: int,
        last_index: int,
        properties_size_max: int,
        run_type: type[RecordRun],
        mark_type: type[ProducerMark],
        lanes: dict[bytes, Lane],
        make_lane: Callable[[bytes], Lane | None],
        tags_code: Callable[[bytes], int],
    ) -> tuple[list[RecordRun], list[int], tuple[int, int, int, int]] | None:
        """Return what `broker.store.entry_batch.read_entries` does, the end as plain numbers."""
        ...

    def read_sends(
        self,
        data: bytes,
        at: int,
        frame_size_max: int,
        body_size_max: int,
        properties_size_max: int,
        run_type: type[SendRun],
        targets: dict[bytes, Target],
        make_target: Callable[[bytes, int, str, int], Target],
    ) -> tuple[tuple[list[SendRun], bytes], int]:
        """Return the sends in whole frames from *at* on, their rows, and where they end.

        The first frame that is no send as our own clients write it ends them, and the first whose
        records are not sound.  *targets* are those seen before, by what they are packed to.
        """
        ...

    def records_of(self, data: bytes, rows: bytes, begin: int, end: int) -> bytes:
        """Return the records of the sends that *rows* number *begin* to *end* tell of."""
        ...

    def acks_of(self, rows: bytes, runs: list[SendRun], receipts: list[Receipt]) -> bytes:
        """Return the acks of the sends of some runs, each of which lies where its receipt says."""
        ...


def python_is_asked_for() -> bool:
    """Whether the environment has `PURE_PYTHON`."""
    return os.environ.get(PURE_PYTHON, "0") not in ("", "0")


def _choose() -> tuple[Loops | None, str]:
    if python_is_asked_for():
        return None, f"in Python, as {PURE_PYTHON} asks for it"
    try:
        found = importlib.import_module(_MODULE)
    except ImportError as error:
        return None, f"in Python, which is slower: they were not built with a C compiler ({error})"
    if getattr(found, "LAYOUT", None) != LAYOUT:
        # An editable install after a change of its source: it would build runs of other fields.
        return None, "in Python, which is slower: built from another version; install again"
    return cast("Loops", found), "compiled"


# `loops` is looked up with each use, so that a test can go both ways.
loops, told = _choose()
