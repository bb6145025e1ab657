"""How the rooms of one node are put together, once and by constructor.

`broker.node.Node` is this and what happens in it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.delivery.schedule import Schedule
from broker.delivery.topic_retention import TopicRetentionService
from broker.handlers.ack_policy import COPIES_OF_ROLE, AckPolicy
from broker.handlers.broker_info import BrokerInfoHandlers
from broker.handlers.caught_up import CaughtUp
from broker.handlers.changes import Changes
from broker.handlers.client_admin import ClientAdminHandlers
from broker.handlers.client_calls import ClientCalls
from broker.handlers.clients import ClientHandlers
from broker.handlers.commands import Commands
from broker.handlers.connections import Connections
from broker.handlers.consumer_groups import ConsumerGroupHandlers
from broker.handlers.forward import Forwarder
from broker.handlers.group import GroupHandlers
from broker.handlers.group_gate import GroupGate
from broker.handlers.group_offsets import GroupOffsetHandlers
from broker.handlers.group_progress import GroupProgress
from broker.handlers.locks import LockHandlers
from broker.handlers.lookup import LookupHandlers
from broker.handlers.offset_reset import OffsetResetHandlers
from broker.handlers.offsets import OffsetHandlers
from broker.handlers.pull import PullHandlers
from broker.handlers.query import QueryHandlers
from broker.handlers.queue_state import QueueStates
from broker.handlers.registry import REQUEST_NAMES, RESPONSE_NAMES, Registry
from broker.handlers.repeats import EarlierTries
from broker.handlers.reset_news import ResetNews
from broker.handlers.send import SendHandlers
from broker.handlers.send_answers import SendAnswers
from broker.handlers.send_back import SendBackHandlers
from broker.handlers.topic_state import TopicStateHandlers
from broker.handlers.topics import TopicHandlers
from broker.message.limits import MessageLimits
from broker.metrics.gather import Gatherer
from broker.metrics.health import Health
from broker.metrics.pulled import PulledPlaces
from broker.metrics.rates import Rates
from broker.metrics.rpc import RpcLatency
from broker.nameserver.embedded import EmbeddedNameServer
from broker.protocol.response_code import ResponseCode
from broker.store.append_queue import AppendQueue
from broker.store.dispatch_service import DispatchService
from broker.store.reader import Reader
from dledger.config import FlushDiskType
from dledger.durability import Durability
from dledger.remoting.command import Command, response
from dledger.remoting.server import Flow, RemotingServer
from dledger.server import LedgerServer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from broker.config import NodeConfig
    from broker.message.model import HostAddress
    from broker.open_files import OpenFiles
    from broker.store.queue_files import QueueKey
    from dledger.clock import Clock
    from dledger.core import Role
    from dledger.remoting.network import Network
    from dledger.remoting.server import Session
    from dledger.store.disk import Disk
    from dledger.worker import Worker

HOLD_SECONDS = 3.0  # longest time a request waits for a leader: RocketMQ's default send timeout
# Of the machine's memory: a log no larger than that lies in it, and a new group of stock clients
# begins with its first message. Source: RocketMQ ``accessMessageInMemoryMaxRatio``.
YOUNG_LOG_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a node has of the world: every source of time, chance and I/O."""

    clock: Clock
    disk: Disk
    network: Network
    chance: random.Random
    make_worker: Callable[[str], Worker]
    make_sync_worker: Callable[[str], Worker] | None = None  # of the log; None: as any other


