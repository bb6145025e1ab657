"""The way of an entry through a node, from a request that is taken to what is dispatched.

The ledger with its threads, the queue in front of it, the dispatch behind it; the registry that
requests come to, and the forwarder that takes those of another node's to the leader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.handlers.commands import Commands
from broker.handlers.forward import Forwarder
from broker.handlers.registry import REQUEST_NAMES, RESPONSE_NAMES, Registry
from broker.metrics.rpc import RpcLatency
from broker.store.append_queue import AppendQueue
from broker.store.dispatch_service import DispatchService
from broker.wiring.hooks import Hooks
from dledger.remoting.server import Flow
from dledger.server import LedgerServer

if TYPE_CHECKING:
    from broker.config import NodeConfig
    from broker.handlers.send import SendHandlers
    from broker.message.model import HostAddress
    from broker.open_files import OpenFiles
    from broker.wiring.surroundings import Surroundings

HOLD_SECONDS = 3.0  # longest time a request waits for a leader: RocketMQ's default send timeout


class LogPath(Hooks):
    """What every family of requests stands on."""

    sends: SendHandlers  # a request that goes on to the leader gets its unique key there

    def __init__(
        self,
        config: NodeConfig,
        files: OpenFiles,
        surroundings: Surroundings,
        *,
        store_host: HostAddress,
    ) -> None:
        """Wire the rooms of one node.

        Args:
            config: its settings.
            files: what its data folder holds.
            surroundings: time, chance, disk, network, threads.
            store_host: the IPv4 address that records and message ids name as this broker's.
        """
        self.config = config
        self._files = files
        self._store_host = store_host
        self._clock = surroundings.clock
        self._disk = surroundings.disk
        clock, network = surroundings.clock, surroundings.network
        self._network = network
        self._workers = {
            name: surroundings.make_worker(f"{config.node_id}-{name}")
            for name in ("vote", "file", "derived", "lookup")
        }
        make_sync_worker = surroundings.make_sync_worker or surroundings.make_worker
        self._workers["sync"] = make_sync_worker(f"{config.node_id}-sync")
        derived = files.derived
        self.dispatch = DispatchService(
            derived,
            clock=clock,
            worker=self._workers["derived"],
            state_interval_seconds=config.store.checkpoint_interval_ms / 1000,
            dispatched=self._dispatched,
            is_urgent=self._is_taking_over,
        )
        self.ledger = LedgerServer(
            config=config.to_ledger_config(),
            store=files.store,
            votes=files.folder.vote,
            network=network,
            clock=clock,
            chance=surroundings.chance,
            sync_worker=self._workers["sync"],
            vote_worker=self._workers["vote"],
            file_worker=self._workers["file"],
            state_keeper=self.dispatch,
        )
        self.queue = AppendQueue(
            ledger=self.ledger,
            dispatched=derived,
            clock=clock,
            store_host=store_host.ip + store_host.port.to_bytes(4, "big"),
            ack_timeout_seconds=config.broker.ack_timeout_ms / 1000,
            opened=self._began_to_serve,
            finished=self._group_finished,
        )
        self._advertised = {member.node_id: member.broker_address for member in config.members}
        self.forwarder = Forwarder(
            ledger=self.ledger,
            addresses={
                member.node_id: (member.host, member.broker_port) for member in config.members
            },
            advertised=self._advertised,
            network=network,
            clock=clock,
            hold_seconds=HOLD_SECONDS,
            held_count_max=config.broker.requests_held_max,
            held_size_max=config.broker.requests_held_size_max,
            connect_seconds=config.raft.connect_timeout_ms / 1000,
            next_key=lambda: self.sends.next_unique_key(),
        )
        self.rpc_latency = RpcLatency(
            clock, request_names=REQUEST_NAMES, response_names=RESPONSE_NAMES
        )
        self.registry = Registry(
            latency=self.rpc_latency,
            is_serving=self._is_serving,
            forward=self.forwarder.take,
            end_of_pass=self._requests_taken,
            session_gone=self._session_gone,
            catch_up=self._catch_up,
            is_late=self.forwarder.is_late,
            node_id=config.node_id,
        )
        self.forwarder.connect_to(self.registry.dispatch, self._end_of_pass, self._is_serving)
        self.commands = Commands(queue=self.queue, derived=derived, forwarder=self.forwarder)
        self.flow = Flow(
            connection_size_max=config.broker.connection_inflight_size_max,
            size_max=config.broker.inflight_size_max,
        )
