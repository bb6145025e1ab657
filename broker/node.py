"""One node, put together once and by constructor: the log below, messages above, clients around.

    bytes in -> command -> record -> entry -> committed -> dispatched -> bytes out

`Node` wires the rooms.  `broker.running` runs one with the machine's own clock, disk, network and
threads; the simulator builds the same `Node` from its own.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from broker.delivery.schedule import Schedule
from broker.delivery.topic_retention import TopicRetentionService
from broker.groups.consumers import Consumers
from broker.groups.locks import QueueLocks
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
from broker.metadata.consumer_offsets import ConsumerOffsets
from broker.metadata.name_config import NameConfig
from broker.metadata.queue_trims import QueueTrims
from broker.metadata.state_machine import StateMachine
from broker.metadata.subscription_groups import SubscriptionGroups
from broker.metadata.topics import Topics
from broker.metrics.gather import Gatherer
from broker.metrics.health import Health
from broker.metrics.pulled import PulledPlaces
from broker.metrics.rates import Rates
from broker.metrics.rpc import RpcLatency
from broker.metrics.traffic import Traffic
from broker.nameserver.embedded import EmbeddedNameServer
from broker.protocol.response_code import ResponseCode
from broker.store.append_queue import AppendQueue
from broker.store.derived import DerivedState
from broker.store.dispatch_service import DispatchService
from broker.store.key_index import shape_for
from broker.store.reader import Reader
from broker.store.topic_rates import TopicRates
from dledger.config import FlushDiskType
from dledger.durability import Durability
from dledger.errors import LedgerError
from dledger.remoting.command import Command, response
from dledger.remoting.server import Flow, RemotingServer
from dledger.server import LedgerServer
from dledger.store.data_folder import DataFolder
from dledger.store.ledger_store import LedgerStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from broker.config import NodeConfig
    from broker.message.model import HostAddress
    from dledger.clock import Clock
    from dledger.core import Role
    from dledger.remoting.network import Network
    from dledger.remoting.server import Session
    from dledger.store.disk import Disk
    from dledger.worker import Worker

logger = logging.getLogger(__name__)

HOLD_SECONDS = 3.0  # longest time a request waits for a leader: RocketMQ's default send timeout
# Longest time a graceful stop spends before it closes its files, which takes a sync or two: two
# seconds in all.
STOP_SECONDS = 1.5
FOLLOW_SECONDS = 0.1  # of it: for clients to go over to the new leader
SETTLE_SECONDS = 0.5  # of it: for answers that are due, once the lead is handed over
READ_SECONDS = 0.25  # of it: for clients to read their answers
_SETTLE_POLL_SECONDS = 0.005
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """What `open_files` found in a node's data folder."""

    folder: DataFolder
    store: LedgerStore
    derived: DerivedState
    topics: Topics
    groups: SubscriptionGroups
    offsets: ConsumerOffsets
    traffic: Traffic
    topic_rates: TopicRates
    consumers: Consumers
    locks: QueueLocks
    names: NameConfig


def open_files(config: NodeConfig, disk: Disk) -> OpenFiles:
    """Take hold of the data folder and recover what is in it; blocking.

    Raises:
        LedgerError: the folder is in use, another node's, damaged, or the disk has no room.
    """
    folder = DataFolder.open(
        disk,
        config.data_folder,
        group=config.group,
        node_id=config.node_id,
        config=config.store,
        joining=len(config.members) > 1,
    )
    store: LedgerStore | None = None
    try:
        store = LedgerStore.open(disk, config.store, config.data_folder)
        topics, groups = Topics(), SubscriptionGroups()
        offsets, consumers = ConsumerOffsets(topics), Consumers()
        locks = QueueLocks(
            topics=topics,
            group_exists=lambda group: group in groups or offsets.has_group(group),
        )
        names, traffic, topic_rates = NameConfig(), Traffic(), TopicRates()
        derived = DerivedState.open(
            disk,
            f"{config.data_folder}/derived",
            store,
            commit_index=store.checkpoint_commit_index,
            segment_size=config.store.segment_size,
            metadata=StateMachine([topics, groups, offsets, consumers, locks, names, QueueTrims()]),
            dispatchers=[traffic, topic_rates],
            index_shape=shape_for(
                config.store.segment_size,
                slot_count=config.broker.key_index_slot_count,
                entry_count=config.broker.key_index_entry_count,
            ),
        )
    except BaseException:
        if store is not None:
            store.close()
        folder.close()
        raise
    return OpenFiles(
        folder=folder,
        store=store,
        derived=derived,
        topics=topics,
        groups=groups,
        offsets=offsets,
        traffic=traffic,
        topic_rates=topic_rates,
        consumers=consumers,
        locks=locks,
        names=names,
    )


