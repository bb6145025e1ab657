"""Consumers: who reads for which group, from where on, and the pulls that bring messages."""

from __future__ import annotations

import os

from broker.handlers.changes import Changes
from broker.handlers.client_admin import ClientAdminHandlers
from broker.handlers.client_calls import ClientCalls
from broker.handlers.clients import ClientHandlers
from broker.handlers.connections import Connections
from broker.handlers.consumer_groups import ConsumerGroupHandlers
from broker.handlers.group_gate import GroupGate
from broker.handlers.group_offsets import GroupOffsetHandlers
from broker.handlers.group_progress import GroupProgress
from broker.handlers.locks import LockHandlers
from broker.handlers.offset_reset import OffsetResetHandlers
from broker.handlers.offsets import OffsetHandlers
from broker.handlers.pull import PullHandlers
from broker.handlers.queue_state import QueueStates
from broker.handlers.reset_news import ResetNews
from broker.metrics.pulled import PulledPlaces
from broker.wiring.sending import Sending

# Of the machine's memory: a log no larger than that lies in it, and a new group of stock clients
# begins with its first message. Source: RocketMQ ``accessMessageInMemoryMaxRatio``.
YOUNG_LOG_SHARE = 0.4


class Consuming(Sending):
    """The families of requests of consumers, and of an operator about them."""

    def _make_consuming(self) -> None:
        """Make the rooms of consumers."""
        config, files, clock = self.config, self._files, self._clock
        group, node_id = config.group, config.node_id
        gate = GroupGate(
            groups=files.groups,
            offsets=files.offsets,
            queue=self.queue,
            forwarder=self.forwarder,
            auto_create=config.broker.auto_create_group,
            groups_max=config.broker.groups_max,
        )
        self._states = QueueStates(
            log=files.store, queues=files.derived.queues, rates=files.topic_rates, clock=clock
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
            locks=files.locks,
            groups=files.groups,
            topics=files.topics,
            gate=gate,
            forwarder=self.forwarder,
            is_serving=self._is_serving,
            create_topic=self.topics.create_missing,
            dispatched_index=lambda: files.derived.dispatched_index,
            silent_seconds_max=config.broker.client_silent_max_ms / 1000,
        )
        self.offsets = OffsetHandlers(
            ledger=self.ledger,
            derived=files.derived,
            reader=self._reader,
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
            node_id=node_id,
            members=self._advertised,
            is_serving=self._is_serving,
            forward=self.forwarder.take,
        )
        self.resets = OffsetResetHandlers(
            commands=self.commands,
            gate=gate,
            offsets=files.offsets,
            topics=files.topics,
            states=self._states,
            clock=clock,
            when_current=self.offsets.when_current,
            group_name=group,
        )
        progress = GroupProgress(
            offsets=files.offsets,
            topics=files.topics,
            states=self._states,
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
            states=self._states,
            progress=progress,
            clock=clock,
            group_name=group,
            address=self._advertised[node_id],
        )
        self.pulled = PulledPlaces(
            clock, silent_seconds_max=max(60.0, 2 * config.broker.pull_hold_max_ms / 1000)
        )
        self.pulls = PullHandlers(
            pulled=self.pulled,
            reader=self._reader,
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
            host=self._store_host,
        )
        for family in (
            self.client_admin,
            self.clients,
            self.offsets,
            self.locks,
            self.resets,
            self.consumer_groups,
            self.group_offsets,
            self.pulls,
        ):
            self.registry.register(family)
