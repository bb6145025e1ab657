"""The name server in a node: it knows its own group, and whoever registers with it.

What is kept for others is part of the replicated state, so that every node of the group answers the
same; who has registered is known where they have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.nameserver.groups import LocalGroup
from broker.nameserver.handlers import NameHandlers, SystemTopicHandlers
from broker.nameserver.registering import RegistrationHandlers
from broker.nameserver.registrar import Registrar
from broker.nameserver.registrations import Registrations
from broker.nameserver.settings import NameSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.config import NodeConfig
    from broker.handlers.commands import Commands
    from broker.handlers.registry import Handler
    from broker.metadata.name_config import NameConfig
    from broker.metadata.topics import Topics
    from dledger.clock import Clock
    from dledger.remoting.network import Network
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer

# Longest time a graceful stop spends on telling name servers, which notice by themselves.
UNREGISTER_SECONDS = 0.2


class EmbeddedNameServer:
    """All of a node that has to do with name servers."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        ledger: LedgerServer,
        topics: Topics,
        names: NameConfig,
        commands: Commands,
        ask_leader: Handler,
        is_serving: Callable[[], bool],
        network: Network,
        clock: Clock,
    ) -> None:
        """Wire it.

        Args:
            config: the node's settings.
            ledger: knows who leads.
            topics: what exists.
            names: what is kept for others.
            commands: makes changes of that.
            ask_leader: takes a question that this node may only be too late for.
            is_serving: whether this node is the leader and lags behind nobody.
            network: for connections to name servers.
            clock: measures the silence of those that have registered.
        """
        advertised = {member.node_id: member.broker_address for member in config.members}
        registrations = Registrations()
        routes = NameHandlers(
            registrations=registrations,
            names=names,
            local=LocalGroup(
                ledger=ledger,
                topics=topics,
                advertised=advertised,
                cluster=config.cluster_name,
                mode=config.nameserver.route,
                auto_create_topic=config.broker.auto_create_topic,
                default_queue_count=config.broker.default_topic_queue_count,
            ),
            ask_leader=ask_leader,
            order_message_enable=config.nameserver.order_message_enable,
        )
        routes.may_lag = lambda: not is_serving()
        self._registering = RegistrationHandlers(
            registrations=registrations, names=names, clock=clock, own_name=config.group
        )
        settings = NameSettings(names=names, groups=routes.groups, propose=commands.propose)
        self.families: list[object] = [routes, SystemTopicHandlers(), self._registering, settings]
        self.registrar = Registrar(
            servers=config.nameserver.servers,
            network=network,
            ledger=ledger,
            topics=topics,
            advertised=advertised,
            is_serving=is_serving,
            cluster=config.cluster_name,
            mode=config.nameserver.route,
            auto_create_topic=config.broker.auto_create_topic,
            default_queue_count=config.broker.default_topic_queue_count,
            connect_seconds=config.raft.connect_timeout_ms / 1000,
        )

    def look(self) -> None:
        """Register anew if there is anything new; called when something may have changed."""
        self.registrar.look()

    def drop_session(self, session: Session) -> None:
        """Forget who has registered over a connection that has ended."""
        self._registering.drop_session(session)

    async def run(self) -> None:
        """Register, and forget who is silent, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.registrar.run)
            nursery.start_soon(self._registering.run)

    async def step_back(self) -> None:
        """Tell name servers that this node stops."""
        with trio.move_on_after(UNREGISTER_SECONDS):
            await self.registrar.unregister()
