"""One node in one process: built from the machine's own parts, run until a signal ends it.

SIGTERM and SIGINT stop it gracefully.  SIGHUP reads the log level anew and opens the log file
again; where there is a terminal and it has gone, it stops the node as well.
"""

from __future__ import annotations

import gc
import logging
import random
import signal
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from broker.message.model import HostAddress
from broker.metrics.monitor import Monitor
from broker.node import Node, Surroundings, open_files
from dledger.clock import SystemClock
from dledger.errors import ConfigError
from dledger.machine import raise_open_files_limit
from dledger.remoting.network import TcpNetwork
from dledger.store.disk import OsDisk
from dledger.worker import ThreadWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.config import NodeConfig
    from broker.logs import NodeLog

logger = logging.getLogger(__name__)

# More objects made than freed before the young are looked at (some 2 MiB), and how many looks at
# one generation make one at the next.  Python's own 700, 10, 10 look after every few requests.
COLLECTOR_THRESHOLDS = (20_000, 20, 20)
# Descriptors that are not clients': 256 files of consume queues (`QueueFiles`), 64 callers of the
# peer port, and about 3,700 segments of the log.
FILES_OPEN_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What changes while a node runs, by signal or by request."""

    log: NodeLog
    read_log_level: Callable[[], str]  # from the configuration file; raises ConfigError

    def reload(self) -> None:
        """Take up what the configuration file says now, as far as that can change."""
        self.log.reopen()
        try:
            self.log.set_level(self.read_log_level())
        except ConfigError as error:
            logger.error("the log level stays %s: %s", self.log.level, error)


async def run_node(
    config: NodeConfig, *, ready: Callable[[], None], operator: Operator | None = None
) -> None:
    """Run one node until SIGTERM or SIGINT, then stop gracefully.

    Args:
        config: its settings.
        ready: called once clients can connect.
        operator: what can be changed meanwhile; nothing without one.

    Raises:
        LedgerError: it could not start, or has stopped because it must not go on; the text is the
            last word.
        RemotingError: a port cannot be had.
    """
    for warning in config.warnings():
        logger.warning("%s", warning)
    config = keep_descriptors_for_files(config)
    disk = OsDisk()
    files = await trio.to_thread.run_sync(open_files, config, disk)
    surroundings = Surroundings(
        clock=SystemClock(),
        disk=disk,
        network=TcpNetwork(),
        chance=random.Random(),
        make_worker=ThreadWorker,
    )
    store_host = await find_store_host(config)
    node = Node(config, files, surroundings, store_host=store_host)
    if operator is not None:
        operator.log.term_of = lambda: node.ledger.term
        node.broker_info.set_log_level = operator.log.set_level
    stopped_well = False
    try:
        with _one_last_word():
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(*_signals(operator)) as signals:
                    await nursery.start(node.run)
                    nursery.start_soon(node.rates.run)
                    if config.metrics.port:
                        await nursery.start(_make_monitor(node, surroundings).run)
                    _calm_the_collector()
                    ready()
                    async for number in signals:
                        if number == signal.SIGHUP and operator is not None and not _has_terminal():
                            operator.reload()
                            continue
                        logger.info("%s: stopping", signal.Signals(number).name)
                        break
                    await node.step_back()
                    nursery.cancel_scope.cancel()
        stopped_well = True
    finally:
        node.close(write_down=stopped_well)


def _signals(operator: Operator | None) -> list[signal.Signals]:
    found = [signal.SIGTERM, signal.SIGINT]
    return found if operator is None else [*found, signal.SIGHUP]


def _has_terminal() -> bool:
    """Whether SIGHUP means that the terminal has gone which this process was started at."""
    return sys.stderr is not None and sys.stderr.isatty()


def _make_monitor(node: Node, surroundings: Surroundings) -> Monitor:
    metrics = node.config.metrics
    return Monitor(
        surroundings.network,
        host=metrics.host or node.config.listen_host,
        port=metrics.port,
        gatherer=node.gatherer,
        health=node.health,
        clock=surroundings.clock,
    )


def keep_descriptors_for_files(config: NodeConfig) -> NodeConfig:
    """Raise the limit of open files as far as needed; return *config* with no more connections.

    A node that finds no descriptor for its next file has to stop: whoever can connect often enough
    must not be able to do that.
    """
    wanted = config.broker.connections_max + FILES_OPEN_MAX
    allowed = raise_open_files_limit(wanted)
    if allowed is None or allowed >= wanted:
        return config
    connections_max = max(allowed - FILES_OPEN_MAX, allowed // 2)
    logger.warning(
        "connections_max = %d needs %d open files, the system allows %d: taking %d connections; "
        "raise the limit (ulimit -n, LimitNOFILE= of a service)",
        config.broker.connections_max,
        wanted,
        allowed,
        connections_max,
    )
    return replace(config, broker=replace(config.broker, connections_max=connections_max))


def _calm_the_collector() -> None:
    """Keep the garbage collector from walking the same long-lived objects over and over.

    Nearly everything a message leaves behind is freed by counting references; as Python ships it,
    the collector took a tenth of a leader's time under a thousand sends in flight.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@contextmanager
def _one_last_word() -> Iterator[None]:
    """Raise the first error of a failed nursery by itself, so that it can be told in a line."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__


async def find_store_host(config: NodeConfig) -> HostAddress:
    """Return this node's advertised address as IPv4; zeros where it has none."""
    member = config.member
    try:
        found = await trio.socket.getaddrinfo(
            member.advertised_host or member.host,
            member.broker_port,
            family=socket.AF_INET,
            type=socket.SOCK_STREAM,
        )
    except OSError:
        # IPv6 only: records of version 1 have no room for it in their fixed part.
        return HostAddress(b"\0\0\0\0", member.broker_port)
    return HostAddress(socket.inet_aton(str(found[0][4][0])), member.broker_port)
