"""What one peer came to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One peer in one round; rates in messages a second, latencies in ms; 0: not measured."""

    one_p50: float = 0.0
    one_p99: float = 0.0
    many_rate: float = 0.0
    many_p99: float = 0.0
    batch_rate: float = 0.0  # the peers have no batches of their own
    consume_rate: float = 0.0
    client_one_p50: float = 0.0  # these through a client library of Python
    client_one_p99: float = 0.0
    client_many_rate: float = 0.0
    client_consume_rate: float = 0.0
    cpu_us: float = 0.0  # of all three servers, for a message with 1000 under way
    rss_mib: float = 0.0  # of the largest server, at the end

    @classmethod
    def median_of(cls, outcomes: Sequence[Outcome]) -> Outcome:
        """Return the medians, figure by figure."""
        return cls(
            **{
                field.name: median(getattr(outcome, field.name) for outcome in outcomes)
                for field in fields(cls)
            }
        )
