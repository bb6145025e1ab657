"""What every process of ours does about signals, its log and Python's collector.

SIGTERM and SIGINT stop it gracefully.  SIGHUP reads the log level anew and opens the log file
again; where there is a terminal and it has gone, it stops the process as well.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from broker.logs import NodeLog

logger = logging.getLogger(__name__)

# More objects made than freed before the young are looked at (some 2 MiB), and how many looks at
# one generation make one at the next.  Python's own 700, 10, 10 look after every few requests.
COLLECTOR_THRESHOLDS = (20_000, 20, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What changes while a process runs, by signal or by request."""

    log: NodeLog
    read_log_level: Callable[[], str]  # from the configuration file; raises ConfigError

    def reload(self) -> None:
        """Take up what the configuration file says now, as far as that can change."""
        self.log.reopen()
        try:
            self.log.set_level(self.read_log_level())
        except ConfigError as error:
            logger.error("the log level stays %s: %s", self.log.level, error)


def signals_of(operator: Operator | None) -> list[signal.Signals]:
    """Return the signals to listen for."""
    found = [signal.SIGTERM, signal.SIGINT]
    return found if operator is None else [*found, signal.SIGHUP]


async def wait_for_stop(signals: AsyncIterator[int], operator: Operator | None) -> None:
    """Return when one of *signals* (of trio's receiver) says to stop."""
    async for number in signals:
        if number == signal.SIGHUP and operator is not None and not _has_terminal():
            operator.reload()
            continue
        logger.info("%s: stopping", signal.Signals(number).name)
        return


def calm_the_collector() -> None:
    """Keep the garbage collector from walking the same long-lived objects over and over.

    Nearly everything a message leaves behind is freed by counting references; as Python ships it,
    the collector took a tenth of a leader's time under a thousand sends in flight.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@contextmanager
def one_last_word() -> Iterator[None]:
    """Raise the first error of a failed nursery by itself, so that it can be told in a line."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__


def _has_terminal() -> bool:
    """Whether SIGHUP means that the terminal has gone which this process was started at."""
    return sys.stderr is not None and sys.stderr.isatty()
