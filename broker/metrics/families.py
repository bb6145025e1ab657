"""Metrics as plain values, as they are gathered on the event loop.

A family is a name, a kind, a sentence for people and rows of labels and values.  Making the page
of them is slower than gathering, and is done beside the loop (`broker.metrics.page`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dledger.measures import Histogram


class Kind(enum.Enum):
    """What the values of a family are."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Distribution:
    """A `Histogram` as it was at one moment."""

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]  # one for each bound, and all of them at the end
    sum: float

    @classmethod
    def of(cls, histogram: Histogram) -> Distribution:
        """Return what *histogram* holds now."""
        return cls(histogram.bounds, tuple(histogram.cumulative()), histogram.sum)


@dataclass(slots=True)
class Family:
    """All rows of one metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()  # besides those that every row has
    rows: list[tuple[tuple[str, ...], float | Distribution]] = field(default_factory=list)

    def add(self, value: float | Distribution, *labels: str) -> None:
        """Add a row."""
        assert len(labels) == len(self.labels), (self.name, labels)
        self.rows.append((labels, value))


def gauge(name: str, text: str, *labels: str) -> Family:
    """Return an empty family of values that rise and fall."""
    return Family(name, Kind.GAUGE, text, labels)


def counter(name: str, text: str, *labels: str) -> Family:
    """Return an empty family of values that only rise while the process lives."""
    assert name.endswith("_total"), name
    return Family(name, Kind.COUNTER, text, labels)


def histogram(name: str, text: str, *labels: str) -> Family:
    """Return an empty family of distributions."""
    return Family(name, Kind.HISTOGRAM, text, labels)
