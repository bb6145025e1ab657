"""The whole of a node: all its rooms, who is told what, and the ports it listens on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.delivery.topic_retention import TopicRetentionService
from broker.protocol.response_code import ResponseCode
from broker.wiring.telling import Telling
from dledger.remoting.command import response
from dledger.remoting.server import RemotingServer

if TYPE_CHECKING:
    from broker.config import NodeConfig
    from broker.message.model import HostAddress
    from broker.open_files import OpenFiles
    from broker.wiring.surroundings import Surroundings
    from dledger.remoting.command import Command


class Wiring(Telling):
    """The rooms of a node; what they tell one another is for `broker.node.Node` to say."""

    def __init__(
        self,
        config: NodeConfig,
        files: OpenFiles,
        surroundings: Surroundings,
        *,
        store_host: HostAddress,
    ) -> None:
        """Wire the rooms of one node; see `LogPath`."""
        super().__init__(config, files, surroundings, store_host=store_host)
        self._make_sending()
        self._make_consuming()
        self._make_telling()
        files.derived.on_arrival = self._arrived
        files.derived.on_applied = self._applied
        files.derived.on_deleted = self._topic_deleted
        files.traffic.leads = self._is_serving
        self.dispatch.waiting = (
            self.pulls.hold.held,
            self.commands.waiting,
            self.offsets.waiting,
            self.changes.waiting,
            self.caught_up.waiting,
            self.earlier_tries.waiting,
            self.sends.awaiting_topic,
        )
        self.topic_retention = TopicRetentionService(
            log=files.store,
            queues=files.derived.queues,
            topics=files.topics,
            append=self.queue,
            clock=self._clock,
            interval_seconds=config.store.checkpoint_interval_ms / 1000,
        )
        self.server = self._make_server(config.listen_broker_port)
        # RocketMQ's clients may be given an address of their own for what a name server answers,
        # and some reckon one that is for sends alone.
        self._servers = [self.server] + [self._make_server(port) for port in config.more_ports]
        self.ledger.watch_commits(self.dispatch.committed_to)
        self.ledger.watch_commits(self._committed)  # on a follower nobody waits for that
        self.ledger.let_commits_wait(self.dispatch.may_wait)
        self.ledger.watch_role(self._role_changed)
        self.dispatch.committed_to(self.ledger.committed_index)

    def _make_server(self, port: int) -> RemotingServer:
        config = self.config
        return RemotingServer(
            self._network,
            host=config.listen_host,
            port=port,
            handler=self.registry,
            on_run=self.registry.on_run,
            find_others=self.sends.find_frames,
            flow=self.flow,
            connections_max=config.broker.connections_max,
            refusal=self._too_many_connections,
            pending_size_max=config.broker.connection_pending_size_max,
            outbox_size_max=2 * config.broker.connection_pending_size_max,
            unread_size_max=config.broker.unread_size_max,
            partial_size_max=config.broker.partial_size_max,
        )

    def _too_many_connections(self, request: Command) -> Command:
        return response(
            request,
            int(ResponseCode.SYSTEM_BUSY),
            f"node {self.config.node_id} has {self.config.broker.connections_max} connections, as "
            "many as connections_max allows; ask another node, or later",
        )
