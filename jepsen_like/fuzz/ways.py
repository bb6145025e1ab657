"""Two ways through the same input: with the loops over every record compiled, and in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from broker.errors import CorruptRecordError, InvalidMessageError
from broker.store import compiled, entry_batch
from broker.store.chunk import check_chunk
from broker.store.runs import RunReader
from jepsen_like.fuzz.target import must_be

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.store.entry_batch import EntryBatch
    from broker.store.runs import RecordRun

_Found = TypeVar("_Found")


def both_ways(attempt: Callable[[], _Found]) -> _Found:
    """Return what *attempt* does.

    Raises:
        WrongAnswerError: it comes to something else when nothing is compiled.
        CorruptRecordError, InvalidMessageError: that is what it comes to, both ways.
    """
    loops = compiled.loops
    found = _outcome(attempt)
    compiled.loops = None
    try:
        again = _outcome(attempt)
    finally:
        compiled.loops = loops
    must_be(found == again, f"{found!r:.300}, and in Python {again!r:.300}")
    return attempt()


def _outcome(attempt: Callable[[], object]) -> object:
    try:
        return attempt()
    except (CorruptRecordError, InvalidMessageError) as error:
        return type(error), str(error)


def read_chunk(body: bytes, sizes: bytes, *, topic: str = "t", queue_id: int = 0) -> object:
    """Check a chunk; return what it holds."""
    chunk = check_chunk(body, sizes, topic=topic, queue_id=queue_id)
    return chunk.topic, chunk.queue_id, chunk.body.tobytes(), [int(size) for size in chunk.sizes]


def read_runs(body: bytes, position: int) -> list[RecordRun]:
    """Read the runs of an entry; return them with plain lists in place of arrays."""
    return _plain(RunReader().runs(memoryview(body), position))


def read_entries(raw: bytes, position: int, *, index: int, last_index: int) -> EntryBatch | None:
    """Read entries together; return their runs as `read_runs` does."""
    found = entry_batch.read_entries(
        RunReader(), memoryview(raw), position, index=index, last_index=last_index
    )
    return None if found is None else found._replace(runs=_plain(found.runs))


def _plain(runs: Iterable[RecordRun]) -> list[RecordRun]:
    found = []
    for run in runs:
        begins = [int(begin) for begin in run.properties_begins]
        ends = [int(end) for end in run.properties_ends]
        # Where no record has properties nobody needs to know where they are.
        if begins == ends:
            begins = ends = []
        found.append(run._replace(properties_begins=begins, properties_ends=ends, lane=None))
    return found
