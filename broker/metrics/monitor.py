"""``/metrics``, ``/healthz`` and ``/readyz`` of one node, on a port of their own."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from broker.metrics.http_server import Answer, HttpServer
from dledger.remoting.errors import ListenFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.metrics.families import Family
    from dledger.clock import Clock
    from dledger.remoting.network import Network

# Somebody who asks all the time gets the page of a moment ago: making one costs milliseconds.
PAGE_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 5.0

logger = logging.getLogger(__name__)


class Gathers(Protocol):
    """What knows the metrics of a process: a node's `Gatherer`."""

    def common_labels(self) -> Mapping[str, str]:
        """Return the labels of every row."""
        ...

    async def families(self) -> Sequence[Family]:
        """Return all that is to be told."""
        ...


class Stands(Protocol):
    """How a process stands: a node's `Readiness`."""

    @property
    def is_ready(self) -> bool:
        """Whether it is of use."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return it as the page has it."""
        ...


class KnowsReadiness(Protocol):
    """What knows that: a node's `Health`."""

    def readiness(self) -> Stands:
        """Return how it stands at this moment."""
        ...


class Monitor:
    """Serves what is known of a process."""

    def __init__(
        self,
        network: Network,
        *,
        host: str,
        port: int,
        gatherer: Gathers,
        health: KnowsReadiness,
        clock: Clock,
    ) -> None:
        """Prepare to listen on *port* of *host*."""
        self._gatherer = gatherer
        self._health = health
        self._clock = clock
        self._lock = trio.Lock()
        self._page: Answer | None = None
        self._page_until = 0.0
        self._server = HttpServer(
            network,
            host=host,
            port=port,
            pages={
                "/metrics": self.metrics,
                "/healthz": self.healthz,
                "/readyz": self.readyz,
            },
        )

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once the port is bound, or once it is known to be taken.

        A port that cannot be had stops no broker: it is told, and tried again.
        """
        is_told = False
        while True:
            try:
                if is_told:
                    await self._server.serve()
                else:
                    await self._server.serve(task_status=task_status)
                return
            except ListenFailedError as error:
                if not is_told:
                    logger.error("no metrics and no health: %s; set [metrics] port", error)
                    is_told = True
                    task_status.started(0)
            await trio.sleep(RETRY_SECONDS)

    async def metrics(self) -> Answer:
        """Return the page that Prometheus reads."""
        async with self._lock:
            now = self._clock.now()
            if self._page is None or now >= self._page_until:
                from broker.metrics.page import CONTENT_TYPE, render  # see there

                families = await self._gatherer.families()
                body = await trio.to_thread.run_sync(
                    partial(render, families, self._gatherer.common_labels())
                )
                self._page = Answer(content_type=CONTENT_TYPE, body=body)
                self._page_until = self._clock.now() + PAGE_SECONDS
            return self._page

    async def healthz(self) -> Answer:
        """Say that the process lives: whoever reads this has its proof already."""
        await trio.lowlevel.checkpoint()
        return Answer.of_json(200, {"alive": True})

    async def readyz(self) -> Answer:
        """Say whether the node takes part: 200, or 503 with the reason."""
        await trio.lowlevel.checkpoint()
        readiness = self._health.readiness()
        return Answer.of_json(200 if readiness.is_ready else 503, readiness.to_json())
