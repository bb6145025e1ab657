"""How long requests take, from their arrival to their answer, by what they ask for.

Bounds, names and labels are those of RocketMQ 5's ``rocketmq_rpc_latency``
(``RemotingMetricsManager``).  Sends that arrive together are handled together, and have one time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.metrics.families import Distribution, histogram
from dledger.measures import Histogram
from dledger.remoting.command import FLAG_ONEWAY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.metrics.families import Family
    from dledger.clock import Clock
    from dledger.remoting.command import Command

BOUNDS_MS: Final = (1.0, 3.0, 5.0, 7.0, 10.0, 100.0, 1000.0, 2000.0, 3000.0)
BEGUN_MAX: Final = 10_000  # requests of one connection that are timed at once
UNKNOWN: Final = "unknown"
_SYSTEM_ERROR: Final = 1  # RocketMQ's ``ResponseCode.SYSTEM_ERROR``


class RpcLatency:
    """Distributions by request code, response code, and whether the request was held."""

    def __init__(
        self, clock: Clock, *, request_names: Mapping[int, str], response_names: Mapping[int, str]
    ) -> None:
        """Make one that has seen nothing.

        Args:
            clock: the time.
            request_names: of the request codes there are; others share a row.
            response_names: likewise.
        """
        self.clock = clock
        self._request_names = request_names
        self._response_names = response_names
        self._found: dict[tuple[int, int, bool], Histogram] = {}

    def observe(
        self, request_code: int, response_code: int, *, was_held: bool, ms: float, times: int = 1
    ) -> None:
        """Take in that a request, or *times* of them together, was answered."""
        key = (request_code, response_code, was_held)
        found = self._found.get(key)
        if found is None:
            # Codes come from outside; ours are few.
            if request_code not in self._request_names:
                key = (-1, response_code, was_held)
            found = self._found.setdefault(key, Histogram(BOUNDS_MS))
        found.observe(ms, times=times)

    def family(self) -> Family:
        """Return all of them as rows."""
        rows = histogram(
            "rocketmq_rpc_latency",
            "From a request's arrival to its answer, milliseconds.",
            "protocol_type", "request_code", "response_code", "is_long_polling", "result",
        )  # fmt: skip
        for (request_code, response_code, was_held), found in self._found.items():
            failed = response_code == _SYSTEM_ERROR
            rows.add(
                Distribution.of(found),
                "remoting",
                self._request_names.get(request_code, UNKNOWN),
                self._response_names.get(response_code, UNKNOWN),
                "true" if was_held else "false",
                "process_request_failed" if failed else "success",
            )
        return rows


class OpenRequests:
    """What one connection has asked for and not been answered."""

    __slots__ = ("_begun", "_held", "_latency", "node_id")

    def __init__(self, node_id: str, latency: RpcLatency | None = None) -> None:
        """Know of nothing yet.

        Args:
            node_id: the node that is connected to.
            latency: takes in how long each took; None: nobody wants to know.
        """
        self.node_id = node_id
        self._latency = latency
        self._begun: dict[int, float] = {}  # by opaque
        self._held: set[int] = set()

    def begin(self, request: Command, *, at: float | None = None) -> None:
        """Take note that *request* has arrived; one that waited and comes again has its time.

        Args:
            request: that is answered by itself.
            at: when it was, as `now` said; None: just now.
        """
        latency, begun = self._latency, self._begun
        if latency is not None and len(begun) < BEGUN_MAX and not request.flag & FLAG_ONEWAY:
            begun.setdefault(request.opaque, latency.clock.now() if at is None else at)

    def now(self) -> float | None:
        """Return the time, for `begin` and `end_many`; None when nobody wants to know."""
        return None if self._latency is None else self._latency.clock.now()

    def end_many(self, request_code: int, begun: float, *, count: int) -> None:
        """Take note that *count* requests that came together have succeeded together."""
        if self._latency is not None:
            ms = (self._latency.clock.now() - begun) * 1000
            self._latency.observe(request_code, 0, was_held=False, ms=ms, times=count)

    def hold(self, request: Command) -> None:
        """Take note that *request* waits for something to happen."""
        if request.opaque in self._begun:
            self._held.add(request.opaque)

    def end(self, request: Command, response_code: int) -> None:
        """Take note that *request* is answered."""
        opaque, latency = request.opaque, self._latency
        begun = self._begun.pop(opaque, None)
        if begun is None or latency is None:
            return
        was_held = opaque in self._held
        if was_held:
            self._held.discard(opaque)
        ms = (latency.clock.now() - begun) * 1000
        latency.observe(request.code, response_code, was_held=was_held, ms=ms)
