"""What one load of one round came to."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class LoadError(Exception):
    """A load cannot go on, or its outcome is not what was acknowledged; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Figures of one load; rates in messages a second, latencies in milliseconds."""

    message_count: int  # in the time that counts
    rate: float
    p50: float
    p99: float
    p999: float
    written_count: int  # acknowledged in all, with what came before and after that time
    beside_rate: float = 0.0  # of another process that sends meanwhile

    @classmethod
    def of(
        cls,
        *,
        message_count: int,
        seconds: float,
        latencies: np.ndarray[Any, np.dtype[np.float64]],
        written_count: int,
        beside_rate: float = 0.0,
    ) -> Measured:
        """Reckon them from *latencies* in seconds."""
        p50, p99, p999 = (
            np.percentile(latencies, (50, 99, 99.9)) * 1000 if len(latencies) else (0.0, 0.0, 0.0)
        )
        return cls(
            message_count=message_count,
            rate=message_count / seconds,
            p50=float(p50),
            p99=float(p99),
            p999=float(p999),
            written_count=written_count,
            beside_rate=beside_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One load in one round, with what the nodes spent on it."""

    measured: Measured
    node_cpu_us: tuple[float, ...]  # microseconds of processor time a message; the leader first
    client_cpu_us: float  # of the process that makes the load
    rss: int = 0  # bytes of the largest node afterwards, mapped files not counted
    read_size: int = 0  # bytes that the leader had from the disk meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Medians over the rounds of one load."""

    load: str
    body_size: int  # bytes
    flush: str
    rate: float
    rates: tuple[float, ...]  # of each round
    p50: float
    p99: float
    p999: float
    node_cpu_us: tuple[float, ...]
    client_cpu_us: float
    rss: int  # bytes, the most of all rounds
    beside_rate: float
    read_size: int

    @classmethod
    def of(cls, load: str, body_size: int, flush: str, rounds: Sequence[Round]) -> Line:
        """Take the medians."""
        return cls(
            load=load,
            body_size=body_size,
            flush=flush,
            rate=median(item.measured.rate for item in rounds),
            rates=tuple(round(item.measured.rate, 1) for item in rounds),
            p50=median(item.measured.p50 for item in rounds),
            p99=median(item.measured.p99 for item in rounds),
            p999=median(item.measured.p999 for item in rounds),
            node_cpu_us=tuple(
                map(median, zip(*(item.node_cpu_us for item in rounds), strict=True))
            ),
            client_cpu_us=median(item.client_cpu_us for item in rounds),
            rss=max(item.rss for item in rounds),
            beside_rate=median(item.measured.beside_rate for item in rounds),
            read_size=int(median(item.read_size for item in rounds)),
        )

    @property
    def cpu_text(self) -> str:
        """Processor us of each node, the leader's first."""
        digits = 2 if max(self.node_cpu_us) < 10 else 1 if max(self.node_cpu_us) < 100 else 0
        return " / ".join(f"{spent:.{digits}f}" for spent in self.node_cpu_us)

    @property
    def note(self) -> str:
        """What else is to be known of it."""
        if self.beside_rate:
            return f"{self.beside_rate:,.0f}/s sent meanwhile"
        return f"{self.read_size / (1 << 20):,.0f} MiB from disk" if self.read_size else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """What one group of nodes came to."""

    node_count: int
    flush: str
    body_size: int
    lines: tuple[Line, ...]
    rss_before: tuple[int, ...]  # bytes of each node
    rss_after: tuple[int, ...]
    message_count: int  # acknowledged, and found by their queues' ends
    entry_count: int  # of the log
    log_size: int  # bytes, compared on all nodes
