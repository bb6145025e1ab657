"""A name server that is a process of its own: several broker groups register with it.

It keeps nothing but what it is told to keep (`names_file`): who has registered is in memory, and
brokers register again within a second of its start.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import trio

from broker.errors import InvalidMessageError
from broker.handlers.properties import (
    LOG_LEVEL,
    read_properties,
    wanted_log_level,
    write_properties,
)
from broker.handlers.registry import Registry, answer, handles
from broker.metrics.families import gauge
from broker.nameserver.handlers import NameHandlers
from broker.nameserver.registering import RegistrationHandlers
from broker.nameserver.registrations import Registrations
from broker.nameserver.settings import NameSettings
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response
from dledger.remoting.server import RemotingServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.metrics.families import Family
    from broker.nameserver.config import NameServerProcessConfig
    from broker.nameserver.names_file import NamesFile
    from dledger.clock import Clock
    from dledger.remoting.network import Network
    from dledger.remoting.server import Session
    from dledger.worker import Worker

STOP_SECONDS = 1.0  # longest time a graceful stop takes
READ_SECONDS = 0.25  # of it: for clients to read their answers
GROUPS_NAMED_MAX = 5  # in a remark
_SETTLE_POLL_SECONDS = 0.005

logger = logging.getLogger(__name__)


class NameServer:
    """One name server."""

    def __init__(
        self,
        config: NameServerProcessConfig,
        file: NamesFile,
        *,
        network: Network,
        clock: Clock,
        worker: Worker,
    ) -> None:
        """Wire it.

        Args:
            config: its settings.
            file: what it keeps.
            network: where connections come from.
            clock: measures the silence of brokers.
            worker: writes the file.
        """
        self.config = config
        self.registrations = Registrations()
        self._file = file
        file.use(worker)
        self._registering = RegistrationHandlers(
            registrations=self.registrations, names=file.names, clock=clock
        )
        self.registry = Registry(
            is_serving=lambda: True,
            forward=_no_leader,
            end_of_pass=_nothing,
            session_gone=self._registering.drop_session,
            what="name server; ask a broker",
        )
        self.info = InfoHandlers(config, self.registrations)
        routes = NameHandlers(
            registrations=self.registrations,
            names=file.names,
            order_message_enable=config.order_message_enable,
        )
        settings = NameSettings(names=file.names, groups=routes.groups, propose=file.propose)
        for family in (routes, self._registering, settings, self.info):
            self.registry.register(family)
        self.server = RemotingServer(
            network,
            host=config.listen_host,
            port=config.port,
            handler=self.registry,
            connections_max=config.connections_max,
        )
        self.is_stopping = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once clients can connect.

        Raises:
            RemotingError: the port cannot be had.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._registering.run)
            await nursery.start(self.server.serve)
            task_status.started()

    async def step_back(self) -> None:
        """Take no more requests, answer those taken, and close all connections."""
        self.is_stopping = True
        with trio.move_on_after(STOP_SECONDS):
            self.server.stop_reading()
            while self.server.is_busy or self._file.is_busy:  # noqa: ASYNC110 - rare and short
                await trio.sleep(_SETTLE_POLL_SECONDS)
            await self.server.close(grace_seconds=READ_SECONDS)

    # -- what the monitor asks ------------------------------------------------------------------

    def readiness(self) -> Standing:
        """Return how it stands: of use once a broker has registered."""
        count = self.registrations.count
        reason = "" if count else "no broker has registered yet"
        return Standing(reason="it is stopping" if self.is_stopping else reason, brokers=count)

    def common_labels(self) -> dict[str, str]:
        """Return the labels of every row."""
        return {"node_type": "nameserver", "node_id": f"{self.config.port}"}

    async def families(self) -> list[Family]:
        """Return all that is to be told."""
        await trio.lowlevel.checkpoint()
        brokers = gauge("nameserver_brokers", "Brokers registered.", "cluster", "broker")
        topics = gauge("nameserver_topics", "Topics of a broker group.", "cluster", "broker")
        for group in self.registrations.groups:
            brokers.add(len(group.registrations), group.cluster, group.name)
            topics.add(len(list(group.topics())), group.cluster, group.name)
        connections = gauge("nameserver_connections", "Connections of brokers and clients.")
        connections.add(self.registry.session_count)
        return [family for family in (brokers, topics, connections) if family.rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether a name server is of use."""

    reason: str  # why not; "" when it is
    brokers: int

    @property
    def is_ready(self) -> bool:
        """Whether it is of use."""
        return not self.reason

    def to_json(self) -> dict[str, Any]:
        """Return it as the page has it."""
        reason = {"reason": self.reason} if self.reason else {}
        return {"ready": self.is_ready, **reason, "brokers": self.brokers}


class InfoHandlers:
    """The family of a name server's own affairs."""

    def __init__(self, config: NameServerProcessConfig, registrations: Registrations) -> None:
        self._settings = config.settings()
        self._registrations = registrations
        self.set_log_level: Callable[[str], None] | None = None

    @handles(RequestCode.GET_GROUP_STATUS)
    def refuse_status(self, session: Session, command: Command) -> None:
        """Say whom to ask: our own client and commands speak to the nodes of one group."""
        known = [
            f"{group.name} at {', '.join(sorted(found.address for found in group.registrations))}"
            for group in self._registrations.groups[:GROUPS_NAMED_MAX]
        ]
        remark = (
            f"this is a name server; give the nodes of one group: {'; '.join(known)}"
            if known
            else "this is a name server, and no broker has registered with it; name a node"
        )
        answer(
            session,
            command,
            response(command, int(ResponseCode.REQUEST_CODE_NOT_SUPPORTED), remark),
        )

    @handles(RequestCode.GET_NAMESRV_CONFIG)
    def get_config(self, session: Session, command: Command) -> None:
        """Answer the settings as properties."""
        settings = {"version": version("dledger"), **self._settings}
        body = write_properties(settings)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.UPDATE_NAMESRV_CONFIG)
    def update_config(self, session: Session, command: Command) -> None:
        """Change what can change while it runs: the log level."""
        body = command.body
        wanted = read_properties(b"".join(body) if isinstance(body, list) else bytes(body))
        level = wanted_log_level(wanted, what="name server", file_name="nameserver.toml")
        if level is not None:
            if self.set_log_level is None:
                raise InvalidMessageError("it shares its log with others of its process")
            self._settings[LOG_LEVEL] = level
            self.set_log_level(level)
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))


def _no_leader(session: Session, command: Command) -> None:
    raise AssertionError("a name server answers everything itself")


def _nothing() -> None:
    pass