class Wiring(ABC):
    """The rooms of a node; what they tell one another is for `broker.node.Node` to say."""

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
        advertised = {member.node_id: member.broker_address for member in config.members}
        self.forwarder = Forwarder(
            ledger=self.ledger,
            addresses={
                member.node_id: (member.host, member.broker_port) for member in config.members
            },
            advertised=advertised,
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
            node_id=config.node_id,
        )
        self.forwarder.connect_to(self.registry.dispatch, self._end_of_pass, self._is_serving)
        self.commands = Commands(queue=self.queue, derived=derived, forwarder=self.forwarder)
        self.flow = Flow(
            connection_size_max=config.broker.connection_inflight_size_max,
            size_max=config.broker.inflight_size_max,
        )
        self._make_families(advertised, store_host)
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
            queues=derived.queues,
            topics=files.topics,
            append=self.queue,
            clock=clock,
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

    def _make_families(self, advertised: dict[str, str], store_host: HostAddress) -> None:
        config, files, clock = self.config, self._files, self._clock
        reader = Reader(files.store, files.derived.queues)
        group, node_id = config.group, config.node_id
        gate = GroupGate(
            groups=files.groups,
            offsets=files.offsets,
            queue=self.queue,
            forwarder=self.forwarder,
            auto_create=config.broker.auto_create_group,
            groups_max=config.broker.groups_max,
        )
        states = QueueStates(
            log=files.store, queues=files.derived.queues, rates=files.topic_rates, clock=clock
        )
        self.topics = TopicHandlers(
            commands=self.commands,
            queue=self.queue,
            topics=files.topics,
            forwarder=self.forwarder,
            topics_max=config.broker.topics_max,
            queues_max=config.broker.queues_max,
        )
        self.names = EmbeddedNameServer(
            config=config,
            ledger=self.ledger,
            topics=files.topics,
            names=files.names,
            commands=self.commands,
            ask_leader=self.forwarder.take,
            is_serving=self._is_serving,
            network=self._network,
            clock=clock,
        )
        limits = MessageLimits(body_size_max=config.broker.body_size_max)
        self.schedule = Schedule(
            queue=self.queue,
            reader=reader,
            topics=files.topics,
            offsets=files.offsets,
            clock=clock,
            limits=limits,
            is_serving=self._is_serving,
            is_being_deleted=self.topics.is_being_deleted,
            last_delivered=self.queue.last_sequence_of,
        )
        self.connections = Connections(consumers=files.consumers, groups=files.groups, clock=clock)
        self.changes = Changes(queue=self.queue, derived=files.derived, forwarder=self.forwarder)
        self.calls = ClientCalls(
            self.connections,
            clock,
            network=self._network,
            node_id=node_id,
            others={
                member.node_id: (member.host, member.broker_port)
                for member in config.members
                if member.node_id != node_id
            },
        )
        self.registry.answered = self.calls.answered
        self.reset_news = ResetNews(
            connections=self.connections, offsets=files.offsets, clock=clock, group_name=group
        )
        self.client_admin = ClientAdminHandlers(
            connections=self.connections,
            calls=self.calls,
            consumers=files.consumers,
            forwarder=self.forwarder,
            is_serving=self._is_serving,
            log=files.store,
            queues=files.derived.queues,
            group_name=group,
            node_id=node_id,
        )
        self.clients = ClientHandlers(
            ledger=self.ledger,
            queue=self.queue,
            changes=self.changes,
            connections=self.connections,
            clock=clock,
            consumers=files.consumers,
            groups=files.groups,
            topics=files.topics,
            gate=gate,
            forwarder=self.forwarder,
            is_serving=self._is_serving,
            create_topic=self.topics.create_missing,
            silent_seconds_max=config.broker.client_silent_max_ms / 1000,
        )
        self.send_answers = SendAnswers(
            ledger=self.ledger, queue=self.queue, forwarder=self.forwarder, host=store_host
        )
        synced = config.store.flush_disk_type is FlushDiskType.SYNC_FLUSH
        self.earlier_tries = EarlierTries(
            log=files.store,
            queues=files.derived.queues,
            queue=self.queue,
            forwarder=self.forwarder,
            dispatched_index=lambda: files.derived.dispatched_index,
        )
        self.sends = SendHandlers(
            queue=self.queue,
            topics=files.topics,
            answers=self.send_answers,
            policy=AckPolicy(
                topics=files.topics,
                default=Durability(COPIES_OF_ROLE[config.broker.broker_role], synced),
            ),
            clock=clock,
            limits=limits,
            host=store_host,
            held_count_max=config.broker.requests_held_max,
            held_size_max=config.broker.requests_held_size_max,
            auto_create_topic=config.broker.auto_create_topic,
            default_queue_count=config.broker.default_topic_queue_count,
            create_topic=self.topics.create_missing,
            is_being_deleted=self.topics.is_being_deleted,
            schedule=self.schedule,
            earlier_tries=self.earlier_tries,
            groups=files.groups,
        )
        self.caught_up = CaughtUp(files.derived, lambda: self.ledger.committed_index)
        self.send_backs = SendBackHandlers(
            log=files.store,
            queues=files.derived.queues,
            schedule=self.schedule,
            topics=files.topics,
            groups=files.groups,
            forwarder=self.forwarder,
            clock=clock,
            host=store_host,
            create_topic=self.topics.create_missing,
            is_being_deleted=self.topics.is_being_deleted,
            earlier_tries=self.earlier_tries,
            caught_up=self.caught_up,
            is_serving=self._is_serving,
        )
        self.offsets = OffsetHandlers(
            ledger=self.ledger,
            derived=files.derived,
            reader=reader,
            queue=self.queue,
            topics=files.topics,
            offsets=files.offsets,
            gate=gate,
            forwarder=self.forwarder,
            news=self.reset_news,
            is_serving=self._is_serving,
            clock=clock,
            log_size=lambda: files.store.end_position - files.store.base.position,
            young_size_max=int(
                YOUNG_LOG_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            ),
        )
        self.locks = LockHandlers(
            commands=self.commands,
            locks=files.locks,
            topics=files.topics,
            gate=gate,
            clock=clock,
            when_current=self.offsets.when_current,
            lock_seconds=config.broker.queue_lock_max_ms / 1000,
            node_id=config.node_id,
            members=advertised,
            is_serving=self._is_serving,
            forward=self.forwarder.take,
        )
        self.resets = OffsetResetHandlers(
            commands=self.commands,
            gate=gate,
            offsets=files.offsets,
            topics=files.topics,
            states=states,
            clock=clock,
            when_current=self.offsets.when_current,
            group_name=group,
        )
        progress = GroupProgress(
            offsets=files.offsets,
            topics=files.topics,
            states=states,
            consumers=files.consumers,
            group_name=group,
        )
        self.consumer_groups = ConsumerGroupHandlers(
            commands=self.commands,
            gate=gate,
            groups=files.groups,
            offsets=files.offsets,
            consumers=files.consumers,
            progress=progress,
            node_id=node_id,
        )
        self.group_offsets = GroupOffsetHandlers(
            changes=self.changes,
            gate=gate,
            offsets=files.offsets,
            consumers=files.consumers,
            topics=files.topics,
            states=states,
            progress=progress,
            clock=clock,
            group_name=group,
            address=advertised[node_id],
        )
        self.topic_states = TopicStateHandlers(
            topics=files.topics,
            states=states,
            rates=files.topic_rates,
            clock=clock,
            group_name=group,
            node_id=node_id,
        )
        self.pulled = PulledPlaces(
            clock, silent_seconds_max=max(60.0, 2 * config.broker.pull_hold_max_ms / 1000)
        )
        self.pulls = PullHandlers(
            pulled=self.pulled,
            reader=reader,
            topics=files.topics,
            clock=clock,
            hold_ms_max=config.broker.pull_hold_max_ms,
            held_max=config.broker.pulls_held_max,
            commit_offset=self.offsets.commit_along,
            is_serving=self._is_serving,
            gate=gate,
            check_epoch=self.offsets.check_epoch,
            traffic=files.traffic,
            rates=files.topic_rates,
            forward=self.forwarder.take,
            host=store_host,
        )
        self.group = GroupHandlers(
            ledger=self.ledger,
            derived=files.derived,
            topics=files.topics,
            clock=clock,
            advertised=advertised,
            is_serving=self._is_serving,
            connection_count=lambda: self.registry.session_count,
            held_pull_count=lambda: self.pulls.hold.count,
            oldest_ms=self.dispatch.oldest_ms,
        )
        self.queries = QueryHandlers(
            log=files.store,
            derived=files.derived,
            topics=files.topics,
            disk=self._disk,
            worker=self._workers["lookup"],
            caught_up=self.caught_up,
        )
        self.lookups = LookupHandlers(
            log=files.store,
            queues=files.derived.queues,
            topics=files.topics,
            consumers=files.consumers,
            caught_up=self.caught_up,
        )
        for family in (
            self.sends,
            self.pulls,
            self.offsets,
            self.resets,
            self.consumer_groups,
            self.group_offsets,
            self.topic_states,
            self.topics,
            self.group,
            self.lookups,
            self.queries,
            *self.names.families,
            self.clients,
            self.client_admin,
            self.send_backs,
            self.locks,
        ):
            self.registry.register(family)
        self.rates = Rates(
            clock,
            {
                "put": lambda: self.sends.message_count,
                "get": lambda: self.pulls.message_count,
            },
        )
        self.broker_info = BrokerInfoHandlers(
            config=config,
            ledger=self.ledger,
            derived=files.derived,
            traffic=files.traffic,
            rates=self.rates,
            clock=clock,
            oldest_ms=self.dispatch.oldest_ms,
        )
        self.registry.register(self.broker_info)
        files.derived.on_arrival = self._arrived
        files.derived.on_applied = self._applied
        files.derived.on_deleted = self._topic_deleted
        files.traffic.leads = self._is_serving
        self.health = Health(ledger=self.ledger, derived=files.derived, is_serving=self._is_serving)
        self.gatherer = Gatherer(
            ledger=self.ledger,
            derived=files.derived,
            topics=files.topics,
            offsets=files.offsets,
            traffic=files.traffic,
            clock=clock,
            is_serving=self._is_serving,
            connection_count=lambda: self.registry.session_count,
            held_pull_count=lambda: self.pulls.hold.count,
            store_time_of=self.lookups.store_time_of,
            connected=self.connections.connected,
            rpc=self.rpc_latency,
            pulled=self.pulled,
            waiting={
                "send": lambda: self.queue.waiting_count + self.sends.awaiting_count,
                "pull": lambda: self.pulls.hold.due_count,
                "query_message": lambda: self.queries.waiting_count,
                "forward": lambda: self.forwarder.unanswered_count,
            },
            oldest_ms=self.dispatch.oldest_ms,
            state_seconds=self.dispatch.state_seconds,
            cluster=config.cluster_name,
            flow=self.flow,
            name_servers=self.names.registrar.counts,
            catch_up=self._catch_up,
        )

    # -- what the rooms tell, see `broker.node.Node` --------------------------------------------

    @abstractmethod
    def _is_serving(self) -> bool: ...

    @abstractmethod
    def _role_changed(self, role: Role, term: int, leader_id: str | None) -> None: ...

    @abstractmethod
    def _committed(self, index: int) -> None: ...

    @abstractmethod
    def _is_taking_over(self) -> bool: ...

    @abstractmethod
    def _catch_up(self) -> None: ...

    @abstractmethod
    def _dispatched(self) -> None: ...

    @abstractmethod
    def _arrived(self, ends: Mapping[QueueKey, int]) -> None: ...

    @abstractmethod
    def _applied(self, index: int, results: list[Any]) -> None: ...

    @abstractmethod
    def _topic_deleted(self, topic: str) -> None: ...

    @abstractmethod
    def _began_to_serve(self) -> None: ...

    @abstractmethod
    def _requests_taken(self) -> None: ...

    @abstractmethod
    def _end_of_pass(self) -> None: ...

    @abstractmethod
    def _group_finished(self) -> None: ...

    @abstractmethod
    def _session_gone(self, session: Session) -> None: ...