class Node:
    """A running member of a broker group."""

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
            for name in ("sync", "vote", "file", "derived", "lookup")
        }
        derived = files.derived
        self.dispatch = DispatchService(
            derived,
            clock=clock,
            worker=self._workers["derived"],
            state_interval_seconds=config.store.checkpoint_interval_ms / 1000,
            dispatched=self._dispatched,
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
            end_of_pass=self._end_of_pass,
            session_gone=self._session_gone,
            node_id=config.node_id,
        )
        self.forwarder.connect_to(self.registry.dispatch, self._end_of_pass, self._is_serving)
        self.commands = Commands(queue=self.queue, derived=derived, forwarder=self.forwarder)
        self.flow = Flow(
            connection_size_max=config.broker.connection_inflight_size_max,
            size_max=config.broker.inflight_size_max,
        )
        self._make_families(advertised, store_host)
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
        self.ledger.watch_commits(self._committed)
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
            last_delivered=files.derived.producers.last_sequence_of,
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
        earlier_tries = EarlierTries(log=files.store, queues=files.derived.queues)
        self.sends = SendHandlers(
            queue=self.queue,
            topics=files.topics,
            answers=self.send_answers,
            policy=AckPolicy(
                topics=files.topics,
                queue=self.queue,
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
            earlier_tries=earlier_tries,
            groups=files.groups,
        )
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
            earlier_tries=earlier_tries,
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
        self.caught_up = CaughtUp(files.derived, lambda: self.ledger.committed_index)
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
        )

    # -- what happens, and who has to know ------------------------------------------------------

    def _is_serving(self) -> bool:
        return self.queue.is_open

    def _role_changed(self, role: Role, term: int, leader_id: str | None) -> None:
        if not self.ledger.is_leader:
            self.queue.refresh()
            self.sends.lost_lead()
        self.forwarder.leader_changed()
        self.clients.leader_changed()
        self.queue.refresh()
        self.names.look()

    def _committed(self, index: int) -> None:
        self.send_answers.committed_to(index)
        self.send_answers.send()

    def _dispatched(self) -> None:
        self.queue.refresh()
        self.commands.dispatched()
        self.offsets.dispatched()
        self.clients.dispatched()
        self.caught_up.dispatched()
        self.names.look()
        for session, command in self.sends.topics_changed():
            self.registry.dispatch(session, command)
            session.flush_soon()  # refused at once: no pass over its requests ends here
        self._end_of_pass()

    def _arrived(self, topic: str, queue_id: int, max_offset: int) -> None:
        self.pulls.hold.notify_arrival((topic, queue_id), max_offset)
        self.schedule.arrived(topic)

    def _applied(self, index: int, results: list[Any]) -> None:
        self.commands.applied(index, results)
        for reset in self._files.offsets.take_reset():
            self.pulls.look_again(reset.topic)
            self.reset_news.tell(reset)

    def _topic_deleted(self, topic: str) -> None:
        self._files.topic_rates.topic_deleted(topic)
        self.pulls.look_again(topic)

    def _began_to_serve(self) -> None:
        logger.info("serving as the leader of term %d", self.ledger.term)
        self.clients.began_to_serve()
        self.schedule.began_to_serve()
        self.locks.began_to_serve()
        self.names.look()
        self.forwarder.serve_held()

    def _end_of_pass(self) -> None:
        self.queue.seal()
        self.send_answers.send()

    def _group_finished(self) -> None:
        self.send_answers.send()
        if not self.queue.is_open:
            self.queue.refresh()  # an append failed and nothing is on its way any more: begin anew

    def _session_gone(self, session: Session) -> None:
        self.pulls.hold.drop_session(session)
        self.forwarder.drop_session(session)
        self.clients.drop_session(session)
        self.names.drop_session(session)
        self.calls.drop_session(session)
        self.reset_news.drop_session(session)

    # -- running --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once clients can connect.

        Raises:
            LedgerError: something happened that this node must not go on after.
            RemotingError: a port cannot be had.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self.dispatch.run)
            await nursery.start(self.ledger.run)
            nursery.start_soon(self.pulls.hold.run)
            nursery.start_soon(self.topic_retention.run)
            nursery.start_soon(self.clients.run)
            nursery.start_soon(self.calls.run)
            nursery.start_soon(self.schedule.run)
            nursery.start_soon(self.forwarder.run)
            nursery.start_soon(self.names.run)
            for server in self._servers:
                await nursery.start(server.serve)
            task_status.started()

    async def step_back(self) -> None:
        """Leave the group in good order, within `STOP_SECONDS`: no client is to see a failure.

        The lead is handed over, and clients have a moment to follow it: answers say who leads.
        Then no more requests are taken, those taken are answered (by the new leader, where it is
        for the leader to answer), and the answers are sent.  What is not answered was not done.
        """
        self.health.is_stopping = True
        self.clients.is_stopping = True
        with trio.move_on_after(STOP_SECONDS):
            if self.ledger.is_leader and self.ledger.core.connected_peers:
                with trio.move_on_after(STOP_SECONDS - SETTLE_SECONDS - READ_SECONDS) as handing:
                    try:
                        leader = await self.ledger.transfer()
                        logger.info("handed the leadership to %s", leader)
                    except LedgerError as error:
                        logger.warning("could not hand the leadership over: %s", error)
                    else:
                        await trio.sleep(FOLLOW_SECONDS)
                if handing.cancelled_caught:
                    logger.warning("could not hand the leadership over in time")
            await self.names.step_back()
            for server in self._servers:
                server.stop_reading()
            with trio.move_on_after(SETTLE_SECONDS):
                while not self._is_settled:  # noqa: ASYNC110 - rare and short
                    await trio.sleep(_SETTLE_POLL_SECONDS)
            async with trio.open_nursery() as nursery:
                for server in self._servers:
                    nursery.start_soon(partial(server.close, grace_seconds=READ_SECONDS))

    @property
    def _is_settled(self) -> bool:
        """Whether nobody waits for an answer but those whose pulls are held."""
        return not (
            self.server.is_busy
            or self.ledger.core.unfinished_count
            or self.queue.waiting_count
            or self.sends.awaiting_count
            or self.forwarder.unanswered_count
        )

    def close(self, *, write_down: bool) -> None:
        """Close the files; with *write_down* sync and checkpoint first.  Blocking.

        Raises:
            StorageFailedError: the disk fails.
        """
        try:
            if write_down:
                for name in ("sync", "vote", "file"):
                    self._workers[name].drain()
                self.ledger.stop()
                self.dispatch.write_down()
        finally:
            for worker in self._workers.values():
                worker.close()
            self._files.derived.close()
            self._files.store.close()
            self._files.folder.close()
