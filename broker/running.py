"""One node in one process: built from the machine's own parts, run until a signal ends it."""

from __future__ import annotations

import logging
import random
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from broker.calm import give_back_when_calm
from broker.message.model import HostAddress
from broker.metrics.monitor import Monitor
from broker.node import Node
from broker.open_files import open_files
from broker.process import (
    Operator,
    calm_the_collector,
    one_last_word,
    signals_of,
    wait_for_stop,
)
from broker.store import compiled
from broker.wiring import Surroundings
from dledger.clock import SystemClock
from dledger.machine import bound_free_memory, raise_open_files_limit, use_huge_pages
from dledger.processors import usable_processors
from dledger.remoting.readiness import wait_busily
from dledger.remoting.tcp import TcpNetwork
from dledger.store.os_disk import OsDisk
from dledger.sync_ring import make_sync_worker
from dledger.worker import ThreadWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.config import NodeConfig

__all__ = ["Operator", "find_store_host", "keep_descriptors_for_files", "run_node"]

logger = logging.getLogger(__name__)

# Descriptors that are not clients': 256 files of consume queues (`QueueFiles`), 64 callers of the
# peer port, and those of about 1,850 segments and index files of the log: two each, as a mapping of
# Python's has one of its own, and a third for the few that no checkpoint covers yet.
FILES_OPEN_MAX = 4096
PROCESSORS_MIN = 2  # for one that waits busily and one that works


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
    logger.info("the loops over every record run %s", compiled.told)
    config = keep_descriptors_for_files(config)
    bound_free_memory()
    disk = OsDisk()
    files = await trio.to_thread.run_sync(open_files, config, disk)
    surroundings = Surroundings(
        clock=SystemClock(),
        disk=disk,
        network=TcpNetwork(),
        chance=random.Random(),
        make_worker=ThreadWorker,
        make_sync_worker=lambda name: make_sync_worker(name, config.store.sync_by),
    )
    store_host = await find_store_host(config)
    node = Node(config, files, surroundings, store_host=store_host)
    if operator is not None:
        operator.log.term_of = lambda: node.ledger.term
        node.broker_info.set_log_level = operator.log.set_level
    stopped_well = False
    try:
        with one_last_word():
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(*signals_of(operator)) as signals:
                    await nursery.start(node.run)
                    nursery.start_soon(node.rates.run)
                    if config.metrics.port:
                        await nursery.start(_make_monitor(node, surroundings).run)
                    calm_the_collector()
                    use_huge_pages()  # what lives by now lives on
                    wait_busily_where_it_pays(config)
                    nursery.start_soon(give_back_when_calm)
                    ready()
                    await wait_for_stop(signals, operator)
                    await node.step_back()
                    nursery.cancel_scope.cancel()
        stopped_well = True
    finally:
        node.close(write_down=stopped_well)


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


def wait_busily_where_it_pays(config: NodeConfig) -> None:
    """Have the event loop ask again before it sleeps, as *config* says, where that takes nothing.

    On one processor who asks keeps those from it who would answer, and what it takes of a quota is
    missing when there is work to do.
    """
    busy_wait_us = config.broker.busy_wait_us
    if not busy_wait_us:
        return
    processors = usable_processors()
    if processors < PROCESSORS_MIN:
        logger.info(
            "busy_wait_us counts for nothing: %.3g of at least %d processors may be used",
            processors,
            PROCESSORS_MIN,
        )
    elif not wait_busily(busy_wait_us / 1e6):
        logger.info("busy_wait_us counts for nothing: this system has no poll to be asked again")


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
