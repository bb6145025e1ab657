"""What the demonstration is judged by: who saw which row where, compared row by row."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


class Row(NamedTuple):
    """One row of the input, sent as one message."""

    number: int  # in the order of sending, from 0
    key: str  # the day: message key and ordering key
    tag: str  # the month
    body: bytes  # the line


class Place(NamedTuple):
    """A row where somebody found it, or was told that it is."""

    number: int
    queue_id: int
    queue_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of the rows; every number but *sent* and *acknowledged* should be 0."""

    sent: int
    acknowledged: int
    lost: int  # acknowledged, and missing on a node or at the consumer
    duplicated: int  # more than once on a node or at the consumer
    out_of_order: int  # behind a later row of the same key, on a node or at the consumer
    misplaced: int  # acknowledged with another place than a node has
    foreign: int  # messages that are no row of the input
    logs_identical: bool
    details: tuple[str, ...] = field(default=())  # who is to blame, for people

    @property
    def is_clean(self) -> bool:
        """Whether every row is acknowledged, everywhere, once, in order, in identical logs."""
        wrong = (
            self.lost, self.duplicated, self.out_of_order, self.misplaced, self.foreign
        )  # fmt: skip
        return not any(wrong) and self.acknowledged == self.sent and self.logs_identical


def judge(
    *,
    rows: Sequence[Row],
    acknowledged: Collection[Place],
    found: Mapping[str, Sequence[Place]],
    foreign: Mapping[str, int],
    logs_identical: bool,
) -> Verdict:
    """Compare what was acknowledged with what every reader found.

    Args:
        rows: all that was sent.
        acknowledged: the place each acknowledged row was said to have.
        found: for each reader (the nodes, the consumer) what it found, in its order.
        foreign: for each reader how many messages were no row.
        logs_identical: the outcome of comparing the nodes' logs byte for byte.
    """
    lost: set[int] = set()
    duplicated: set[int] = set()
    out_of_order: set[int] = set()
    misplaced: set[int] = set()
    details = []
    for reader, places in found.items():
        here = {
            "lost": {ack.number for ack in acknowledged} - {place.number for place in places},
            "duplicated": {
                number
                for number, count in Counter(place.number for place in places).items()
                if count > 1
            },
            "out of order": set(_out_of_order(rows, places)),
            "misplaced": _misplaced(acknowledged, places),
        }
        lost |= here["lost"]
        duplicated |= here["duplicated"]
        out_of_order |= here["out of order"]
        misplaced |= here["misplaced"]
        details += [
            f"{reader}: {len(numbers)} {what}, row {min(numbers)} first"
            for what, numbers in here.items()
            if numbers
        ]
        if foreign.get(reader):
            details.append(f"{reader}: {foreign[reader]} messages that nobody sent")
    if not logs_identical:
        details.append("the nodes' logs differ")
    if len(acknowledged) < len(rows):
        details.append(f"{len(rows) - len(acknowledged)} rows were never acknowledged")
    return Verdict(
        sent=len(rows),
        acknowledged=len(acknowledged),
        lost=len(lost),
        duplicated=len(duplicated),
        out_of_order=len(out_of_order),
        misplaced=len(misplaced),
        foreign=sum(foreign.values()),
        logs_identical=logs_identical,
        details=tuple(details),
    )


def _out_of_order(rows: Sequence[Row], places: Sequence[Place]) -> Iterator[int]:
    """Yield the rows that stand behind a later row of their key; a repetition is no such thing."""
    highest: dict[str, int] = {}
    for place in places:
        key = rows[place.number].key
        if place.number < highest.get(key, -1):
            yield place.number
        highest[key] = max(place.number, highest.get(key, -1))


def _misplaced(acknowledged: Collection[Place], places: Sequence[Place]) -> set[int]:
    """Return the rows that were said to be elsewhere; an offset of -1 promised no place."""
    standing = {place.number: place for place in places}
    return {
        ack.number
        for ack in acknowledged
        if ack.queue_offset >= 0 and standing.get(ack.number, ack) != ack
    }


def longest_gap(times: Sequence[float], *, since: float, until: float) -> float:
    """Return the longest time between two neighbours of *times* that touches since..until.

    Args:
        times: seconds, ascending.
        since: a gap that ends before it does not count.
        until: a gap that begins behind it does not count.
    """
    gaps = (
        later - earlier
        for earlier, later in itertools.pairwise(times)
        if later >= since and earlier <= until
    )
    return max(gaps, default=0.0)
