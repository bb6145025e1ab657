"""What a node tells of itself and of what it holds: to clients, operators and their monitoring."""

from __future__ import annotations

from broker.handlers.broker_info import BrokerInfoHandlers
from broker.handlers.group import GroupHandlers
from broker.handlers.lookup import LookupHandlers
from broker.handlers.query import QueryHandlers
from broker.handlers.topic_state import TopicStateHandlers
from broker.metrics.gather import Gatherer
from broker.metrics.health import Health
from broker.metrics.rates import Rates
from broker.nameserver.embedded import EmbeddedNameServer
from broker.wiring.consuming import Consuming


class Telling(Consuming):
    """The families of requests that only ask; health and metrics."""

    def _make_telling(self) -> None:
        """Make the rooms that tell of the node."""
        config, files, clock = self.config, self._files, self._clock
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
        self.topic_states = TopicStateHandlers(
            topics=files.topics,
            states=self._states,
            rates=files.topic_rates,
            clock=clock,
            group_name=config.group,
            node_id=config.node_id,
        )
        self.group = GroupHandlers(
            ledger=self.ledger,
            derived=files.derived,
            topics=files.topics,
            clock=clock,
            advertised=self._advertised,
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
        for family in (
            self.topic_states,
            self.group,
            self.queries,
            self.lookups,
            *self.names.families,
            self.broker_info,
        ):
            self.registry.register(family)
