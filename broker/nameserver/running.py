"""One name server in one process: of the machine's own parts, run until a signal ends it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from broker.metrics.monitor import Monitor
from broker.nameserver.names_file import NamesFile
from broker.nameserver.server import NameServer
from broker.process import Operator, calm_the_collector, one_last_word, signals_of, wait_for_stop
from dledger.clock import SystemClock
from dledger.machine import raise_open_files_limit
from dledger.remoting.tcp import TcpNetwork
from dledger.store.os_disk import OsDisk
from dledger.worker import ThreadWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.nameserver.config import NameServerProcessConfig

logger = logging.getLogger(__name__)

FILES_OPEN_MAX = 64  # descriptors that are not connections


async def run_name_server(
    config: NameServerProcessConfig,
    *,
    ready: Callable[[], None],
    operator: Operator | None = None,
) -> None:
    """Run a name server until SIGTERM or SIGINT, then stop gracefully.

    Args:
        config: its settings.
        ready: called once brokers and clients can connect.
        operator: what can be changed meanwhile; nothing without one.

    Raises:
        LedgerError: its file cannot be had.
        RemotingError: its port cannot be had.
    """
    wanted = config.connections_max + FILES_OPEN_MAX
    allowed = raise_open_files_limit(wanted)
    if allowed is not None and allowed < wanted:
        logger.warning(
            "connections_max = %d needs %d open files, the system allows %d; raise the limit "
            "(ulimit -n, LimitNOFILE= of a service)",
            config.connections_max,
            wanted,
            allowed,
        )
    file = await trio.to_thread.run_sync(NamesFile.open, OsDisk(), config.data_folder)
    try:
        clock, network = SystemClock(), TcpNetwork()
        server = NameServer(
            config, file, network=network, clock=clock, worker=ThreadWorker("nameserver-file")
        )
        if operator is not None:
            server.info.set_log_level = operator.log.set_level
        with one_last_word():
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(*signals_of(operator)) as signals:
                    await nursery.start(server.run)
                    if config.metrics_port:
                        monitor = Monitor(
                            network,
                            host=config.metrics_host or config.listen_host,
                            port=config.metrics_port,
                            gatherer=server,
                            health=server,
                            clock=clock,
                        )
                        await nursery.start(monitor.run)
                    calm_the_collector()
                    ready()
                    await wait_for_stop(signals, operator)
                    await server.step_back()
                    nursery.cancel_scope.cancel()
    finally:
        file.close()
